//! What a cold fill of a version reads, in order, noted while readers read.
//!
//! A recording begins with a read of a version that is not complete and was left alone for a while: that is
//! how a boot looks from here. It ends five minutes later, or when nothing was touched for a minute, or with
//! the cache. Reads by prefetch and readahead do not come by here, and of files that are passed through
//! nothing does. While nothing is recorded, a read costs a look at the clock and two at memory.

mod log;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use icbd_image::{BLOCK_BYTES, BootRun, FileIndex, Observation, Origin, Root};
use tokio::time::Instant;

use super::around::Around;
use super::ride::ride;
use crate::bits::Bits;
use crate::core::Core;
use crate::resident::Layout;
use crate::version::Version;
use log::Log;

/// A boot with its log-in is over by then, also over a slow line.
const RECORDING_MAX: Duration = Duration::from_secs(5 * 60);
/// Whoever reads nothing new for so long has booted.
const SILENCE: Duration = Duration::from_secs(60);
/// A version that nobody read for so long may be booted next; before, it is in use.
const QUIET: Duration = Duration::from_secs(10 * 60);
/// An observation of fewer bytes tells of somebody who looked around.
const BYTES_MIN: u64 = 1 << 20;

/// Of one version: when it was read last, and what is being recorded.
#[derive(Debug)]
pub(crate) struct Recorder {
    root: Root,
    /// What `last_read_ms` counts from.
    made: Instant,
    /// One more than the milliseconds from `made` to the last read, exact to a second; 0 before the first.
    last_read_ms: AtomicU64,
    /// Whether there is a recording, so that readers need no lock to see that there is none. Set under the lock.
    is_recording: AtomicBool,
    recording: RwLock<Option<Arc<Recording>>>,
    /// What boots are known to read, once one has begun.
    expected: OnceLock<(Layout, Bits)>,
}

/// One fill under way.
#[derive(Debug)]
struct Recording {
    started: SystemTime,
    began: Instant,
    layout: Layout,
    touched: Bits,
    log: Mutex<Log>,
    /// Of a boot of which nothing is known.
    around: OnceLock<Arc<Around>>,
    /// Milliseconds from `began` to the last first touch.
    last_touch_ms: AtomicU64,
}

impl Recorder {
    pub(crate) fn new(root: Root) -> Recorder {
        Recorder {
            root,
            made: Instant::now(),
            last_read_ms: AtomicU64::new(0),
            is_recording: false.into(),
            recording: RwLock::default(),
            expected: OnceLock::new(),
        }
    }

