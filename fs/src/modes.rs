//! In which mode a file is opened: decided by the handles that are open already.
//!
//! The kernel refuses (EIO) a cached and a passthrough handle, or two backing files, on one inode at
//! one time. So the first open of a file chooses and later ones follow until all are closed.
//! Counted are files large enough for passthrough; others are always cached. A handle's number says
//! how it was counted, so that a daemon can close what an earlier one opened.
//!
//! Order, for a kill at any moment: counted before the kernel hears of the open, uncounted after it
//! said that it is closed. A count too high only keeps a file in its mode; too low would be an EIO.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use icbd_image::{NodeId, Serial};

use crate::table::{Held, Mode, SHARDS, SLOTS, Table};

const SHARD_SLOTS: u32 = (SLOTS / SHARDS) as u32;

/// How an open file handle was counted; its number is what the kernel keeps for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handle {
    /// Of a small file: cached, not counted by file.
    Small,
    Cached,
    Passthrough,
    /// Of a large file for which there was no slot: cached.
    Overflow,
}

impl Handle {
    pub(crate) fn to_u64(self) -> u64 {
        match self {
            Handle::Small => 1,
            Handle::Cached => 2,
            Handle::Passthrough => 3,
            Handle::Overflow => 4,
        }
    }

    pub(crate) fn from_u64(number: u64) -> Option<Handle> {
        match number {
            1 => Some(Handle::Small),
            2 => Some(Handle::Cached),
            3 => Some(Handle::Passthrough),
            4 => Some(Handle::Overflow),
            _ => None,
        }
    }
}

/// How to answer an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) handle: Handle,
    pub(crate) mode: Mode,
}

/// Open handles by mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenHandles {
    pub cached: u64,
    pub passthrough: u64,
}

/// The counts, in the open table. `G` is kept while passthrough handles of a file are open.
#[derive(Debug)]
pub(crate) struct Modes<G> {
    table: Table,
    shards: [Mutex<Shard<G>>; SHARDS],
}

#[derive(Debug)]
struct Shard<G> {
    open: HashMap<u64, Entry<G>>,
    free: Vec<u32>,
    /// The first slot that was never used; those after it neither.
    fresh: u32,
    end: u32,
}

#[derive(Debug)]
struct Entry<G> {
    slot: u32,
    guard: Option<G>,
}

/// A file whose passthrough handles an earlier daemon opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inherited {
    pub(crate) node: u64,
    pub(crate) backing: u32,
}

