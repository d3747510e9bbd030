#!/bin/bash
# build-bare-machine.sh OUT_DIR: makes a bare Debian server with systemd, on which nothing of icbd ever was, for tests of the package.
#
#   OUT_DIR/{disk.raw,vmlinuz,initrd.img}   Debian 13 on an ext4 that is the whole disk, and what QEMU starts it with
#
# Once it is up, it mounts a second disk at /mnt and does what `run` on it says, with the number of the boot: 1, and after a boot
# anew 2; then, or once something went wrong, it is switched off.
#
# Needs root and a Debian mirror (MIRROR, default the usual one). Does nothing when OUT_DIR holds what this very script made.
set -euo pipefail

script=$(readlink -f "$0")
out=$(readlink -m "${1:?usage: build-bare-machine.sh OUT_DIR}")
lab=$(dirname "$script")
stamp=$(cat "$script" "$lab/once.sh" "$lab/machine.sh" | sha256sum | cut -d' ' -f1)
args=("$out")
source "$lab/once.sh"
source "$lab/machine.sh"

echo "building the bare Debian server (a minute or two); log in $log"
# What the package suggests for network boot is there: the machine has no network to get it from.
debian_13 systemd-sysv,udev,login,procps,dnsmasq-base,ipxe

echo bare >"$root/etc/hostname"
echo 'LABEL=root / ext4 defaults 0 1' >"$root/etc/fstab"
# Where the CPU is emulated, minutes would go by with what nobody here needs.
chroot "$root" systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service \
    dpkg-db-backup.timer serial-getty@ttyS0.service getty@tty1.service systemd-timesyncd.service
cat >"$root/etc/systemd/system/lab.service" <<'UNIT'
[Unit]
Description=what the second disk says
# When all that boots has booted, mounts included.
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/lab
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
UNIT
# By a timer, because nothing wants a unit that waits for all others.
cat >"$root/etc/systemd/system/lab.timer" <<'UNIT'
[Timer]
OnBootSec=1s
AccuracySec=100ms
[Install]
WantedBy=timers.target
UNIT

mkdir -p "$root/etc/systemd/system/timers.target.wants"
ln -s ../lab.timer "$root/etc/systemd/system/timers.target.wants/lab.timer"
cat >"$root/usr/local/sbin/lab" <<'LAB'
#!/bin/sh
boot=$(($(cat /var/lib/lab-boot 2>/dev/null || echo 0) + 1))
echo $boot >/var/lib/lab-boot
mount -o ro /dev/vdb /mnt && /mnt/run $boot
code=$?
sync
echo "boot $boot ends with code $code"
if [ "$code $boot" = "0 1" ]; then systemctl reboot; else systemctl poweroff; fi
LAB
chmod 0755 "$root/usr/local/sbin/lab"

machine_appears
