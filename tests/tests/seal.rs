//! Sealed versions on real file systems: what was published, frozen, read as before, mended and let go of.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use anyhow::{Result, ensure};
use icbd_tests::{
    CacheServer, CacheSettings, FileSystem, Lab, MIB, Master, Volume, compare_trees, icbd, run_bounded, sample_tree,
    solid, wait_for,
};

const REFUSED: i32 = 4;
const DISK: u64 = 24 * MIB;

/// A master with two versions that share most, and a cache whose store is on a file system of its own.
fn site(lab: &Lab, file_system: FileSystem, seal_when: &str) -> Result<(Master, CacheServer)> {
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    sample_tree(&tree)?;
    fs::write(tree.join("disk.raw"), solid(1, DISK))?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    File::options().write(true).open(tree.join("disk.raw"))?.write_all_at(&solid(2, MIB), 5 * MIB)?;
    Master::publish_offline(&repo, "lab", &tree, &[])?;
    let master = Master::start(lab, &repo)?;
    let volume = Volume::new(lab, file_system, 512 * MIB)?;
    let config = format!("[store]\nmin_free = \"1MiB\"\nseal_when = {seal_when:?}\n");
    let settings = CacheSettings { store: Some(volume.path().join("store")), config, ..CacheSettings::default() };
    let cache = CacheServer::start_with(lab, &[&master.url()], &settings)?;
    cache.daemon.allow_log("source is offline");
    Ok((master, cache))
}

fn is_sealed(cache: &CacheServer, version: &str) -> Result<bool> {
    let status = cache.status()?;
    let versions = status["versions"].as_array().cloned().unwrap_or_default();
    Ok(versions.iter().any(|found| found["version"] == version && found["sealed_since"].is_i64()))
}

/// A sealed version is what was published, in a snapshot that nobody can write to, and is read as before through the mount.
#[test]
fn what_is_sealed_is_what_was_published() -> Result<()> {
    for file_system in [FileSystem::Btrfs, FileSystem::Xfs] {
        let lab = Lab::new()?;
        let (mut master, mut cache) = site(&lab, file_system, "never")?;
        let open = File::open(cache.path("lab/1/disk.raw"))?;
        // It is completed first.
        cache.command(&["image", "seal", "lab@1", "-m", "for the exam"])?.prints(&[
            "lab@1:",
            "blocks verified",
            "; sealed",
        ])?;
        ensure!(is_sealed(&cache, "lab@1")?, "{file_system:?}");
        cache.command(&["status"])?.prints(&["sealed 20"])?;
        cache.command(&["log"])?.prints(&["image seal lab@1", "for the exam"])?;
        cache.command(&["image", "seal", "lab@1"])?.prints(&["lab@1 is sealed since"])?;
        let sealed = cache.store().join("versions/lab/1");
        // The mount shows what was published, as other tests say.
        compare_trees(&cache.path("lab/1"), &sealed)?;
        ensure!(
            !cache.store().join("filling/lab/1").exists()
                && fs::read_dir(cache.store().join("sealing/lab"))?.next().is_none()
        );
        if file_system == FileSystem::Btrfs {
            ensure!(File::options().write(true).open(sealed.join("disk.raw")).is_err(), "it can be written to");
        }
        let mut bytes = vec![0; MIB as usize];
        open.read_exact_at(&mut bytes, 7 * MIB)?;
        ensure!(bytes == solid(1, DISK)[7 * MIB as usize..8 * MIB as usize], "who had it open reads something else");
        drop(open);

        // The next version begins from it.
        cache.prefetch_all("lab@2")?;
        let fetched = cache.status()?["fetched_bytes"].as_u64().unwrap_or_default();
        cache.command(&["image", "seal", "lab@2"])?.ok()?;
        ensure!(cache.status()?["fetched_bytes"].as_u64() == Some(fetched), "sealing fetched something");
        master.daemon.stop()?;
        cache.daemon.stop()?;
        cache.start_again(&lab)?;
        cache.daemon.allow_log("source is offline");
        for version in ["lab@1", "lab@2"] {
            ensure!(is_sealed(&cache, version)?, "{version} is no longer sealed after a restart");
        }
        ensure!(fs::read(cache.path("lab/1/disk.raw"))? == solid(1, DISK), "wrong bytes after a restart");
        cache.command(&["image", "verify", "lab@2"])?.ok()?;
        cache.command(&["store", "scrub"])?.prints(&["2 versions", "0 bad"])?;
        cache.daemon.stop()?;
    }
    Ok(())
}

/// A version that is complete is sealed by itself, if `store.seal_when` says so.
#[test]
fn what_is_complete_is_sealed_by_itself() -> Result<()> {
    let lab = Lab::new()?;
    let (_master, cache) = site(&lab, FileSystem::Btrfs, "complete")?;
    cache.prefetch_all("lab@1")?;
    wait_for("it is sealed", || Ok(is_sealed(&cache, "lab@1")?.then_some(())))?;
    ensure!(!is_sealed(&cache, "lab@2")?, "a version that is not complete is called sealed");
    Ok(())
}

/// Where only what is hot is sealed, a version that nobody has open is not.
#[test]
fn what_is_hot_is_sealed_by_itself() -> Result<()> {
    let lab = Lab::new()?;
    let (_master, cache) = site(&lab, FileSystem::Btrfs, "hot")?;
    cache.prefetch_all("lab@1")?;
    cache.prefetch_all("lab@2")?;
    // The one that is looked at later.
    let _open = File::open(cache.path("lab/2/disk.raw"))?;
    wait_for("it is sealed", || Ok(is_sealed(&cache, "lab@2")?.then_some(())))?;
    ensure!(
        cache.residency("lab@1")?.is_complete && !is_sealed(&cache, "lab@1")?,
        "one that nobody has open is sealed"
    );
    Ok(())
}

