//! How the store is: what its disk refused, said in the status at once and in the log once a minute.
//!
//! A full store is tried again at intervals and is well again once a write succeeds. A store whose
//! disk lost or spoilt something stays suspect until the daemon starts anew: only a person can tell
//! whether the disk is to be replaced.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

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

/// The store's state, and what was said about it.
#[derive(Debug)]
pub(crate) struct Health(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    state: StoreState,
    failed: Option<Instant>,
    logged: Option<Instant>,
}

impl Health {
    pub(crate) fn new() -> Health {
        Health(Mutex::new(Inner { state: StoreState::Ok, failed: None, logged: None }))
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

    /// Something could not be written or read; `what` names it.
    pub(crate) fn failed(&self, what: &str, error: &io::Error) {
        let mut inner = self.lock();
        let why = format!("{what}: {error}");
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
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
                tracing::warn!(%why, "the store is full: blocks are served from the source and not kept");
            } else {
                tracing::error!(%why, "the store's disk failed: check it; what it lost is fetched again");
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
        self.0.lock().expect("no panic under this lock")
    }
}
