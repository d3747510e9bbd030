//! `mount -t icbd`: it attaches to the daemon that runs or starts the only one, and what is wrong is said and leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    Lab, MIB, Master, Output, compare_trees, fill, icbd, icbd_path, mount_icbd_path, run_bounded, wait_for,
};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DEADLINE: Duration = Duration::from_secs(120);
/// Exit codes of mount(8).
const USAGE: i32 = 1;
const INTERRUPTED: i32 = 8;
const FAILED: i32 = 32;
/// Of icbd: no daemon answers.
const UNREACHABLE: i32 = 6;

struct Site {
    lab: Lab,
    master: Master,
    tree: PathBuf,
    mount: PathBuf,
}

impl Site {
    fn new() -> Result<Site> {
        let lab = Lab::new()?;
        let tree = lab.folder("tree")?;
        fill(&tree.join("disk"), 1, 3 * MIB)?;
        fs::write(tree.join("small"), "small\n")?;
        let master = Master::start(&lab, &lab.path("repo"))?;
        master.publish("lab", &tree, &["--deploy"])?;
        let mount = lab.folder("icbd")?;
        fs::write(lab.path("icbd.toml"), "[store]\nmin_free = \"1MiB\"\n")?;
        Ok(Site { lab, master, tree, mount })
    }

    /// What every line of this site says.
    fn options(&self) -> String {
        let path = |name: &str| self.lab.path(name).display().to_string();
        let (store, socket, config, log) = (path("store"), path("cache.sock"), path("icbd.toml"), path("cache.log"));
        format!("rw,store={store},socket={socket},config={config},log={log}")
    }

    fn command(&self, options: &str) -> Result<Command> {
        let mut command = Command::new(mount_icbd_path()?);
        command.arg(self.master.address().to_string()).arg(&self.mount).args(["-o", options]);
        Ok(command)
    }

    fn mount(&self, options: &str) -> Result<Output> {
        run_bounded(self.command(options)?, DEADLINE)
    }

    fn icbd(&self, args: &[&str]) -> Result<Output> {
        let socket = self.lab.path("cache.sock");
        icbd(args.iter().map(|arg| arg.as_ref()).chain(["--socket".as_ref(), socket.as_os_str()]))
    }

    fn daemon(&self) -> Result<Pid> {
        let status: serde_json::Value = serde_json::from_str(&self.icbd(&["status", "--json"])?.ok()?)?;
        Ok(Pid::from_raw(status["pid"].as_i64().context("no pid")?.try_into()?))
    }

    fn shows_the_version(&self) -> Result<()> {
        compare_trees(&self.tree, &self.mount.join("lab/1")).map(drop)
    }

    /// Nothing is mounted, nobody answers, nobody runs, and nobody left a socket.
    fn is_clean(&self) -> Result<()> {
        ensure!(self.lab.mounts()?.is_empty(), "still mounted: {:?}", self.lab.mounts()?);
        self.icbd(&["status"])?.failed_with(UNREACHABLE)?;
        ensure!(processes(self.lab.dir())?.is_empty(), "processes are left");
        let names: Vec<_> = fs::read_dir(self.lab.dir())?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
        ensure!(!names.iter().any(|name| name.to_string_lossy().starts_with("mount.")), "a socket is left: {names:?}");
        Ok(())
    }

    fn ends(&self) -> Result<()> {
        wait_for("the daemon ends by itself", || Ok(processes(self.lab.dir())?.is_empty().then_some(())))?;
        self.is_clean()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Whatever a scenario that failed left: a daemon ends with its mount, or is ended.
        let _ = umount2(&self.mount, MntFlags::MNT_DETACH);
        for pid in processes(self.lab.dir()).unwrap_or_default() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.lab.path("cache.log")).unwrap_or_default());
        }
    }
}

