//! Packing what is not packed yet: of each version what a node without any other fetches of it, and what one that has the
//! version before does.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use icbd_image::{Hash, Listing, Node, Root, Run, VersionRecord, block_len};
use icbd_wire::{Codec, FRAME_BLOCKS_MAX};

use super::{PackedRuns, key};
use crate::serve::{BlockReader, OpenVersion};
use crate::{MasterError, Repository};

/// Nobody waits for it, so it is packed hard: to 98 % of what the usual level leaves, and unpacked as fast.
const CODEC: Codec = Codec::Zstd6;
/// What shrinks by less than a twentieth travels as it is.
const WORTH: u64 = 20;
/// Smaller files are packed in no time, and a tree may have very many.
const FILE_BLOCKS_MIN: u64 = 4;
/// What a run may add to a file.
const RUN_BYTES: u64 = (1 << 20) + 4096;

/// A version and the one before it.
type WithBefore<'a> = (&'a VersionRecord, Option<&'a VersionRecord>);

impl Repository {
    /// Packs what is served and is not packed yet, what is deployed and then what is new first, until all that is kept
    /// takes `bytes_max`. Takes long; a version that cannot be read now is left out.
    pub fn pack(&self, bytes_max: u64, cancel: &AtomicBool) -> Result<(), MasterError> {
        let listing = self.listing();
        let order = in_order(&listing);
        let rank = |root: &Root| order.iter().position(|(version, _)| version.root() == *root);
        self.packed.remove(|file| rank(&file.root()).is_none());
        for (at, version) in order.iter().enumerate() {
            // Less may be given than was before.
            self.packed.make_room(bytes_max, 0, |root| rank(root).filter(|rank| *rank >= at));
            if bytes_max == 0 {
                break;
            }
            // What is later in the order makes room.
            let has_room =
                |more: u64| self.packed.make_room(bytes_max, more, |root| rank(root).filter(|rank| *rank > at));
            match self.pack_version(version, &has_room, cancel) {
                Ok(()) => {}
                Err(MasterError::Cancelled) => return Err(MasterError::Cancelled),
                Err(error) => {
                    let of = version.0.statement.statement().version();
                    tracing::warn!(version = %of, %error, "it is packed whenever it is asked for");
                }
            }
        }
        Ok(())
    }

    /// How many bytes of packed runs are kept.
    pub fn packed_bytes(&self) -> u64 {
        self.packed.bytes()
    }

    fn pack_version(
        &self,
        (record, before): &WithBefore<'_>,
        has_room: &dyn Fn(u64) -> bool,
        cancel: &AtomicBool,
    ) -> Result<(), MasterError> {
        if self.packed.is_complete(&record.root()) {
            return Ok(());
        }
        let version = self.open_version(record.root())?;
        let old = before.and_then(|before| self.open_version(before.root()).ok());
        let failed = |error| MasterError::io("write to", self.packed.folder())(error);
        let mut writing = self.packed.begin(&record.root()).map_err(failed)?;
        for node in version.head().files().filter(|node| node.blocks() >= FILE_BLOCKS_MIN) {
            let reader = self.reader(version.clone(), &node);
            let old = old.as_ref().and_then(|old| self.same_file(&version, old, &node));
            for blocks in pieces(node.blocks()) {
                if cancel.load(Ordering::Relaxed) {
                    return Err(MasterError::Cancelled);
                }
                // Who prunes it frees its room.
                if self.snapshot().version_of(&record.root()).is_none() {
                    return Ok(());
                }
                let hashes = reader.hashes(blocks.clone())?;
                let is_old = |block: u64| {
                    old.as_ref()
                        .is_some_and(|old| old.hash(block).ok() == Some(hashes[(block - blocks.start) as usize]))
                };
                for run in runs(&blocks, &hashes, is_old) {
                    let of_run = &hashes[(run.start - blocks.start) as usize..(run.end - blocks.start) as usize];
                    if self.packed.has(of_run) {
                        continue;
                    }
                    if !has_room(writing.bytes() + RUN_BYTES) {
                        return self.packed.end(writing).map_err(failed);
                    }
                    let of =
                        Run { root: record.root(), file: node.index(), first: run.start, count: of_run.len() as u32 };
                    // What is damaged is noted, and packed for nobody.
                    if let Ok(frames) = self.encode(&reader, of, of_run, CODEC) {
                        let plain: u64 = run.map(|block| block_len(node.size(), block) as u64).sum();
                        let shrinks = frames.len() as u64 <= plain - plain / WORTH;
                        writing.add(key(of_run), if shrinks { &frames } else { &[] }).map_err(failed)?;
                    }
                }
            }
        }
        self.packed.end(writing).map_err(failed)?;
        self.packed.set_complete(record.root());
        Ok(())
    }

