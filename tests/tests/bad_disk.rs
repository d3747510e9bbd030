//! Disks that are full, damaged, of another time or altered behind a daemon's back: what is right is served, what is
//! wrong is noticed, and nobody reads a wrong byte.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Command;

use anyhow::{Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, FileSystem, Lab, MIB, Master, Volume, fill, icbd, pattern, solid};

const REFUSED: i32 = 4;
const VERIFICATION: i32 = 7;

/// A small version published as `lab@1`, and its master.
fn site(lab: &Lab) -> Result<Master> {
    let tree = lab.folder("tree")?;
    fill(&tree.join("disk"), 1, 4 * MIB)?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
    Master::start(lab, &lab.path("repo"))
}

/// With a full disk reads go on straight from the master, and the log and the status say so.
#[test]
fn a_full_disk() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    fill(&tree.join("disk"), 1, 80 * MIB)?;
    Master::publish_offline(&repo, "lab", &tree, &[])?;
    let master = Master::start(&lab, &repo)?;
    let volume = Volume::new(&lab, FileSystem::Ext4, 32 * MIB)?;
    let settings = CacheSettings { store: Some(volume.path().join("store")), ..Default::default() };
    let mut cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
    ["full", "min_free"].iter().for_each(|words| cache.daemon.allow_log(words));
    cache.daemon.allow_log("No space");
    let file = File::open(cache.path("lab/1/disk"))?;
    for mib in 0..80 {
        let mut bytes = vec![0; MIB as usize];
        file.read_exact_at(&mut bytes, mib * MIB)?;
        ensure!(bytes == pattern(1, mib * MIB, bytes.len()), "wrong bytes in MiB {mib}");
    }
    // What was read last is written behind its reader's back.
    icbd_tests::wait_for("a status that says so", || {
        Ok(cache.command(&["status"])?.ok()?.to_lowercase().contains("full").then_some(()))
    })?;
    ensure!(cache.daemon.log().to_lowercase().contains("full"), "the log does not say so:\n{}", cache.daemon.log());
    drop(file);
    cache.daemon.stop()
}

/// On every file system, whatever was read and not kept for lack of room is said by status and log, until there is room.
///
/// Blocks that had found room and became durable a moment later made the status say that all was well.
#[test]
fn a_full_disk_is_said_until_there_is_room() -> Result<()> {
    for (file_system, bytes) in [(FileSystem::Ext4, 96), (FileSystem::Xfs, 320), (FileSystem::Btrfs, 256)] {
        let lab = Lab::new()?;
        let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
        fs::write(tree.join("disk"), solid(1, 64 * MIB))?;
        Master::publish_offline(&repo, "lab", &tree, &[])?;
        let master = Master::start(&lab, &repo)?;
        let volume = Volume::new(&lab, file_system, bytes * MIB)?;
        let settings = CacheSettings { store: Some(volume.path().join("store")), ..Default::default() };
        let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
        ["full", "No space", "min_free"].iter().for_each(|words| cache.daemon.allow_log(words));
        let file = File::open(cache.path("lab/1/disk"))?;
        let (some, rest) = (volume.path().join("some"), volume.path().join("rest"));
        fill(&some, 9, 24 * MIB)?;
        // It ends when there is no room.
        let _ = fill(&rest, 10, bytes * MIB);
        File::open(&rest)?.sync_all()?;
        fs::remove_file(&some)?;
        let content = solid(1, 64 * MIB);
        for part in 0..4 {
            let range = part * 16 * MIB..(part + 1) * 16 * MIB;
            let mut bytes = vec![0; 16 * MIB as usize];
            file.read_exact_at(&mut bytes, range.start)?;
            ensure!(bytes == content[range.start as usize..range.end as usize], "{file_system:?}: wrong bytes");
            let status = cache.wait_idle()?;
            let resident = status["versions"][0]["resident_blocks"].as_u64();
            let is_kept = resident >= Some(range.end / 65_536);
            let is_full = status["store"]["state"] == "full";
            ensure!(is_full || is_kept, "{file_system:?}, part {part}: {resident:?} blocks are kept, and {status}");
        }
        ensure!(cache.daemon.log().contains("the store is full"), "{file_system:?}: the log does not say so");
        fs::remove_file(&rest)?;
        cache.wait_status("there is room again", |status| status["store"]["state"] == "ok")?;
    }
    Ok(())
}

