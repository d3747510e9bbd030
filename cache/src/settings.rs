//! What a cache is told at its start, with the reason of each default.

use std::path::PathBuf;
use std::time::Duration;

use icbd_image::NodeUuid;
use tokio::runtime::Handle;

use crate::Window;

/// A part of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    Bytes(u64),
    /// At most 100.
    Percent(u8),
}

impl Quota {
    fn of(self, size_bytes: u64) -> u64 {
        match self {
            Quota::Bytes(bytes) => bytes.min(size_bytes),
            Quota::Percent(percent) => (u128::from(size_bytes) * u128::from(percent.min(100)) / 100) as u64,
        }
    }

    /// What has to stay free of so many bytes.
    pub(crate) fn leaves(self, size_bytes: u64) -> u64 {
        size_bytes - self.of(size_bytes)
    }
}

/// Settings of one cache.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The store's directory; made when it is missing, mode 0700.
    pub store: PathBuf,
    /// Memory for blocks that are being fetched or wait to be written: the one budget of the daemon.
    pub in_flight_bytes: u64,
    /// How long a read waits for a source before it fails, from the first failure on.
    pub offline_wait: Duration,
    /// Memory for hash pages; a page is 64 KiB for 128 MiB of data.
    pub pages_memory_bytes: u64,
    /// Memory for heads and bitmaps of versions that nobody has open.
    pub versions_memory_bytes: u64,
    /// Where blocks are fetched that somebody waits for. A runtime of one thread of its own saves a wake on the way
    /// of each, and they never queue behind what is unpacked for nobody. `None`: where all else runs.
    pub demand_runtime: Option<Handle>,
    /// Room on the disk that prefetch leaves for what is read; `None`: a twentieth of the disk, at most 20 GiB.
    pub reserve_bytes: Option<u64>,
    /// How full the store's file system may become; beyond it, versions that nobody needs go. `None`: as full as the
    /// reserve leaves it.
    pub quota: Option<Quota>,
    /// How much a client may write over a version; `None`: as much as the disk is large.
    pub clone_bytes_max: Option<u64>,
    /// Room that clones may take: what they do not take yet stays free for them. `None`: none is set aside.
    pub clone_reserve_bytes: Option<u64>,
    /// This start of the machine: what was written and not synced is there only within it.
    pub boot: [u8; 16],
    /// When background fill may use the whole line; `None`: always.
    pub window: Option<Window>,
}

impl Settings {
    /// The defaults, for the store at `store`.
    pub fn new(store: impl Into<PathBuf>) -> Settings {
        Settings {
            store: store.into(),
            in_flight_bytes: 64 << 20,
            offline_wait: Duration::from_secs(120),
            pages_memory_bytes: 16 << 20,
            versions_memory_bytes: 32 << 20,
            demand_runtime: None,
            reserve_bytes: None,
            quota: None,
            clone_bytes_max: None,
            clone_reserve_bytes: None,
            boot: this_boot(),
            window: None,
        }
    }
}

/// What the kernel calls this start of the machine; where it does not tell, one that nobody else has.
fn this_boot() -> [u8; 16] {
    let told = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let told = told.and_then(|text| text.trim().parse::<NodeUuid>().ok()).map(|id| *id.as_bytes());
    told.unwrap_or_else(|| {
        let mut fresh = [0; 16];
        let _ = getrandom::fill(&mut fresh);
        fresh
    })
}
