//! What happens to a file's blocks that are not in its backing file yet: who fetches them, who waits.
//!
//! Single-flight: a block that nobody fetches is *claimed* by the first who wants it; others join.
//! A block that came stays here, readable from memory, until it is written. A waiter that goes away
//! takes nothing with it: whoever claimed a block owes it an answer, and that is a task of the cache.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use icbd_fetch::FetchError;
use icbd_image::Hash;
use tokio::sync::oneshot;

/// What a waiter is told. `None`: the cache is stopping.
pub(crate) type Answer = Result<Bytes, Option<Arc<FetchError>>>;

/// The blocks of one file that are on their way.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<BTreeMap<u64, Slot>>);

#[derive(Debug)]
enum Slot {
    Flying(Vec<oneshot::Sender<Answer>>),
    /// Verified, to be written.
    Pending(Bytes),
}

/// Where a block is to be had.
#[derive(Debug)]
pub(crate) enum Place {
    /// Nowhere: it has no bytes but zeros.
    Zero,
    Backing,
    Memory(Bytes),
    /// Somebody fetches it.
    Joined(oneshot::Receiver<Answer>),
    /// Nobody does: the caller must see that it is fetched.
    Claimed(oneshot::Receiver<Answer>),
}

impl Slots {
    /// Finds or claims the blocks of a read, all at once: of readers side by side one claims a run whole.
    /// `readable` is asked under the lock: a block's bit is set before its slot goes.
    pub(crate) fn want<'a>(
        &self,
        blocks: impl Iterator<Item = (u64, &'a Hash)>,
        readable: impl Fn(u64) -> bool,
    ) -> Vec<Place> {
        let mut slots = self.lock();
        let find = |(block, hash): (u64, &Hash)| match slots.get_mut(&block) {
            _ if hash.is_zero() => Place::Zero,
            Some(Slot::Pending(bytes)) => Place::Memory(bytes.clone()),
            Some(Slot::Flying(waiters)) => {
                let (sender, receiver) = oneshot::channel();
                waiters.push(sender);
                Place::Joined(receiver)
            }
            None if readable(block) => Place::Backing,
            None => {
                let (sender, receiver) = oneshot::channel();
                slots.insert(block, Slot::Flying(vec![sender]));
                Place::Claimed(receiver)
            }
        };
        blocks.map(find).collect()
    }

    /// Claims the first run of at most `most` blocks that are wanted and not on their way.
    pub(crate) fn claim(&self, blocks: Range<u64>, most: u32, wanted: impl Fn(u64) -> bool) -> Option<Range<u64>> {
        let mut slots = self.lock();
        let free = |block: &u64, slots: &BTreeMap<u64, Slot>| !slots.contains_key(block) && wanted(*block);
        let start = blocks.clone().find(|block| free(block, &slots))?;
        let run = (start..blocks.end.min(start + u64::from(most))).take_while(|block| free(block, &slots));
        let run = start..start + run.count() as u64;
        run.clone().for_each(|block| drop(slots.insert(block, Slot::Flying(Vec::new()))));
        Some(run)
    }

    /// Whether a block is on its way, or waits to be written.
    pub(crate) fn has(&self, block: u64) -> bool {
        self.lock().contains_key(&block)
    }

    /// A block that waits to be written.
    pub(crate) fn pending(&self, block: u64) -> Option<Bytes> {
        match self.lock().get(&block) {
            Some(Slot::Pending(bytes)) => Some(bytes.clone()),
            _ => None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// A claimed block came: `keep` has it written, and all who wait for it are answered.
    ///
    /// In this order, so that who has read a block and then flushes finds it flushed.
    pub(crate) fn land(&self, block: u64, bytes: &Bytes, keep: impl FnOnce()) {
        let slot = self.lock().insert(block, Slot::Pending(bytes.clone()));
        keep();
        if let Some(Slot::Flying(waiters)) = slot {
            // A waiter that went away is no concern.
            waiters.into_iter().for_each(|waiter| drop(waiter.send(Ok(bytes.clone()))));
        }
    }

    /// Claimed blocks did not come.
    pub(crate) fn fail(&self, blocks: impl Iterator<Item = u64>, error: Option<&Arc<FetchError>>) {
        let mut slots = self.lock();
        let mut failed = Vec::new();
        for block in blocks {
            if let Some(Slot::Flying(_)) = slots.get(&block) {
                failed.extend(slots.remove(&block));
            }
        }
        drop(slots);
        for slot in failed {
            if let Slot::Flying(waiters) = slot {
                waiters.into_iter().for_each(|waiter| drop(waiter.send(Err(error.cloned()))));
            }
        }
    }

    /// A pending block was written and its bit set, or could not be written.
    pub(crate) fn settle(&self, block: u64) {
        let mut slots = self.lock();
        if let Some(Slot::Pending(_)) = slots.get(&block) {
            slots.remove(&block);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Slot>> {
        self.0.lock().expect("no panic under this lock")
    }
}
