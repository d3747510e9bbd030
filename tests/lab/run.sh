#!/bin/bash
# Runs every test, all in a folder for temporary files of their own, in which none may leave what takes room: that
# fills the disk of whoever runs them often.
set -euo pipefail

cargo=${CARGO:-cargo}
TMPDIR=$(mktemp --directory)
export TMPDIR
# Some look at what other users are let into.
chmod 0755 "$TMPDIR"

result=0
if "$cargo" nextest --version >/dev/null 2>&1; then
    "$cargo" nextest run --locked --workspace --no-fail-fast || result=$?
    "$cargo" test --locked --workspace --doc --quiet || result=$?
else
    "$cargo" test --locked --workspace --no-fail-fast || result=$?
fi

left=$(find "$TMPDIR" -mindepth 1 | head -50)
if [ -n "$left" ]; then
    echo "tests left these behind:"$'\n'"$left" >&2
    # A name or two are said; what takes room is an error.
    [ "$(du --summarize --block-size=1M "$TMPDIR" | cut -f1)" -le 1 ] || result=1
fi
rm --recursive --force --one-file-system "$TMPDIR" || result=1
exit "$result"
