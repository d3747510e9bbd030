//! Readahead: who reads a long part of a file from front to back finds the next part fetched already.
//!
//! Reads carry no handle, so streams are told apart by where they are. A read that belongs to none
//! begins a new one, and the one that was used longest ago goes. What is fetched ahead is at most a
//! quarter of what the stream has read, and nothing before it has read 1 MiB: a boot reads its files in pieces,
//! and all that is fetched past the end of a piece is wasted. Computed from a recorded Debian boot, this
//! fetches 1.01 times the blocks that it touches; a window as long as what was read fetched 1.04, and windows of
//! 256 KiB from the second read on 1.7.

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
/// What is fetched ahead is so much less than what the stream has read: it is wasted if the stream ends.
const WINDOW_SHARE: u64 = 4;
/// Fills 1 Gbit/s at 60 ms; and eight of them are what the budget holds.
const WINDOW_BYTES_MAX: u64 = 8 << 20;
/// The kernel's own readahead has a few requests under way, which arrive in any order.
const SLACK_BYTES: u64 = 256 << 10;
/// Blocks in one request: 2 MiB, so that a window is several requests and none waits for a long one.
const RUN_BLOCKS: u32 = 32;
/// Who has read so much on end while others waited for this and that reads a whole disk, it seems. A boot alone has
/// its long files too, and nobody else's misses come between.
const SCAN_BYTES: u64 = 2 << 20;
/// So often it is looked whether others wait.
const LOOK_BYTES: u64 = 1 << 20;
/// Who goes on reading over so many zeros reads a disk from one end to the other: there are none in what a boot loads.
const DISK_ZEROS: u64 = 512 << 10;

/// Who reads a disk from one end to the other is known for so many reads of others: it is held up by them, and would
/// else be taken for one of them.
const DISK_KEPT_READS: u64 = 100_000;

/// The streams in one file.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Streams>);

#[derive(Debug, Default)]
struct Streams {
    /// The one that was used last is first.
    all: Vec<Stream>,
    /// Reads so far.
    reads: u64,
}

#[derive(Debug)]
struct Stream {
    /// Where the furthest read ended, in bytes.
    next: u64,
    /// How many reads there had been in the file when it was used last.
    used: u64,
    /// How far it has come since it began, in bytes.
    read: u64,
    /// Where what was asked for ends, in bytes.
    asked: u64,
    /// Of what was read last, bytes on end that are zero.
    zeros: u64,
    /// Whether it reads a disk from one end to the other. Then what it lacks is no demand, and others' long streams count.
    is_disk: bool,
    others: Others,
}

/// What a read was for, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
struct About {
    /// Requests of all readers so far: of demand, and for long streams.
    demands: u64,
    streams: u64,
}

/// Whether others waited for something while a stream was read.
#[derive(Debug, Clone, Copy)]
struct Others {
    are_waiting: bool,
    /// How much the stream had read, and how many requests there were, at the last look.
    read: u64,
    demands: u64,
    streams: u64,
}

/// What a read means for its stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Noted {
    /// The bytes to fetch now, if any.
    ask: Option<Range<u64>>,
    is_long: bool,
    is_disk: bool,
    /// It has to leave room for others.
    is_scan: bool,
}

impl Noted {
    /// How urgent what the read lacks is; what boots are known to read is no scan.
    pub(super) fn urgency(&self, is_expected: impl FnOnce() -> bool) -> Urgency {
        match self {
            Noted { is_scan, is_disk, .. } if (*is_scan || *is_disk) && !is_expected() => Urgency::Scan,
            Noted { is_long: true, .. } => Urgency::Stream,
            _ => Urgency::Demand,
        }
    }
}

impl Ahead {
    /// `is_zero` says whether all of it is zero; it is asked of what goes on where a stream was.
    fn note(&self, read: &Range<u64>, size: u64, about: About, is_zero: impl FnOnce() -> bool) -> Noted {
        let About { demands, streams: long } = about;
        let mut streams = self.0.lock().expect("no panic under this lock");
        streams.reads += 1;
        let used = streams.reads;
        let near = |stream: &Stream| read.start <= stream.next + SLACK_BYTES && read.end + SLACK_BYTES >= stream.next;
        let Some(at) = streams.all.iter().position(near) else {
            streams.make_room();
            let others = Others { are_waiting: false, read: 0, demands, streams: long };
            let read_bytes = read.end - read.start;
            let (next, asked) = (read.end, read.end);
            let begun = Stream { next, used, read: read_bytes, asked, zeros: 0, is_disk: false, others };
            streams.all.insert(0, begun);
            return Noted::default();
        };
        streams.all[..=at].rotate_right(1);
        let stream = &mut streams.all[0];
        stream.used = used;
        stream.look(about);
        let is_long = stream.read >= READ_BYTES_MIN;
        if read.end > stream.next && !stream.is_disk {
            stream.zeros = if is_zero() { stream.zeros + (read.end - stream.next) } else { 0 };
            stream.is_disk = stream.zeros >= DISK_ZEROS;
        }
        let is_disk = stream.is_disk;
        let is_scan = (is_disk || stream.read >= SCAN_BYTES) && stream.others.are_waiting;
        if read.end <= stream.next {
            return Noted { ask: None, is_long, is_disk, is_scan };
        }
        stream.read += read.end - stream.next;
        stream.next = read.end;
        stream.asked = stream.asked.max(read.end);
        let window = if stream.read < READ_BYTES_MIN { 0 } else { (stream.read / WINDOW_SHARE).min(WINDOW_BYTES_MAX) };
        if stream.asked - stream.next > window / 2 || stream.asked >= size {
            return Noted { ask: None, is_long, is_disk, is_scan };
        }
        let ask = stream.asked..size.min(stream.next + window);
        stream.asked = stream.asked.max(ask.end);
        Noted { ask: (!ask.is_empty()).then_some(ask), is_long, is_disk, is_scan }
    }
}

