//! A mount outlives its daemon: killed and restarted under a keeper, adopted, read on.
//! Needs root, FUSE and (for adoption) Linux 6.9.
//!
//! The keeper and the daemon are this program again, with an argument that says which of them.

#[path = "../lab/mod.rs"]
#[allow(dead_code)] // The other tests use the rest of it.
mod lab;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use icbd_fs::keeper::{self, KeeperSettings};
use icbd_fs::{FsError, Handovers, MountSettings};
use lab::{DISK_BYTES, disk, noise, pread};
use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The first argument of this program when it is not the test.
const KEEPER: &str = "keeper";
const DAEMON: &str = "daemon";

/// How often the daemon is killed under its readers.
const KILLS: u32 = 12;

type Test = fn(&mut Kept);

/// No harness: the keeper needs a process without other threads.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(KEEPER) => std::process::exit(keep(&arguments[1..])),
        Some(DAEMON) => std::process::exit(daemon(&arguments[1..])),
        _ => run(),
    }
}

fn run() {
    let tests: [(&str, Test); 8] = [
        ("a_stop_through_the_keeper_is_clean", a_stop_through_the_keeper_is_clean),
        ("pending_reads_and_lookups_complete_after_a_kill", pending_reads_and_lookups_complete_after_a_kill),
        ("pending_lookups_complete_after_a_kill", pending_lookups_complete_after_a_kill),
        ("a_restart_on_purpose_leaves_everything_to_the_next", a_restart_on_purpose_leaves_everything_to_the_next),
        ("what_is_open_stays_open_across_a_kill", what_is_open_stays_open_across_a_kill),
        ("readers_see_pauses_only", readers_see_pauses_only),
        ("a_mount_that_is_lost_is_made_anew", a_mount_that_is_lost_is_made_anew),
        ("a_daemon_without_keeper_unmounts", a_daemon_without_keeper_unmounts),
    ];
    let ways = [(true, "passthrough"), (false, "cached")];
    let trials = tests.into_iter().flat_map(|(name, test)| {
        ways.map(|(passthrough, way)| {
            Trial::test(format!("{name}::{way}"), move || {
                test(&mut Kept::new(passthrough));
                Ok(())
            })
        })
    });
    let mut arguments = Arguments::from_args();
    // Each has processes enough of its own.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn keep(arguments: &[String]) -> i32 {
    let settings = KeeperSettings {
        program: "/proc/self/exe".into(),
        arguments: [DAEMON.into()].into_iter().chain(arguments.iter().map(Into::into)).collect(),
        option: "--adopt".into(),
    };
    keeper::run(&settings).unwrap()
}

