//! The store on real file systems: ext4 (no reflinks), xfs and btrfs, each in a loop-mounted file.
//!
//! Needs root, loop devices and the mkfs programs.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use icbd_cache::{Cache, File, Order, ReadNow, Settings, StoreState, What};
use icbd_fetch::Sources;
use icbd_fetch::testing::{Asked, Fault, FaultySource, MemorySource};
use icbd_image::{BLOCK_BYTES, Trust, VersionRecord};

const BLOCK: usize = BLOCK_BYTES as usize;

/// A file system in a file, unmounted when dropped.
struct Mounted {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Mounted {
    fn new(kind: &str, options: &[&str]) -> Mounted {
        let directory = tempfile::tempdir().unwrap();
        let (image, path) = (directory.path().join("image"), directory.path().join("mount"));
        fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        fs::create_dir(&path).unwrap();
        run(Command::new(format!("mkfs.{kind}")).args(options).arg(&image));
        // The loop device goes with the mount.
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path));
        Mounted { path, _directory: directory }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a test that failed still has files open. Not in `run`: a second panic would hide the first.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn content(seeds: &[u64]) -> Bytes {
    let mut bytes = Vec::with_capacity(seeds.len() * BLOCK);
    for seed in seeds {
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for _ in 0..BLOCK / 8 {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            bytes.extend_from_slice(&dice.to_le_bytes());
        }
    }
    bytes.truncate(bytes.len() - 100);
    bytes.into()
}

struct Site {
    master: Arc<MemorySource>,
    line: Arc<FaultySource>,
    store: PathBuf,
}

impl Site {
    async fn open(&self) -> Arc<Cache> {
        let settings = Settings { offline_wait: Duration::ZERO, reserve_bytes: Some(0), ..Settings::new(&self.store) };
        let sources = Sources::new(vec![self.line.clone()], icbd_fetch::Settings::default());
        Cache::open(settings, Arc::new(sources), Trust::default()).await.unwrap()
    }

    async fn publish(&self, cache: &Cache, files: &[(&str, Bytes)]) -> VersionRecord {
        let record = self.master.publish("lab", files);
        cache.refresh().await.unwrap();
        record
    }

    fn runs(&self) -> Vec<(u64, u32)> {
        let asked = self.master.take_asked().into_iter();
        let mut runs: Vec<_> = asked
            .filter_map(|asked| if let Asked::Blocks(run) = asked { Some((run.first, run.count)) } else { None })
            .collect();
        runs.sort();
        runs
    }

    fn backing(&self, version: u32, name: &str) -> PathBuf {
        self.store.join(format!("filling/lab/{version}/{name}"))
    }
}

async fn file(cache: &Cache, record: &VersionRecord, name: &str) -> Arc<File> {
    let version = cache.version(record.serial()).await.unwrap();
    version.prepare().await.unwrap();
    version.file(version.head().resolve(name.as_bytes()).unwrap()).unwrap()
}

/// Fill, restart without a master, next version, rot, full disk: the same on every file system.
async fn main_behaviours(mount: &Path, reflinks: bool) {
    let master = Arc::new(MemorySource::new("master"));
    let line = Arc::new(FaultySource::new(master.clone()));
    let site = Site { master, line, store: mount.join("store") };
    let cache = site.open().await;
    let old: Vec<u64> = (0..60).map(|block| if block % 6 == 5 { 0 } else { block + 1 }).collect();
    let v1 = site.publish(&cache, &[("disk.raw", content(&old)), ("kernel", content(&[7, 8]))]).await;
    let disk = file(&cache, &v1, "disk.raw").await;
    assert!(disk.passthrough().is_none());
    assert_eq!(disk.read(0, usize::MAX).await.unwrap(), content(&old));
    cache.flush().await;
    let lent = disk.passthrough().expect("complete and larger than 1 MiB");
    let mut bytes = vec![0; disk.size() as usize];
    let descriptor = fs::File::from(lent.as_fd().try_clone_to_owned().unwrap());
    descriptor.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == content(&old), "the backing file is not the image");
    drop((lent, descriptor, disk));
    cache.close().await;
    drop(cache);

