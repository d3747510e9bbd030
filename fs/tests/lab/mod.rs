//! What the mount tests stand on: plain trees, a source that serves them, a cache, a mount.
//!
//! The tests need root and FUSE. Every mount is in a temporary folder and goes away with its `Lab`.

pub(crate) mod gate;
pub(crate) mod handle;
pub(crate) mod publish;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use icbd_cache::Cache;
use icbd_fetch::testing::MemorySource;
use icbd_fetch::{Source, Sources};
use icbd_fs::{FsError, Handover, MountSettings, MountStatus, Mounted};
use icbd_image::{Trust, VersionRecord};
use tempfile::TempDir;

/// A mount of three versions of two images: `tree@1` (a plain tree), `disk@1` and `disk@2`.
pub(crate) struct Lab {
    pub(crate) folder: TempDir,
    pub(crate) plain: PathBuf,
    pub(crate) source: Arc<MemorySource>,
    pub(crate) gate: gate::Gate,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) cache: Arc<Cache>,
    pub(crate) mounted: Option<Mounted>,
    pub(crate) passthrough: bool,
}

/// Bytes of `disk@N`'s `disk.raw`: more than a hash page's blocks would be too slow to publish so often.
pub(crate) const DISK_BYTES: usize = 6 << 20;
pub(crate) const OFFLINE_WAIT: Duration = Duration::from_secs(60);

/// Runs a test on a mount with passthrough and on one without.
pub(crate) fn both_ways(test: impl Fn(&mut Lab)) {
    for passthrough in [true, false] {
        eprintln!("passthrough: {passthrough}");
        test(&mut Lab::new(passthrough));
    }
}

impl Lab {
    pub(crate) fn new(passthrough: bool) -> Lab {
        let folder = TempDir::new().unwrap();
        let plain = folder.path().join("plain");
        publish::plain_tree(&plain);
        let source = repository(&plain);
        let gated = publish::root_of(&source, "disk", 2);
        let gate = gate::Gate::new(source.clone(), folder.path().join("gate"), gated);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let cache = runtime.block_on(open_cache(&folder.path().join("store"), Arc::new(gate.clone())));
        let mut lab = Lab { folder, plain, source, gate, runtime, cache, mounted: None, passthrough };
        std::fs::create_dir(lab.mount()).unwrap();
        lab.mounted = Some(lab.try_mount(Handover::create().unwrap()).unwrap());
        lab
    }

    pub(crate) fn try_mount(&self, handover: Handover) -> Result<Mounted, FsError> {
        let settings = MountSettings { passthrough: self.passthrough, ..MountSettings::new(self.mount()) };
        self.runtime.block_on(icbd_fs::mount(self.cache.clone(), settings, handover))
    }

    pub(crate) fn mount(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.mount().join(below)
    }

    pub(crate) fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().unwrap()
    }

    /// Makes the cache and the mount show what the source lists now.
    pub(crate) fn refresh(&self) {
        self.runtime.block_on(self.cache.refresh()).unwrap();
        self.mounted().view_changed();
    }

    pub(crate) fn flush(&self) {
        self.runtime.block_on(self.cache.flush());
    }

    /// Waits until the mount's status `is` so. What a program did is over before the daemon has heard all of it:
    /// the kernel tells of closed files later, and reads on its own behalf.
    pub(crate) fn until(&self, is: impl Fn(&MountStatus) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.mounted().status();
            if is(&status) {
                return;
            }
            assert!(Instant::now() < until, "{status:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            let unmounted = self.runtime.block_on(mounted.unmount());
            if !std::thread::panicking() {
                unmounted.unwrap();
            }
        }
        self.runtime.block_on(self.cache.close());
    }
}

pub(crate) async fn open_cache(store: &Path, source: Arc<dyn Source>) -> Arc<Cache> {
    let sources = Arc::new(Sources::new(vec![source], icbd_fetch::Settings::default()));
    let settings = icbd_cache::Settings { offline_wait: OFFLINE_WAIT, ..icbd_cache::Settings::new(store) };
    let cache = Cache::open(settings, sources, Trust::default()).await.unwrap();
    cache.refresh().await.unwrap();
    cache
}

/// The same repository in every process that makes it from the same tree.
pub(crate) fn repository(plain: &Path) -> Arc<MemorySource> {
    let source = Arc::new(MemorySource::new("lab"));
    publish::publish(&source, "tree", plain);
    for version in 1..=2 {
        source.publish("disk", &[("disk.raw", disk(version)), ("notes", Bytes::from_static(b"small\n"))]);
    }
    deploy(&source, "disk", 1);
    source
}

pub(crate) fn deploy(source: &MemorySource, image: &str, number: u32) {
    let mut listing = source.current_listing();
    let image = listing.images.iter_mut().find(|it| it.name.as_str() == image).unwrap();
    image.deployed = image.versions.iter().map(VersionRecord::number).find(|it| it.get() == number);
    image.changed.seconds += 1;
    source.set_listing(listing);
}

/// `disk.raw` of `disk@version`: noise with a hole of 1 MiB at 2 MiB.
pub(crate) fn disk(version: u64) -> Bytes {
    let mut bytes = noise(version, DISK_BYTES);
    bytes[2 << 20..3 << 20].fill(0);
    bytes.into()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// Reads `len` bytes at `offset` through one system call; the call must not be short.
pub(crate) fn pread(file: &std::fs::File, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let got = file.read_at(&mut bytes, offset)?;
    assert_eq!(got, len, "a short read at {offset}");
    Ok(bytes)
}
