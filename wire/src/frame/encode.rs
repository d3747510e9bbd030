//! Blocks into frames.

use std::fmt;

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

    /// Appends one frame of `blocks` blocks of together `bytes` bytes to `out`; `read` fills their place.
    ///
    /// All blocks but a file's last are 64 KiB long; the frame does not tell their lengths.
    ///
    /// # Panics
    /// When there is no block or more than 16.
    pub(crate) fn encode<E>(
        &mut self,
        blocks: usize,
        bytes: usize,
        codec: Codec,
        read: impl FnOnce(&mut [u8]) -> Result<(), E>,
        out: &mut Vec<u8>,
    ) -> Result<(), E> {
        assert!((1..=FRAME_BLOCKS_MAX).contains(&blocks), "{blocks} blocks in a frame");
        if self.plain.len() < bytes {
            self.plain.resize(bytes, 0);
        }
        let plain = &mut self.plain[..bytes];
        read(plain)?;
        match self.packer.pack(codec, plain) {
            Some(packed) => append(out, blocks, Packing::of(codec), packed),
            None => append(out, blocks, Packing::Raw, plain),
        }
        Ok(())
    }
}

impl fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameEncoder")
    }
}

pub(super) fn append(out: &mut Vec<u8>, blocks: usize, packing: Packing, bytes: &[u8]) {
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
