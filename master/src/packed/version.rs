//! Packing one version: what is fetched of it by a node without any other, what is by one that has the version before, and
//! that once more as what differs from the version before, for slow lines.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use icbd_image::{FileIndex, Hash, Node, Root, Run, block_len};
use icbd_wire::{Base, Codec, FRAME_BLOCKS_MAX, Likeness, Matcher, Similar};

use super::file::Writing;
use super::{Key, PackedRuns, key};
use crate::serve::{BlockReader, OldContent, OpenVersion};
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
/// Of so small a part of the version before, what differs is compared with what lay in its places: looking for what is alike
/// reads all of that version.
const LOOKED_FOR_SHARE: u64 = 32;

/// How packing a version ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Packed,
    /// Nothing more fits.
    NoRoom,
    /// It, or the one before it, was removed meanwhile.
    Gone,
}

/// A version that is being packed.
pub(super) struct OneVersion<'r, R> {
    repository: &'r Repository,
    version: Arc<OpenVersion>,
    before: Option<Arc<OpenVersion>>,
    /// Whether there is room for so many bytes more.
    has_room: R,
    cancel: &'r AtomicBool,
    writing: Writing,
    /// Bytes that differ from the version before and are not packed against it.
    differing: u64,
    is_all: bool,
}

/// What runs are packed against.
struct Against<'r> {
    content: OldContent<'r>,
    /// What it is like, if that was looked for.
    similar: Option<Similar>,
}

/// A run that is to be packed.
struct Job<'a, 'r> {
    reader: &'a BlockReader<'r>,
    run: Run,
    hashes: &'a [Hash],
    /// Where the version before has the file.
    old: Option<FileIndex>,
    is_new: bool,
}

impl<'r, R: Fn(u64) -> bool> OneVersion<'r, R> {
    pub(super) fn begin(
        repository: &'r Repository,
        (root, before): (Root, Option<Root>),
        has_room: R,
        cancel: &'r AtomicBool,
    ) -> Result<Self, MasterError> {
        let version = repository.open_version(root)?;
        let opened = before.and_then(|before| repository.open_version(before).ok());
        let is_all = before.is_none() || opened.is_some();
        let writing = begin(&repository.packed, &root)?;
        Ok(OneVersion { repository, version, before: opened, has_room, cancel, writing, differing: 0, is_all })
    }

    /// Packs what is not packed yet. What came of it until the end, whatever that is, is kept; whether it is all there is.
    pub(super) fn pack(mut self) -> Result<(End, bool), MasterError> {
        let (end, gone) = (self.both_ways(), self.gone());
        let OneVersion { repository, version, before, writing, is_all, .. } = self;
        drop((version, before));
        if let Some(gone) = gone {
            // What is open of it would keep its room.
            repository.serving.forget_all(&gone);
        }
        repository.packed.end(writing).map_err(failed(&repository.packed))?;
        Ok((end?, is_all))
    }

