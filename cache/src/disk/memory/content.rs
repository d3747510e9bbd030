//! A file's content: as it is now, as it is durable, and all that it was in between.

use std::collections::BTreeMap;

use super::State;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) now: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// What each sector was since the last sync.
    history: BTreeMap<usize, Vec<Vec<u8>>>,
    sizes: Vec<usize>,
}

impl Content {
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if self.now.len() < offset + bytes.len() {
            self.resize(offset + bytes.len());
        }
        self.now[offset..offset + bytes.len()].copy_from_slice(bytes);
        for sector in offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR) {
            let end = self.now.len().min((sector + 1) * SECTOR);
            self.history.entry(sector).or_default().push(self.now[sector * SECTOR..end].to_vec());
        }
    }

    pub(super) fn resize(&mut self, size: usize) {
        self.sizes.push(size);
        for sector in size / SECTOR..self.now.len().div_ceil(SECTOR) {
            self.history.entry(sector).or_default().push(vec![0; SECTOR]);
        }
        self.now.resize(size, 0);
    }

    /// Bytes of pages that hold something.
    pub(super) fn allocated(&self) -> u64 {
        const PAGE: usize = 4096;
        let pages = self.now.chunks(PAGE).filter(|page| page.iter().any(|byte| *byte != 0));
        (pages.count() * PAGE) as u64
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.history).into_keys() {
            let range = sector * SECTOR..self.now.len().min((sector + 1) * SECTOR);
            if !range.is_empty() {
                self.durable[range.clone()].copy_from_slice(&self.now[range]);
            }
        }
        self.sizes.clear();
    }

    /// What is durable is, sector by sector, anything since the last sync.
    pub(super) fn settle_at_random(&mut self, dice: &mut State) {
        let sizes = std::mem::take(&mut self.sizes);
        let size = match dice.roll(sizes.len() as u64 + 1) as usize {
            0 => self.durable.len(),
            at => sizes[at - 1],
        };
        self.durable.resize(size, 0);
        for (sector, states) in std::mem::take(&mut self.history) {
            let range = sector * SECTOR..size.min((sector + 1) * SECTOR);
            if let (false, at @ 1..) = (range.is_empty(), dice.roll(states.len() as u64 + 1) as usize) {
                let mut state = states[at - 1].clone();
                state.resize(range.len(), 0);
                self.durable[range].copy_from_slice(&state);
            }
        }
    }
}
