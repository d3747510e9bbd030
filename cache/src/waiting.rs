//! Who waits for what, since when and why: for the status at once, and for the log after ten seconds.
//!
//! Every read that cannot be answered from the store is entered here when it begins and leaves when it
//! is answered or given up, so that a hanging source cannot hide one.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use icbd_fetch::FetchError;
use icbd_image::VersionId;
use tokio::time::Instant;

use crate::CacheError;
use crate::core::Core;

/// A wait shorter than this is nobody's concern.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// The log names who has waited for this long.
const LOGGED_AFTER: Duration = Duration::from_secs(10);

/// What was given up is worth a word for so long.
const GIVEN_UP_SHOWN: Duration = Duration::from_secs(600);

/// What is lacking here for a moment is tried again so often, and not given up before.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);
const SHORTAGE_WAIT_MIN: Duration = Duration::from_secs(5);

/// A read that has waited for more than a second.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub version: VersionId,
    /// The file's path in its version, or what else is waited for.
    pub path: String,
    /// Of a file.
    pub block: Option<u64>,
    pub since: SystemTime,
    pub waited: Duration,
    /// The cause, in short: what the sources said last, or what is lacking here; `None` while nothing failed.
    /// The log has all of it.
    pub why: Option<String>,
}

/// What somebody waits for. Cheap to make: its words are found when somebody asks.
#[derive(Clone)]
pub(crate) struct Want {
    pub(crate) version: VersionId,
    /// Finds the path.
    pub(crate) path: Arc<dyn Fn() -> String + Send + Sync>,
    pub(crate) block: Option<u64>,
}

/// Reads that were given up: whoever asked got an I/O error.
#[derive(Debug, Clone)]
pub struct GivenUp {
    /// Since the start.
    pub count: u64,
    /// What the last one was for and why it failed, if that was within the last ten minutes.
    pub lately: Option<(Duration, String)>,
}

/// All who wait.
#[derive(Default)]
pub(crate) struct WaitingList {
    entries: Mutex<BTreeMap<u64, Entry>>,
    next: AtomicU64,
    given_up: Mutex<(u64, Option<(Instant, String)>)>,
}

struct Entry {
    want: Want,
    since: Instant,
    why: Option<Why>,
    logged: bool,
}

/// Why somebody still waits.
#[derive(Debug, Clone)]
enum Why {
    Fetch(Arc<FetchError>),
    Here(Arc<io::Error>),
}

/// One who waits, and the patience left.
pub(crate) struct Patience<'a> {
    core: &'a Core,
    id: u64,
    want: Want,
    first_failure: Option<Instant>,
    is_spent: bool,
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

    pub(crate) fn given_up(&self) -> GivenUp {
        let (count, last) = self.given_up.lock().expect("no panic under this lock").clone();
        let lately = last.map(|(when, what)| (when.elapsed(), what)).filter(|(ago, _)| *ago < GIVEN_UP_SHOWN);
        GivenUp { count, lately }
    }

    fn gives_up(&self, want: &Want, why: &Why) {
        let mut given_up = self.given_up.lock().expect("no panic under this lock");
        *given_up =
            (given_up.0 + 1, Some((Instant::now(), format!("{} {}: {}", want.version, want.what(), why.short()))));
    }

    /// Logs who waits too long, each once, until the cache stops.
    pub(crate) async fn watch(core: Arc<Core>) {
        let mut every = tokio::time::interval(SHOWN_AFTER);
        loop {
            every.tick().await;
            core.waiting.log_long();
        }
    }

    fn enter(&self, want: Want) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, Entry { want, since: Instant::now(), why: None, logged: false });
        id
    }

    fn because(&self, id: u64, why: Why) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.why = Some(why);
        }
    }

    fn log_long(&self) {
        for entry in self.lock().values_mut() {
            if !entry.logged && entry.since.elapsed() >= LOGGED_AFTER {
                entry.logged = true;
                let shown = entry.show();
                let why = entry.why.as_ref().map_or("no source has answered yet".to_owned(), Why::whole);
                let (version, path, block) = (&shown.version, &shown.path, shown.block);
                tracing::warn!(%version, path, block, waited_s = shown.waited.as_secs(), why, "a read waits");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.entries.lock().expect("no panic under this lock")
    }
}

impl Want {
    fn what(&self) -> String {
        match self.block {
            Some(block) => format!("{}, block {block}", (self.path)()),
            None => (self.path)(),
        }
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
            why: self.why.as_ref().map(Why::short),
        }
    }
}