    site.line.set(Some(Fault::Unreachable));
    let cache = site.open().await;
    let disk = file(&cache, &v1, "disk.raw").await;
    assert!(disk.is_complete());
    assert_eq!(disk.read(5, 10 * BLOCK).await.unwrap(), content(&old).slice(5..5 + 10 * BLOCK));
    let mut now = Vec::new();
    // Just read, so the page cache has it; a file system may still say no.
    assert_ne!(disk.read_now(5, 10, &mut now), ReadNow::Missing);
    site.line.set(None);
    while cache.refresh().await.is_err() {
        tokio::task::yield_now().await;
    }
    site.runs();

    let new: Vec<u64> = (0..60)
        .map(|block| {
            if block % 10 == 3 {
                1000 + block
            } else if block % 10 == 6 {
                0
            } else {
                old[block as usize]
            }
        })
        .collect();
    let v2 = site.publish(&cache, &[("disk.raw", content(&new)), ("kernel", content(&[7, 9]))]).await;
    let next = file(&cache, &v2, "disk.raw").await;
    assert_eq!(next.read(0, usize::MAX).await.unwrap(), content(&new));
    assert_eq!(site.runs(), [(3, 1), (13, 1), (23, 1), (33, 1), (43, 1), (53, 1)]);
    assert_eq!(cache.status().reused_bytes == 0, reflinks);
    cache.flush().await;
    assert!(next.is_complete());
    assert_eq!(fs::read(site.backing(2, "disk.raw")).unwrap(), content(&new));
    assert_eq!(fs::read(site.backing(1, "disk.raw")).unwrap(), content(&old), "the old version changed");

    let id = v2.statement.statement().version();
    assert!(cache.verify(&id, |_| {}).await.unwrap().bad.is_empty());
    let rotten = fs::OpenOptions::new().write(true).open(site.backing(2, "disk.raw")).unwrap();
    rotten.write_all_at(b"rot", 13 * BLOCK_BYTES + 77).unwrap();
    assert_eq!(cache.verify(&id, |_| {}).await.unwrap().bad.len(), 1);
    assert_eq!(next.read(0, usize::MAX).await.unwrap(), content(&new));
    cache.flush().await;
    assert!(cache.verify(&id, |_| {}).await.unwrap().bad.is_empty());
    guarded_by_inherited_handles(&site, &cache, &v2).await;
    cache.close().await;
    drop((next, disk, cache));
    identical_version(&site, &v2, reflinks).await;
    full_disk(&site, mount).await;
}

/// Handles that an earlier daemon opened read past this one: nothing is punched under them, and what is spoilt is
/// mended without their asking.
async fn guarded_by_inherited_handles(site: &Site, cache: &Cache, record: &VersionRecord) {
    let (file, id) = (file(cache, record, "disk.raw").await, record.statement.statement().version());
    let bytes = file.read(0, usize::MAX).await.unwrap();
    let backing = fs::OpenOptions::new().read(true).write(true).open(site.backing(2, "disk.raw")).unwrap();
    let mut guard = None;
    for block in [17, 18] {
        backing.write_all_at(b"rot", block * BLOCK_BYTES + 77).unwrap();
        assert_eq!(cache.verify(&id, |_| {}).await.unwrap().bad.len(), 1);
        let (mut found, at) = ([0; 3], block * BLOCK_BYTES + 77);
        backing.read_exact_at(&mut found, at).unwrap();
        let expected = if guard.is_some() { &bytes[at as usize..][..3] } else { &[0; 3] };
        assert_eq!(found, expected, "block {block}");
        assert!(file.passthrough().is_none());
        guard = guard.or(file.passthrough_again());
    }
    assert_eq!(file.read(0, usize::MAX).await.unwrap(), bytes);
    cache.flush().await;
    assert!(cache.verify(&id, |_| {}).await.unwrap().bad.is_empty());
}

