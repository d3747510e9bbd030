#!/bin/bash
# build-image.sh OUT_DIR: makes two versions of a real Debian machine image.
#
#   OUT_DIR/v1/{disk.raw,vmlinuz,initrd.img}   Debian 12 on ext4 in an MBR disk of 1.5 GiB, booted by BIOS, login on ttyS0
#   OUT_DIR/v2/…                               the same machine after six packages were installed and free space was trimmed
#
# Needs root and a Debian mirror (MIRROR, default the usual one). Does nothing when OUT_DIR holds what this very
# script made. Both versions appear at once, by a rename; two runs at the same time wait for each other.
#
# Mounts live in a mount namespace of the script's own and loop devices detach with them, so that even a killed
# run leaves nothing behind but its temporary folder, which the next run removes.
set -euo pipefail

script=$(readlink -f "$0")
out=$(readlink -m "${1:?usage: build-image.sh OUT_DIR}")
lab=$(dirname "$script")
stamp=$(cat "$script" "$lab/once.sh" | sha256sum | cut -d' ' -f1)
args=("$out")
source "$lab/once.sh"

disk_bytes=$((1536 * 1024 * 1024))
partition_sector=2048
partition_bytes=$((partition_sector * 512))
root=$work/root # the system as a folder, only to make v1's file system from
mkdir "$work/v1" "$work/v2"

debootstrap() {
    # Only the modules that a virtual machine boots with: a small initrd unpacks fast where the CPU is emulated.
    mmdebstrap --mode=root --variant=minbase --quiet \
        --include=systemd-sysv,udev,linux-image-cloud-amd64,initramfs-tools,zstd,iproute2,login,kmod \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"' \
        --essential-hook='printf "MODULES=list\nCOMPRESS=zstd\n" > "$1/etc/initramfs-tools/conf.d/lab"' \
        --essential-hook='printf "virtio_pci\nvirtio_blk\next4\n" > "$1/etc/initramfs-tools/modules"' \
        bookworm "$root" ${MIRROR:+"$MIRROR"} >>"$log" 2>&1
    echo 'root:icbd' | chroot "$root" chpasswd
    echo icbd-lab >"$root/etc/hostname"
    echo 'LABEL=root / ext4 defaults 0 1' >"$root/etc/fstab"
}

make_disk() {
    local disk=$1
    truncate --size=$disk_bytes "$disk"
    printf 'label: dos\nlabel-id: 0x1cbd0001\nstart=%s, type=83, bootable\n' $partition_sector | sfdisk --quiet "$disk"
    dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" conv=notrunc bs=440 count=1 status=none
    # extlinux reads neither 64bit nor checksummed ext4; no lazy initialisation, or the first boot would write for minutes.
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
 APPEND root=LABEL=root rw console=ttyS0 quiet
CONF
    extlinux --install "$mnt/boot/extlinux" >>"$log" 2>&1
}

upgrade() {
    export DEBIAN_FRONTEND=noninteractive
    chroot "$mnt" apt-get -qq update
    chroot "$mnt" apt-get -qq install --yes --no-install-recommends less nano procps psmisc rsync openssh-client
    chroot "$mnt" apt-get -qq clean
    find "$mnt/var/lib/apt/lists" -type f -delete
}

take_boot_files() {
    cp --dereference "$mnt"/boot/vmlinuz-* "$1/vmlinuz"
    cp --dereference "$mnt"/boot/initrd.img-* "$1/initrd.img"
    chmod 0644 "$1/vmlinuz" "$1/initrd.img"
    umount "$mnt"
}

echo "building the Debian images (a minute or two); log in $log"
debootstrap
make_disk "$work/v1/disk.raw"
take_boot_files "$work/v1"
cp --reflink=auto --sparse=always "$work/v1/disk.raw" "$work/v2/disk.raw"
mount -o "loop,offset=$partition_bytes" "$work/v2/disk.raw" "$mnt"
inside upgrade
take_boot_files "$work/v2"

rm -rf --one-file-system "$root"
appear
