//! The rate of the line to each source, measured while prefetch fills it, and remembered over restarts.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use icbd_fetch::SourceState;
use tokio::time::Instant;

use super::pace::Pace;
use crate::core::Core;

/// Until a source was measured: 10 Mbit/s, so that what has a deadline rather begins too early.
const RATE_UNKNOWN: u64 = 1_250_000;
/// Of a new share of bytes on the wire so much is believed.
const SHARE_FADE: f64 = 0.3;
/// Fewer bytes say little about how well they shrink.
const SHARE_BYTES_MIN: u64 = 1 << 20;

/// What is known of the lines.
#[derive(Debug)]
pub(crate) struct Line {
    inner: Mutex<Inner>,
    was_held_back: AtomicBool,
}

/// A rate, and of which source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    pub source: Option<String>,
    /// Of blocks as they are read, not as they travel.
    pub bytes_per_second: u64,
    /// Or a careful guess.
    pub is_measured: bool,
}

#[derive(Debug)]
struct Inner {
    paces: HashMap<String, Pace>,
    /// Bytes on the wire for each byte of a block.
    share: f64,
    last: Option<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    fetched_bytes: u64,
    received_bytes: u64,
}

impl Line {
    /// With the rates that were known before.
    pub(crate) fn new(rates: Vec<(String, u64)>) -> Line {
        let paces = rates.into_iter().map(|(source, rate)| (source, Pace::known(rate))).collect();
        Line { inner: Mutex::new(Inner { paces, share: 1.0, last: None }), was_held_back: AtomicBool::new(false) }
    }

    /// What the line gives that is in use now.
    pub(crate) fn rate(&self, core: &Core) -> Rate {
        let source = source_in_use(core);
        let inner = self.lock();
        let known = source.as_ref().and_then(|source| inner.paces.get(source)?.bytes_per_second());
        Rate { source, bytes_per_second: known.unwrap_or(RATE_UNKNOWN), is_measured: known.is_some() }
    }

    /// All that is known, to be remembered.
    pub(crate) fn rates(&self) -> Vec<(String, u64)> {
        let inner = self.lock();
        inner.paces.iter().filter_map(|(source, pace)| Some((source.clone(), pace.bytes_per_second()?))).collect()
    }

    /// How many bytes travel for so many bytes of blocks, by experience.
    pub(crate) fn wire_bytes(&self, bytes: u64) -> u64 {
        (bytes as f64 * self.lock().share) as u64
    }

    /// How many bytes of blocks come for so many that travel.
    pub(crate) fn block_bytes(&self, bytes: u64) -> u64 {
        (bytes as f64 / self.lock().share) as u64
    }

    /// Somebody had to wait for leave: what comes until the next sample is not what the line can do.
    pub(crate) fn held_back(&self) {
        self.was_held_back.store(true, Ordering::Relaxed);
    }

    /// What comes from now on is measured.
    pub(crate) fn begin(&self, core: &Core) {
        self.was_held_back.store(false, Ordering::Relaxed);
        self.lock().last = Some(Sample::now(core));
    }

    /// What came since the last time was as much as the line gave if `is_full`, or if nobody was held back; else it
    /// gives at least as much.
    pub(crate) fn sample(&self, core: &Core, is_full: bool) {
        let (source, now) = (source_in_use(core), Sample::now(core));
        let was_held_back = self.was_held_back.swap(false, Ordering::Relaxed);
        let mut inner = self.lock();
        let Some(last) = inner.last.replace(now) else { return };
        let fetched = now.fetched_bytes.saturating_sub(last.fetched_bytes);
        if fetched >= SHARE_BYTES_MIN {
            let share = now.received_bytes.saturating_sub(last.received_bytes) as f64 / fetched as f64;
            inner.share += (share.clamp(0.02, 1.1) - inner.share) * SHARE_FADE;
        }
        let Some(source) = source else { return };
        let (pace, time) = (inner.paces.entry(source).or_default(), now.at - last.at);
        let known = pace.bytes_per_second().unwrap_or(RATE_UNKNOWN);
        if is_full || !was_held_back || fetched as f64 > known as f64 * time.as_secs_f64() {
            pace.sample(fetched, time);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under this lock")
    }
}

impl Sample {
    fn now(core: &Core) -> Sample {
        let received_bytes = core.sources.health().iter().map(|source| source.received_bytes).sum();
        Sample { at: Instant::now(), fetched_bytes: core.fetched_bytes.load(Ordering::Relaxed), received_bytes }
    }
}

/// The source that is asked first, as things are.
fn source_in_use(core: &Core) -> Option<String> {
    let health = core.sources.health();
    let is_down = |state: &SourceState| matches!(state, SourceState::Offline { .. });
    let up = health.iter().find(|source| !is_down(&source.state));
    up.or(health.first()).map(|source| source.name.clone())
}