/// Right after a restart, with the old version read past the daemon, the same again costs nothing.
async fn identical_version(site: &Site, old: &VersionRecord, reflinks: bool) {
    let cache = site.open().await;
    let lent = file(&cache, old, "disk.raw").await.passthrough().expect("complete");
    let kernel = file(&cache, old, "kernel").await;
    kernel.read(0, usize::MAX).await.unwrap();
    cache.flush().await;
    let disk = Bytes::from(fs::read(site.backing(2, "disk.raw")).unwrap());
    let files = [("disk.raw", disk), ("kernel", kernel.read(0, usize::MAX).await.unwrap())];
    let same = site.publish(&cache, &files).await;
    assert_eq!(same.root(), old.root());
    site.runs();
    let job = cache.prefetch_add(Order::of_version(&same.statement.statement().version(), What::All)).await.unwrap();
    cache.prefetch_wait(job).await.unwrap();
    assert_eq!((site.runs(), cache.status().reused_bytes == 0), (vec![], reflinks));
    assert_eq!(fs::read(site.backing(3, "disk.raw")).unwrap(), files[0].1);
    drop(lent);
    cache.close().await;
}

/// What was read and could not be kept is said by the status, each time, until there is room.
async fn full_disk(site: &Site, mount: &Path) {
    let cache = site.open().await;
    for round in 0..4 {
        let bytes = content(&(5000..5200).map(|seed| seed + round * 1000).collect::<Vec<u64>>());
        let record = site.publish(&cache, &[("new.raw", bytes.clone())]).await;
        let new = file(&cache, &record, "new.raw").await;
        // Some blocks are on their way to the disk when it fills.
        let early = if round % 2 == 0 { 0 } else { 20 * BLOCK };
        assert_eq!(new.read(0, early).await.unwrap(), bytes.slice(..early));
        fill_up(mount);
        for _ in 0..3 {
            assert_eq!(new.read(0, usize::MAX).await.unwrap(), bytes, "a full disk costs a reader nothing");
            cache.flush().await;
            let state = cache.status().store;
            assert!(!new.is_complete());
            assert!(matches!(state, StoreState::Full { .. }), "round {round}: {state:?}");
        }
        // Something small is let go of, and taken again by whoever comes first.
        let _ = fs::remove_file(mount.join("ballast-bs=512"));
        assert_eq!(new.read(0, usize::MAX).await.unwrap(), bytes);
        cache.flush().await;
        let state = cache.status().store;
        assert!(new.is_complete() || matches!(state, StoreState::Full { .. }), "round {round}: {state:?}");
        for name in ["ballast", "ballast-bs=4k"] {
            // Without an inode to be had the last ones were never made.
            let _ = fs::remove_file(mount.join(name));
        }
        let well = async {
            while !new.is_complete() || cache.status().store != StoreState::Ok {
                assert_eq!(new.read(0, usize::MAX).await.unwrap(), bytes);
                cache.flush().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), well).await.expect("there is room again");
    }
    cache.close().await;
}

/// Takes all the room there is.
fn fill_up(mount: &Path) {
    let ballast = mount.join("ballast");
    // dd goes on until there is no room.
    let _ = Command::new("dd").args(["if=/dev/zero", "bs=1M", &format!("of={}", ballast.display())]).output().unwrap();
    for step in ["bs=4k", "bs=512"] {
        let more = format!("of={}-{step}", ballast.display());
        let _ = Command::new("dd").args(["if=/dev/zero", step, "conv=fsync", &more]).output().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ext4_holds_versions_and_copies_unchanged_blocks() {
    let mounted = Mounted::new("ext4", &["-q"]);
    main_behaviours(&mounted.path, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn xfs_holds_versions_and_shares_unchanged_blocks() {
    let mounted = Mounted::new("xfs", &["-q"]);
    main_behaviours(&mounted.path, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn btrfs_holds_versions_and_shares_unchanged_blocks() {
    let mounted = Mounted::new("btrfs", &["-q"]);
    main_behaviours(&mounted.path, true).await;
}
