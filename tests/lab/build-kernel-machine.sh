#!/bin/bash
# build-kernel-machine.sh OUT_DIR: makes a machine whose kernel has servers of NFS and iSCSI, and clients of both, for tests of what
# few kernels of test machines have.
#
#   OUT_DIR/{disk.raw,vmlinuz,initrd.img}   Debian 13 on an ext4 that is the whole disk, and what QEMU starts it with
#
# The machine runs no service: its init mounts a second disk and does what `run` on it says.
#
# Needs root and a Debian mirror (MIRROR, default the usual one). Does nothing when OUT_DIR holds what this very script made.
set -euo pipefail

script=$(readlink -f "$0")
out=$(readlink -m "${1:?usage: build-kernel-machine.sh OUT_DIR}")
lab=$(dirname "$script")
stamp=$(cat "$script" "$lab/once.sh" "$lab/machine.sh" | sha256sum | cut -d' ' -f1)
args=("$out")
source "$lab/once.sh"
source "$lab/machine.sh"

echo "building the machine with the kernel's servers (a minute or two); log in $log"
debian_13 nfs-kernel-server,nfs-common,rpcbind,autofs,fuse3,open-iscsi,libiscsi-bin

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

machine_appears