/// What `icbd cache` does with a mount, in short.
fn daemon(arguments: &[String]) -> i32 {
    keeper::settle().unwrap();
    let [folder, passthrough, _, numbers] = arguments else { panic!("{arguments:?}") };
    let (folder, passthrough) = (PathBuf::from(folder), passthrough == "passthrough");
    let numbers: Vec<i32> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
    let handover = Handovers::from_inherited(&numbers).unwrap().images;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let code = runtime.block_on(async {
        let signal = |kind| tokio::signal::unix::signal(kind).unwrap();
        let mut terminate = signal(tokio::signal::unix::SignalKind::terminate());
        let mut leave = signal(tokio::signal::unix::SignalKind::user_defined2());
        let source = lab::repository(&folder.join("plain"));
        let gated = lab::publish::root_of(&source, "disk", 2);
        let gate = lab::gate::Gate::new(source, folder.join("gate"), gated);
        let cache = lab::open_cache(&folder.join("store"), Arc::new(gate)).await;
        let settings = MountSettings { passthrough, ..MountSettings::new(folder.join("mount")) };
        let mounted = match icbd_fs::mount(cache.clone(), settings, handover).await {
            Ok(mounted) => mounted,
            Err(FsError::Renew(why)) => {
                eprintln!("{why}");
                return keeper::RENEW_EXIT_CODE;
            }
            Err(error) => panic!("{error}"),
        };
        // Not through the mount: a daemon never opens what it serves.
        fs::write(folder.join("pid.new"), format!("{} {}", std::process::id(), mounted.status().adopted)).unwrap();
        fs::rename(folder.join("pid.new"), folder.join("pid")).unwrap();
        loop {
            // For the tests that wait until somebody waits.
            let status = mounted.status();
            let said = format!("{} {} {}", std::process::id(), status.waiting, status.open.passthrough);
            fs::write(folder.join("status.new"), said).unwrap();
            fs::rename(folder.join("status.new"), folder.join("status")).unwrap();
            tokio::select! {
                _ = terminate.recv() => break,
                _ = leave.recv() => {
                    mounted.leave();
                    cache.close().await;
                    return 0;
                }
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
        mounted.unmount().await.unwrap();
        cache.close().await;
        0
    });
    runtime.shutdown_background();
    code
}

/// A keeper and its daemon, on a folder of their own.
struct Kept {
    folder: tempfile::TempDir,
    keeper: Child,
    passthrough: bool,
}

impl Kept {
    fn new(passthrough: bool) -> Kept {
        let folder = tempfile::TempDir::new().unwrap();
        lab::publish::plain_tree(&folder.path().join("plain"));
        fs::create_dir(folder.path().join("mount")).unwrap();
        for gate in ["gate", "gate.heads"] {
            fs::write(folder.path().join(gate), "").unwrap();
        }
        let keeper = Command::new(std::env::current_exe().unwrap())
            .arg(KEEPER)
            .arg(folder.path())
            .arg(if passthrough { "passthrough" } else { "cached" })
            .spawn()
            .unwrap();
        let kept = Kept { folder, keeper, passthrough };
        assert!(!kept.next_daemon(0).1);
        kept
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join("mount").join(below)
    }

    /// Waits for a daemon that is not `last`; its number and whether it adopted the mount.
    fn next_daemon(&self, last: i32) -> (i32, bool) {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let said = fs::read_to_string(self.folder.path().join("pid")).unwrap_or_default();
            if let Some((pid, adopted)) = said.split_once(' ')
                && pid.parse() != Ok(last)
            {
                return (pid.parse().unwrap(), adopted == "true");
            }
            assert!(Instant::now() < until, "no daemon comes up");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn daemon(&self) -> i32 {
        self.next_daemon(0).0
    }

    fn kill_daemon(&self) -> i32 {
        let daemon = self.daemon();
        kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
        daemon
    }

    fn close_gate(&self) -> File {
        self.close("gate")
    }

    /// Has requests wait until the file is closed.
    fn close(&self, gate: &str) -> File {
        let file = File::open(self.folder.path().join(gate)).unwrap();
        file.lock().unwrap();
        file
    }

    /// Requests for which the daemon owes an answer, and open passthrough handles.
    fn status(&self) -> (u64, u64) {
        loop {
            let said = fs::read_to_string(self.folder.path().join("status")).unwrap_or_default();
            let said: Vec<u64> = said.split(' ').filter_map(|number| number.parse().ok()).collect();
            // Not what the one before said last.
            if let [pid, waiting, passthrough] = said[..]
                && pid == self.daemon() as u64
            {
                return (waiting, passthrough);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the daemon says something that `is` so.
    fn until(&self, is: impl Fn((u64, u64)) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !is(self.status()) {
            assert!(Instant::now() < until, "{:?}", self.status());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops it cleanly; the keeper's exit code.
    fn stop(&mut self) -> Option<i32> {
        kill(Pid::from_raw(self.keeper.id() as i32), Signal::SIGTERM).unwrap();
        self.keeper.wait().unwrap().code()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.keeper.try_wait().unwrap().is_none() {
            self.stop();
        }
        let left = self.path("");
        if mounted(&left) {
            let _ = nix::mount::umount2(&left, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn mounted(path: &Path) -> bool {
    let path = path.to_str().unwrap().trim_end_matches('/');
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.split(' ').nth(4) == Some(path))
}

/// A stop through the keeper unmounts and ends with the daemon's exit code.
fn a_stop_through_the_keeper_is_clean(kept: &mut Kept) {
    assert_eq!(fs::read(kept.path("disk/current/notes")).unwrap(), b"small\n");
    assert_eq!(kept.stop(), Some(0));
    assert!(!mounted(&kept.path("")));
}

/// Requests that wait while the daemon is killed are answered by the next one: a pause, no error.
fn pending_reads_and_lookups_complete_after_a_kill(kept: &mut Kept) {
    let closed = kept.close_gate();
    let read = |offset: u64| {
        let path = kept.path("disk/2/disk.raw");
        std::thread::spawn(move || (offset, pread(&File::open(path).unwrap(), offset, 4096).unwrap()))
    };
    let readers: Vec<_> = [0u64, 200_000, 1_500_000, 4 << 20, (5 << 20) + 77].map(read).into();
    kept.until(|(waiting, _)| waiting >= readers.len() as u64);
    let killed = kept.kill_daemon();
    let looked_up = std::thread::spawn({
        let path = kept.path("tree/1/etc/deep");
        move || fs::metadata(path).unwrap().is_dir()
    });
    assert!(kept.next_daemon(killed).1, "the mount was not adopted");
    assert!(looked_up.join().unwrap());
    drop(closed);
    for reader in readers {
        let (offset, bytes) = reader.join().unwrap();
        assert_eq!(bytes, disk(2)[offset as usize..][..4096]);
    }
}

/// Lookups in a version whose head was still on its way when the daemon was killed find what there is.
fn pending_lookups_complete_after_a_kill(kept: &mut Kept) {
    let closed = kept.close("gate.heads");
    let names = ["disk.raw", "notes", "nothing", "nor this"];
    let lookups: Vec<_> = names
        .map(|name| {
            let path = kept.path("disk/2").join(name);
            std::thread::spawn(move || fs::metadata(path).map(|found| found.len()).map_err(|error| error.kind()))
        })
        .into();
    kept.until(|(waiting, _)| waiting >= names.len() as u64);
    for _ in 0..2 {
        let killed = kept.kill_daemon();
        assert!(kept.next_daemon(killed).1, "the mount was not adopted");
        kept.until(|(waiting, _)| waiting >= names.len() as u64);
    }
    assert!(lookups.iter().all(|lookup| !lookup.is_finished()));
    drop(closed);
    let found: Vec<_> = lookups.into_iter().map(|lookup| lookup.join().unwrap()).collect();
    let absent = Err(std::io::ErrorKind::NotFound);
    assert_eq!(found, [Ok(DISK_BYTES as u64), Ok(6), absent, absent]);
}

/// SIGUSR2: the daemon ends, the next one takes over what waits and what is open; nobody gets an error.
fn a_restart_on_purpose_leaves_everything_to_the_next(kept: &mut Kept) {
    let open = File::open(kept.path("disk/2/disk.raw")).unwrap();
    let closed = kept.close_gate();
    let readers: Vec<_> = [0u64, 200_000, 4 << 20]
        .map(|offset| {
            let file = open.try_clone().unwrap();
            std::thread::spawn(move || (offset, pread(&file, offset, 4096).unwrap()))
        })
        .into();
    kept.until(|(waiting, _)| waiting >= readers.len() as u64);
    let mut last = kept.daemon();
    for _ in 0..3 {
        kill(Pid::from_raw(kept.keeper.id() as i32), Signal::SIGUSR2).unwrap();
        let (daemon, adopted) = kept.next_daemon(last);
        assert!(adopted, "the mount was not adopted");
        last = daemon;
        kept.until(|(waiting, _)| waiting >= readers.len() as u64);
    }
    drop(closed);
    for reader in readers {
        let (offset, bytes) = reader.join().unwrap();
        assert_eq!(bytes, disk(2)[offset as usize..][..4096]);
    }
    assert_eq!(pread(&open, 5 << 20, 4096).unwrap(), disk(2)[5 << 20..][..4096]);
    assert_eq!(kept.stop(), Some(0));
}

/// Files, directories and positions that are open while the daemon is killed go on working.
fn what_is_open_stays_open_across_a_kill(kept: &mut Kept) {
    // The first time cached, the second time, where it can, past the daemon.
    fs::read(kept.path("tree/1/big")).unwrap();
    kept.wait_until_complete("tree/1/big");
    let files = ["disk/1/disk.raw", "disk/2/disk.raw", "tree/1/big", "disk/1/notes"];
    let big = noise((3 << 20) + 1, 3 << 20);
    let open = files.map(|path| File::open(kept.path(path)).unwrap());
    let mut listing =
        nix::dir::Dir::open(&kept.path("tree/1/many"), nix::fcntl::OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty())
            .unwrap();
    let mut listing = listing.iter();
    let first: Vec<_> = listing.by_ref().take(5).map(|entry| entry.unwrap().file_name().to_owned()).collect();
    let paths = ["", "disk/1", "disk/current", "tree/1/etc/deep", "tree/1/big"].map(|path| kept.path(path));
    let handles = paths.each_ref().map(|path| lab::handle::handle_of(path));
    let passthrough = u64::from(kept.passthrough);
    kept.until(|(_, open)| open == passthrough);
    for _ in 0..3 {
        let killed = kept.kill_daemon();
        assert!(kept.next_daemon(killed).1, "the mount was not adopted");
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        for (path, handle) in paths.iter().zip(&handles) {
            let file = lab::handle::open_handle(&kept.path(""), handle).unwrap();
            let expected = fs::symlink_metadata(path).unwrap().ino();
            assert_eq!(nix::sys::stat::fstat(&file).unwrap().st_ino, expected);
        }
        let again = files.map(|path| File::open(kept.path(path)).unwrap());
        // The same backing id, which the new daemon has from the old one.
        kept.until(|(_, open)| open == 2 * passthrough);
        for file in open.iter().chain(&again) {
            pread(file, 0, 6).unwrap();
        }
        assert_eq!(pread(&open[0], 777, DISK_BYTES - 777).unwrap(), disk(1)[777..]);
        assert_eq!(pread(&open[2], 777, 1 << 20).unwrap(), big[777..][..1 << 20]);
        assert_eq!(pread(&again[2], 777, 1 << 20).unwrap(), big[777..][..1 << 20]);
    }
    let rest = listing.map(|entry| entry.unwrap().file_name().to_owned());
    let names: std::collections::BTreeSet<_> = first.into_iter().chain(rest).collect();
    assert_eq!(names.len(), 302);
    drop(open);
    kept.until(|(_, open)| open == 0);
    let killed = kept.kill_daemon();
    assert!(kept.next_daemon(killed).1);
    assert_eq!(fs::read(kept.path("disk/1/disk.raw")).unwrap(), disk(1));
}

/// A daemon that is killed again and again under many readers costs them pauses, never an error or a wrong byte.
fn readers_see_pauses_only(kept: &mut Kept) {
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    let expected: Arc<[bytes::Bytes; 2]> = Arc::new([disk(1), disk(2)]);
    let readers: Vec<_> = (0..16u64)
        .map(|reader| {
            let (stop, reads, expected) = (stop.clone(), reads.clone(), expected.clone());
            let paths = [kept.path("disk/1/disk.raw"), kept.path("disk/2/disk.raw")];
            std::thread::spawn(move || {
                let mut at = reader * 7919;
                while !stop.load(Ordering::Relaxed) {
                    at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let which = (at >> 40) as usize % 2;
                    let offset = (at >> 20) as usize % (DISK_BYTES - 9000);
                    let file = File::open(&paths[which]).expect("no open fails");
                    assert_eq!(pread(&file, offset as u64, 9000).unwrap(), expected[which][offset..][..9000]);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut last = kept.daemon();
    for _ in 0..KILLS {
        // Not before the readers have got on.
        let enough = reads.load(Ordering::Relaxed) + 200;
        while reads.load(Ordering::Relaxed) < enough && !readers.iter().any(|reader| reader.is_finished()) {
            std::thread::yield_now();
        }
        kept.kill_daemon();
        let (daemon, adopted) = kept.next_daemon(last);
        assert!(adopted);
        last = daemon;
    }
    stop.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    println!("{} reads across {KILLS} kills", reads.load(Ordering::Relaxed));
    assert_eq!(kept.stop(), Some(0));
}

/// A mount that cannot be taken over is cleaned up and made anew.
fn a_mount_that_is_lost_is_made_anew(kept: &mut Kept) {
    let keeper = Pid::from_raw(kept.keeper.id() as i32);
    kill(keeper, Signal::SIGSTOP).unwrap();
    let killed = kept.kill_daemon();
    nix::mount::umount2(&kept.path(""), nix::mount::MntFlags::MNT_DETACH).unwrap();
    kill(keeper, Signal::SIGCONT).unwrap();
    assert!(!kept.next_daemon(killed).1, "adopted a mount that is not there");
    assert_eq!(fs::read(kept.path("disk/current/notes")).unwrap(), b"small\n");
    assert_eq!(kept.stop(), Some(0));
}

/// Without a keeper nobody can take over, so the daemon unmounts and stops when its keeper dies.
fn a_daemon_without_keeper_unmounts(kept: &mut Kept) {
    let daemon = kept.daemon();
    kept.keeper.kill().unwrap();
    kept.keeper.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while mounted(&kept.path("")) || Path::new(&format!("/proc/{daemon}")).exists() && !is_zombie(daemon) {
        assert!(Instant::now() < until, "the daemon goes on without its keeper");
        std::thread::yield_now();
    }
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

impl Kept {
    fn wait_until_complete(&self, below: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        while xattr::get(self.path(below), "user.icbd.complete").unwrap() != Some(b"1".to_vec()) {
            assert!(Instant::now() < until, "{below} does not become complete");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
