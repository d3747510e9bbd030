//! Frames into blocks, out of whatever pieces a network delivers.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use icbd_image::{BLOCK_BYTES, block_count, block_len};

use super::matched::{self, Base};
use super::pack::Unpacker;
use super::{FRAME_BLOCKS_MAX, HEADER_BYTES, Packing};

/// Why bytes are not the frames that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the answer ended before block {next}, after {pending} bytes of its frame")]
    Cut { next: u64, pending: usize },
    #[error("the frame of block {block} claims {found} blocks; 1 to {most} are possible there")]
    Blocks { block: u64, found: u8, most: u64 },
    #[error("the frame of block {block} has packing {found}, which this icbd does not know")]
    Packing { block: u64, found: u8 },
    #[error("a reserved field in the frame of block {block} is not zero")]
    Reserved { block: u64 },
    #[error("the frame of block {block} claims {found} bytes for blocks of {plain}")]
    Length { block: u64, found: u32, plain: usize },
    #[error("the frame of block {block} cannot be unpacked to {plain} bytes")]
    Unpack { block: u64, plain: usize },
    #[error("the frame of block {block} refers to block {referred} of file {file}, which cannot be had here")]
    Reference { block: u64, file: u32, referred: u64 },
    #[error("bytes follow the last block that was asked for")]
    Trailing,
}

impl FrameError {
    /// Whether the same source would most likely answer the same again.
    pub fn is_permanent(&self) -> bool {
        match self {
            FrameError::Cut { .. } => false,
            FrameError::Blocks { .. }
            | FrameError::Packing { .. }
            | FrameError::Reserved { .. }
            | FrameError::Length { .. }
            | FrameError::Unpack { .. }
            | FrameError::Reference { .. }
            | FrameError::Trailing => true,
        }
    }
}

/// Unpacks the frames of one answer.
///
/// [`push`](FrameDecoder::push) what has arrived, then take blocks with [`next`](FrameDecoder::next)
/// until it has none; so at most one frame (1 MiB) and one piece are held. No length is believed before
/// it was compared with what the blocks can need. Blocks are not verified yet. Those that travel raw
/// are not copied, unless they lie across two pieces.
pub struct FrameDecoder {
    /// The block whose frame comes next.
    next_block: u64,
    /// The block after the last that was asked for.
    end: u64,
    file_bytes: u64,
    /// What came before `piece` and is not used yet.
    pending: BytesMut,
    piece: Bytes,
    /// The frame that is being read: its header is taken.
    header: Option<Header>,
    /// Unpacked blocks that nobody has taken yet: the rest of one frame.
    ready: VecDeque<(u64, Bytes)>,
    unpacker: Unpacker,
    /// What frames may refer to.
    base: Option<Arc<dyn Base>>,
    /// Once wrong, always wrong: there is no way to find the next frame.
    failed: Option<FrameError>,
}

/// A checked header.
struct Header {
    blocks: u64,
    packing: Packing,
    /// Bytes that follow the header.
    packed_bytes: usize,
    /// Bytes that they unpack to.
    plain_bytes: usize,
}

impl FrameDecoder {
    /// For the answer to a request for `count` blocks from `first` of a file of `file_bytes`.
    ///
    /// Blocks past the file's end are not expected.
    pub fn new(first: u64, count: u32, file_bytes: u64) -> FrameDecoder {
        let end = first.saturating_add(u64::from(count)).min(block_count(file_bytes)).max(first);
        FrameDecoder {
            next_block: first,
            end,
            file_bytes,
            pending: BytesMut::new(),
            piece: Bytes::new(),
            header: None,
            ready: VecDeque::new(),
            unpacker: Unpacker::default(),
            base: None,
            failed: None,
        }
    }

    /// Frames may refer to blocks of `base` from now on.
    pub fn with_base(self, base: Arc<dyn Base>) -> FrameDecoder {
        FrameDecoder { base: Some(base), ..self }
    }

    /// Takes the next bytes of the answer, cut anywhere.
    pub fn push(&mut self, piece: Bytes) {
        if self.failed.is_none() {
            self.pending.extend_from_slice(&self.piece);
            self.piece = piece;
        }
    }

    /// The next block and its number; `None` when more bytes are needed or all blocks were taken.
    ///
    /// Blocks of one frame, or of one piece, share its memory until the last of them is dropped.
    #[expect(clippy::should_implement_trait, reason = "None does not end anything here: more bytes may come")]
    pub fn next(&mut self) -> Result<Option<(u64, Bytes)>, FrameError> {
        if let Some(ready) = self.ready.pop_front() {
            return Ok(Some(ready));
        }
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        self.step().inspect_err(|error| {
            (self.pending, self.piece) = (BytesMut::new(), Bytes::new());
            self.failed = Some(error.clone());
        })
    }

    /// To be called at the end of the answer: whether all blocks came and were taken, and nothing else.
    pub fn finish(mut self) -> Result<(), FrameError> {
        let next = self.next()?.map(|(block, _)| block);
        match next {
            None if self.next_block == self.end => Ok(()),
            _ => Err(FrameError::Cut { next: next.unwrap_or(self.next_block), pending: self.unused() }),
        }
    }

