//! The one answer to "give me these blocks", for a master and for a cache server that serves peers.

use std::ops::Range;

use bytes::Bytes;
use icbd_image::{Run, is_zero};

use crate::Codec;
use crate::frame::{FRAME_BLOCKS_MAX, FrameEncoder};

/// Reads the blocks of `run` in order and hands over their frames one by one.
///
/// Block `demanded` (of an HTTP request always the run's first: somebody waits for it) gets a frame of
/// its own, and is handed over before the next block is read; the others go up to 16 in a frame. The run
/// must end within its file. Holds at most one frame's blocks. An error of `read` or `out` ends it, and
/// the frames handed over until then are good.
pub fn encode_run<E>(
    run: &Run,
    demanded: u64,
    codec: Codec,
    mut read: impl FnMut(u64) -> Result<Bytes, E>,
    mut out: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut encoder = FrameEncoder::new();
    let mut blocks: Vec<Bytes> = Vec::with_capacity(FRAME_BLOCKS_MAX);
    let mut zeros = false;
    let mut flush = |blocks: &mut Vec<Bytes>| {
        if blocks.is_empty() {
            return Ok(());
        }
        let mut frame = Vec::new();
        encoder.encode(blocks, codec, &mut frame);
        blocks.clear();
        out(frame.into())
    };
    for block in run.blocks() {
        let bytes = read(block)?;
        let zero = is_zero(&bytes);
        if zero != zeros || block == demanded || blocks.len() == FRAME_BLOCKS_MAX {
            flush(&mut blocks)?;
        }
        zeros = zero;
        blocks.push(bytes);
        if block == demanded {
            flush(&mut blocks)?;
        }
    }
    flush(&mut blocks)
}

/// The frames that [`encode_run`] makes of `run` when it packs nothing: the blocks of each, and whether they are zeros.
///
/// For those who put such frames together where the blocks are read to, without a copy; see
/// [`frame_header`](crate::frame_header).
pub fn raw_frames(run: &Run, demanded: u64, is_zero: impl Fn(u64) -> bool) -> Vec<(Range<u64>, bool)> {
    let mut frames: Vec<(Range<u64>, bool)> = Vec::new();
    for block in run.blocks() {
        let zero = is_zero(block);
        match frames.last_mut() {
            Some((blocks, zeros))
                if *zeros == zero
                    && block != demanded
                    && block.checked_sub(1) != Some(demanded)
                    && blocks.end - blocks.start < FRAME_BLOCKS_MAX as u64 =>
            {
                blocks.end = block + 1;
            }
            _ => frames.push((block..block + 1, zero)),
        }
    }
    frames
}
