//! Which clones are open, and how often: in memory, and in the table that outlives the daemon.
//!
//! Counted before the kernel hears of an open, uncounted after it has said that it is closed: killed at any moment, a
//! daemon leaves no clone that is open and not counted.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use icbd_cache::{CloneDisk, CloneUse, Clones};
use tracing::warn;

use crate::errno::Refusal;
use crate::table::{Held, Mode, SLOTS, Table};

#[derive(Debug)]
pub(crate) struct Handles {
    table: Table,
    open: RwLock<Open>,
}

#[derive(Debug, Default)]
struct Open {
    clones: HashMap<u64, Entry>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    slot: u32,
    count: u32,
    /// `None`: somebody took its files away while nobody served it.
    used: Option<CloneUse>,
}

impl Handles {
    /// Takes over what `table` says.
    pub(crate) fn new(table: Table, clones: &Clones) -> Handles {
        let mut open = Open::default();
        for slot in (0..SLOTS as u32).rev() {
            let Some((node, held)) = table.slot(slot).filter(|(_, held)| held.count > 0) else {
                open.free.push(slot);
                continue;
            };
            let used = clones.enter(node);
            if used.is_none() {
                warn!(node, "a clone that is open is not in the store any more");
            }
            open.clones.insert(node, Entry { slot, count: held.count, used });
        }
        Handles { table, open: RwLock::new(open) }
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn disk(&self, node: u64) -> Option<Arc<CloneDisk>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.clones.get(&node)?.used.as_deref().cloned()
    }

    pub(crate) fn opened(&self, node: u64, used: CloneUse) -> Result<(), Refusal> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let Open { clones, free } = &mut *open;
        match clones.get_mut(&node) {
            Some(entry) => {
                entry.count += 1;
                self.note(node, entry);
            }
            None => {
                let slot = free.pop().ok_or(Refusal::Io)?;
                let entry = Entry { slot, count: 1, used: Some(used) };
                self.note(node, &entry);
                clones.insert(node, entry);
            }
        }
        Ok(())
    }

    pub(crate) fn released(&self, node: u64) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = open.clones.get_mut(&node) else { return };
        entry.count = entry.count.saturating_sub(1);
        if entry.count > 0 {
            return self.note(node, entry);
        }
        self.table.set(entry.slot, None);
        let gone = open.clones.remove(&node);
        open.free.extend(gone.iter().map(|entry| entry.slot));
        drop(open);
        // Its last use ends with it, which may take a moment.
        drop(gone);
    }

    /// The mount is no more.
    pub(crate) fn forget_all(&self) {
        let gone = std::mem::take(&mut self.open.write().unwrap_or_else(PoisonError::into_inner).clones);
        drop(gone);
    }

    fn note(&self, node: u64, entry: &Entry) {
        self.table.claim(entry.slot, node, Held { mode: Mode::Cached, count: entry.count });
    }
}
