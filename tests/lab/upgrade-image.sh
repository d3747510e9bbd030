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
# v2 is known by its place and time: hashing it takes longer than to see that nothing is to be done.
stamp="$(sha256sum "$script" | cut -d' ' -f1) $(stat --format=%i.%Y "$image/v2/disk.raw")"
export PATH=$PATH:/usr/sbin:/sbin

is_built() { [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ]; }
is_built && exit 0

if [ "${ICBD_IMAGE_NAMESPACE:-}" != "$$" ]; then
    mkdir -p "$(dirname "$out")"
    # exec keeps the process id, by which the second round knows that it is in the namespace.
    export ICBD_IMAGE_NAMESPACE=$$
    exec unshare --mount --propagation private -- "$script" "$image" "$out"
fi
exec 9>"$out.lock"
flock 9
is_built && exit 0

partition_bytes=$((2048 * 512))
work=$out.partial
log=$out.log
mnt=$work/mnt
: >"$log"
rm -rf --one-file-system "$work"
mkdir -p "$mnt"

finish() {
    code=$?
    if [ $code != 0 ]; then
        tail -n 30 "$log" >&2
        echo "upgrade-image.sh: failed with code $code; the whole log is $log" >&2
    fi
    umount --recursive --quiet "$mnt" || true
    rm -rf --one-file-system "$work"
    exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

echo "upgrading the Debian image to the next release (some minutes); log in $log"
cp --reflink=auto --sparse=always "$image/v2/disk.raw" "$work/disk.raw"
mount -o "loop,offset=$partition_bytes" "$work/disk.raw" "$mnt"
mount --bind /dev "$mnt/dev"
mount -t proc proc "$mnt/proc"
cat /etc/resolv.conf >"$mnt/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$mnt/usr/sbin/policy-rc.d" # no service starts inside the folder
chmod +x "$mnt/usr/sbin/policy-rc.d"
find "$mnt/etc/apt" -type f -exec sed -i 's/\bbookworm\b/trixie/g' {} +
{
    DEBIAN_FRONTEND=noninteractive chroot "$mnt" apt-get -qq update
    DEBIAN_FRONTEND=noninteractive chroot "$mnt" apt-get -qq full-upgrade --yes --no-install-recommends \
        -o Dpkg::Options::=--force-confnew
    chroot "$mnt" apt-get -qq autoremove --yes --purge
    chroot "$mnt" apt-get -qq clean
    find "$mnt/var/lib/apt/lists" -type f -delete
} >>"$log" 2>&1
rm "$mnt/usr/sbin/policy-rc.d" "$mnt/etc/resolv.conf"
umount "$mnt/dev" "$mnt/proc"
# Only what is committed as free can be trimmed.
sync --file-system "$mnt"
fstrim "$mnt"
umount "$mnt"

rmdir "$mnt"
sync --file-system "$work"
echo "$stamp" >"$work/stamp"
rm -rf --one-file-system "$out"
mv "$work" "$out"