/// The cache servers that have something to do with a folder.
fn processes(folder: &Path) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        if words.iter().any(|word| word == "cache") && words.iter().any(|word| Path::new(&**word).starts_with(folder)) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// A mount starts a daemon where none runs, attaches to it where one does, and its end is the daemon's.
#[test]
fn a_mount_starts_the_only_daemon_and_ends_it() -> Result<()> {
    let site = Site::new()?;
    site.mount(&site.options())?.failed_with(0)?;
    site.shows_the_version()?;
    let daemon = site.daemon()?;
    // The same line, as `mount -a` does it, also with fewer words.
    site.mount(&site.options())?.failed_with(0)?;
    let socket = format!("ro,_netdev,socket={}", site.lab.path("cache.sock").display());
    site.mount(&socket)?.failed_with(0)?;
    ensure!(site.daemon()? == daemon, "another daemon was started");
    ensure!(processes(site.lab.dir())?.len() == 2, "a keeper and a daemon");
    // What is asked for is not what runs.
    site.mount(&format!("{socket},store=/elsewhere"))?
        .failed_with(FAILED)?
        .says(&["not in /elsewhere", "unmount first"])?;
    let mut other = Command::new(mount_icbd_path()?);
    other.arg("127.0.0.1:1").arg(&site.mount).args(["-o", &socket]);
    run_bounded(other, DEADLINE)?.failed_with(FAILED)?.says(&[&site.master.url(), "not from http://127.0.0.1:1"])?;
    let mut other = Command::new(mount_icbd_path()?);
    other.arg(site.master.address().to_string()).arg(site.lab.folder("other")?).args(["-o", &socket]);
    run_bounded(other, DEADLINE)?.failed_with(FAILED)?.says(&[&site.mount.display().to_string(), "-o socket=PATH"])?;
    site.mount(&format!("{socket},remount"))?.failed_with(USAGE)?.says(&["read-only for good"])?;
    site.shows_the_version()?;
    umount2(&site.mount, MntFlags::empty())?;
    site.ends()?;
    let log = fs::read_to_string(site.lab.path("cache.log"))?;
    let odd: Vec<_> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    ensure!(odd.len() == 1 && odd[0].contains("somebody unmounted the images"), "{odd:#?}");
    Ok(())
}

