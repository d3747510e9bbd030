//! A disk that is too small for all versions: what nobody needs makes room, what is needed stays, and it is said which.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_image::{FileIndex, Observation, Origin, Profile, SiteId, Touch};
use icbd_tests::{
    CacheServer, CacheSettings, Fault, FileSystem, Lab, MIB, Master, Proxy, Volume, icbd, run_bounded, solid, wait_for,
};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise, posix_fallocate};
use serde_json::Value;

const USAGE: i32 = 2;
const ABSENT: i32 = 3;
const REFUSED: i32 = 4;
const DISK: u64 = 24 * MIB;
const BLOCK: u64 = 64 << 10;
/// What boots read, in blocks: here and there, once across a border between parts that go.
const BOOT: [(u64, u32); 5] = [(0, 4), (250, 12), (700, 1), (1000, 20), (1530, 3)];

/// Blocks that no other version has: what versions share stays with the one that is left.
fn content(version: u64) -> Vec<u8> {
    let mut content = solid(version, DISK);
    content.chunks_mut(65_536).for_each(|block| block[1..9].copy_from_slice(&version.to_le_bytes()));
    content
}

/// Three versions, the third deployed, and a store whose disk has room for two and a little.
fn site(lab: &Lab, file_system: FileSystem, bytes: u64) -> Result<(Master, Proxy, CacheServer)> {
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    for version in 1..=3 {
        fs::write(tree.join("disk"), content(version))?;
        let deploy: &[&str] = if version == 3 { &["--deploy"] } else { &[] };
        Master::publish_offline(&repo, "lab", &tree, deploy)?;
    }
    let master = Master::start(lab, &repo)?;
    let volume = Volume::new(lab, file_system, bytes)?;
    let config = "[store]\nmin_free = \"24MiB\"\n".to_owned();
    let settings = CacheSettings { store: Some(volume.path().join("store")), config, ..CacheSettings::default() };
    let proxy = Proxy::start(master.address())?;
    let cache = CacheServer::start_with(lab, &[&proxy.url()], &settings)?;
    cache.daemon.allow_log("prefetch");
    Ok((master, proxy, cache))
}

fn resident(cache: &CacheServer, version: &str) -> Result<u64> {
    Ok(cache.residency(version)?.resident_blocks)
}

/// Where room is short, the version that nobody needs goes by itself, for the one that is ordered to find a place.
#[test]
fn room_is_made_for_what_is_needed() -> Result<()> {
    for (file_system, bytes) in [(FileSystem::Ext4, 96 * MIB), (FileSystem::Xfs, 320 * MIB)] {
        let lab = Lab::new()?;
        let (_master, _proxy, cache) = site(&lab, file_system, bytes)?;
        cache.prefetch_all("lab@1")?;
        cache.command(&["image", "pin", "lab@1", "-m", "for the exam"])?.ok()?;
        cache.command(&["status"])?.prints(&["ready, pinned"])?;
        cache.prefetch_all("lab@2")?;
        let other = cache.store().parent().context("a volume")?.join("other");
        // Something else takes what is left, but for more than half of what the third version and the reserve need.
        let mut file = File::create(&other)?;
        while free_bytes(cache.store())? > 40 * MIB {
            file.write_all(&solid(9, 2 * MIB))?;
            file.sync_all()?;
        }
        cache.prefetch_all("lab@3").with_context(|| format!("{file_system:?}"))?;
        ensure!(cache.residency("lab@3")?.is_complete, "{file_system:?}");
        wait_for("what nobody needs goes", || Ok((resident(&cache, "lab@2")? == 0).then_some(())))
            .with_context(|| format!("{file_system:?}"))?;
        wait_for("there is room", || Ok((free_bytes(cache.store())? >= 24 * MIB).then_some(())))?;
        ensure!(cache.residency("lab@3")?.is_complete, "{file_system:?}: the deployed version lost something");
        ensure!(cache.residency("lab@1")?.is_complete, "{file_system:?}: what was pinned is gone");
        ensure!(cache.daemon.log().contains("used longest ago"), "{file_system:?}: the log does not say what went");
    }
    Ok(())
}

