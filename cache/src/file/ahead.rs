//! Readahead: who reads a file from front to back finds the next part fetched already.
//!
//! Reads carry no handle, so streams are told apart by where they are. A stream that goes on doubles
//! its window from 256 KiB to 8 MiB; a read that belongs to none begins a new one, and the one that was
//! used longest ago goes: random reads never have anything fetched ahead.

use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;

use super::File;
use super::now::blocks_of;
use crate::budget::Priority;

/// More readers than this in one file at once lose readahead, not bytes.
const STREAMS_MAX: usize = 8;
const WINDOW_BYTES_MIN: u64 = 256 << 10;
/// Fills 1 Gbit/s at 60 ms; and eight of them are what the budget holds.
const WINDOW_BYTES_MAX: u64 = 8 << 20;
/// The kernel's own readahead has several requests under way, which arrive in any order.
const SLACK_BYTES: u64 = 1 << 20;
/// Blocks in one request: 2 MiB, so that a window is several requests and none waits for a long one.
const RUN_BLOCKS: u32 = 32;

/// The streams in one file.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Vec<Stream>>);

#[derive(Debug)]
struct Stream {
    /// Where the furthest read ended, in bytes.
    next: u64,
    window: u64,
    /// Where what was asked for ends, in bytes.
    asked: u64,
}

impl Ahead {
    /// Takes note of a read; the bytes to fetch now, if any.
    fn note(&self, read: &Range<u64>, size: u64) -> Option<Range<u64>> {
        let mut streams = self.0.lock().expect("no panic under this lock");
        let near = |stream: &Stream| read.start <= stream.next + SLACK_BYTES && read.end + SLACK_BYTES >= stream.next;
        let Some(at) = streams.iter().position(near) else {
            streams.truncate(STREAMS_MAX - 1);
            streams.insert(0, Stream { next: read.end, window: WINDOW_BYTES_MIN, asked: read.end });
            return None;
        };
        // The one that was used last is first.
        streams[..=at].rotate_right(1);
        let stream = &mut streams[0];
        if read.end <= stream.next {
            return None;
        }
        stream.next = read.end;
        stream.asked = stream.asked.max(read.end);
        if stream.asked - stream.next > stream.window / 2 || stream.asked >= size {
            return None;
        }
        let ask = stream.asked..size.min(stream.next + stream.window);
        stream.window = (stream.window * 2).min(WINDOW_BYTES_MAX);
        stream.asked = stream.asked.max(ask.end);
        (!ask.is_empty()).then_some(ask)
    }
}

impl File {
    /// Takes note of a read and has the next part fetched. Never blocks.
    pub(super) fn read_ahead(self: &Arc<Self>, read: &Range<u64>) {
        let Some(ask) = self.ahead.note(read, self.size) else { return };
        let blocks = blocks_of(&ask);
        if self.is_readable(blocks.clone()) {
            return;
        }
        let file = self.clone();
        drop(self.version.core().spawn(async move {
            // Readahead that fails is no loss: the read itself will say so.
            let Ok(hashes) = file.hashes(blocks.clone()).await else { return };
            file.mark_zeros(blocks.clone(), &hashes);
            for flight in file.fetch(blocks, &hashes, RUN_BLOCKS, Priority::Readahead) {
                drop(flight.start());
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use icbd_image::BLOCK_BYTES;

    use super::*;

    const SIZE: u64 = 1 << 30;

    #[test]
    fn a_stream_is_fetched_ahead_of_and_its_window_grows() {
        let ahead = Ahead::default();
        let mut asked = 0;
        for at in (0..64 << 20).step_by(128 << 10) {
            let read = at..at + (128 << 10);
            if let Some(ask) = ahead.note(&read, SIZE) {
                assert!(ask.start >= asked && ask.end - read.end <= WINDOW_BYTES_MAX);
                asked = ask.end;
            }
            assert!(at < 1 << 20 || asked > read.end, "nothing is there ahead of {at}");
        }
        assert!(asked > (64 << 20) + WINDOW_BYTES_MAX / 2);
    }

    #[test]
    fn random_reads_have_nothing_fetched_ahead() {
        let ahead = Ahead::default();
        for at in 0..200u64 {
            let start = at * 7_919 * (1 << 20) % SIZE;
            assert_eq!(ahead.note(&(start..start + 4096), SIZE), None, "{at}");
        }
    }

    #[test]
    fn nothing_is_asked_past_the_end() {
        let ahead = Ahead::default();
        assert_eq!(ahead.note(&(0..BLOCK_BYTES), 3 * BLOCK_BYTES), None);
        assert_eq!(
            ahead.note(&(BLOCK_BYTES..2 * BLOCK_BYTES), 3 * BLOCK_BYTES),
            Some(2 * BLOCK_BYTES..3 * BLOCK_BYTES)
        );
        assert_eq!(ahead.note(&(2 * BLOCK_BYTES..3 * BLOCK_BYTES), 3 * BLOCK_BYTES), None);
    }
}
