#!/bin/sh
# package-steps.sh BOOT: what an administrator does with the package on a bare server, in two boots, and that it goes as promised.
#
# Run in the machine that build-bare-machine.sh makes, from a disk with first.deb and second.deb. Ends at the first wrong step.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
boot=$1
here=$(dirname "$0")

step() { echo "[$(cut -d' ' -f1 /proc/uptime) s] $*"; }
wrong() {
    echo "WRONG: $*"
    journalctl --no-pager --unit='icbd*' --unit='*.mount' --lines=60 || true
    exit 1
}
# eventually COMMAND…: within three minutes it has to succeed.
eventually() {
    for _ in $(seq 1800); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    wrong "not within three minutes: $*"
}
apt() {
    apt-get --quiet --option Dpkg::Use-Pty=0 --yes "$@" >/run/said 2>&1 || { cat /run/said; wrong "apt-get $*"; }
}
refused() { # refused WORDS COMMAND…: it fails, and says so
    words=$1
    shift
    if "$@" >/run/refused 2>&1; then cat /run/refused; wrong "was to be refused: $*"; fi
    grep -q -- "$words" /run/refused || { cat /run/refused; wrong "$* did not say: $words"; }
}
is() { [ "$1" = "$2" ] || wrong "$3 is '$1', not '$2'"; }
pid_of() { systemctl show --property=MainPID --value "$1"; }

first_boot() {
    step "the package is installed"
    apt install "$here/first.deb"
    is "$(dpkg-query --show --showformat='${db:Status-Status}' icbd)" installed "the package"
    for file in /usr/bin/icbd /usr/sbin/mount.icbd /srv/icbd /icbd /run/icbd /etc/icbd; do
        [ -e $file ] || wrong "$file is missing"
    done
    getent group icbd >/dev/null || wrong "there is no group icbd"
    is "$(systemctl is-enabled icbd-cache || true)" disabled "icbd-cache after the installation"
    icbd --version

    step "units without a configuration, and with a typing error in it, say so"
    refused "Assertion failed" systemctl start icbd-cache
    printf 'role = "cache"\n[[source]]\nurl = "http://127.0.0.1:7070"\n[store]\npth = "/var/lib/icbd"\n' >/etc/icbd/icbd.toml
    refused "control process exited" systemctl start icbd-cache
    systemctl stop icbd-cache
    journalctl --no-pager --unit=icbd-cache | grep -m 1 'icbd.toml:5.*pth.*path' || wrong "the journal does not name the error"
    refused 'icbd.toml:5.*pth.*path' mount -t icbd 127.0.0.1:7070 /icbd

    step "a master and a cache server on one machine"
    sed -i s/pth/path/ /etc/icbd/icbd.toml
    # The disk of this machine is small.
    echo 'min_free = "1MiB"' >>/etc/icbd/icbd.toml
    sed 's/^listen.*/listen = ["127.0.0.1:7070"]/' /usr/share/icbd/icbd-master.toml >/etc/icbd/master.toml
    mkdir -p /etc/systemd/system/icbd-master.service.d
    cat >/etc/systemd/system/icbd-master.service.d/config.conf <<DROP
[Unit]
AssertPathExists=
[Service]
ExecStartPre=
ExecStartPre=/usr/bin/icbd config check --quiet --config /etc/icbd/master.toml
ExecStart=
ExecStart=/usr/bin/icbd master --config /etc/icbd/master.toml
DROP
    systemctl daemon-reload
    systemctl enable --quiet --now icbd-master icbd-cache || wrong "the units do not start"
    mkdir /root/lab
    dd if=/dev/urandom of=/root/lab/disk bs=1M count=24 status=none
    is "$(icbd image publish lab /root/lab --deploy --quiet --socket /run/icbd/master.sock)" lab@1 "what was published"
    eventually test -e /icbd/lab/1/disk
    cmp /root/lab/disk /icbd/lab/1/disk || wrong "the mount shows something else"
    systemd-analyze --no-pager security icbd-cache icbd-master | tail -n 3

    step "network boot begins and ends under the unit"
    ip link add lan type bridge
    ip address add 10.1.2.1/24 dev lan
    ip link set lan up
    cp /etc/icbd/icbd.toml /run/icbd.toml
    cat >>/etc/icbd/icbd.toml <<CONF
[serve]
listen = ["10.1.2.1:7071"]
[[network]]
interface = "lan"
dhcp = "full"
pool = "10.1.2.100-10.1.2.199"
CONF
    systemctl restart icbd-cache
    icbd netboot enable || wrong "network boot does not begin"
    is "$(ps -o user= -C dnsmasq)" nobody "the user of its dnsmasq"
    icbd netboot disable || wrong "network boot does not end"
    ! pgrep dnsmasq || wrong "its dnsmasq runs on"
    mv /run/icbd.toml /etc/icbd/icbd.toml
    systemctl restart icbd-cache
    ip link delete lan

    step "lines of /etc/fstab: one for the unit that is enabled, one for a daemon of its own"
    mkdir /second
    # An emulated machine that shares its processor takes minutes for what a server does in seconds.
    slow=timeout=600,x-systemd.mount-timeout=600
    cat >>/etc/fstab <<FSTAB
127.0.0.1:7070 /icbd icbd store=/var/lib/icbd,_netdev,$slow 0 0
127.0.0.1:7070 /second icbd store=/var/lib/icbd-second,socket=/run/icbd/second.sock,_netdev,$slow 0 0
FSTAB
    systemctl daemon-reload
    mount -a || wrong "mount -a failed"
    eventually test -e /second/lab/1/disk
    cmp /root/lab/disk /second/lab/1/disk || wrong "the second mount shows something else"
    refused "read-only for good" mount -o remount,rw /icbd
    refused "did you mean \"store\"" mount -t icbd 127.0.0.1:7070 /mnt -o stor=/x
    refused "mounts /icbd" mount -t icbd 127.0.0.1:7070 /srv
}

