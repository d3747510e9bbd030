//! Packing one version: what is fetched of it by a node without any other, what is by one that has the version before, and
//! that once more as what differs from the version before, for slow lines.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use icbd_image::{Hash, Node, Root, Run, block_len};
use icbd_wire::{Base, Codec, FRAME_BLOCKS_MAX, Matcher, Similar, encode_matched_run};

use super::file::Writing;
use super::{Found, PackedRuns, key};
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
    is_all: bool,
}

/// What runs are packed against.
struct Against<'r> {
    content: OldContent<'r>,
    /// Looked for when the first run needs it: that takes a second or two.
    similar: OnceCell<Similar>,
}

impl<'r, R: Fn(u64) -> bool> OneVersion<'r, R> {
    pub(super) fn begin(
        repository: &'r Repository,
        (root, before): (Root, Option<Root>),
        has_room: R,
        cancel: &'r AtomicBool,
    ) -> Result<Self, MasterError> {
        let version = repository.open_version(root)?;
        let before = before.and_then(|before| repository.open_version(before).ok());
        let writing = begin(&repository.packed, &root)?;
        Ok(OneVersion { repository, version, before, has_room, cancel, writing, is_all: true })
    }

    /// Packs what is not packed yet. What came of it until the end, whatever that is, is kept; whether it is all there is.
    pub(super) fn pack(mut self) -> Result<(End, bool), MasterError> {
        let end = self.both_ways();
        self.repository.packed.end(self.writing).map_err(failed(&self.repository.packed))?;
        Ok((end?, self.is_all))
    }

    fn both_ways(&mut self) -> Result<End, MasterError> {
        let end = self.files(None)?;
        let Some(before) = self.before.clone().filter(|_| end == End::Packed) else { return Ok(end) };
        // What is smaller as a difference is found out by comparing with what there is.
        self.end_file()?;
        let content = OldContent { repository: self.repository, version: &before };
        self.files(Some(&Against { content, similar: OnceCell::new() }))
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
            if self.cancel.load(Ordering::Relaxed) {
                return Err(MasterError::Cancelled);
            }
            if let Some(gone) = self.gone() {
                // What is open of it would keep its room.
                drop((reader, old));
                self.repository.serving.forget_all(&gone);
                return Ok(End::Gone);
            }
            let hashes = reader.hashes(blocks.clone())?;
            let hash = |block: u64| &hashes[(block - blocks.start) as usize];
            let is_old =
                |block: u64| old.as_ref().is_some_and(|old| old.hash(block).ok().as_ref() == Some(hash(block)));
            for run in runs(&blocks, &hashes, is_old) {
                if against.is_some() && run.clone().all(is_old) {
                    continue;
                }
                let of_run = &hashes[(run.start - blocks.start) as usize..(run.end - blocks.start) as usize];
                let root = self.version.head().root();
                let run = Run { root, file: node.index(), first: run.start, count: of_run.len() as u32 };
                if !self.run(&reader, run, of_run, against)? {
                    return Ok(End::NoRoom);
                }
            }
        }
        Ok(End::Packed)
    }

    /// Packs a run, unless that was done before; whether there was room.
    fn run(
        &mut self,
        reader: &BlockReader<'_>,
        run: Run,
        hashes: &[Hash],
        against: Option<&Against<'_>>,
    ) -> Result<bool, MasterError> {
        let base = against.map(|against| against.content.root());
        let key = key(base.as_ref(), hashes);
        if self.repository.packed.has(&key) || self.writing.has(&key) {
            return Ok(true);
        }
        if !(self.has_room)(self.writing.bytes() + RUN_BYTES) {
            return Ok(false);
        }
        let plain = run.blocks().map(|block| block_len(reader.file_bytes(), block) as u64).sum();
        let packed = match against {
            None => self.repository.encode(reader, run, hashes, CODEC).map(|frames| (frames, plain)),
            Some(against) => against.pack(reader, run).map(|frames| {
                let alone = match self.repository.packed.get(hashes) {
                    Some(Found::Frames(frames)) => frames.len() as u64,
                    Some(Found::AsItIs) | None => plain,
                };
                (frames.into(), alone)
            }),
        };
        let Ok((frames, otherwise)) = packed else {
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
    fn same_file(&self, node: &Node<'_>) -> Option<BlockReader<'r>> {
        let old = self.before.as_ref()?;
        let index = old.head().resolve(&self.version.path(node.index()))?;
        let size = old.head().node(index)?.size();
        Some(BlockReader::unheld(self.repository, old.clone(), index, size))
    }
}

impl Against<'_> {
    fn pack(&self, reader: &BlockReader<'_>, run: Run) -> Result<Vec<u8>, MasterError> {
        let similar = match self.similar.get() {
            Some(similar) => similar,
            None => {
                let similar = self.content.look()?;
                self.similar.get_or_init(|| similar)
            }
        };
        let mut frames = Vec::new();
        encode_matched_run(
            &run,
            Matcher::ahead(similar, &self.content),
            |block| reader.read(block),
            |frame| {
                frames.extend_from_slice(&frame);
                Ok::<_, MasterError>(())
            },
        )?;
        Ok(frames)
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
