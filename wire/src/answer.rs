//! The one answer to "give me these blocks", for a master and for a cache server that serves peers.

use std::ops::Range;

use bytes::Bytes;
use icbd_image::{Run, block_len, is_zero};

use crate::Codec;
use crate::frame::{FRAME_BLOCKS_MAX, FrameEncoder, Matcher, frame_header};

/// Appends the frames of `run`, which lies in a file of `file_bytes`, to `out`.
///
/// The first block gets a frame of its own: of an HTTP request it is the one that somebody waits for. The others go up to
/// 16 in a frame. `read` fills the place of blocks, from the one it is told on, that `is_zero` does not say to be zeros;
/// its error ends the run, and the frames in `out` are good.
pub fn encode_run<E>(
    encoder: &mut FrameEncoder,
    run: &Run,
    file_bytes: u64,
    codec: Codec,
    is_zero: impl Fn(u64) -> bool,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    out: &mut Vec<u8>,
) -> Result<(), E> {
    for (blocks, zeros) in raw_frames(run, is_zero) {
        let (first, count) = (blocks.start, (blocks.end - blocks.start) as usize);
        if zeros {
            out.extend_from_slice(&frame_header(count, 0));
            continue;
        }
        let bytes = blocks.map(|block| block_len(file_bytes, block)).sum();
        encoder.encode(count, bytes, codec, |plain| read(first, plain), out)?;
    }
    Ok(())
}

/// Reads the blocks of `run` in order, and hands over their frames against a version that the receiver has; for nobody
/// who waits for one of the blocks. Holds at most one frame's blocks. An error of `read` or `out` ends it, and the frames
/// handed over until then are good.
pub fn encode_matched_run<E>(
    run: &Run,
    mut matcher: Matcher<'_>,
    read: impl FnMut(u64) -> Result<Bytes, E>,
    mut out: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut first = run.first;
    by_frames(run, read, |blocks, zeros| {
        let mut frame = Vec::new();
        match zeros {
            true => frame.extend_from_slice(&frame_header(blocks.len(), 0)),
            false => matcher.encode(first, blocks, &mut frame),
        }
        first += blocks.len() as u64;
        out(frame.into())
    })
}

/// Hands over the blocks of each frame: zeros or others.
fn by_frames<E>(
    run: &Run,
    mut read: impl FnMut(u64) -> Result<Bytes, E>,
    mut frame: impl FnMut(&[Bytes], bool) -> Result<(), E>,
) -> Result<(), E> {
    let mut blocks: Vec<Bytes> = Vec::with_capacity(FRAME_BLOCKS_MAX);
    let mut zeros = false;
    let mut flush = |blocks: &mut Vec<Bytes>, zeros| {
        let done = if blocks.is_empty() { Ok(()) } else { frame(blocks, zeros) };
        blocks.clear();
        done
    };
    for block in run.blocks() {
        let bytes = read(block)?;
        let zero = is_zero(&bytes);
        if zero != zeros || blocks.len() == FRAME_BLOCKS_MAX {
            flush(&mut blocks, zeros)?;
        }
        zeros = zero;
        blocks.push(bytes);
    }
    flush(&mut blocks, zeros)
}

/// The frames that [`encode_run`] makes of `run`: the blocks of each, and whether they are zeros.
///
/// Also for those who put frames that are not packed together where the blocks are read to, without a copy; see
/// [`frame_header`](crate::frame_header).
pub fn raw_frames(run: &Run, is_zero: impl Fn(u64) -> bool) -> Vec<(Range<u64>, bool)> {
    let mut frames: Vec<(Range<u64>, bool)> = Vec::new();
    for block in run.blocks() {
        let zero = is_zero(block);
        match frames.last_mut() {
            Some((blocks, zeros))
                if *zeros == zero && block - 1 != run.first && blocks.end - blocks.start < FRAME_BLOCKS_MAX as u64 =>
            {
                blocks.end = block + 1;
            }
            _ => frames.push((block..block + 1, zero)),
        }
    }
    frames
}