    /// Bytes that are allocated for what has arrived.
    #[cfg(test)]
    pub(super) fn pending_capacity(&self) -> usize {
        self.pending.capacity() + self.piece.len()
    }

    #[cfg(test)]
    pub(super) fn ready_blocks(&self) -> usize {
        self.ready.len()
    }

    fn unused(&self) -> usize {
        self.pending.len() + self.piece.len()
    }

    /// The next `len` bytes, if they are here.
    fn take(&mut self, len: usize) -> Option<Bytes> {
        if self.unused() < len {
            // Known to be at most a frame's size.
            self.pending.reserve(len - self.pending.len());
            return None;
        }
        if self.pending.is_empty() {
            return Some(self.piece.split_to(len));
        }
        let lacking = len.saturating_sub(self.pending.len());
        self.pending.extend_from_slice(&self.piece.split_to(lacking));
        Some(self.pending.split_to(len).freeze())
    }

    /// The next block, if its bytes are here; the others of its frame become ready, if it is packed.
    fn step(&mut self) -> Result<Option<(u64, Bytes)>, FrameError> {
        let header = match self.header.take() {
            Some(header) => header,
            None if self.next_block == self.end => {
                return if self.unused() == 0 { Ok(None) } else { Err(FrameError::Trailing) };
            }
            None => match self.take(HEADER_BYTES).as_deref().and_then(|bytes| bytes.first_chunk()) {
                Some(bytes) => self.check(bytes)?,
                None => return Ok(None),
            },
        };
        if header.packing == Packing::Raw {
            return Ok(self.step_raw(header));
        }
        let Some(packed) = self.take(header.packed_bytes) else {
            self.header = Some(header);
            return Ok(None);
        };
        let mut plain = self.unpack(&header, &packed)?;
        for block in self.next_block..self.next_block + header.blocks {
            self.ready.push_back((block, plain.split_to(block_len(self.file_bytes, block))));
        }
        self.next_block += header.blocks;
        Ok(self.ready.pop_front())
    }

    /// The next block of a frame that is not packed, of which `header` counts what is left.
    fn step_raw(&mut self, mut header: Header) -> Option<(u64, Bytes)> {
        let block = self.next_block;
        let bytes = self.take(block_len(self.file_bytes, block));
        if bytes.is_some() {
            self.next_block += 1;
            header.blocks -= 1;
        }
        self.header = (header.blocks > 0).then_some(header);
        bytes.map(|bytes| (block, bytes))
    }

    fn check(&self, bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let block = self.next_block;
        let [blocks, packing, reserved @ .., l0, l1, l2, l3] = *bytes;
        let most = (self.end - block).min(FRAME_BLOCKS_MAX as u64);
        if !(1..=most).contains(&u64::from(blocks)) {
            return Err(FrameError::Blocks { block, found: blocks, most });
        }
        let known = Packing::from_u8(packing).filter(|packing| *packing != Packing::Matched || self.base.is_some());
        let packing = known.ok_or(FrameError::Packing { block, found: packing })?;
        if reserved != [0, 0] {
            return Err(FrameError::Reserved { block });
        }
        let blocks = u64::from(blocks);
        let plain = (block..block + blocks).map(|block| block_len(self.file_bytes, block)).sum();
        let found = u32::from_le_bytes([l0, l1, l2, l3]);
        let packed = found as usize;
        let possible = match packing {
            Packing::Zero => packed == 0,
            Packing::Raw => packed == plain,
            Packing::Lz4 | Packing::Zstd | Packing::Zlib | Packing::Snappy | Packing::Matched => {
                (1..plain).contains(&packed)
            }
        };
        if !possible {
            return Err(FrameError::Length { block, found, plain });
        }
        Ok(Header { blocks, packing, packed_bytes: packed, plain_bytes: plain })
    }

    fn unpack(&mut self, header: &Header, packed: &[u8]) -> Result<Bytes, FrameError> {
        if header.packing == Packing::Zero {
            return Ok(zeros(header.plain_bytes));
        }
        let mut plain = vec![0; header.plain_bytes];
        if let (Packing::Matched, Some(base)) = (header.packing, &self.base) {
            matched::unpack(&**base, packed, self.next_block, &mut plain)?;
            return Ok(plain.into());
        }
        match self.unpacker.unpack(header.packing, packed, &mut plain) {
            true => Ok(plain.into()),
            false => Err(FrameError::Unpack { block: self.next_block, plain: header.plain_bytes }),
        }
    }
}

impl fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameDecoder(block {} of {}, {} bytes pending)", self.next_block, self.end, self.unused())
    }
}

/// Zeros that cost no memory of their own.
fn zeros(len: usize) -> Bytes {
    static ZEROS: [u8; FRAME_BLOCKS_MAX * BLOCK_BYTES as usize] = [0; FRAME_BLOCKS_MAX * BLOCK_BYTES as usize];
    Bytes::from_static(&ZEROS[..len])
}
