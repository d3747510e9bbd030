# machine.sh: for scripts that make a machine of Debian 13 for QEMU to start with its kernel, sourced after once.sh.
#
# Debian 13, because its kernel takes over the requests of a killed FUSE daemon.
root=$work/root # the system as a folder

# debian_13 PACKAGE,…: its system. Only the modules that a virtual machine boots with are in the initrd, and nothing is
# started: a folder that is not the running system has no running services.
debian_13() {
    mmdebstrap --mode=root --variant=minbase --quiet \
        --include="linux-image-cloud-amd64,initramfs-tools,zstd,kmod,iproute2,$1" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"' \
        --essential-hook='printf "MODULES=list\nCOMPRESS=zstd\n" > "$1/etc/initramfs-tools/conf.d/lab"' \
        --essential-hook='printf "virtio_pci\nvirtio_blk\next4\n" > "$1/etc/initramfs-tools/modules"' \
        trixie "$root" ${MIRROR:+"$MIRROR"} >>"$log" 2>&1
}

# Puts the system on an ext4 that is the whole disk, beside what QEMU starts it with.
machine_appears() {
    cp --dereference "$root"/boot/vmlinuz-* "$work/vmlinuz"
    cp --dereference "$root"/boot/initrd.img-* "$work/initrd.img"
    chmod 0644 "$work/vmlinuz" "$work/initrd.img"
    truncate --size=2G "$work/disk.raw"
    mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 -L root -d "$root" "$work/disk.raw" >>"$log" 2>&1
    rm -rf --one-file-system "$root"
    appear
}