impl Streams {
    fn make_room(&mut self) {
        if self.all.len() < STREAMS_MAX {
            return;
        }
        let is_free = |stream: &Stream| !stream.is_disk || self.reads - stream.used > DISK_KEPT_READS;
        let at = self.all.iter().rposition(is_free).unwrap_or(self.all.len() - 1);
        self.all.remove(at);
    }
}

impl Stream {
    /// A long stream's own misses are not among the demands, and one of a disk's not among those of streams either.
    fn look(&mut self, About { demands, streams }: About) {
        let before = self.others;
        if self.read >= before.read + LOOK_BYTES {
            let are_waiting = demands > before.demands || self.is_disk && streams > before.streams;
            self.others = Others { are_waiting, read: self.read, demands, streams };
        }
    }
}

impl File {
    /// Takes note of a read.
    pub(super) fn note_stream(&self, read: &Range<u64>) -> Noted {
        let sources = &self.version.core().sources;
        let about = About { demands: sources.demands(), streams: sources.streams() };
        self.ahead.note(read, self.size, about, || blocks_of(read).all(|block| self.is_zero(block)))
    }

    /// Has the next part of a read's stream fetched. Never blocks.
    pub(super) fn read_ahead(self: &Arc<Self>, noted: Noted) {
        let Noted { ask: Some(ask), is_scan, is_disk, .. } = noted else { return };
        let blocks = blocks_of(&ask);
        if self.is_readable(blocks.clone()) {
            return;
        }
        let (file, sources) = (self.clone(), self.version.core().sources.clone());
        drop(self.version.core().spawn(async move {
            // Readahead that fails is no loss: the read itself will say so.
            let Ok(hashes) = file.hashes(blocks.clone()).await else { return };
            let mut start = blocks.start;
            while start < blocks.end && !file.is_readable(start..blocks.end) {
                // Ahead of a scan nothing is fetched in the way of others.
                let urgency = match (is_scan, is_disk) {
                    (true, _) => Urgency::Prefetch,
                    (false, true) => Urgency::Guess,
                    (false, false) => Urgency::Readahead,
                };
                let left = u32::try_from(blocks.end - start).unwrap_or(RUN_BLOCKS);
                let leave = sources.leave(urgency, RUN_BLOCKS.min(left)).await;
                let known = &hashes[(start - blocks.start) as usize..];
                let Some(flight) = file.fetch(start..blocks.end, known, leave) else { return };
                start = flight.blocks().end;
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
            if let Some(ask) = ahead.note(&read, SIZE, About::default(), || false).ask {
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
                assert_eq!(
                    ahead.note(&(start..start + (128 << 10)), SIZE, About::default(), || false),
                    Noted::default(),
                    "{at}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_asked_past_the_end() {
        let ahead = Ahead::default();
        let size = READ_BYTES_MIN + 2 * BLOCK_BYTES;
        assert_eq!(ahead.note(&(0..BLOCK_BYTES), size, About::default(), || false).ask, None);
        let rest = READ_BYTES_MIN..size;
        assert_eq!(
            ahead.note(&(BLOCK_BYTES..READ_BYTES_MIN), size, About::default(), || false).ask,
            Some(rest.clone())
        );
        assert_eq!(ahead.note(&rest, size, About::default(), || false).ask, None);
    }

    /// Only what comes between a stream's reads makes it a scan, and only for as long.
    #[test]
    fn who_reads_on_end_beside_others_scans() {
        let (ahead, mut demands) = (Ahead::default(), 100);
        let mut scans = |from: u64, to: u64, others: u64| -> Vec<bool> {
            let reads = (from << 20..to << 20).step_by(128 << 10);
            let noted = reads.map(|at| {
                demands += others;
                ahead.note(&(at..at + (128 << 10)), SIZE, About { demands, ..About::default() }, || false).is_scan
            });
            noted.collect()
        };
        assert!(!scans(0, 16, 0).contains(&true), "it is alone");
        assert!(!scans(18, 32, 1)[24..].contains(&false), "others wait");
        assert!(!scans(32, 48, 0)[12..].contains(&true), "alone again");
    }

    /// Who reads on over zeros reads a disk, for good, and makes room while others have misses or long streams.
    #[test]
    fn who_reads_on_over_zeros_reads_a_disk() {
        let (ahead, piece) = (Ahead::default(), 128 << 10);
        let note = |at: u64, streams: u64, is_zero: bool| {
            let about = About { streams, ..About::default() };
            ahead.note(&(at * piece..(at + 1) * piece), SIZE, about, || is_zero)
        };
        assert!((0..4).all(|at| !note(at, 0, true).is_disk), "a few are in many files");
        assert!(note(4, 0, false) == Noted::default() && !note(5, 0, true).is_disk, "not on end");
        let disk = (6..9).fold(Noted::default(), |_, at| note(at, 0, true));
        assert!(disk.is_disk && !disk.is_scan);
        let alone = note(9, 0, false);
        assert_eq!(
            (alone.is_scan, alone.urgency(|| false), alone.urgency(|| true)),
            (false, Urgency::Scan, Urgency::Stream)
        );
        // However many others read meanwhile, who are more than streams are known of.
        for other in 0..1_000 {
            let begun = note(100 + 16 * (other * 7 % 512), 0, false);
            assert!(!begun.is_disk, "{other}");
        }
        // Others' streams count now.
        let beside: Vec<bool> = (10..26).map(|at| note(at, at, false).is_scan).collect();
        assert!(beside[8..].iter().all(|is_scan| *is_scan), "{beside:?}");
    }
}
