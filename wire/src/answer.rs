//! The one answer to "give me these blocks", for a master and for a cache server that serves peers.

use std::ops::Range;

use bytes::Bytes;
use icbd_image::{Run, is_zero};

use crate::Codec;
use crate::frame::{FRAME_BLOCKS_MAX, FrameEncoder, Matcher, frame_header};

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
    read: impl FnMut(u64) -> Result<Bytes, E>,
    mut out: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut encoder = FrameEncoder::new();
    by_frames(run, Some(demanded), read, |blocks, _| {
        let mut frame = Vec::new();
        encoder.encode(blocks, codec, &mut frame);
        out(frame.into())
    })
}

/// The same against a version that the receiver has; for nobody who waits for one of the blocks.
pub fn encode_matched_run<E>(
    run: &Run,
    mut matcher: Matcher<'_>,
    read: impl FnMut(u64) -> Result<Bytes, E>,
    mut out: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut first = run.first;
    by_frames(run, None, read, |blocks, zeros| {
        let mut frame = Vec::new();
        match zeros {
            true => frame.extend_from_slice(&frame_header(blocks.len(), 0)),
            false => matcher.encode(first, blocks, &mut frame),
        }
        first += blocks.len() as u64;
        out(frame.into())
    })
}

/// Hands over the blocks of each frame: zeros or others, and the demanded block alone.
fn by_frames<E>(
    run: &Run,
    demanded: Option<u64>,
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
        if zero != zeros || Some(block) == demanded || blocks.len() == FRAME_BLOCKS_MAX {
            flush(&mut blocks, zeros)?;
        }
        zeros = zero;
        blocks.push(bytes);
        if Some(block) == demanded {
            flush(&mut blocks, zeros)?;
        }
    }
    flush(&mut blocks, zeros)
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