impl<G> Modes<G> {
    /// Takes over what `table` says. `close` is called for backing ids that a killed daemon was about to close.
    pub(crate) fn new(table: Table, mut close: impl FnMut(u32)) -> Modes<G> {
        let shards = std::array::from_fn(|shard| {
            let first = shard as u32 * SHARD_SLOTS;
            let mut it = Shard { open: HashMap::new(), free: Vec::new(), fresh: first, end: first + SHARD_SLOTS };
            for slot in first..it.end {
                let Some((node, held)) = table.slot(slot) else { continue };
                it.free.extend(it.fresh..slot);
                it.fresh = slot + 1;
                if held.count > 0 {
                    it.open.insert(node, Entry { slot, guard: None });
                    continue;
                }
                if let Mode::Passthrough { backing } = held.mode {
                    close(backing);
                }
                table.set(slot, None);
                it.free.push(slot);
            }
            Mutex::new(it)
        });
        Modes { table, shards }
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// Files with passthrough handles that have no guard yet.
    pub(crate) fn inherited(&self) -> Vec<Inherited> {
        let mut found = Vec::new();
        for shard in 0..SHARDS {
            let shard = self.lock(shard);
            for (node, entry) in shard.open.iter().filter(|(_, entry)| entry.guard.is_none()) {
                if let Some((_, Held { mode: Mode::Passthrough { backing }, .. })) = self.table.slot(entry.slot) {
                    found.push(Inherited { node: *node, backing });
                }
            }
        }
        found
    }

    /// Keeps `guard` until the passthrough handles of `node` are closed.
    pub(crate) fn guard(&self, node: u64, guard: G) {
        if let Some(entry) = self.lock(shard_of(node)).open.get_mut(&node) {
            entry.guard = Some(guard);
        }
    }

    /// Counts an open of a file too small for passthrough.
    pub(crate) fn open_small(&self) -> Opened {
        self.table.uncounted().fetch_add(1, Ordering::AcqRel);
        Opened { handle: Handle::Small, mode: Mode::Cached }
    }

    /// Counts an open of a large file. `offer` is asked for a backing id and its guard if the choice is free.
    pub(crate) fn open(&self, node: u64, offer: impl FnOnce() -> Option<(u32, G)>) -> Opened {
        let number = shard_of(node);
        let mut shard = self.lock(number);
        if let Some(entry) = shard.open.get(&node)
            && let Some((_, held)) = self.table.slot(entry.slot)
        {
            self.table.set(entry.slot, Some(Held { count: held.count + 1, ..held }));
            return Opened { handle: held.mode.handle(), mode: held.mode };
        }
        // While a large file may be open without a slot, a file without a slot may be that one.
        let overflow = self.table.overflow(number);
        let slot = if overflow.load(Ordering::Acquire) == 0 { shard.take_slot() } else { None };
        let Some(slot) = slot else {
            overflow.fetch_add(1, Ordering::AcqRel);
            return Opened { handle: Handle::Overflow, mode: Mode::Cached };
        };
        let (mode, guard) = match offer() {
            Some((backing, guard)) => (Mode::Passthrough { backing }, Some(guard)),
            None => (Mode::Cached, None),
        };
        self.table.claim(slot, node, Held { mode, count: 1 });
        shard.open.insert(node, Entry { slot, guard });
        Opened { handle: mode.handle(), mode }
    }

    /// Uncounts a handle that the kernel has closed. `close` is called with a backing id that nobody uses any more.
    pub(crate) fn release(&self, node: u64, handle: Handle, close: impl FnOnce(u32)) {
        match handle {
            Handle::Small => return less_one(self.table.uncounted()),
            Handle::Overflow => return less_one(self.table.overflow(shard_of(node))),
            Handle::Cached | Handle::Passthrough => {}
        }
        let mut shard = self.lock(shard_of(node));
        let Some(slot) = shard.open.get(&node).map(|entry| entry.slot) else { return };
        let Some((_, held)) = self.table.slot(slot).filter(|(_, held)| held.mode.handle() == handle) else { return };
        let left = Held { count: held.count.saturating_sub(1), ..held };
        if left.count > 0 {
            return self.table.set(slot, Some(left));
        }
        // Its guard lives until the id is closed; a kill in between leaves a slot that says so.
        let entry = shard.open.remove(&node);
        if let Mode::Passthrough { backing } = held.mode {
            self.table.set(slot, Some(left));
            close(backing);
        }
        self.table.set(slot, None);
        shard.free.push(slot);
        drop(entry);
    }

    /// Open handles by mode, those of earlier daemons included.
    pub(crate) fn count(&self) -> OpenHandles {
        let mut sum = OpenHandles { cached: self.table.uncounted().load(Ordering::Acquire), passthrough: 0 };
        for number in 0..SHARDS {
            sum.cached += self.table.overflow(number).load(Ordering::Acquire);
            let shard = self.lock(number);
            for (_, held) in shard.open.values().filter_map(|entry| self.table.slot(entry.slot)) {
                match held.mode {
                    Mode::Cached => sum.cached += u64::from(held.count),
                    Mode::Passthrough { .. } => sum.passthrough += u64::from(held.count),
                }
            }
        }
        sum
    }

    /// Open handles of large files, by the serial of their version. A file that is too small for passthrough, or for
    /// which there was no slot, is not counted by itself.
    pub(crate) fn count_by_version(&self) -> BTreeMap<Serial, u64> {
        let mut counts = BTreeMap::new();
        for number in 0..SHARDS {
            let shard = self.lock(number);
            for (node, entry) in &shard.open {
                if let (Some(NodeId::Object { serial, .. }), Some((_, held))) =
                    (NodeId::from_u64(*node), self.table.slot(entry.slot))
                {
                    *counts.entry(serial).or_default() += u64::from(held.count);
                }
            }
        }
        counts
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard<G>> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mode {
    fn handle(self) -> Handle {
        match self {
            Mode::Cached => Handle::Cached,
            Mode::Passthrough { .. } => Handle::Passthrough,
        }
    }
}

impl<G> Shard<G> {
    fn take_slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = self.fresh;
        (slot < self.end).then(|| {
            self.fresh += 1;
            slot
        })
    }
}

fn less_one(counter: &std::sync::atomic::AtomicU64) {
    // A release that the kernel sent again after a crash must not wrap it round.
    let _ = counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1));
}

/// Fibonacci hashing: node ids of one version differ in their low bits, of versions in their high ones.
fn shard_of(node: u64) -> usize {
    (node.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize % SHARDS
}

#[cfg(test)]
#[path = "modes_tests.rs"]
mod tests;
