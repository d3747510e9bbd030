# once.sh: for scripts that make a folder, to be sourced after `script`, `out`, `stamp` and `args` are set.
#
# Ends the script when $out holds what bears $stamp. Else goes on in a mount namespace of its own, the only one to make $out,
# with an empty folder $work (and $mnt in it to mount at); `appear` has it take the place of $out. What goes wrong is said.
export PATH=$PATH:/usr/sbin:/sbin

is_built() { [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ]; }
is_built && exit 0

if [ "${ICBD_IMAGE_NAMESPACE:-}" != "$$" ]; then
    mkdir -p "$(dirname "$out")"
    # exec keeps the process id, by which the second round knows that it is in the namespace.
    export ICBD_IMAGE_NAMESPACE=$$
    exec unshare --mount --propagation private -- "$script" "${args[@]}"
fi
exec 9>"$out.lock"
flock 9
is_built && exit 0

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
        echo "$(basename "$script"): failed with code $code; the whole log is $log" >&2
    fi
    umount --recursive --quiet "$mnt" || true
    rm -rf --one-file-system "$work"
    exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

# Runs what changes the mounted machine with what it needs for that; no service starts inside.
inside() {
    mount --bind /dev "$mnt/dev"
    mount -t proc proc "$mnt/proc"
    cat /etc/resolv.conf >"$mnt/etc/resolv.conf"
    printf '#!/bin/sh\nexit 101\n' >"$mnt/usr/sbin/policy-rc.d"
    chmod +x "$mnt/usr/sbin/policy-rc.d"
    "$@" >>"$log" 2>&1
    rm "$mnt/usr/sbin/policy-rc.d" "$mnt/etc/resolv.conf"
    umount "$mnt/dev" "$mnt/proc"
    # Blocks that held data become holes, as on a machine that trims; only what is committed as free can be.
    sync --file-system "$mnt"
    fstrim "$mnt"
}

appear() {
    rmdir "$mnt"
    sync --file-system "$work"
    echo "$stamp" >"$work/stamp"
    rm -rf --one-file-system "$out"
    mv "$work" "$out"
}
