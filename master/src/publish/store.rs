//! Storing a whole source: one thread walks it, all cores copy and hash its files.

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use icbd_image::Head;
use icbd_snapshot::beneath::Beneath;

use super::queue::Queue;
use super::staging::{Staging, full_or};
use super::walk::{Source, Walk};
use super::{Earlier, Phase, Progress, Published, Skipped, Watch};
use crate::MasterError;
use crate::layout::Layout;

/// More threads than this only wait for the disk.
const THREADS_MAX: usize = 16;

/// How often progress is told: often enough for a bar that moves.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A tree that lies in its staging directory, and its manifest.
pub(super) struct Stored {
    pub(super) head: Head,
    pub(super) files: u64,
    pub(super) skipped: Vec<Skipped>,
    pub(super) skipped_count: u64,
    pub(super) hashed_bytes: u64,
    bytes: u64,
}

impl Stored {
    pub(super) fn progress(&self, phase: Phase) -> Progress {
        Progress { phase, files: self.files, done_bytes: self.bytes, found_bytes: self.bytes, walked: true }
    }
}

/// What the walk and the workers share.
pub(super) struct Shared<'a> {
    pub(super) source: &'a Beneath,
    pub(super) stage: &'a Beneath,
    pub(super) earlier: Earlier<'a>,
    /// Where disk images are converted to raw ones, if they are.
    pub(super) raw: Option<&'a Path>,
    /// Takes the hashes of files that are too large to have them in the head.
    pub(super) pages: &'a File,
    pub(super) tally: Tally<'a>,
}

/// Counts what was found and done, and tells it now and then.
pub(super) struct Tally<'a> {
    watch: &'a Watch<'a>,
    files: AtomicU64,
    done_bytes: AtomicU64,
    found_bytes: AtomicU64,
    hashed_bytes: AtomicU64,
    walked: AtomicBool,
    told: Mutex<Option<Instant>>,
}

impl<'a> Tally<'a> {
    fn new(watch: &'a Watch<'a>) -> Tally<'a> {
        let zero = || AtomicU64::new(0);
        let (files, done_bytes, found_bytes, hashed_bytes) = (zero(), zero(), zero(), zero());
        Tally {
            watch,
            files,
            done_bytes,
            found_bytes,
            hashed_bytes,
            walked: AtomicBool::new(false),
            told: Mutex::new(None),
        }
    }

    pub(super) fn found(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.found_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn hashed(&self, bytes: u64) {
        self.hashed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn walked(&self) {
        self.walked.store(true, Ordering::Relaxed);
    }

    pub(super) fn done(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        let Ok(mut told) = self.told.try_lock() else { return };
        if told.is_none_or(|told| told.elapsed() >= PROGRESS_INTERVAL) {
            *told = Some(Instant::now());
            (self.watch.progress)(self.now());
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.watch.cancel.load(Ordering::Relaxed)
    }

    fn now(&self) -> Progress {
        Progress {
            phase: Phase::Storing,
            files: self.files.load(Ordering::Relaxed),
            done_bytes: self.done_bytes.load(Ordering::Relaxed),
            found_bytes: self.found_bytes.load(Ordering::Relaxed),
            walked: self.walked.load(Ordering::Relaxed),
        }
    }
}

/// Copies the source into `staging` and hashes what lies there then.
pub(super) fn store(
    layout: &Layout,
    source: &Source,
    staging: &Staging,
    earlier: Earlier<'_>,
    raw: bool,
    watch: &Watch<'_>,
) -> Result<Stored, MasterError> {
    let stage = Beneath::open(&staging.tree()).map_err(MasterError::io("open", staging.tree()))?;
    let pages = staging.pages()?;
    let raw = raw.then(|| staging.path());
    let tally = Tally::new(watch);
    let shared = Shared { source: &source.tree, stage: &stage, earlier, raw, pages: &pages, tally };
    store_all(source, &shared).map_err(|error| full_or(error, layout))
}

fn store_all(source: &Source, shared: &Shared<'_>) -> Result<Stored, MasterError> {
    let queue = Queue::new(shared);
    let walked = std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| queue.work());
        }
        let walked = Walk::new(source, shared, &queue).and_then(|mut walk| walk.all().map(|()| walk));
        shared.tally.walked();
        queue.close(walked.as_ref().err().is_some());
        walked
    });
    // A worker's error is the cause of a walk that was broken off, never the other way round.
    let hashed = queue.take_hashes()?;
    let mut walk = walked?;
    walk.finish_names()?;
    for (index, hashes) in hashed {
        walk.builder.set_hashes(index, hashes);
    }
    let progress = shared.tally.now();
    let unfit = |error| MasterError::Unfit { path: shared.source.shown(b""), source: Box::new(error) };
    let head = walk.builder.finish().map_err(unfit)?;
    if head.node_count() == 1 {
        return Err(MasterError::SourceEmpty(shared.source.shown(b"")));
    }
    let (skipped, skipped_count) = (walk.skipped, walk.skipped_count);
    debug_assert!(skipped.len() <= Published::SKIPPED_MAX);
    let hashed_bytes = shared.tally.hashed_bytes.load(Ordering::Relaxed);
    Ok(Stored { head, files: progress.files, skipped, skipped_count, hashed_bytes, bytes: progress.found_bytes })
}

/// How many threads share the work on a version's files.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX))
}

impl Shared<'_> {
    /// The error of something that failed in the source: gone means it changed.
    pub(super) fn source_error(
        &self,
        doing: &'static str,
        inside: &[u8],
    ) -> impl FnOnce(rustix::io::Errno) -> MasterError {
        let path = self.source.shown(inside);
        move |error| match error {
            rustix::io::Errno::NOENT | rustix::io::Errno::STALE | rustix::io::Errno::LOOP => MasterError::Changed(path),
            error => MasterError::Io { doing, path, source: error.into() },
        }
    }

    /// The error of something that failed in the repository.
    pub(super) fn stage_error(
        &self,
        doing: &'static str,
        inside: &[u8],
    ) -> impl FnOnce(rustix::io::Errno) -> MasterError {
        MasterError::io(doing, self.stage.shown(inside))
    }

    /// The error of an attribute that the repository did not take.
    pub(super) fn refused(&self, inside: &[u8]) -> impl FnOnce(icbd_snapshot::attributes::Refused) -> MasterError {
        let path = self.source.shown(inside);
        move |refused| MasterError::Attribute { path, what: refused.what, source: refused.source.into() }
    }
}