/// Where a btrfs has no room at all, neither a master nor a cache is kept from starting: both serve what they hold.
///
/// Both refused, because nobody could note their process ids.
#[test]
fn a_full_btrfs_keeps_nobody_from_starting() -> Result<()> {
    let lab = Lab::new()?;
    let tree = lab.folder("tree")?;
    fs::write(tree.join("disk"), solid(1, 8 * MIB))?;
    let volume = Volume::new(&lab, FileSystem::Btrfs, 256 * MIB)?;
    let repo = volume.path().join("repo");
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    let mut master = Master::start(&lab, &repo)?;
    let address = master.address();
    let settings = CacheSettings { store: Some(volume.path().join("store")), ..Default::default() };
    let mut cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
    let allow = |cache: &CacheServer, master: &Master| {
        ["full", "No space", "min_free", "noted", "offline", "unreachable"].iter().for_each(|words| {
            cache.daemon.allow_log(words);
            master.daemon.allow_log(words);
        });
    };
    allow(&cache, &master);
    cache.prefetch_all("lab@1")?;
    // Both end when there is no room; the small files take what the large one cannot.
    let _ = fill(&volume.path().join("large"), 10, 512 * MIB);
    let _ = File::open(volume.path().join("large"))?.sync_all();
    for small in 0..100_000 {
        if fs::write(volume.path().join(small.to_string()), [7; 1500]).is_err() {
            break;
        }
    }
    cache.daemon.stop()?;
    master.daemon.stop()?;
    let mut master = Master::start_at(&lab, &repo, address, &[])?;
    cache.start_again(&lab)?;
    allow(&cache, &master);
    ensure!(cache.daemon.log().contains("cannot be noted who owns"), "there was room:\n{}", cache.daemon.log());
    ensure!(fs::read(cache.path("lab/1/disk"))? == solid(1, 8 * MIB), "wrong bytes");
    let other = CacheServer::start(&lab, &master.url())?;
    ensure!(fs::read(other.path("lab/1/disk"))? == solid(1, 8 * MIB), "wrong bytes from the master");
    cache.daemon.stop()?;
    drop(other);
    master.daemon.stop()
}

/// A store that a newer version made is left alone.
#[test]
fn a_store_of_a_newer_version() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let mut cache = CacheServer::start(&lab, &master.url())?;
    cache.prefetch_all("lab")?;
    cache.daemon.stop()?;
    let catalogue = cache.store().join("catalog.db");
    // The header's user version: four bytes, big endian, at 60.
    File::options().write(true).open(&catalogue)?.write_all_at(&9999u32.to_be_bytes(), 60)?;
    icbd(cache.args())?.failed_with(REFUSED)?.says(&["newer", &cache.store().display().to_string()])?;
    Ok(())
}

/// A catalogue that is destroyed is rebuilt from what the files and manifests prove: nothing is fetched again.
#[test]
fn a_store_with_a_damaged_catalogue() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let mut cache = CacheServer::start(&lab, &master.url())?;
    cache.prefetch_all("lab")?;
    cache.daemon.stop()?;
    let before = master.blocks_sent()?;
    for entry in fs::read_dir(cache.store())? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("catalog.db")) {
            let bytes = fs::metadata(&path)?.len();
            File::create(&path)?.write_all(&vec![0xa5; bytes as usize])?;
        }
    }
    cache.start_again(&lab)?;
    cache.daemon.allow_log("catalog");
    ensure!(fs::read(cache.path("lab/1/disk"))? == pattern(1, 0, 4 * MIB as usize), "wrong bytes");
    ensure!(master.blocks_sent()? == before, "blocks that were here were fetched again");
    ensure!(cache.daemon.log().contains("catalog"), "the log does not say so:\n{}", cache.daemon.log());
    Ok(())
}

/// A block that no longer is what its manifest says is found by `verify`, fetched again, and right afterwards.
#[test]
fn a_store_with_a_damaged_file() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let mut cache = CacheServer::start(&lab, &master.url())?;
    cache.prefetch_all("lab")?;
    cache.daemon.stop()?;
    let file = icbd_tests::files_below(cache.store())?.into_iter().find(|path| path.ends_with("disk"));
    let file = cache.store().join(file.expect("the store holds the file under its own name"));
    File::options().write(true).open(&file)?.write_all_at(b"damage", 2 * MIB + 5)?;
    cache.start_again(&lab)?;
    cache.daemon.allow_log("");
    cache.command(&["image", "verify", "lab@1"])?.failed_with(VERIFICATION)?.prints(&["disk"])?;
    ensure!(fs::read(cache.path("lab/1/disk"))? == pattern(1, 0, 4 * MIB as usize), "wrong bytes after the repair");
    icbd_tests::wait_for("the repair", || Ok((cache.command(&["image", "verify", "lab@1"])?.code == 0).then_some(())))
}

/// A version that was altered behind the master's back is noticed and not served as if it were whole.
#[test]
fn a_repository_that_was_altered() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let file = icbd_tests::files_below(master.repo())?.into_iter().find(|path| path.ends_with("disk"));
    let file = master.repo().join(file.expect("the repository holds the file under its own name"));
    drop(Command::new("chattr").arg("-i").arg(&file).output());
    File::options().write(true).open(&file)?.write_all_at(b"damage", 2 * MIB + 5)?;
    master.daemon.allow_log("altered");
    let config = "[mount]\noffline_wait = \"1s\"\n".to_owned();
    let cache = CacheServer::start_with(&lab, &[&master.url()], &CacheSettings { config, ..Default::default() })?;
    cache.daemon.allow_log("");
    let file = File::open(cache.path("lab/1/disk"))?;
    let mut bytes = vec![0; 1000];
    file.read_exact_at(&mut bytes, 0)?;
    ensure!(bytes == pattern(1, 0, 1000), "wrong bytes");
    ensure!(file.read_exact_at(&mut bytes, 2 * MIB).is_err(), "a damaged block was read");
    // The cache had the master look: it knows without having been told to verify.
    ensure!(master.daemon.log().contains("altered on disk: lab@1: disk, block 32"), "{}", master.daemon.log());
    icbd(["image", "verify", "lab@1", "--socket", master.socket()])?.failed_with(VERIFICATION)?.prints(&["disk"])?;
    Ok(())
}
