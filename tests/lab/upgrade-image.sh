#!/bin/bash
# upgrade-image.sh IMAGE_DIR OUT_DIR: makes the third version of the Debian machine that build-image.sh made.
#
#   OUT_DIR/disk.raw   v2 after an upgrade to Debian 13; free space is trimmed
#
# For benchmarks only: it downloads a few hundred megabytes and takes some minutes. Needs what build-image.sh needs, and
# does nothing when OUT_DIR holds what this very script made of this very v2.
set -euo pipefail

script=$(readlink -f "$0")
image=$(readlink -f "${1:?usage: upgrade-image.sh IMAGE_DIR OUT_DIR}")
out=$(readlink -m "${2:?usage: upgrade-image.sh IMAGE_DIR OUT_DIR}")
lab=$(dirname "$script")
# v2 is known by its place and time: hashing it takes longer than to see that nothing is to be done.
stamp="$(cat "$script" "$lab/once.sh" | sha256sum | cut -d' ' -f1) $(stat --format=%i.%Y "$image/v2/disk.raw")"
args=("$image" "$out")
source "$lab/once.sh"

upgrade() {
    export DEBIAN_FRONTEND=noninteractive
    find "$mnt/etc/apt" -type f -exec sed -i 's/\bbookworm\b/trixie/g' {} +
    chroot "$mnt" apt-get -qq update
    chroot "$mnt" apt-get -qq full-upgrade --yes --no-install-recommends -o Dpkg::Options::=--force-confnew
    chroot "$mnt" apt-get -qq autoremove --yes --purge
    chroot "$mnt" apt-get -qq clean
    find "$mnt/var/lib/apt/lists" -type f -delete
}

echo "upgrading the Debian image to the next release (some minutes); log in $log"
cp --reflink=auto --sparse=always "$image/v2/disk.raw" "$work/disk.raw"
mount -o "loop,offset=$((2048 * 512))" "$work/disk.raw" "$mnt"
inside upgrade
umount "$mnt"
appear
