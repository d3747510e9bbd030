//! The boot set: what of a version the next boot will most likely read, in order.

use super::{Observation, Origin, Profile};
use crate::{FileIndex, Head, Kind};

/// Consecutive blocks of one file that boots read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootRun {
    pub file: FileIndex,
    pub first: u64,
    /// Blocks, at least 1.
    pub count: u32,
    /// When boots read it, in milliseconds since their first read: the median.
    pub after_ms: u32,
}

/// A block is of the boot set when one of so many fills read it. Of up to so many fills all blocks are:
/// what few boots tell is better fetched than waited for.
const FILLS_FOR_ONE_HIT: usize = 8;

/// Where a touch begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    file: FileIndex,
    block: u64,
    begins: bool,
    when: When,
}

/// Milliseconds after the first read, and the place in the observation, which tells what is first within one.
type When = (u32, u32);

/// A run with the median of when it was read.
type Timed = (When, BootRun);

impl Profile {
    /// The blocks that a boot of the version reads, first read first: no block twice, none past its file's end.
    ///
    /// A block is of it when at least one in eight of the version's own observations touched it, or, while
    /// there are fewer than [`Profile::OWN_MIN`] of these, one in eight of those carried over.
    ///
    /// Takes the time of a sort of all touches; a full profile has 800,000, one of a disk image some thousand.
    pub fn boot_set(&self, head: &Head) -> Vec<BootRun> {
        let of = |origin| self.observations().filter(move |seen| seen.origin() == origin);
        // In order of file and block.
        let mut timed = frequent(of(Origin::Own), head);
        if self.own_count() < Profile::OWN_MIN {
            // What its own boots say of a block is more than what those of other versions do.
            let carried = frequent(of(Origin::Carried), head);
            let more: Vec<_> = carried.into_iter().flat_map(|run| without(run, &timed)).collect();
            timed.extend(more);
        }
        timed.sort_unstable_by_key(|(when, run)| (*when, run.file, run.first));
        let mut runs: Vec<BootRun> = timed.into_iter().map(|(_, run)| run).collect();
        runs.dedup_by(|next, run| {
            let follows = next.file == run.file && next.first == run.first + u64::from(run.count);
            let count = run.count.checked_add(next.count).filter(|_| follows);
            count.inspect(|count| run.count = *count).is_some()
        });
        runs
    }
}

/// The blocks that one in [`FILLS_FOR_ONE_HIT`] observations touched, in order of file and block.
fn frequent<'a>(observations: impl Iterator<Item = &'a Observation>, head: &Head) -> Vec<Timed> {
    let (mut edges, mut fills) = (Vec::new(), 0);
    for observation in observations {
        fills += 1;
        for (place, touch) in (0..).zip(observation.touches()) {
            let file = head.node(touch.file).filter(|node| node.kind() == Kind::File);
            let end = touch.end().min(file.map_or(0, |file| file.blocks()));
            if touch.first < end {
                let edge = |block, begins| Edge { file: touch.file, block, begins, when: (touch.after_ms, place) };
                edges.extend([edge(touch.first, true), edge(end, false)]);
            }
        }
    }
    // Ends before beginnings of the same block.
    edges.sort_unstable();
    let mut runs = Vec::new();
    // When the observations that touched the block at hand did: at most one time for each.
    let mut times: Vec<When> = Vec::new();
    let mut at = 0;
    for edge in edges {
        if edge.block > at && !times.is_empty() && times.len() * FILLS_FOR_ONE_HIT >= fills {
            let when = times[(times.len() - 1) / 2];
            let count = (edge.block - at) as u32;
            runs.push((when, BootRun { file: edge.file, first: at, count, after_ms: when.0 }));
        }
        at = edge.block;
        let place = times.partition_point(|time| *time < edge.when);
        if edge.begins {
            times.insert(place, edge.when);
        } else {
            times.remove(place);
        }
    }
    runs
}

/// The parts of `run` that are in none of `known`, which are in order of file and block.
fn without((when, run): Timed, known: &[Timed]) -> Vec<Timed> {
    let end = run.first + u64::from(run.count);
    let from = known.partition_point(|(_, k)| (k.file, k.first + u64::from(k.count)) <= (run.file, run.first));
    let (mut parts, mut at) = (Vec::new(), run.first);
    for (_, known) in known[from..].iter().take_while(|(_, known)| known.file == run.file && known.first < end) {
        if known.first > at {
            parts.push((when, BootRun { first: at, count: (known.first - at) as u32, ..run }));
        }
        at = known.first + u64::from(known.count);
    }
    if at < end {
        parts.push((when, BootRun { first: at, count: (end - at) as u32, ..run }));
    }
    parts
}