# reads until /run/stop is there: whole files anew, past what the kernel keeps.
read_on() {
    rounds=0
    while [ ! -e /run/stop ]; do
        cmp /root/lab/disk /icbd/lab/1/disk || { echo "$? in round $rounds" >/run/reader-failed; return; }
        echo 1 >/proc/sys/vm/drop_caches
        rounds=$((rounds + 1))
        # The upgrade shares the one processor with it.
        sleep 0.5
    done
    echo $rounds >/run/reader-done
}

second_boot() {
    ! journalctl --no-pager | grep 'rdering cycle' || wrong "units wait for each other"
    step "after a boot both mounts of /etc/fstab are there"
    for unit in icbd-master icbd-cache icbd.mount second.mount; do
        is "$(systemctl is-active $unit || true)" active $unit
    done
    findmnt --noheadings --types fuse.icbd --output TARGET,SOURCE,FSTYPE,OPTIONS
    for mount in /icbd /second; do
        eventually test -e $mount/lab/1/disk
        cmp /root/lab/disk $mount/lab/1/disk || wrong "$mount shows something else"
    done
    grep -q second.mount "/proc/$(icbd status --json --socket /run/icbd/second.sock | sed -n 's/^ *"pid": \([0-9]*\).*/\1/p')/cgroup" ||
        wrong "the daemon of the second mount does not belong to its unit"

    step "an upgrade under an open mount"
    before=$(pid_of icbd-cache) device=$(mountpoint --fs-devno /icbd)
    exec 3</icbd/lab/1/disk
    head -c 1048576 <&3 >/run/copy
    read_on &
    apt install "$here/second.deb"
    grep '^icbd: ' /run/said || { cat /run/said; wrong "the upgrade says nothing"; }
    cp /run/said /run/upgrade
    cat <&3 >>/run/copy || wrong "a file that was open cannot be read on"
    cmp /root/lab/disk /run/copy || wrong "a file that was open over the upgrade has changed"
    touch /run/stop
    wait
    [ ! -e /run/reader-failed ] || wrong "a reader noticed the upgrade: $(cat /run/reader-failed)"
    echo "a reader has read the file $(cat /run/reader-done) times meanwhile"
    after=$(pid_of icbd-cache)
    [ "$before" != "$after" ] || wrong "the cache server is still the earlier process"
    is "$(readlink "/proc/$after/exe")" /usr/bin/icbd "the program of the cache server"
    is "$(readlink "/proc/$(pid_of icbd-master)/exe")" /usr/bin/icbd "the program of the master"
    is "$(mountpoint --fs-devno /icbd)" "$device" "the device of the mount"
    grep -q 'process .* goes on as the earlier release .*--mount /second' /run/upgrade || wrong "nothing is said of the second mount"

    step "what somebody uses is not removed"
    refused "files of images open" apt-get --yes purge icbd
    exec 3<&-
    eventually sh -c 'icbd status --json --socket /run/icbd/cache.sock | grep -q "\"cached_handles\": 0,"'
    refused "unmount it" apt-get --yes purge icbd
    is "$(systemctl is-active icbd-cache)" active "the cache server after that"

    step "an unmount ends the daemon that was started for it"
    daemon=$(icbd status --json --socket /run/icbd/second.sock | sed -n 's/^ *"pid": \([0-9]*\).*/\1/p')
    umount /second
    eventually test ! -e "/proc/$daemon"

    step "purged, and what people made is kept"
    sed -i '/ icbd /d' /etc/fstab
    systemctl daemon-reload
    apt purge icbd
    grep '^icbd: ' /run/said || { cat /run/said; wrong "the purge does not say what is kept"; }
    ! dpkg-query --show icbd 2>/dev/null || wrong "dpkg still knows the package"
    ! grep ' fuse.icbd ' /proc/self/mountinfo || wrong "something is still mounted"
    ! pidof icbd || wrong "something still runs"
    for gone in /usr/bin/icbd /usr/sbin/mount.icbd /usr/lib/systemd/system/icbd-cache.service /icbd /etc/logrotate.d/icbd \
        /etc/systemd/system/multi-user.target.wants/icbd-cache.service; do
        [ ! -e $gone ] && [ ! -L $gone ] || wrong "$gone is left"
    done
    for kept in /var/lib/icbd/catalog.db /srv/icbd /etc/icbd/icbd.toml /etc/icbd/master.toml; do
        [ -e $kept ] || wrong "$kept is gone"
    done
    is "$(systemctl --failed --no-legend | wc -l)" 0 "the number of failed units"
}

case $boot in
1) first_boot ;;
2) second_boot ;;
*) wrong "a third boot" ;;
esac
step "done"
