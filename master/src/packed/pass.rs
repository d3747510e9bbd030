//! Packing what is not packed yet: of each version what a node without any other fetches of it, and what one that has the
//! version before does.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use icbd_image::{Hash, Listing, Node, Root, Run, VersionRecord, block_len};
use icbd_wire::{Codec, FRAME_BLOCKS_MAX};

use super::file::Writing;
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
/// What was packed can be found once its file has ended: it is not to take long.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// So much of the disk is left to versions.
const RESERVE_SHARE: u64 = 20;
const RESERVE_BYTES_MAX: u64 = 20 << 30;

/// A version and the one before it.
type WithBefore<'a> = (&'a VersionRecord, Option<&'a VersionRecord>);

/// How packing a version ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Packed,
    /// Nothing more fits.
    NoRoom,
    /// It, or the one before it, was removed meanwhile.
    Gone,
}

/// How much may be kept, and what is worth how much.
struct Room<'a> {
    bytes_max: u64,
    /// The lower the more.
    rank: &'a dyn Fn(&Root) -> Option<usize>,
}

impl Repository {
    /// Packs what is served and is not packed yet, what is deployed and then what is new first, until all that is kept
    /// takes `bytes_max`, or the disk has no room to spare. Takes long; one at a time. A version that cannot be read now is
    /// left out, and what is damaged is packed once it is mended.
    pub fn pack(&self, bytes_max: u64, cancel: &AtomicBool) -> Result<(), MasterError> {
        let listing = self.listing();
        let order = in_order(&listing);
        let rank = |root: &Root| order.iter().position(|(version, _)| version.root() == *root);
        // Somebody may have removed a file: what is open of it takes room, and nothing finds it after a restart.
        self.packed.remove(|file| bytes_max == 0 || rank(&file.root()).is_none() || !file.path().exists());
        if bytes_max == 0 {
            return Ok(());
        }
        let room = Room { bytes_max, rank: &rank };
        for (at, version) in order.iter().enumerate() {
            // Less may be given than was before.
            self.packed.make_room(&room, 0, at);
            match self.pack_version(version, |more| self.packed.make_room(&room, more, at + 1), cancel) {
                Ok(End::Packed | End::Gone) => {}
                Ok(End::NoRoom) => break,
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

    /// Changes whenever something of it goes: then there may be something to pack.
    pub fn packed_losses(&self) -> u64 {
        self.packed.losses()
    }

    fn pack_version(
        &self,
        (record, before): &WithBefore<'_>,
        has_room: impl Fn(u64) -> bool,
        cancel: &AtomicBool,
    ) -> Result<End, MasterError> {
        let (root, losses) = (record.root(), self.packed.losses());
        if self.packed.is_complete(&root) {
            return Ok(End::Packed);
        }
        let failed = |error| MasterError::io("write to", self.packed.folder())(error);
        let mut writing = self.packed.begin(&root).map_err(failed)?;
        let packed = self.pack_files(record, *before, &mut writing, has_room, cancel);
        // What came of it until then is as good.
        self.packed.end(writing).map_err(failed)?;
        let (end, is_all) = packed?;
        if end == End::Packed && is_all {
            self.packed.set_complete(root, losses);
        }
        Ok(end)
    }

    /// How it ended, and whether nothing had to be left out.
    fn pack_files(
        &self,
        record: &VersionRecord,
        before: Option<&VersionRecord>,
        writing: &mut Writing,
        has_room: impl Fn(u64) -> bool,
        cancel: &AtomicBool,
    ) -> Result<(End, bool), MasterError> {
        let failed = |error| MasterError::io("write to", self.packed.folder())(error);
        let (root, mut is_all) = (record.root(), true);
        let version = self.open_version(root)?;
        let old = before.and_then(|before| self.open_version(before.root()).ok());
        for node in version.head().files().filter(|node| node.blocks() >= FILE_BLOCKS_MIN) {
            let reader = self.reader(version.clone(), &node);
            let old = old.as_ref().and_then(|old| self.same_file(&version, old, &node));
            for blocks in pieces(node.blocks()) {
                if cancel.load(Ordering::Relaxed) {
                    return Err(MasterError::Cancelled);
                }
                if let Some(gone) =
                    [Some(root), before.map(VersionRecord::root)].into_iter().flatten().find(|root| self.is_gone(root))
                {
                    // What is open of it would keep its room.
                    drop((reader, old));
                    self.serving.forget_all(&gone);
                    return Ok((End::Gone, false));
                }
                let hashes = reader.hashes(blocks.clone())?;
                let hash = |block: u64| &hashes[(block - blocks.start) as usize];
                let is_old =
                    |block: u64| old.as_ref().is_some_and(|old| old.hash(block).ok().as_ref() == Some(hash(block)));
                for run in runs(&blocks, &hashes, is_old) {
                    let of_run = &hashes[(run.start - blocks.start) as usize..(run.end - blocks.start) as usize];
                    let key = key(of_run);
                    if self.packed.has(&key) || writing.has(&key) {
                        continue;
                    }
                    if !has_room(writing.bytes() + RUN_BYTES) {
                        return Ok((End::NoRoom, false));
                    }
                    let of = Run { root, file: node.index(), first: run.start, count: of_run.len() as u32 };
                    // What is damaged is noted, and packed for nobody.
                    let Ok(frames) = self.encode(&reader, of, of_run, CODEC) else {
                        is_all = false;
                        continue;
                    };
                    let plain: u64 = run.map(|block| block_len(node.size(), block) as u64).sum();
                    let shrinks = frames.len() as u64 <= plain - plain / WORTH;
                    writing.add(key, if shrinks { &frames } else { &[] }).map_err(failed)?;
                    if writing.bytes() >= FILE_BYTES_MAX {
                        let full = std::mem::replace(writing, self.packed.begin(&root).map_err(failed)?);
                        self.packed.end(full).map_err(failed)?;
                    }
                }
            }
        }
        Ok((End::Packed, is_all))
    }

    fn is_gone(&self, root: &Root) -> bool {
        self.snapshot().version_of(root).is_none()
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

    /// Unless something was lost since then, which it may have had in common with others.
    fn set_complete(&self, root: Root, losses: u64) {
        let mut inner = self.write();
        if inner.losses == losses {
            inner.complete.insert(root);
        }
    }

    /// Whether `more` bytes fit. What has a rank from `worse` on makes room for it, the worst first.
    fn make_room(&self, room: &Room<'_>, more: u64, worse: usize) -> bool {
        let give_up = || {
            let roots: Vec<Root> = self.read().files.values().map(|file| file.root()).collect();
            let ranked = roots.into_iter().filter_map(|root| Some(((room.rank)(&root)?, root)));
            let last = ranked.filter(|(rank, _)| *rank >= worse).max_by_key(|(rank, _)| *rank);
            last.map(|(_, root)| self.forget(&root)).is_some()
        };
        while self.bytes() + more > room.bytes_max {
            if !give_up() {
                return false;
            }
        }
        // Versions go first. What goes is free only after a while on some file systems: one after the other.
        let is_tight = self.is_tight(more);
        if is_tight {
            give_up();
        }
        !is_tight
    }

    /// Whether the disk has too little room for `more`.
    fn is_tight(&self, more: u64) -> bool {
        let folder =
            if self.folder().exists() { self.folder() } else { self.folder().parent().unwrap_or(self.folder()) };
        let Ok(disk) = rustix::fs::statvfs(folder) else { return false };
        let (free, size) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
        free < (size / RESERVE_SHARE).min(RESERVE_BYTES_MAX) + more
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

    /// Somebody prunes a version, the runs of which another one has in common, while that one is looked through.
    #[test]
    fn what_is_lost_meanwhile_leaves_no_version_complete() {
        let runs = PackedRuns::open("/nowhere".into());
        let (root, before) = (Root::of(b""), runs.losses());
        runs.set_complete(root, before);
        assert!(runs.is_complete(&root));
        runs.write().lost();
        assert!(!runs.is_complete(&root));
        runs.set_complete(root, before);
        assert!(!runs.is_complete(&root));
    }

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
