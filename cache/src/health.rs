//! How the store is: what its disk refused, said in the status at once and in the log once a minute.
//!
//! A full store is tried again at intervals and is well again once a write succeeds. A store whose
//! disk lost or spoilt something stays suspect until the daemon starts anew: only a person can tell
//! whether the disk is to be replaced.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::disk::is_shortage;

/// What the store is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    Ok,
    /// No room: blocks are served and not kept. Freeing space mends it.
    Full {
        why: String,
    },
    /// The disk failed at something; what it holds is served as long as it can be read.
    Suspect {
        why: String,
    },
}

/// A full store is tried again so often.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const LOG_INTERVAL: Duration = Duration::from_secs(60);
const FULL_TO_DO: &str = "free space on the store's file system; until then blocks are served and not kept";
const SUSPECT_TO_DO: &str = "look at the disk (`dmesg`, `smartctl`), run `icbd image verify` on what is held, and restart \
                             the cache once the disk is in order or replaced; until then reads go on, and files are not passed through";

/// The store's state, and what was said about it.
#[derive(Debug)]
pub(crate) struct Health {
    inner: Mutex<Inner>,
    failed_syncs: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    state: StoreState,
    failed: Option<Instant>,
    logged: Option<Instant>,
}

impl Health {
    pub(crate) fn new() -> Health {
        let inner = Mutex::new(Inner { state: StoreState::Ok, failed: None, logged: None });
        Health { inner, failed_syncs: AtomicU64::new(0) }
    }

    pub(crate) fn state(&self) -> StoreState {
        self.lock().state.clone()
    }

    /// Whether a write is worth trying.
    pub(crate) fn may_write(&self) -> bool {
        let mut inner = self.lock();
        match (&inner.state, inner.failed) {
            (StoreState::Full { .. }, Some(failed)) if failed.elapsed() < PROBE_INTERVAL => false,
            (StoreState::Full { .. }, _) => {
                // One probe an interval, not one a block.
                inner.failed = Some(Instant::now());
                true
            }
            _ => true,
        }
    }

    /// Syncs of blocks that failed so far.
    pub(crate) fn failed_syncs(&self) -> u64 {
        self.failed_syncs.load(Ordering::Acquire)
    }

    /// Blocks could not be synced.
    pub(crate) fn sync_failed(&self, error: &io::Error) {
        self.failed_syncs.fetch_add(1, Ordering::AcqRel);
        self.failed("syncing blocks", error);
    }

    /// Something could not be written or read; `what` names it.
    pub(crate) fn failed(&self, what: &str, error: &io::Error) {
        if is_shortage(error) {
            // The disk is not to blame, and what it holds is not in doubt.
            tracing::warn!(what, %error, "icbd lacks descriptors or memory; raise `ulimit -n` or LimitNOFILE=");
            return;
        }
        let mut inner = self.lock();
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let to_do = if full { FULL_TO_DO } else { SUSPECT_TO_DO };
        let why = format!("{what}: {error}; {to_do}");
        inner.failed = Some(Instant::now());
        let new = match inner.state {
            StoreState::Suspect { .. } => false,
            StoreState::Full { .. } if full => false,
            StoreState::Ok | StoreState::Full { .. } => {
                inner.state =
                    if full { StoreState::Full { why: why.clone() } } else { StoreState::Suspect { why: why.clone() } };
                true
            }
        };
        if new || inner.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            inner.logged = Some(Instant::now());
            if full {
                tracing::warn!(%why, "the store is full");
            } else {
                tracing::error!(%why, "the store's disk failed; what it lost is fetched again");
            }
        }
    }

    /// Writes are on the disk again.
    pub(crate) fn wrote(&self) {
        let mut inner = self.lock();
        if let StoreState::Full { .. } = inner.state {
            inner.state = StoreState::Ok;
            tracing::info!("the store has room again");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under this lock")
    }
}
