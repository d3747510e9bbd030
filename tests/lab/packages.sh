#!/bin/bash
# Installs the Debian packages that building, testing and the demo need, and only those that are missing; with
# --rivals also the programs that the benchmarks compare icbd with.
#
# For a Debian 12 machine, as root. Says nothing when there is nothing to do.
set -euo pipefail

packages=(
    # building (SQLite, zstd and BLAKE3 bring C code)
    ca-certificates curl gcc libc6-dev make
    # the package of what was built
    binutils dpkg gzip
    # the mount and the local file systems that a store may live on
    fuse3 e2fsprogs btrfs-progs xfsprogs util-linux mount attr acl libcap2-bin
    # the Debian images
    mmdebstrap fdisk extlinux syslinux-common zstd
    # the machines that boot from them; nbdkit counts what a boot reads
    qemu-system-x86 qemu-utils qemu-block-extra seabios nbdkit
    # an NTFS to look into
    ntfs-3g
    # an iSCSI target, and clients that try it
    tgt libiscsi-bin
    # an NFS server, with the network of its own that tests give it, and clients that try it
    nfs-ganesha nfs-ganesha-vfs rpcbind iproute2 libnfs-utils
    # DHCP and TFTP, what firmware loads by them, and firmware of another kind
    dnsmasq-base ipxe ovmf shim-signed grub-efi-amd64-signed
    # machines that are little more than a kernel, and DHCP clients that are no machines
    busybox-static
    # a firewall to be looked through
    nftables
    # a workstation that writes and verifies what it wrote
    fio
    # another end for tunnels, and certificates
    openssh-client openssh-server openssl
)
if [ "${1:-}" = --rivals ]; then
    packages+=(nginx-light rsync rclone lz4 pigz)
fi

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "packages.sh: these packages are missing and only root can install them: ${missing[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    apt-get --quiet=2 --option Dpkg::Use-Pty=0 --option DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1
}
fail() {
    tail -n 30 "$log" >&2
    echo "packages.sh: apt-get $1 failed; its last lines are above" >&2
    exit 1
}

echo "installing ${missing[*]}"
apt update || echo "packages.sh: apt-get update failed, going on with the lists that are here" >&2
if ! apt install --yes --no-remove --no-install-recommends "${missing[@]}"; then
    # A machine may carry a qemu-utils from backports: the release's other QEMU packages need it gone, or replaced.
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    qemu=()
    for package in "${packages[@]}"; do
        case $package in qemu-*) qemu+=("$package/$release") ;; esac
    done
    others=()
    for package in "${missing[@]}"; do
        case $package in qemu-*) ;; *) others+=("$package") ;; esac
    done
    apt install --yes --no-install-recommends --allow-downgrades "${qemu[@]}" "${others[@]}" || fail install
fi
