//! Readahead: who reads a long part of a file from front to back finds the next part fetched already.
//!
//! Reads carry no handle, so streams are told apart by where they are. A read that belongs to none
//! begins a new one, and the one that was used longest ago goes. What is fetched ahead is at most as
//! much as the stream has read, and nothing before it has read 1 MiB: a boot reads its files in pieces,
//! and all that is fetched past the end of a piece is wasted. Computed from a recorded Debian boot, this
//! fetches 1.03 times the blocks that it touches; windows of 256 KiB from the second read on fetched 1.7.

use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;

use icbd_fetch::Urgency;

use super::File;
use super::now::blocks_of;

/// More readers than this in one file at once lose readahead, not bytes.
const STREAMS_MAX: usize = 8;
/// What a stream must have read before anything is fetched ahead of it.
const READ_BYTES_MIN: u64 = 1 << 20;
/// Fills 1 Gbit/s at 60 ms; and eight of them are what the budget holds.
const WINDOW_BYTES_MAX: u64 = 8 << 20;
/// The kernel's own readahead has a few requests under way, which arrive in any order.
const SLACK_BYTES: u64 = 256 << 10;
/// Blocks in one request: 2 MiB, so that a window is several requests and none waits for a long one.
const RUN_BLOCKS: u32 = 32;

/// The streams in one file.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Vec<Stream>>);

#[derive(Debug)]
struct Stream {
    /// Where the furthest read ended, in bytes.
    next: u64,
    /// How far it has come since it began, in bytes.
    read: u64,
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
            streams.insert(0, Stream { next: read.end, read: read.end - read.start, asked: read.end });
            return None;
        };
        // The one that was used last is first.
        streams[..=at].rotate_right(1);
        let stream = &mut streams[0];
        if read.end <= stream.next {
            return None;
        }
        stream.read += read.end - stream.next;
        stream.next = read.end;
        stream.asked = stream.asked.max(read.end);
        let window = if stream.read < READ_BYTES_MIN { 0 } else { stream.read.min(WINDOW_BYTES_MAX) };
        if stream.asked - stream.next > window / 2 || stream.asked >= size {
            return None;
        }
        let ask = stream.asked..size.min(stream.next + window);
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
            for flight in file.fetch(blocks, &hashes, RUN_BLOCKS, Urgency::Readahead) {
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
    fn a_long_stream_is_fetched_ahead_of_and_its_window_grows() {
        let ahead = Ahead::default();
        let mut asked = 0;
        for at in (0..64 << 20).step_by(128 << 10) {
            let read = at..at + (128 << 10);
            if let Some(ask) = ahead.note(&read, SIZE) {
                assert!(read.end >= READ_BYTES_MIN && ask.start >= asked);
                assert!(ask.end - read.end <= WINDOW_BYTES_MAX.min(read.end));
                asked = ask.end;
            }
            assert!(at < READ_BYTES_MIN || asked > read.end, "nothing is there ahead of {at}");
        }
        assert!(asked > (64 << 20) + WINDOW_BYTES_MAX / 2);
    }

    #[test]
    fn short_streams_and_random_reads_have_nothing_fetched_ahead() {
        let ahead = Ahead::default();
        for at in 0..200u64 {
            let start = at * 7_919 * (1 << 20) % SIZE;
            for piece in 0..7 {
                let start = start + piece * (128 << 10);
                assert_eq!(ahead.note(&(start..start + (128 << 10)), SIZE), None, "{at}");
            }
        }
    }

    #[test]
    fn nothing_is_asked_past_the_end() {
        let ahead = Ahead::default();
        let size = READ_BYTES_MIN + 2 * BLOCK_BYTES;
        assert_eq!(ahead.note(&(0..BLOCK_BYTES), size), None);
        let rest = READ_BYTES_MIN..size;
        assert_eq!(ahead.note(&(BLOCK_BYTES..READ_BYTES_MIN), size), Some(rest.clone()));
        assert_eq!(ahead.note(&rest, size), None);
    }
}
