//! A cache on a disk in memory, with a master in memory whose failures a test turns on and off.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use icbd_fetch::testing::{Asked, Fault, FaultySource, MemorySource};
use icbd_fetch::{Sources, TimeOuts};
use icbd_image::{BLOCK_BYTES, Trust, VersionRecord};

use crate::disk::memory::MemoryDisk;
use crate::file::File;
use crate::version::Version;
use crate::{Cache, CacheError, OrderId, OrderStatus, Settings, store};

pub(super) const BLOCK: usize = BLOCK_BYTES as usize;

/// What a test waits for comes within this, or never.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Rig {
    pub(super) master: Arc<MemorySource>,
    pub(super) line: Arc<FaultySource>,
    pub(super) disk: MemoryDisk,
    pub(super) cache: Arc<Cache>,
    pub(super) settings: Settings,
    /// Of the next start.
    pub(super) trust: Trust,
    _store: tempfile::TempDir,
}

impl Rig {
    pub(super) async fn new(disk: MemoryDisk) -> Rig {
        Rig::with(disk, |_| {}).await
    }

    pub(super) async fn with(disk: MemoryDisk, set: impl FnOnce(&mut Settings)) -> Rig {
        let store = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(store.path());
        // Who is offline hears of it at once.
        settings.offline_wait = Duration::ZERO;
        set(&mut settings);
        let master = Arc::new(MemorySource::new("master"));
        let time_outs =
            TimeOuts { first_byte: Duration::from_millis(50), stall: Duration::from_millis(50), ..TimeOuts::default() };
        let line = Arc::new(FaultySource::with_time_outs(master.clone(), time_outs));
        let cache = open(&disk, &line, &settings, Trust::default()).await.unwrap();
        Rig { master, line, disk, cache, settings, trust: Trust::default(), _store: store }
    }

    /// Ends the cache as a kill would, and opens another one on `disk`.
    pub(super) async fn restart_on(&mut self, disk: MemoryDisk) {
        // The threads of the old one go on with the old disk.
        let old = self.cache.clone();
        let placeholder = tempfile::tempdir().unwrap();
        let settings = Settings { store: placeholder.path().to_owned(), ..self.settings.clone() };
        self.cache = open(&MemoryDisk::new(0), &self.line, &settings, Trust::default()).await.unwrap();
        assert_eq!(Arc::strong_count(&old), 1, "somebody else holds the cache");
        drop(old);
        self.disk = disk;
        self.cache = open(&self.disk, &self.line, &self.settings, self.trust.clone()).await.unwrap();
    }

    pub(super) fn offline(&self) {
        self.line.set(Some(Fault::Unreachable));
    }

    /// Until the master is known to be back.
    pub(super) async fn online(&self) {
        self.line.set(None);
        while self.cache.refresh().await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    /// Publishes, and has the cache know of it.
    pub(super) async fn publish(&self, files: &[(&str, Bytes)]) -> VersionRecord {
        let record = self.master.publish("lab", files);
        self.cache.refresh().await.unwrap();
        record
    }

    pub(super) async fn version(&self, record: &VersionRecord) -> Arc<Version> {
        self.cache.version(record.serial()).await.unwrap()
    }

    pub(super) async fn file(&self, record: &VersionRecord, name: &str) -> Arc<File> {
        let version = self.version(record).await;
        let index = version.head().resolve(name.as_bytes()).unwrap();
        version.file(index).unwrap()
    }

    /// Until an order is as `is_so` says.
    pub(super) async fn until(&self, id: OrderId, is_so: impl Fn(&OrderStatus) -> bool) -> OrderStatus {
        let seen = async {
            loop {
                let status = self.cache.prefetch_look(id, PATIENCE).await.unwrap();
                if is_so(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let last = || format!("{:?}", self.cache.prefetch_list());
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("{}", last()))
    }

    /// The runs of blocks that the master was asked for since the last call, as (first, count).
    pub(super) fn asked(&self) -> Vec<(u64, u32)> {
        let runs = self.master.take_asked().into_iter().filter_map(|asked| match asked {
            Asked::Blocks(run) | Asked::CheckedBlocks(run) => Some((run.first, run.count)),
            _ => None,
        });
        runs.collect()
    }
}

async fn open(
    disk: &MemoryDisk,
    line: &Arc<FaultySource>,
    settings: &Settings,
    trust: Trust,
) -> Result<Arc<Cache>, CacheError> {
    let quick = icbd_fetch::Settings {
        back_off_min: Duration::from_millis(1),
        back_off_max: Duration::from_millis(2),
        cool_down_min: Duration::from_millis(1),
        cool_down_max: Duration::from_millis(5),
        bad_block: Duration::from_millis(5),
        ..icbd_fetch::Settings::default()
    };
    let sources = Arc::new(Sources::new(vec![line.clone()], quick));
    let lock = store::open(&settings.store)?;
    Cache::open_on(Arc::new(disk.clone()), lock, settings.clone(), sources, trust).await
}

/// `blocks` blocks of noise, the last one short; the same for the same seed. Seed 0 of a block is zeros.
pub(super) fn content(seeds: &[u64]) -> Bytes {
    let mut bytes = Vec::with_capacity(seeds.len() * BLOCK);
    for seed in seeds {
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for _ in 0..BLOCK / 8 {
            if *seed != 0 {
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
            }
            bytes.extend_from_slice(&(if *seed == 0 { 0 } else { dice }).to_le_bytes());
        }
    }
    bytes.truncate((seeds.len() * BLOCK).saturating_sub(100));
    bytes.into()
}

/// One block of a content.
pub(super) fn block_of(content: &Bytes, block: u64) -> Bytes {
    let start = block as usize * BLOCK;
    content.slice(start..content.len().min(start + BLOCK))
}
