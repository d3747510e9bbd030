#!/bin/sh
# build.sh BIN_DIR OUT_DIR [VERSION]: makes the Debian package OUT_DIR/icbd_VERSION_ARCH.deb of what was built in BIN_DIR; says which.
#
# Everybody who builds the same source with the same tools gets the same bytes: times are those of the last commit, or
# SOURCE_DATE_EPOCH. COMPRESS is what dpkg-deb compresses with, xz if nothing is said.
set -eu
bin=${1:?usage: build.sh BIN_DIR OUT_DIR [VERSION]}
out=${2:?usage: build.sh BIN_DIR OUT_DIR [VERSION]}
here=$(dirname "$(readlink -f "$0")")
source=$(readlink -f "$here/../..")
version=${3:-$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"$/\1/p' "$source/Cargo.toml")}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -c safe.directory='*' -C "$source" log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
arch=$(dpkg --print-architecture)
# Modes are part of the package.
umask 022
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir "$work/bin" "$root"
chmod 755 "$root"

for program in icbd mount-icbd; do
    strip --strip-unneeded --remove-section=.comment -o "$work/bin/$program" "$bin/$program"
done
"$source/mount-helpers/install.sh" "$work/bin" /usr "$root"
gzip --no-name --best <"$source/CHANGELOG.md" >"$root/usr/share/doc/icbd/NEWS.gz"
rm "$root/usr/share/doc/icbd/CHANGELOG.md"
sed "s/@VERSION@/$version/; s/@DATE@/$(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")/" "$here/changelog" |
    gzip --no-name --best >"$root/usr/share/doc/icbd/changelog.gz"
install -m 644 "$here/copyright" "$root/usr/share/doc/icbd/copyright"

# What the programs were linked with is what they need at least.
glibc=$(objdump --dynamic-syms "$work"/bin/* | sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort --version-sort | tail -n 1)
mkdir -m 755 "$root/DEBIAN"
size=$(du --summarize --apparent-size --block-size=1024 "$root" | cut -f1)
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@GLIBC@/$glibc/; s/@SIZE@/$size/" "$here/control" >"$root/DEBIAN/control"
echo /etc/logrotate.d/icbd >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 755 "$here/$script" "$root/DEBIAN/$script"
done
(cd "$root" && find usr etc -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
chmod 644 "$root/DEBIAN/control" "$root/DEBIAN/conffiles" "$root/DEBIAN/md5sums"
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

mkdir -p "$out"
deb=$out/icbd_${version}_$arch.deb
dpkg-deb --root-owner-group -Z"${COMPRESS:-xz}" --build "$root" "$deb" >/dev/null
echo "$deb"
