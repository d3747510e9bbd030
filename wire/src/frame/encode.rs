//! Blocks into frames.

use std::fmt;

use icbd_image::is_zero;

use super::pack::Packer;
use super::{FRAME_BLOCKS_MAX, HEADER_BYTES, Packing};
use crate::Codec;

/// Packs blocks into frames, one at a time; keeps its compressors and buffers from one to the next.
#[derive(Default)]
pub struct FrameEncoder {
    packer: Packer,
    /// The frame's blocks one behind the other.
    plain: Vec<u8>,
}

impl FrameEncoder {
    pub fn new() -> FrameEncoder {
        FrameEncoder::default()
    }

    /// Appends one frame of `blocks` to `out`.
    ///
    /// All blocks but a file's last are 64 KiB long; the frame does not tell their lengths.
    ///
    /// # Panics
    /// When there is no block or more than 16, or when zero blocks are mixed with others.
    pub fn encode<B: AsRef<[u8]>>(&mut self, blocks: &[B], codec: Codec, out: &mut Vec<u8>) {
        assert!((1..=FRAME_BLOCKS_MAX).contains(&blocks.len()), "{} blocks in a frame", blocks.len());
        let zeros = blocks.iter().filter(|block| is_zero(block.as_ref())).count();
        assert!(zeros == 0 || zeros == blocks.len(), "zero blocks and others in one frame");
        if zeros > 0 {
            return append(out, blocks.len(), Packing::Zero, &[]);
        }
        let plain = match blocks {
            [one] => one.as_ref(),
            _ => {
                self.plain.clear();
                blocks.iter().for_each(|block| self.plain.extend_from_slice(block.as_ref()));
                &self.plain
            }
        };
        let packing = Packing::of(codec);
        match self.packer.pack(packing, plain) {
            Some(packed) => append(out, blocks.len(), packing, packed),
            None => append(out, blocks.len(), Packing::Raw, plain),
        }
    }
}

impl fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameEncoder")
    }
}

pub(super) fn append(out: &mut Vec<u8>, blocks: usize, packing: Packing, bytes: &[u8]) {
    // Exactly: frames are kept in a cache that counts their bytes.
    out.reserve_exact(HEADER_BYTES + bytes.len());
    out.extend_from_slice(&header(blocks, packing, bytes.len()));
    out.extend_from_slice(bytes);
}

/// The header of a frame of 1 to 16 `blocks` that goes as it is: `bytes` of data follow, none when the blocks are zeros.
pub fn frame_header(blocks: usize, bytes: usize) -> [u8; HEADER_BYTES] {
    assert!((1..=FRAME_BLOCKS_MAX).contains(&blocks), "{blocks} blocks in a frame");
    header(blocks, if bytes == 0 { Packing::Zero } else { Packing::Raw }, bytes)
}

fn header(blocks: usize, packing: Packing, bytes: usize) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = (bytes as u32).to_le_bytes();
    [blocks as u8, packing.to_u8(), 0, 0, a, b, c, d]
}
