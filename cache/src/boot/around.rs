//! Guesses: what lies beside what a boot read, fetched before anybody knows whether it is read.
//!
//! Nine of ten blocks that a boot touches lie beside another one. A miss costs a round trip, a guess that is
//! wrong costs its transfer: so the longer the round trip, the more guesses may be wrong. Replaying a recorded
//! Debian boot against a model of a line, two wrong guesses for a hundred blocks that are touched save a third of
//! the misses, and over 10 ms a guess for every touch halves the time of a first boot.

use std::collections::{BinaryHeap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use icbd_fetch::Urgency;
use icbd_image::FileIndex;

use crate::CacheError;
use crate::version::Version;

/// So far from a touched block a guess goes, in blocks.
const REACH: u64 = 3;
/// A guess one block further is worth as much as one that came so many touches later.
const WORTH: i64 = 32;
/// Boots go forward: a guess backward counts as so much further.
const BACKWARD: i64 = 2;
/// Blocks of one request.
const RUN_BLOCKS: u32 = 4;
/// Guesses that wait. The worse half goes when there are more.
const GUESSES_MAX: usize = 4096;
/// Guesses that nobody has read, for each block that was touched: at least these …
const SPARE_MIN: f64 = 0.02;
/// … and one more for each of these of the round trip beyond what a machine takes to answer.
const SPARE_TRIP: Duration = Duration::from_millis(4);
const ANSWER: Duration = Duration::from_micros(300);

/// The guesses of one boot.
#[derive(Debug, Default)]
pub(super) struct Around(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    touched: u64,
    guesses: BinaryHeap<Guess>,
    /// Fetched, and read by nobody yet.
    unread: HashSet<(FileIndex, u64)>,
    is_running: bool,
    is_over: bool,
}

/// By worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Guess {
    worth: i64,
    file: FileIndex,
    block: u64,
}

impl Around {
    /// Takes note of blocks of which none was touched before, and has others fetched. Never blocks for long.
    pub(super) fn touched(self: &Arc<Self>, version: &Arc<Version>, file: FileIndex, blocks: Range<u64>) {
        let size = version.head().node(file).map_or(0, |node| node.blocks());
        let mut state = self.lock();
        state.touched += blocks.end - blocks.start;
        for block in blocks.clone() {
            state.unread.remove(&(file, block));
        }
        let now = state.touched as i64;
        for step in 1..=REACH {
            let worth = now - WORTH * step as i64;
            let forward = (blocks.end + step - 1 < size).then(|| Guess { worth, file, block: blocks.end + step - 1 });
            let worth = worth - WORTH * BACKWARD;
            let backward = blocks.start.checked_sub(step).map(|block| Guess { worth, file, block });
            state.guesses.extend(forward.into_iter().chain(backward));
        }
        if state.guesses.len() > GUESSES_MAX {
            let mut best = std::mem::take(&mut state.guesses).into_sorted_vec();
            state.guesses = best.split_off(GUESSES_MAX / 2).into();
        }
        if !state.is_running && !state.is_over && state.spare(version) > 0 {
            state.is_running = true;
            let (around, version) = (self.clone(), version.clone());
            drop(version.core().clone().spawn(async move { around.fetch(&version).await }));
        }
    }

    /// The boot is over: nothing is fetched any more.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
    }

    async fn fetch(&self, version: &Arc<Version>) {
        let sources = version.core().sources.clone();
        loop {
            let leave = sources.leave(Urgency::Guess, RUN_BLOCKS).await;
            let Some((file, blocks)) = self.pick(version, leave.blocks()) else { return };
            // A guess that cannot be fetched is no loss.
            let guessed: Result<(), CacheError> = async {
                let file = version.file(file)?;
                let hashes = file.hashes(blocks.clone()).await?;
                let Some(flight) = file.fetch(blocks, &hashes, leave) else { return Ok(()) };
                self.lock().unread.extend(flight.blocks().map(|block| (file.index(), block)));
                drop(flight.start());
                Ok(())
            }
            .await;
            if guessed.is_err() {
                self.lock().guesses.clear();
            }
        }
    }

    /// The best guesses that lie side by side; `None`, and nobody is running any more, if there is none.
    fn pick(&self, version: &Arc<Version>, most: u32) -> Option<(FileIndex, Range<u64>)> {
        let mut state = self.lock();
        let most = if state.is_over { 0 } else { state.spare(version).min(u64::from(most)) };
        if most == 0 {
            state.is_running = false;
            return None;
        }
        let is_here = |guess: &Guess| {
            let file = version.file(guess.file);
            file.is_ok_and(|file| file.is_readable(guess.block..guess.block + 1) || file.slots().has(guess.block))
        };
        while let Some(best) = state.guesses.pop() {
            if is_here(&best) {
                continue;
            }
            let mut blocks = best.block..best.block + 1;
            while blocks.end - blocks.start < most
                && let Some(next) = state.guesses.peek().copied()
                && next.file == best.file
                && (next.block == blocks.end || next.block + 1 == blocks.start)
                && !is_here(&next)
            {
                state.guesses.pop();
                blocks = blocks.start.min(next.block)..blocks.end.max(next.block + 1);
            }
            return Some((best.file, blocks));
        }
        state.is_running = false;
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl State {
    /// How many more blocks may be guessed.
    fn spare(&self, version: &Version) -> u64 {
        let trip = version.core().sources.round_trip().unwrap_or_default();
        let may_be_wrong = (self.touched as f64 * spare(trip)) as u64;
        if self.guesses.is_empty() { 0 } else { may_be_wrong.saturating_sub(self.unread.len() as u64) }
    }
}

/// How many guesses may be wrong for each touch.
fn spare(round_trip: Duration) -> f64 {
    let trip = round_trip.saturating_sub(ANSWER).as_secs_f64() / SPARE_TRIP.as_secs_f64();
    (SPARE_MIN + trip).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_the_way_the_more_guesses() {
        assert_eq!(spare(Duration::from_micros(150)), SPARE_MIN);
        assert!((0.05..0.15).contains(&spare(Duration::from_micros(600))));
        assert_eq!(spare(Duration::from_millis(10)), 1.0);
    }
}