/// Of several who mount at once one starts the daemon, and all have it.
#[test]
fn of_many_that_mount_at_once_one_starts_the_daemon() -> Result<()> {
    let site = Site::new()?;
    let mounts = (0..5).map(|_| {
        let mut command = site.command(&site.options())?;
        Ok(command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?)
    });
    for mount in mounts.collect::<Result<Vec<Child>>>()? {
        let output = mount.wait_with_output()?;
        ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    site.shows_the_version()?;
    ensure!(processes(site.lab.dir())?.len() == 2, "a keeper and a daemon: {:?}", processes(site.lab.dir())?);
    ensure!(site.lab.mounts()?.len() == 1, "{:?}", site.lab.mounts()?);
    umount2(&site.mount, MntFlags::empty())?;
    site.ends()
}

/// What is wrong with a line is said with what to do, and nothing of it is done.
#[test]
fn what_is_wrong_is_said_and_nothing_is_done() -> Result<()> {
    let site = Site::new()?;
    let options = site.options();
    let check = |options: &str, code: i32, says: &[&str]| -> Result<()> {
        site.mount(options)?.failed_with(code)?.says(says).with_context(|| options.to_owned())?;
        site.is_clean().with_context(|| options.to_owned())
    };
    check(&format!("{options},stoer=/x"), USAGE, &["mount.icbd: ", "no option \"stoer\"", "\"store\""])?;
    check(&format!("{options},store=/x"), USAGE, &["contradict", "store=/x", "leave one of them away"])?;
    check(&format!("{options},ro"), USAGE, &["\"rw\" and \"ro\""])?;
    check(&format!("{options},noexec"), USAGE, &["noexec", "bind"])?;
    check(&format!("{options},codec=zst"), FAILED, &["'zst'", "zstd"])?;
    fs::write(site.lab.path("icbd.toml"), "[store]\n\npaht = \"/x\"\n")?;
    check(&options, FAILED, &["icbd.toml:3", "paht", "path"])?;
    fs::write(site.lab.path("icbd.toml"), "role = \"master\"\n")?;
    check(&options, FAILED, &["role = \"master\"", "--config"])?;
    fs::write(site.lab.path("icbd.toml"), "")?;
    fs::write(site.mount.join("file"), "precious")?;
    check(&options, FAILED, &["not empty"])?;
    fs::remove_file(site.mount.join("file"))?;
    fs::remove_dir(&site.mount)?;
    check(&options, FAILED, &["does not exist", "mkdir -p"])?;
    ensure!(!site.lab.path("store/catalog.db").exists() || site.lab.path("store").is_dir());
    let mut spec = Command::new(mount_icbd_path()?);
    spec.arg("img:/export").arg(&site.mount).args(["-o", &options]);
    run_bounded(spec, DEADLINE)?.failed_with(USAGE)?.says(&["img:/export", "HOST:PORT"])?;
    // -f looks only, -s passes over what is not known.
    fs::create_dir(&site.mount)?;
    let mut fake = site.command(&format!("{options},stoer=/x"))?;
    fake.arg("-sfv");
    run_bounded(fake, DEADLINE)?.failed_with(0)?.says(&["would run icbd cache --master"])?;
    site.is_clean()
}

/// A daemon that does not get ready is ended after a while, or when who asked for it does not wait.
#[test]
fn a_daemon_that_does_not_get_ready_is_ended() -> Result<()> {
    let site = Site::new()?;
    // An icbd that nobody hears of again.
    let programs = site.lab.folder("bin")?;
    fs::copy(mount_icbd_path()?, programs.join("mount-icbd"))?;
    let script =
        "#!/bin/sh\n[ \"$1\" = cache ] || exit 6\necho started >&2\nexec tail --follow /dev/null -- \"$0\" cache\n";
    fs::write(programs.join("icbd"), script)?;
    fs::set_permissions(programs.join("icbd"), fs::Permissions::from_mode(0o755))?;
    let command = |options: &str| {
        let mut command = Command::new(programs.join("mount-icbd"));
        command.arg("img").arg(&site.mount).args(["-o", &format!("{},{options}", site.options())]);
        command
    };
    run_bounded(command("timeout=1"), DEADLINE)?.failed_with(FAILED)?.says(&[
        "within 1 s",
        "timeout=SECONDS",
        "started",
    ])?;
    site.is_clean()?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut mount = command("timeout=60");
        let mount = mount.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        wait_for("it was started", || Ok((!processes(&programs)?.is_empty()).then_some(())))?;
        kill(Pid::from_raw(mount.id().cast_signed()), signal)?;
        let output = mount.wait_with_output()?;
        ensure!(
            output.status.code() == Some(INTERRUPTED),
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        site.is_clean()?;
    }
    Ok(())
}

/// mount(8) finds it by the type: on a command line, and for a line of an fstab.
#[test]
fn mount_and_fstab_know_the_type() -> Result<()> {
    let site = Site::new()?;
    let (master, dir) = (site.master.address(), site.mount.display());
    let fstab = site.lab.path("fstab");
    fs::write(&fstab, format!("{master} {dir} icbd {},_netdev,nofail,x-systemd.automount 0 0\n", site.options()))?;
    // In a mount namespace of its own, where mount.icbd lies beside what mount(8) looks for.
    let script = format!(
        "set -eu; work={lab}; mkdir $work/upper $work/layer; mount -t tmpfs tmpfs $work/layer; mkdir $work/layer/up $work/layer/work
        mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir=$work/layer/up,workdir=$work/layer/work /usr/sbin
        cp {helper} /usr/sbin/mount.icbd
        ln -s mount.icbd /usr/sbin/mount.fuse.icbd
        ln -s {program} /usr/sbin/icbd
        mount -t icbd {master} {dir} -o {options}
        cmp {tree}/disk {dir}/lab/current/disk
        ! mount -o remount,rw {dir} 2>$work/said
        grep 'read-only for good' $work/said >/dev/null || {{ cat $work/said >&2; exit 9; }}
        mount --fstab {fstab} -a
        umount {dir}
        while [ -S $work/cache.sock ]; do sleep 0.05; done
        mount --fstab {fstab} -a
        cmp {tree}/disk {dir}/lab/1/disk
        grep -c ' {dir} ' /proc/self/mountinfo
        umount {dir}
        while [ -S $work/cache.sock ]; do sleep 0.05; done",
        lab = site.lab.dir().display(),
        helper = mount_icbd_path()?.display(),
        program = icbd_path()?.display(),
        options = site.options(),
        tree = site.tree.display(),
        fstab = fstab.display(),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let said = run_bounded(command, DEADLINE)?.ok()?;
    ensure!(said.trim() == "1", "it is mounted {} times", said.trim());
    site.ends()
}
