#!/bin/sh
# boot-package.sh COPY RW CMDLINE KERNEL DRIVERS: makes the boot package of a working copy: COPY/icbd/{vmlinuz,initrd.img,cmdline}.
#
# The Linux in COPY, a folder or a disk, makes its own initramfs, with what this folder adds to it. HOOK and SCRIPT in the
# environment hold that. To be run as root in a mount namespace of its own; what goes wrong is said on standard error.
set -eu
copy=$1 rw=$2 cmdline=$3 kernel=$4 drivers=$5
PATH=/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d)
trap 'umount --recursive --quiet "$work/root" || true; rm -rf --one-file-system "$work"' EXIT
mkdir "$work/root"

fail() {
    echo "$*" >&2
    exit 1
}

is_linux() {
    [ -e "$1/etc/os-release" ] || [ -e "$1/usr/lib/os-release" ]
}

# Mounts the partition of a disk that holds a Linux, and says how the kernel finds it.
mount_disk() {
    starts=$(sfdisk --dump "$1" 2>/dev/null | sed -n 's/.*start= *\([0-9]*\),.*/\1/p')
    for start in ${starts:-0}; do
        mount -o "loop,offset=$((start * 512))" "$1" "$work/root" 2>/dev/null || continue
        if is_linux "$work/root"; then
            root=UUID=$(blkid --probe --offset "$((start * 512))" --match-tag UUID --output value "$1")
            return 0
        fi
        umount "$work/root"
    done
    return 1
}

root=""
if is_linux "$copy"; then
    mount --bind "$copy" "$work/root"
else
    set -- "$copy"/*.raw
    [ -e "$1" ] || fail "there is no Linux in this version: neither etc/os-release nor a disk (*.raw) at its top"
    [ $# = 1 ] || fail "there are several disks in this version ($*): a boot package is of one"
    mount_disk "$1" || fail "there is no Linux on $(basename "$1"): no partition of it that can be mounted has etc/os-release"
fi
inside=$work/root

[ -x "$inside/usr/sbin/mkinitramfs" ] ||
    fail "this Linux has no mkinitramfs: install initramfs-tools in it (\`icbd image edit\`), and try again"
if [ -z "$kernel" ]; then
    # The newest of those whose modules are there.
    kernel=$(for path in "$inside"/boot/vmlinuz-*; do
        version=${path##*/vmlinuz-}
        [ -d "$inside/lib/modules/$version" ] && echo "$version"
    done | sort --version-sort | tail -n 1)
    [ -n "$kernel" ] || fail "this Linux has no kernel (boot/vmlinuz-*, with its modules): install one, such as linux-image-amd64"
fi
[ -e "$inside/boot/vmlinuz-$kernel" ] || fail "there is no boot/vmlinuz-$kernel; there is: $(cd "$inside/boot" && echo vmlinuz-*)"

install -D -m 755 "$HOOK" "$inside/usr/share/initramfs-tools/hooks/icbd"
install -D -m 644 "$SCRIPT" "$inside/usr/share/initramfs-tools/scripts/icbd"
mount --rbind /dev "$inside/dev"
mount -t proc proc "$inside/proc"
mount -t tmpfs tmpfs "$inside/tmp"
chroot "$inside" mkinitramfs -o /tmp/initrd.img "$kernel" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    fail "mkinitramfs failed"
}
for driver in $drivers; do
    chroot "$inside" lsinitramfs /tmp/initrd.img | grep -q "/$driver\.ko" ||
        grep -q "/$driver\.ko" "$inside/lib/modules/$kernel/modules.builtin" ||
        fail "the initramfs has no driver $driver: it is not among the modules of $kernel; install the package that has it"
done

mkdir -p "$copy/icbd"
cp "$inside/boot/vmlinuz-$kernel" "$copy/icbd/vmlinuz.new"
cp "$inside/tmp/initrd.img" "$copy/icbd/initrd.img.new"
echo "${root:+root=$root }icbd.rw=$rw $cmdline" | sed 's/ *$//' >"$copy/icbd/cmdline.new"
chmod 644 "$copy"/icbd/*.new
for file in vmlinuz initrd.img cmdline; do
    mv "$copy/icbd/$file.new" "$copy/icbd/$file"
done
echo "$kernel"