    fn reader(&self, version: Arc<OpenVersion>, node: &Node<'_>) -> BlockReader<'_> {
        BlockReader::unheld(self, version, node.index(), node.size())
    }

    /// The file at the same path in another version.
    fn same_file(&self, version: &OpenVersion, old: &Arc<OpenVersion>, node: &Node<'_>) -> Option<BlockReader<'_>> {
        let index = old.head().resolve(&version.path(node.index()))?;
        Some(self.reader(old.clone(), &old.head().node(index)?))
    }
}

impl PackedRuns {
    fn is_complete(&self, root: &Root) -> bool {
        self.read().complete.contains(root)
    }

    fn set_complete(&self, root: Root) {
        self.write().complete.insert(root);
    }

    /// Whether `more` bytes fit. What `rank` gives a number makes room for it, the highest first.
    fn make_room(&self, bytes_max: u64, more: u64, rank: impl Fn(&Root) -> Option<usize>) -> bool {
        while self.bytes() + more > bytes_max {
            let roots: Vec<Root> = self.read().files.values().map(|file| file.root()).collect();
            let Some(last) = roots.into_iter().filter(|root| rank(root).is_some()).max_by_key(|root| rank(root)) else {
                return false;
            };
            self.forget(&last);
        }
        true
    }
}

/// What is deployed, then what is new first, each with the version before it.
fn in_order(listing: &Listing) -> Vec<WithBefore<'_>> {
    let mut order: Vec<(bool, WithBefore<'_>)> = Vec::new();
    for image in &listing.images {
        let mut before = None;
        for version in &image.versions {
            order.push((image.deployed == Some(version.number()), (version, before)));
            before = Some(version);
        }
    }
    order.sort_by_key(|(is_deployed, (version, _))| (!is_deployed, std::cmp::Reverse(version.serial())));
    order.into_iter().map(|(_, version)| version).collect()
}

/// The grid on which runs are answered.
fn pieces(blocks: u64) -> impl Iterator<Item = Range<u64>> {
    let step = FRAME_BLOCKS_MAX as u64;
    (0..blocks).step_by(FRAME_BLOCKS_MAX).map(move |first| first..blocks.min(first + step))
}

/// What is fetched of a piece: never zeros; where a part of a run is old, only what is new of it. All of it is packed for who
/// asks for it, and few do.
fn runs(blocks: &Range<u64>, hashes: &[Hash], is_old: impl Fn(u64) -> bool) -> Vec<Range<u64>> {
    let is_zero = |block: u64| hashes[(block - blocks.start) as usize].is_zero();
    let all = stretches(blocks.clone(), |block| !is_zero(block));
    all.into_iter()
        .flat_map(|run| {
            let new = stretches(run.clone(), |block| !is_old(block));
            if new.is_empty() { vec![run] } else { new }
        })
        .collect()
}

/// The longest ranges of blocks for which `is` holds.
fn stretches(blocks: Range<u64>, is: impl Fn(u64) -> bool) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for block in blocks.filter(|block| is(*block)) {
        match found.last_mut() {
            Some(last) if last.end == block => last.end += 1,
            _ => found.push(block..block + 1),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_of_a_piece_is_packed() {
        let hash = |n: u8| if n == 0 { Hash::of(&[0; 65_536]) } else { Hash::of(&[n]) };
        let hashes = [0, 1, 2, 3, 0, 4, 5, 6].map(hash);
        assert!(hashes[0].is_zero());
        let check = |old: &[u64], expected: &[Range<u64>]| {
            assert_eq!(runs(&(16..24), &hashes, |block| old.contains(&block)), expected, "{old:?}");
        };
        check(&[], &[17..20, 21..24]);
        check(&[17, 18, 19, 21, 22, 23], &[17..20, 21..24]);
        check(&[18, 21], &[17..18, 19..20, 22..24]);
        assert_eq!(pieces(33).collect::<Vec<_>>(), [0..16, 16..32, 32..33]);
    }
}