    /// Takes note of a read that somebody asked for. Never blocks for long.
    pub(crate) fn note(self: &Arc<Self>, version: &Arc<Version>, file: FileIndex, blocks: std::ops::Range<u64>) {
        let now = self.made.elapsed().as_millis() as u64 + 1;
        let last = self.last_read_ms.load(Ordering::Relaxed);
        if last == 0 || now > last + 1000 {
            // Of several who come at once, one begins.
            let first = self.last_read_ms.compare_exchange(last, now, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if first && (last == 0 || now - last >= QUIET.as_millis() as u64) && !version.is_complete() {
                self.begin(version);
            }
        }
        if self.is_recording.load(Ordering::Acquire)
            && let Some(recording) = &*self.recording.read().expect("no panic under this lock")
        {
            recording.note(version, file, blocks);
        }
    }

    /// Whether boots are known to read these blocks.
    pub(crate) fn expects(&self, file: FileIndex, blocks: std::ops::Range<u64>) -> bool {
        self.expected.get().is_some_and(|(layout, bits)| bits.all(layout.bits(file, blocks)))
    }

    fn begin(self: &Arc<Self>, version: &Arc<Version>) {
        let layout = Layout::new(version.head());
        let recording = Arc::new(Recording {
            started: SystemTime::now(),
            began: Instant::now(),
            touched: Bits::zeros(layout.words()),
            layout,
            log: Mutex::default(),
            around: OnceLock::new(),
            last_touch_ms: AtomicU64::new(0),
        });
        {
            let mut current = self.recording.write().expect("no panic under this lock");
            *current = Some(recording.clone());
            self.is_recording.store(true, Ordering::Release);
        }
        tracing::debug!(version = %version.id(), "recording what is read");
        let (recorder, core) = (self.clone(), version.core().clone());
        core.profiles.watch(self);
        drop(core.spawn(self.clone().accompany(version.clone(), recording.clone())));
        drop(version.core().spawn(async move {
            recording.ended().await;
            recorder.finish(&core).await;
        }));
    }

    /// Has what a boot will read fetched ahead of it.
    async fn accompany(self: Arc<Self>, version: Arc<Version>, recording: Arc<Recording>) {
        let set = match version.core().boot_set(version.serial()).await {
            Ok(set) => set,
            Err(error) => {
                tracing::debug!(version = %version.id(), %error, "what its boots read cannot be found out");
                Vec::new()
            }
        };
        if set.is_empty() {
            let _ = recording.around.set(Arc::default());
            return;
        }
        self.expect(&version, &set);
        let blocks: u64 = set.iter().map(|run| u64::from(run.count)).sum();
        tracing::info!(version = %version.id(), blocks, "a boot has begun: what boots read is fetched ahead of it");
        if let Err(error) = ride(&version, &set).await {
            tracing::debug!(version = %version.id(), %error, "what boots read is not fetched ahead any more");
        }
    }

    fn expect(&self, version: &Version, set: &[BootRun]) {
        let layout = Layout::new(version.head());
        let bits = Bits::zeros(layout.words());
        for run in set {
            bits.set(layout.bits(run.file, run.first..run.first + u64::from(run.count)));
        }
        // Only one boot of a version is accompanied at a time; the next will know little more.
        let _ = self.expected.set((layout, bits));
    }

    /// Ends the recording, if there is one, and keeps what it saw.
    pub(crate) async fn finish(&self, core: &Arc<Core>) {
        let recording = {
            let mut current = self.recording.write().expect("no panic under this lock");
            self.is_recording.store(false, Ordering::Release);
            current.take()
        };
        if let Some(around) = recording.as_ref().and_then(|recording| recording.around.get()) {
            around.end();
        }
        let Some(seen) = recording.and_then(|recording| recording.observe(core)) else { return };
        let (root, keeper) = (self.root, core.clone());
        let kept = core.blocking(move || keeper.profiles.add(root, seen)).await;
        if let Ok(Err(error)) | Err(error) = kept {
            tracing::warn!(%root, %error, "what a boot read could not be kept");
        }
    }
}

impl Recording {
    fn note(&self, version: &Arc<Version>, file: FileIndex, blocks: std::ops::Range<u64>) {
        let bits = self.layout.bits(file, blocks.clone());
        if self.touched.all(bits.clone()) {
            return;
        }
        let mut log = self.log.lock().expect("no panic under this lock");
        let after_ms = self.began.elapsed().as_millis() as u32;
        let base = bits.start - blocks.start;
        let mut at = blocks.start;
        while at < blocks.end {
            let new = |block: &u64| !self.touched.get(base + block);
            let first = (at..blocks.end).find(new).unwrap_or(blocks.end);
            at = (first..blocks.end).find(|block| !new(block)).unwrap_or(blocks.end);
            let was_touched = |gap: std::ops::Range<u64>| self.touched.all(base + gap.start..base + gap.end);
            log.touch(after_ms, file, first..at, was_touched);
            self.touched.set(base + first..base + at);
            if let (Some(around), false) = (self.around.get(), first == at) {
                around.touched(version, file, first..at);
            }
        }
        self.last_touch_ms.store(u64::from(after_ms), Ordering::Relaxed);
    }

    /// Until nothing more is to come.
    async fn ended(&self) {
        let last = self.began + RECORDING_MAX;
        loop {
            let touched = self.began + Duration::from_millis(self.last_touch_ms.load(Ordering::Relaxed));
            let end = last.min(touched + SILENCE);
            if Instant::now() >= end || self.log.lock().expect("no panic under this lock").is_full() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    /// What it saw; `None` when that is next to nothing.
    fn observe(&self, core: &Core) -> Option<Observation> {
        let touches = self.log.lock().expect("no panic under this lock").touches();
        let started = self.started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let seen = Observation::new(core.profiles.site(), started, Origin::Own, touches);
        (seen.blocks() * BLOCK_BYTES >= BYTES_MIN).then_some(seen)
    }
}
