//! Who waits for what, since when and why: for the status at once, and for the log after ten seconds.
//!
//! Every read that cannot be answered from the store is entered here when it begins and leaves when it
//! is answered or given up, so that a hanging source cannot hide one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use icbd_fetch::FetchError;
use icbd_image::VersionId;

use crate::CacheError;
use crate::core::Core;

/// A wait shorter than this is nobody's concern.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// The log names who has waited for this long.
const LOGGED_AFTER: Duration = Duration::from_secs(10);

/// A read that has waited for more than a second.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub version: VersionId,
    /// The file's path in its version, or what else is waited for.
    pub path: String,
    pub block: u64,
    pub since: SystemTime,
    pub waited: Duration,
    /// What the sources said last; `None` while the first of them has not failed.
    pub why: Option<String>,
}

/// What somebody waits for. Cheap to make: its words are found when somebody asks.
#[derive(Clone)]
pub(crate) struct Want {
    pub(crate) version: VersionId,
    /// Finds the path.
    pub(crate) path: Arc<dyn Fn() -> String + Send + Sync>,
    pub(crate) block: u64,
}

/// All who wait.
#[derive(Default)]
pub(crate) struct WaitingList {
    entries: Mutex<BTreeMap<u64, Entry>>,
    next: AtomicU64,
}

struct Entry {
    want: Want,
    since: Instant,
    why: Option<Arc<FetchError>>,
    logged: bool,
}

/// One who waits, and the patience left.
pub(crate) struct Patience<'a> {
    core: &'a Core,
    id: u64,
    want: Want,
    first_failure: Option<Instant>,
    rounds: u32,
}

impl WaitingList {
    /// Those who have waited for some time, the longest first.
    pub(crate) fn shown(&self) -> Vec<Waiting> {
        let entries = self.lock();
        let long = entries.values().filter(|entry| entry.since.elapsed() >= SHOWN_AFTER);
        let mut shown: Vec<Waiting> = long.map(Entry::show).collect();
        drop(entries);
        shown.sort_by_key(|waiting| std::cmp::Reverse(waiting.waited));
        shown
    }

    /// Logs who waits too long, each once, until the cache stops.
    pub(crate) async fn watch(core: Arc<Core>) {
        let mut every = tokio::time::interval(SHOWN_AFTER);
        loop {
            every.tick().await;
            core.waiting.log_long();
        }
    }

    fn log_long(&self) {
        for entry in self.lock().values_mut() {
            if !entry.logged && entry.since.elapsed() >= LOGGED_AFTER {
                entry.logged = true;
                let shown = entry.show();
                let why = shown.why.as_deref().unwrap_or("no source has answered yet");
                let (version, path, block) = (&shown.version, &shown.path, shown.block);
                tracing::warn!(%version, path, block, waited_s = shown.waited.as_secs(), why, "a read waits");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.entries.lock().expect("no panic under this lock")
    }
}

impl Entry {
    fn show(&self) -> Waiting {
        let waited = self.since.elapsed();
        Waiting {
            version: self.want.version.clone(),
            path: (self.want.path)(),
            block: self.want.block,
            since: SystemTime::now() - waited,
            waited,
            why: self.why.as_ref().map(|why| why.to_string()),
        }
    }
}

impl std::fmt::Debug for WaitingList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WaitingList({})", self.lock().len())
    }
}

impl<'a> Patience<'a> {
    pub(crate) fn new(core: &'a Core, want: Want) -> Patience<'a> {
        let id = core.waiting.next.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { want: want.clone(), since: Instant::now(), why: None, logged: false };
        core.waiting.lock().insert(id, entry);
        Patience { core, id, want, first_failure: None, rounds: 0 }
    }

    /// After a round that failed: waits until another is worth making, or says that it took too long.
    pub(crate) async fn failed(&mut self, cause: Arc<FetchError>) -> Result<(), CacheError> {
        let first = *self.first_failure.get_or_insert_with(Instant::now);
        self.rounds += 1;
        if let Some(entry) = self.core.waiting.lock().get_mut(&self.id) {
            entry.why = Some(cause.clone());
        }
        let deadline = tokio::time::Instant::from_std(first + self.core.settings.offline_wait);
        tokio::select! {
            biased;
            () = self.core.stop.cancelled() => Err(CacheError::Closed),
            () = tokio::time::sleep_until(deadline) => Err(CacheError::Unavailable {
                version: self.want.version.clone(),
                what: format!("{}, block {}", (self.want.path)(), self.want.block),
                waited: self.core.settings.offline_wait,
                cause,
            }),
            () = self.core.sources.pause(self.rounds) => Ok(()),
        }
    }
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        self.core.waiting.lock().remove(&self.id);
    }
}
