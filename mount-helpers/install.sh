#!/bin/sh
# install.sh BIN_DIR [PREFIX [DESTDIR]]: puts icbd and all that belongs to it where it is looked for. BIN_DIR holds the two built
# programs, icbd and mount-icbd; PREFIX is /usr/local, or /usr for a package; below DESTDIR, if there is one.
#
# The units name PREFIX/bin/icbd. mount.icbd goes where mount(8) looks for it, whatever PREFIX says.
set -eu
bin=${1:?usage: install.sh BIN_DIR [PREFIX [DESTDIR]]}
prefix=${2:-/usr/local}
dest=${3:-}
here=$(dirname "$(readlink -f "$0")")
to=$dest$prefix
generated=$(mktemp --directory)
trap 'rm -rf "$generated"' EXIT

put() { # put MODE FILE PLACE
    install -D -m "$1" "$2" "$3"
}

put 755 "$bin/icbd" "$to/bin/icbd"
put 755 "$bin/mount-icbd" "$dest/usr/sbin/mount.icbd"
# What the kernel calls it: mount(8) asks by that name for a mount that is there.
ln -sf mount.icbd "$dest/usr/sbin/mount.fuse.icbd"

for role in master cache; do
    sed "s|/usr/bin/icbd|$prefix/bin/icbd|; s|/usr/share|$prefix/share|" "$here/icbd-$role.service" >"$generated/unit"
    put 644 "$generated/unit" "$to/lib/systemd/system/icbd-$role.service"
    put 644 "$here/icbd-$role.toml" "$to/share/icbd/icbd-$role.toml"
done
put 644 "$here/icbd.sysusers" "$to/lib/sysusers.d/icbd.conf"
put 644 "$here/icbd.tmpfiles" "$to/lib/tmpfiles.d/icbd.conf"
put 644 "$here/icbd.logrotate" "$dest/etc/logrotate.d/icbd"
for path in "$here"/../README.md "$here"/../SEMANTICS.md "$here"/../FORMAT.md "$here"/../CHANGELOG.md "$here"/../docs/*.md; do
    put 644 "$path" "$to/share/doc/icbd/${path#"$here"/../}"
done

"$bin/icbd" generate "$generated"
"$bin/mount-icbd" --manual >"$generated/mount.icbd.8"
for page in "$generated"/man/*.1; do
    gzip --no-name --best "$page"
    put 644 "$page.gz" "$to/share/man/man1/$(basename "$page").gz"
done
gzip --no-name --best "$generated/mount.icbd.8"
put 644 "$generated/mount.icbd.8.gz" "$to/share/man/man8/mount.icbd.8.gz"
case $prefix in /usr) zsh=vendor-completions ;; *) zsh=site-functions ;; esac
put 644 "$generated/completions/icbd.bash" "$to/share/bash-completion/completions/icbd"
put 644 "$generated/completions/_icbd" "$to/share/zsh/$zsh/_icbd"
put 644 "$generated/completions/icbd.fish" "$to/share/fish/vendor_completions.d/icbd.fish"
