#!/bin/bash
# build-kernel-machine.sh OUT_DIR: makes a machine whose kernel has servers of NFS and iSCSI, and clients of both, for tests of what
# few kernels of test machines have.
#
#   OUT_DIR/{disk.raw,vmlinuz,initrd.img}   Debian 13 on an ext4 that is the whole disk, and what QEMU starts it with
#
# Debian 13, because its kernel takes over the requests of a killed FUSE daemon. The machine runs no service: its init mounts a
# second disk and does what `run` on it says.
#
# Needs root and a Debian mirror (MIRROR, default the usual one). Does nothing when OUT_DIR holds what this very script made.
set -euo pipefail

script=$(readlink -f "$0")
out=$(readlink -m "${1:?usage: build-kernel-machine.sh OUT_DIR}")
lab=$(dirname "$script")
stamp=$(cat "$script" "$lab/once.sh" | sha256sum | cut -d' ' -f1)
args=("$out")
source "$lab/once.sh"

root=$work/root

echo "building the machine with the kernel's servers (a minute or two); log in $log"
# Nothing is started in it: a folder that is not the running system has no running services.
mmdebstrap --mode=root --variant=minbase --quiet \
    --include=linux-image-cloud-amd64,initramfs-tools,zstd,kmod,iproute2,nfs-kernel-server,nfs-common,rpcbind,fuse3,open-iscsi,libiscsi-bin \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"' \
    --essential-hook='printf "MODULES=list\nCOMPRESS=zstd\n" > "$1/etc/initramfs-tools/conf.d/lab"' \
    --essential-hook='printf "virtio_pci\nvirtio_blk\next4\n" > "$1/etc/initramfs-tools/modules"' \
    trixie "$root" ${MIRROR:+"$MIRROR"} >>"$log" 2>&1

cat >"$root/sbin/lab-init" <<'INIT'
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/lock /run/rpcbind /mnt
mount -o ro /dev/vdb /mnt && /mnt/run
echo "the machine ends with code $?"
echo o >/proc/sysrq-trigger
sleep 60
INIT
chmod 0755 "$root/sbin/lab-init"

cp --dereference "$root"/boot/vmlinuz-* "$work/vmlinuz"
cp --dereference "$root"/boot/initrd.img-* "$work/initrd.img"
chmod 0644 "$work/vmlinuz" "$work/initrd.img"
truncate --size=2G "$work/disk.raw"
mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 -L root -d "$root" "$work/disk.raw" >>"$log" 2>&1
rm -rf --one-file-system "$root"
appear
