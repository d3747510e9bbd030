//! Frames that say how blocks differ from blocks of a version that both sides have.
//!
//! The body begins with the places of at most 32 such blocks: their number as little-endian `u16`, then for each the file
//! as `u32` and the block as `u64`. A Zstandard frame follows that was packed with those blocks, one behind the other, as
//! what came before it.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use icbd_image::{BLOCK_BYTES, FileIndex, Root};
use zstd::zstd_safe::{CCtx, CParameter, DCtx};

use super::encode::append;
use super::{FRAME_BLOCKS_MAX, FrameError, Packing};
use crate::similar::{BlockPlace, Similar};

/// Blocks that a frame may refer to: 2 MiB. With 24 an upgrade takes 1 % more bytes.
const REFERENCES_MAX: usize = 32;
/// Those in the same places are no more.
const _: () = assert!(FRAME_BLOCKS_MAX <= REFERENCES_MAX);
const REFERENCE_BYTES: usize = 12;
const COUNT_BYTES: usize = 2;
/// Against what looks alike, for lines so slow that it pays to look for it: level 6 takes more than twice as long as level 3,
/// for 6 % fewer bytes …
const LEVEL_SIMILAR: i32 = 6;
/// … against what lies in the same places, which costs next to nothing to find …
const LEVEL_SAME: i32 = 3;
/// … and for whoever packs once what is sent often.
const LEVEL_AHEAD: i32 = 12;
/// As far back as a frame can refer: 4 MiB.
const WINDOW_LOG: u32 = (FRAME_BLOCKS_MAX * BLOCK_BYTES as usize + REFERENCES_MAX * BLOCK_BYTES as usize)
    .next_power_of_two()
    .trailing_zeros();

/// A version that both sides have.
pub trait Base: Send + Sync + fmt::Debug {
    fn root(&self) -> Root;

    /// A block of it, of the right content; `None` if it cannot be had. May block.
    fn block(&self, place: BlockPlace) -> Option<Bytes>;
}

/// Which blocks of a base a frame's are compared with.
#[derive(Debug, Clone, Copy)]
pub enum Likeness<'a> {
    /// Those that look alike, wherever they lie.
    Similar(&'a Similar),
    /// Those in the same places of this file: what is known before anybody has looked through the base.
    SamePlaces(FileIndex),
}

/// Packs frames against a version that both sides have.
pub struct Matcher<'a> {
    likeness: Likeness<'a>,
    base: &'a dyn Base,
    level: i32,
    prefix: Vec<u8>,
    plain: Vec<u8>,
    packed: Vec<u8>,
}

impl<'a> Matcher<'a> {
    /// `likeness` is of `base`.
    pub fn new(likeness: Likeness<'a>, base: &'a dyn Base) -> Matcher<'a> {
        let level = match likeness {
            Likeness::Similar(_) => LEVEL_SIMILAR,
            Likeness::SamePlaces(_) => LEVEL_SAME,
        };
        Matcher { likeness, base, level, prefix: Vec::new(), plain: Vec::new(), packed: Vec::new() }
    }

    /// For frames that nobody waits for.
    pub fn ahead(likeness: Likeness<'a>, base: &'a dyn Base) -> Matcher<'a> {
        Matcher { level: LEVEL_AHEAD, ..Matcher::new(likeness, base) }
    }

    /// Appends one frame of `blocks`, from `first` on, none of which is all zeros, to `out`.
    pub(crate) fn encode(&mut self, first: u64, blocks: &[Bytes], out: &mut Vec<u8>) {
        self.plain.clear();
        blocks.iter().for_each(|block| self.plain.extend_from_slice(block));
        let references = self.references(first..first + blocks.len() as u64);
        let packing = if references.is_empty() { Packing::Zstd } else { Packing::Matched };
        self.packed.clear();
        if packing == Packing::Matched {
            self.packed.extend_from_slice(&(references.len() as u16).to_le_bytes());
            for BlockPlace { file, block } in &references {
                self.packed.extend_from_slice(&file.get().to_le_bytes());
                self.packed.extend_from_slice(&block.to_le_bytes());
            }
        }
        let head = self.packed.len();
        self.packed.resize(head + zstd::zstd_safe::compress_bound(self.plain.len()), 0);
        match pack(self.level, &self.prefix, &self.plain, &mut self.packed[head..]) {
            Some(bytes) if head + bytes < self.plain.len() => {
                append(out, blocks.len(), packing, &self.packed[..head + bytes]);
            }
            _ => append(out, blocks.len(), Packing::Raw, &self.plain),
        }
    }

    /// What the blocks are to be compared with, read into the prefix.
    fn references(&mut self, blocks: Range<u64>) -> Vec<BlockPlace> {
        self.prefix.clear();
        let mut references = match self.likeness {
            Likeness::Similar(similar) => similar.like(&self.plain, REFERENCES_MAX),
            Likeness::SamePlaces(file) => blocks.map(|block| BlockPlace { file, block }).collect(),
        };
        references.retain(|place| match self.base.block(*place) {
            Some(bytes) => {
                self.prefix.extend_from_slice(&bytes);
                true
            }
            None => false,
        });
        references
    }
}

impl fmt::Debug for Matcher<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matcher({:?})", self.base)
    }
}

fn pack(level: i32, prefix: &[u8], plain: &[u8], packed: &mut [u8]) -> Option<usize> {
    let mut packer = CCtx::try_create()?;
    packer.set_parameter(CParameter::CompressionLevel(level)).ok()?;
    packer.set_parameter(CParameter::WindowLog(WINDOW_LOG)).ok()?;
    packer.ref_prefix(prefix).ok()?;
    packer.compress2(packed, plain).ok()
}

/// Unpacks the body of a frame of `block` and those behind it into `plain`.
pub(super) fn unpack(base: &dyn Base, body: &[u8], block: u64, plain: &mut [u8]) -> Result<(), FrameError> {
    let wanted = plain.len();
    let refuse = || FrameError::Unpack { block, plain: wanted };
    let (count, rest) = body.split_first_chunk::<COUNT_BYTES>().ok_or_else(refuse)?;
    let count = usize::from(u16::from_le_bytes(*count));
    if !(1..=REFERENCES_MAX).contains(&count) {
        return Err(refuse());
    }
    let (references, packed) = rest.split_at_checked(count * REFERENCE_BYTES).ok_or_else(refuse)?;
    let mut prefix = Vec::with_capacity(count * BLOCK_BYTES as usize);
    for reference in references.chunks_exact(REFERENCE_BYTES) {
        let (file, at) = reference.split_at(4);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let (file, at) = (number(file) as u32, number(at));
        let found = FileIndex::new(file).and_then(|file| base.block(BlockPlace { file, block: at }));
        prefix.extend_from_slice(&found.ok_or(FrameError::Reference { block, file, referred: at })?);
    }
    let mut unpacker = DCtx::try_create().ok_or_else(refuse)?;
    unpacker.ref_prefix(&prefix).map_err(|_| refuse())?;
    match unpacker.decompress(plain, packed) {
        Ok(bytes) if bytes == wanted => Ok(()),
        _ => Err(refuse()),
    }
}
