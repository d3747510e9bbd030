#!/bin/bash
# build-netboot-image.sh OUT_DIR: makes a Debian 12 that boots without a disk of its own.
#
#   OUT_DIR/tree       as a folder, for a root by NFS: no boot package yet, and no line in its fstab
#   OUT_DIR/disk.raw   the same on ext4 in an MBR disk of 1.5 GiB, which the firmware boots by iSCSI, login on ttyS0
#
# Needs root and a Debian mirror (MIRROR, default the usual one). Does nothing when OUT_DIR holds what this very script made.
set -euo pipefail

script=$(readlink -f "$0")
out=$(readlink -m "${1:?usage: build-netboot-image.sh OUT_DIR}")
lab=$(dirname "$script")
stamp=$(cat "$script" "$lab/once.sh" | sha256sum | cut -d' ' -f1)
args=("$out")
source "$lab/once.sh"

disk_bytes=$((1536 * 1024 * 1024))
partition_sector=2048
partition_bytes=$((partition_sector * 512))
root=$work/tree

echo "building the Debian that boots by the network (a minute or two); log in $log"
mmdebstrap --mode=root --variant=minbase --quiet \
    --include=systemd-sysv,udev,linux-image-cloud-amd64,initramfs-tools,busybox,zstd,iproute2,login,kmod,open-iscsi \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"' \
    --essential-hook='printf "MODULES=list\nCOMPRESS=zstd\n" > "$1/etc/initramfs-tools/conf.d/lab"' \
    --essential-hook='printf "virtio_pci\nvirtio_net\nvirtio_blk\nsd_mod\next4\niscsi_ibft\n" > "$1/etc/initramfs-tools/modules"' \
    bookworm "$root" ${MIRROR:+"$MIRROR"} >>"$log" 2>&1
echo 'root:icbd' | chroot "$root" chpasswd
echo icbd-lab >"$root/etc/hostname"
: >"$root/etc/fstab"
# What this image wants done at each boot of a boot package.
mkdir -p "$root/etc/icbd/boot.d"
printf '#!/bin/sh\necho "boot.d runs for $ICBD_VERSION"\n' >"$root/etc/icbd/boot.d/10-lab"
chmod 755 "$root/etc/icbd/boot.d/10-lab"
# Who boots by iSCSI has its session from the initramfs.
touch "$root/etc/iscsi/iscsi.initramfs"
chroot "$root" update-initramfs -u >>"$log" 2>&1

disk=$work/disk.raw
truncate --size=$disk_bytes "$disk"
printf 'label: dos\nlabel-id: 0x1cbd0002\nstart=%s, type=83, bootable\n' $partition_sector | sfdisk --quiet "$disk"
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" conv=notrunc bs=440 count=1 status=none
mkfs.ext4 -q -O '^64bit,^metadata_csum' -E "lazy_itable_init=0,lazy_journal_init=0,offset=$partition_bytes" \
    -L root "$disk" $(((disk_bytes - partition_bytes) / 1024))k
mount -o "loop,offset=$partition_bytes" "$disk" "$mnt"
cp -a "$root/." "$mnt/"
kernel=$(basename "$mnt"/boot/vmlinuz-*)
mkdir "$mnt/boot/extlinux"
cat >"$mnt/boot/extlinux/extlinux.conf" <<CONF
SERIAL 0 115200
DEFAULT debian
LABEL debian
 LINUX /boot/$kernel
 INITRD /boot/${kernel/vmlinuz/initrd.img}
 APPEND root=LABEL=root rw console=ttyS0 quiet ISCSI_AUTO=true
CONF
extlinux --install "$mnt/boot/extlinux" >>"$log" 2>&1
umount "$mnt"
appear