/// On a full disk that writes in place room can be made by hand, with who did it in the log.
#[test]
fn a_full_disk_keeps_nobody_from_making_room() -> Result<()> {
    for (file_system, bytes) in [(FileSystem::Ext4, 96 * MIB), (FileSystem::Xfs, 320 * MIB)] {
        let lab = Lab::new()?;
        let (_master, _proxy, cache) = site(&lab, file_system, bytes)?;
        ["full", "No space", "min_free"].iter().for_each(|words| cache.daemon.allow_log(words));
        cache.prefetch_all("lab@2")?;
        // Until then what is open stays; who makes room of its own accord comes too late.
        let open = File::open(cache.path("lab/2/disk"))?;
        let other = cache.store().parent().context("a volume")?.join("other");
        let mut file = File::create(&other)?;
        while file.write_all(&solid(9, MIB / 16)).and_then(|()| file.sync_all()).is_ok() {}
        drop(open);
        cache.command(&["store", "evict", "--yes", "--json"])?.ok().with_context(|| format!("{file_system:?}"))?;
        wait_for("lab@2 is gone", || Ok((resident(&cache, "lab@2")? == 0).then_some(())))?;
        cache.command(&["log"])?.prints(&["store evict"])?;
    }
    Ok(())
}

/// Where no version may go, what no boot reads goes of the deployed one, and its room is really free; what boots read stays, and can be read with the master away.
#[test]
fn the_deployed_version_makes_room_for_its_boots() -> Result<()> {
    for (file_system, bytes) in [(FileSystem::Ext4, 320 * MIB), (FileSystem::Btrfs, 512 * MIB)] {
        let lab = Lab::new()?;
        let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
        let disk = solid(1, 96 * MIB);
        fs::write(tree.join("disk"), &disk)?;
        fs::write(tree.join("other"), solid(2, MIB))?;
        Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
        let mut master = Master::start(&lab, &repo)?;
        let volume = Volume::new(&lab, file_system, bytes)?;
        let config = "[store]\nmin_free = \"1MiB\"\n".to_owned();
        let settings = CacheSettings { store: Some(volume.path().join("store")), config, ..CacheSettings::default() };
        let mut cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
        let image: Value = serde_json::from_str(&cache.command(&["image", "show", "lab@1", "--json"])?.ok()?)?;
        let mut profile = Profile::new(image["root"].as_str().context("no root")?.parse()?);
        let file = FileIndex::new(1).context("an index")?;
        let touches = BOOT.map(|(first, count)| Touch { after_ms: 0, file, first, count });
        profile.insert(Observation::new(SiteId::from_bytes([7; 16]), 1_790_000_000, Origin::Own, touches));
        let boot = lab.path("boot.profile");
        fs::write(&boot, profile.encode())?;
        cache.command(&["profile", "import", boot.to_str().context("a path of text")?])?.ok()?;
        cache.command(&["prefetch", "add", "lab@1", "--file", "disk", "--wait"])?.ok()?;
        let ballast = File::create(volume.path().join("ballast"))?;
        posix_fallocate(&ballast, 0, (free_bytes(volume.path())? - 40 * MIB) as i64)?;

        // Some of it first, then a reserve that cannot be reached: all that may go goes.
        for (reserve, goes_min) in [(44, 8 * MIB), (400, 48 * MIB)] {
            let held = cache.residency("lab@1")?.resident_blocks;
            cache.daemon.stop()?;
            let before = free_bytes(cache.store())?;
            cache.set_config(&format!("[store]\nmin_free = \"{reserve}MiB\"\n"))?;
            cache.start_again(&lab)?;
            ["min_free", "offline", "unreachable"].iter().for_each(|words| cache.daemon.allow_log(words));
            let said = || cache.daemon.log().contains("what no boot reads of versions that are needed");
            wait_for("what no boot reads goes", || Ok(said().then_some(())))?;
            let gone = (held - cache.residency("lab@1")?.resident_blocks) * BLOCK;
            let freed = free_bytes(cache.store())?.saturating_sub(before);
            ensure!(gone > goes_min, "{file_system:?}: only {gone} bytes went");
            ensure!(freed >= gone * 95 / 100, "{file_system:?}: {gone} bytes went, and {freed} are free");
        }

        master.daemon.stop()?;
        let disk_there = File::open(cache.path("lab/1/disk"))?;
        // Nothing that the kernel would like to add.
        posix_fadvise(&disk_there, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
        for (first, count) in BOOT {
            let mut read = vec![0; (u64::from(count) * BLOCK) as usize];
            disk_there.read_exact_at(&mut read, first * BLOCK)?;
            ensure!(read == disk[(first * BLOCK) as usize..][..read.len()], "{file_system:?}: wrong bytes at {first}");
        }
    }
    Ok(())
}

/// Who reads past the daemon what the daemon before had opened keeps it: a restarted daemon lets go of nothing before it
/// knows what is open.
#[test]
fn a_restarted_daemon_takes_nothing_from_who_reads_past_it() -> Result<()> {
    let lab = Lab::new()?;
    let (_master, proxy, mut cache) = site(&lab, FileSystem::Ext4, 96 * MIB)?;
    (1..=2).try_for_each(|version| cache.prefetch_all(&format!("lab@{version}")))?;
    // How much is held is noted now and then, and at the end.
    cache.daemon.stop()?;
    cache.start_again(&lab)?;
    ["min_free", "offline"].iter().for_each(|words| cache.daemon.allow_log(words));
    let open: Vec<File> =
        (1..=2).map(|version| File::open(cache.path(format!("lab/{version}/disk")))).collect::<Result<_, _>>()?;
    ensure!(cache.status()?["mount"]["passthrough_handles"] == 2, "they are read through the daemon");
    let mut other = File::create(cache.store().parent().context("a volume")?.join("other"))?;
    while free_bytes(cache.store())? > 12 * MIB {
        other.write_all(&solid(9, 2 * MIB))?;
        other.sync_all()?;
    }
    // The new daemon waits a moment for its master before it takes the mount over.
    proxy.set(Fault::Stall, "/images");
    cache.kill_worker()?;
    proxy.set(Fault::None, "");
    // Said once it has looked, and found all of it needed.
    let said = |log: &str| log.rsplit("the daemon ended").next().is_some_and(|log| log.contains("less room than"));
    wait_for("the new daemon has looked", || Ok(said(&cache.daemon.log()).then_some(())))?;
    for (file, version) in open.iter().zip(1..) {
        fs::write("/proc/sys/vm/drop_caches", "1")?;
        let mut read = vec![0; DISK as usize];
        file.read_exact_at(&mut read, 0)?;
        ensure!(read == content(version), "wrong bytes of version {version}");
        ensure!(cache.residency(&format!("lab@{version}"))?.is_complete, "version {version} was let go of");
    }
    Ok(())
}

/// By hand: what would go and why the rest stays; what went is fetched again, and nothing that is needed goes.
#[test]
fn a_person_makes_room_by_hand() -> Result<()> {
    by_hand(FileSystem::Ext4, 192 * MIB)?;
    by_hand(FileSystem::Btrfs, 512 * MIB).context("on btrfs")
}

fn by_hand(file_system: FileSystem, bytes: u64) -> Result<()> {
    let lab = Lab::new()?;
    let (_master, _proxy, cache) = site(&lab, file_system, bytes)?;
    cache.command(&["store", "evict"])?.prints(&["nothing is held here"])?;
    (1..=3).try_for_each(|version| cache.prefetch_all(&format!("lab@{version}")))?;
    cache
        .command(&["image", "pin", "lab@1", "--until", "2099-01-01T00:00"])?
        .prints(&["lab@1 stays here until 2099"])?;
    let plan =
        cache.command(&["store", "evict"])?.prints(&["lab@3", "it is deployed", "root pinned it", "--yes does it"])?;
    let line = |version: &str| plan.stdout.lines().find(|line| line.starts_with(version)).unwrap_or_default();
    ensure!(line("lab@2").contains("goes") && line("lab@1").contains("stays"), "{}", plan.stdout);
    ensure!(cache.residency("lab@2")?.is_complete, "the plan alone did something");

    let evict = |args: &[&str]| cache.command(&[&["store", "evict"], args].concat());
    evict(&["lab@1", "--yes"])?.failed_with(REFUSED)?.says(&["lab@1 stays", "pinned"])?;
    evict(&["lab@3", "--yes"])?.failed_with(REFUSED)?.says(&["lab@3 stays", "deployed"])?;
    evict(&["lab@9"])?.failed_with(ABSENT)?.says(&["lab@9", "lab@3"])?;
    evict(&["lab"])?.failed_with(USAGE)?.says(&["IMAGE@N"])?;
    cache.command(&["image", "unpin", "lab@2"])?.failed_with(REFUSED)?.says(&["lab@2 is not pinned"])?;
    cache.command(&["image", "pin", "lab@2", "--until", "2020-01-01T00:00"])?.failed_with(USAGE)?.says(&["past"])?;
    let open = File::open(cache.path("lab/2/disk"))?;
    evict(&["lab@2", "--yes"])?.failed_with(REFUSED)?.says(&["lab@2 stays", "1 of its files open"])?;
    drop(open);
    // The kernel tells of closed files after the fact.
    wait_for("nobody has it open", || {
        let closed =
            cache.status()?["versions"].as_array().is_some_and(|all| all.iter().all(|of| of["open_handles"] == 0));
        Ok(closed.then_some(()))
    })?;

    let before = blocks_of(&cache)?;
    let taken = (file_system == FileSystem::Btrfs).then(|| btrfs_taken(cache.store())).transpose()?;
    let report = evict(&["--yes", "--json"])?.ok()?;
    let report: Value = serde_json::from_str(&report)?;
    let freed = report["freed_bytes"].as_u64().unwrap_or(0);
    let really = (before - blocks_of(&cache)?) * 512;
    ensure!(freed.abs_diff(really) < DISK / 20, "it says that {freed} bytes were freed, and it was {really}");
    ensure!(really > DISK * 95 / 100, "only {really} bytes were freed");
    if let Some(before) = taken {
        let gone = before - btrfs_taken(cache.store())?;
        ensure!(
            freed.abs_diff(gone) * 20 <= gone,
            "it says that {freed} bytes were freed, `btrfs filesystem du` {gone}"
        );
    }
    ensure!(resident(&cache, "lab@2")? == 0 && cache.residency("lab@1")?.is_complete, "{report}");
    cache.command(&["log"])?.prints(&["store evict", "image pin lab@1"])?;

    let (mut read, expected) = (vec![0; 3 * MIB as usize], content(2));
    File::open(cache.path("lab/2/disk"))?.read_exact_at(&mut read, 7 * MIB)?;
    ensure!(read == expected[7 * MIB as usize..][..read.len()], "wrong bytes");
    cache.command(&["image", "unpin", "lab@1"])?.ok()?;
    evict(&["--yes"])?.prints(&["lab@1", "went"])?;
    ensure!(cache.residency("lab@3")?.is_complete, "the deployed version went");
    icbd(["store", "evict", "--socket", "/nowhere"])?.failed_with(6).map(drop)
}

fn free_bytes(path: &Path) -> Result<u64> {
    // btrfs counts what was written when it commits.
    rustix::fs::syncfs(File::open(path)?)?;
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail * disk.f_frsize)
}

/// Bytes that are on the disk below a folder, what several files share counted once, as btrfs says.
fn btrfs_taken(path: &Path) -> Result<u64> {
    rustix::fs::syncfs(File::open(path)?)?;
    let mut command = Command::new("btrfs");
    command.args(["filesystem", "du", "-s", "--raw"]).arg(path);
    let said = run_bounded(command, Duration::from_secs(20))?.ok()?;
    // Total, exclusive, set shared, name.
    let numbers = said.lines().last().unwrap_or_default().split_whitespace().skip(1).take(2);
    numbers.map(|number| number.parse::<u64>().with_context(|| said.clone())).sum()
}

/// Sectors that the files of the store take.
fn blocks_of(cache: &CacheServer) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let versions = cache.store().join("filling/lab");
    let mut sectors = 0;
    for version in 1..=3 {
        sectors += fs::metadata(versions.join(version.to_string()).join("disk"))?.blocks();
    }
    Ok(sectors)
}