    fn both_ways(&mut self) -> Result<End, MasterError> {
        let end = self.files(None)?;
        let Some(before) = self.before.clone() else { return Ok(end) };
        if end != End::Packed || self.differing == 0 {
            return Ok(end);
        }
        // What is smaller as a difference is found out by comparing with what there is.
        self.end_file()?;
        let mut against =
            Against { content: OldContent { repository: self.repository, version: &before }, similar: None };
        if self.differing >= before.head().data_bytes() / LOOKED_FOR_SHARE {
            match against.content.look(&|| !self.is_cancelled() && self.gone().is_none()) {
                Ok(similar) => against.similar = similar,
                // What is damaged there is noted.
                Err(_) => {
                    self.is_all = false;
                    return Ok(End::Packed);
                }
            }
        }
        self.files(Some(&against))
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn files(&mut self, against: Option<&Against<'_>>) -> Result<End, MasterError> {
        let version = self.version.clone();
        for node in version.head().files().filter(|node| node.blocks() >= FILE_BLOCKS_MIN) {
            let end = self.file(&node, against)?;
            if end != End::Packed {
                return Ok(end);
            }
        }
        Ok(End::Packed)
    }

    fn file(&mut self, node: &Node<'_>, against: Option<&Against<'_>>) -> Result<End, MasterError> {
        let reader = BlockReader::unheld(self.repository, self.version.clone(), node.index(), node.size());
        let old = self.same_file(node);
        for blocks in pieces(node.blocks()) {
            if self.is_cancelled() {
                return Err(MasterError::Cancelled);
            }
            if self.gone().is_some() {
                return Ok(End::Gone);
            }
            let hashes = reader.hashes(blocks.clone())?;
            let hash = |block: u64| &hashes[(block - blocks.start) as usize];
            let is_old =
                |block: u64| old.as_ref().is_some_and(|(_, old)| old.hash(block).ok().as_ref() == Some(hash(block)));
            for run in runs(&blocks, &hashes, is_old) {
                let is_new = !run.clone().all(is_old);
                let of_run = &hashes[(run.start - blocks.start) as usize..(run.end - blocks.start) as usize];
                let root = self.version.head().root();
                let run = Run { root, file: node.index(), first: run.start, count: of_run.len() as u32 };
                let old = old.as_ref().map(|(index, _)| *index);
                let job = Job { reader: &reader, run, hashes: of_run, old, is_new };
                let has_room = match against {
                    None => self.alone(&job)?,
                    Some(against) => !is_new || self.against(&job, against)?,
                };
                if !has_room {
                    return Ok(End::NoRoom);
                }
            }
        }
        Ok(End::Packed)
    }

    /// Packs a run by itself, unless that was done before; whether there was room.
    fn alone(&mut self, job: &Job<'_, '_>) -> Result<bool, MasterError> {
        let packed = &self.repository.packed;
        if let Some(before) = self.before.as_ref().filter(|_| job.is_new)
            && !packed.has(&key(Some(&before.head().root()), job.hashes))
        {
            self.differing += job.plain_bytes();
        }
        let repository = self.repository;
        let pack = || repository.encode(job.reader, job.run, job.hashes, CODEC);
        self.run(key(None, job.hashes), job.plain_bytes(), pack)
    }

    /// The same against the version before.
    fn against(&mut self, job: &Job<'_, '_>, against: &Against<'_>) -> Result<bool, MasterError> {
        let likeness = match (&against.similar, job.old) {
            (Some(similar), _) => Likeness::Similar(similar),
            (None, Some(file)) => Likeness::SamePlaces(file),
            // Of a new file nothing is known that is alike.
            (None, None) => return Ok(true),
        };
        let key = key(Some(&against.content.root()), job.hashes);
        let alone = self.repository.packed.kept_bytes(job.hashes).unwrap_or(job.plain_bytes());
        let pack = || job.reader.matched(job.run, Matcher::ahead(likeness, &against.content));
        self.run(key, alone, pack)
    }

    /// Keeps what `pack` makes of a run, if that is worth it beside what it would travel as otherwise; whether there was room.
    fn run(
        &mut self,
        key: Key,
        otherwise: u64,
        pack: impl FnOnce() -> Result<Bytes, MasterError>,
    ) -> Result<bool, MasterError> {
        if self.repository.packed.has(&key) || self.writing.has(&key) {
            return Ok(true);
        }
        if !(self.has_room)(self.writing.bytes() + RUN_BYTES) {
            return Ok(false);
        }
        let Ok(frames) = pack() else {
            // What is damaged is noted, and packed for nobody.
            self.is_all = false;
            return Ok(true);
        };
        let is_worth_it = frames.len() as u64 <= otherwise - otherwise / WORTH;
        let added = self.writing.add(key, if is_worth_it { &frames } else { &[] });
        added.map_err(failed(&self.repository.packed))?;
        if self.writing.bytes() >= FILE_BYTES_MAX {
            self.end_file()?;
        }
        Ok(true)
    }

    /// What was packed so far can be found from now on.
    fn end_file(&mut self) -> Result<(), MasterError> {
        let packed = &self.repository.packed;
        let full = std::mem::replace(&mut self.writing, begin(packed, &self.version.head().root())?);
        packed.end(full).map_err(failed(packed))
    }

    /// Which of both versions is there no more.
    fn gone(&self) -> Option<Root> {
        let snapshot = self.repository.snapshot();
        let both = [Some(&self.version), self.before.as_ref()].into_iter().flatten();
        both.map(|version| version.head().root()).find(|root| snapshot.version_of(root).is_none())
    }

    /// The file at the same path in the version before.
    fn same_file(&self, node: &Node<'_>) -> Option<(FileIndex, BlockReader<'r>)> {
        let old = self.before.as_ref()?;
        let index = old.head().resolve(&self.version.path(node.index()))?;
        let size = old.head().node(index)?.size();
        Some((index, BlockReader::unheld(self.repository, old.clone(), index, size)))
    }
}

impl Job<'_, '_> {
    fn plain_bytes(&self) -> u64 {
        self.run.blocks().map(|block| block_len(self.reader.file_bytes(), block) as u64).sum()
    }
}

fn begin(packed: &PackedRuns, root: &Root) -> Result<Writing, MasterError> {
    packed.begin(root).map_err(failed(packed))
}

fn failed(packed: &PackedRuns) -> impl FnOnce(std::io::Error) -> MasterError {
    MasterError::io("write to", packed.folder())
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