/// On the cache's disk, what a subvolume holds that was deleted by hand is noticed, and fetched again by its readers.
#[test]
fn a_snapshot_that_was_deleted_by_hand() -> Result<()> {
    let lab = Lab::new()?;
    let (_master, cache) = site(&lab, FileSystem::Btrfs, "never")?;
    cache.command(&["image", "seal", "lab@1"])?.ok()?;
    let mut delete = Command::new("btrfs");
    delete.args(["subvolume", "delete"]).arg(cache.store().join("versions/lab/1"));
    run_bounded(delete, std::time::Duration::from_secs(30))?.ok()?;
    ["deleted or replaced", "is forgotten"].iter().for_each(|words| cache.daemon.allow_log(words));
    // Who reads past the daemon what is open goes on; who opens it anew has it fetched.
    ensure!(fs::read(cache.path("lab/1/disk.raw"))? == solid(1, DISK), "wrong bytes");
    wait_for("it is complete again", || {
        cache.command(&["prefetch", "add", "lab@1", "--all", "--wait"])?.ok()?;
        Ok(cache.residency("lab@1")?.is_complete.then_some(()))
    })?;
    cache.command(&["image", "seal", "lab@1"])?.ok()?;
    cache.command(&["image", "verify", "lab@1"])?.ok()?;
    compare_trees(&cache.path("lab/1"), &cache.store().join("versions/lab/1")).map(drop)
}

/// A scrub finds what somebody altered in a sealed version though nobody may write there, and has it as it was.
#[test]
fn a_snapshot_that_was_altered_by_hand() -> Result<()> {
    let lab = Lab::new()?;
    let (_master, cache) = site(&lab, FileSystem::Btrfs, "never")?;
    let sealed: serde_json::Value = serde_json::from_str(&cache.command(&["image", "seal", "lab@1", "--json"])?.ok()?)?;
    println!("freezing took {} s", sealed["freezing_seconds"]);
    let tree = cache.store().join("versions/lab/1");
    let set_read_only = |is: &str| -> Result<()> {
        let mut command = Command::new("btrfs");
        command.args(["property", "set", "-f", "-t", "subvol"]).arg(&tree).args(["ro", is]);
        run_bounded(command, std::time::Duration::from_secs(30))?.ok().map(drop)
    };
    set_read_only("false")?;
    let disk = File::options().write(true).open(tree.join("disk.raw"))?;
    let modified = disk.metadata()?.modified()?;
    disk.write_all_at(b"altered", 3 * MIB)?;
    disk.set_modified(modified)?;
    disk.sync_all()?;
    set_read_only("true")?;
    cache.daemon.allow_log("it is forgotten");
    cache.daemon.allow_log("the store's disk failed");
    cache.command(&["store", "scrub"])?.prints(&["1 bad, 1 mended", "lab@1:disk.raw, block 48"])?.ok()?;
    ensure!(fs::read(cache.path("lab/1/disk.raw"))? == solid(1, DISK), "wrong bytes");
    cache.command(&["store", "scrub"])?.prints(&["0 bad"])?.ok().map(drop)
}

/// Letting go of a sealed version frees its bytes, and what it shares with another one stays with that one.
#[test]
fn a_sealed_version_that_goes_frees_its_bytes() -> Result<()> {
    let lab = Lab::new()?;
    let (_master, cache) = site(&lab, FileSystem::Btrfs, "never")?;
    cache.command(&["image", "seal", "lab@2"])?.ok()?;
    let evicted: serde_json::Value =
        serde_json::from_str(&cache.command(&["store", "evict", "--yes", "--json"])?.ok()?)?;
    let freed = evicted["freed_bytes"].as_u64().unwrap_or_default();
    ensure!(freed > DISK * 9 / 10, "freed {freed} bytes: {evicted}");
    ensure!(!cache.store().join("versions/lab/2").exists(), "the snapshot is still there");
    ensure!(cache.residency("lab@2")?.resident_blocks == 0 && !is_sealed(&cache, "lab@2")?);
    ensure!(fs::read(cache.path("lab/2/disk.raw"))?[..100] == solid(1, DISK)[..100], "wrong bytes afterwards");
    Ok(())
}

/// Where a file system shares no content between files, sealing is refused with what to do, and all is read as before.
#[test]
fn a_disk_that_cannot_seal_says_so() -> Result<()> {
    let lab = Lab::new()?;
    let (master, cache) = site(&lab, FileSystem::Ext4, "complete")?;
    cache
        .command(&["image", "seal", "lab@1"])?
        .failed_with(REFUSED)?
        .says(&["lab@1 cannot be sealed", "put the store on btrfs"])?;
    ensure!(fs::read(cache.path("lab/1/disk.raw"))? == solid(1, DISK), "wrong bytes");
    cache.command(&["image", "seal", "lab@9"])?.failed_with(3)?.says(&["lab@9"])?;
    icbd(["image", "seal", "lab@1", "--socket", master.socket()])?.failed_with(2)?.says(&["cache"])?;
    master.daemon.allow_log("altered behind the master's back");
    icbd(["store", "scrub", "--socket", master.socket()])?.prints(&["2 versions", "0 bad"])?;
    File::options().write(true).open(master.repo().join("versions/lab/1/disk.raw"))?.write_all_at(b"x", 77)?;
    let scrub = icbd(["store", "scrub", "--socket", master.socket(), "--limit", "200MB/s"])?.failed_with(7)?;
    scrub.prints(&["! lab@1: disk.raw, block 0"])?;
    Ok(())
}