impl Why {
    fn short(&self) -> String {
        match self {
            Why::Fetch(error) => error.cause(),
            Why::Here(error) => error.to_string(),
        }
    }

    fn whole(&self) -> String {
        match self {
            Why::Fetch(error) => error.to_string(),
            Why::Here(error) => error.to_string(),
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
        let id = core.waiting.enter(want.clone());
        Patience { core, id, want, first_failure: None, is_spent: false, rounds: 0 }
    }

    /// For who asks again at once for what was just given up: it was waited for, and one round has to do.
    pub(crate) fn spent(mut self) -> Self {
        self.is_spent = true;
        self
    }

    /// After a round that failed: waits until another is worth making, or says that it took too long.
    pub(crate) async fn failed(&mut self, cause: Arc<FetchError>) -> Result<(), CacheError> {
        let first = *self.first_failure.get_or_insert_with(Instant::now);
        self.rounds += 1;
        self.core.waiting.because(self.id, Why::Fetch(cause.clone()));
        let waited = if self.is_spent { Duration::ZERO } else { self.core.offline_wait() };
        tokio::select! {
            biased;
            () = self.core.stop.cancelled() => Err(CacheError::Closed),
            () = tokio::time::sleep_until(first + waited) => {
                self.core.waiting.gives_up(&self.want, &Why::Fetch(cause.clone()));
                let what = self.want.what();
                Err(CacheError::Unavailable { version: self.want.version.clone(), what, waited, cause })
            }
            () = self.core.sources.pause(self.rounds) => Ok(()),
        }
    }

    /// After a try that lacked descriptors or memory: waits a moment, or says that it took too long.
    pub(crate) async fn lacked(&mut self, error: Arc<io::Error>) -> Result<(), CacheError> {
        let first = *self.first_failure.get_or_insert_with(Instant::now);
        self.core.waiting.because(self.id, Why::Here(error.clone()));
        if first.elapsed() >= self.core.offline_wait().max(SHORTAGE_WAIT_MIN) {
            self.core.waiting.gives_up(&self.want, &Why::Here(error.clone()));
            return Err(CacheError::Disk { doing: "open", path: (self.want.path)().into(), error });
        }
        tokio::select! {
            biased;
            () = self.core.stop.cancelled() => Err(CacheError::Closed),
            () = tokio::time::sleep(SHORTAGE_PAUSE) => Ok(()),
        }
    }
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        self.core.waiting.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use icbd_fetch::{Failure, SourceError, Wanted};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Who waits for more than ten seconds is named in the log, once, with all that is known; the status is short.
    #[tokio::test(start_paused = true)]
    async fn a_long_wait_is_logged_with_image_file_block_and_reason() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _logged = tracing::subscriber::set_default(subscriber);
        let said = || String::from_utf8(std::mem::take(&mut *lines.0.lock().unwrap())).unwrap();
        let list = WaitingList::default();
        let want =
            Want { version: "lab@3".parse().unwrap(), path: Arc::new(|| "disk.raw".to_owned()), block: Some(77) };
        let id = list.enter(want.clone());
        assert!(list.shown().is_empty());
        tokio::time::advance(Duration::from_secs(9)).await;
        list.log_long();
        assert_eq!((said().as_str(), list.shown().len()), ("", 1));
        let failed =
            |error: &str| Failure { source: "http://far".into(), error: SourceError::Unreachable(error.into()) };
        let error = FetchError::Failed { wanted: Wanted::Listing, failures: vec![failed("connection refused")] };
        list.because(id, Why::Fetch(Arc::new(error)));
        tokio::time::advance(Duration::from_secs(2)).await;
        list.log_long();
        let line = said();
        for part in ["WARN", "lab@3", "disk.raw", "block=77", "waited_s=11", "http://far", "connection refused"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        list.log_long();
        assert_eq!(said(), "");
        assert_eq!(list.shown()[0].why.as_deref(), Some("http://far: unreachable"));
    }
}
