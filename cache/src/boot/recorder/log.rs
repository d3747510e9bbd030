//! First touches in order, without those of whoever reads a file from end to end.

use std::ops::Range;

use icbd_image::{FileIndex, Observation, Touch};

/// Who has read so many blocks on end (64 MiB) scans or copies. Boot loaders read a kernel and its initial
/// file system on end, up to about 60 MiB; nothing else in a boot comes near it.
const SCAN_BLOCKS: u64 = 1024;
/// Readers at once that are told apart; the one that came longest ago goes.
const STREAMS_MAX: usize = 8;
/// The kernel's readahead has a few requests under way, which arrive in any order.
const SLACK_BLOCKS: u64 = 4;
/// Touches that follow each other in the file and come within this are one run.
const RUN_MS_MAX: u32 = 200;

/// The first touches of one recording.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Those of a scan have no blocks any more.
    runs: Vec<Touch>,
    /// The one that came last is first.
    streams: Vec<Stream>,
}

/// One who reads a file on end, perhaps.
#[derive(Debug)]
struct Stream {
    file: FileIndex,
    /// The block after the furthest that was read.
    end: u64,
    /// Blocks it touched first.
    blocks: u64,
    /// Where its runs are; of one that scans nothing is kept.
    runs: Vec<usize>,
}

impl Log {
    /// Takes note of blocks that nobody touched before; `was_touched` tells that of others of the file.
    pub(super) fn touch(
        &mut self,
        after_ms: u32,
        file: FileIndex,
        blocks: Range<u64>,
        was_touched: impl Fn(Range<u64>) -> bool,
    ) {
        if blocks.is_empty() || self.is_full() {
            return;
        }
        let goes_on = |stream: &Stream| {
            let near = blocks.start <= stream.end + SLACK_BLOCKS && blocks.end + SLACK_BLOCKS >= stream.end;
            // What others read before is no break in who reads everything.
            let over_known = || (stream.end..stream.end + SCAN_BLOCKS).contains(&blocks.start);
            stream.file == file && (near || over_known() && was_touched(stream.end..blocks.start))
        };
        match self.streams.iter().position(goes_on) {
            Some(at) => self.streams[..=at].rotate_right(1),
            None => {
                self.streams.truncate(STREAMS_MAX - 1);
                self.streams.insert(0, Stream { file, end: blocks.start, blocks: 0, runs: Vec::new() });
            }
        }
        let stream = &mut self.streams[0];
        stream.end = stream.end.max(blocks.end);
        stream.blocks += blocks.end - blocks.start;
        if stream.blocks >= SCAN_BLOCKS {
            stream.runs.drain(..).for_each(|run| self.runs[run].count = 0);
            return;
        }
        let count = (blocks.end - blocks.start) as u32;
        let last = stream.runs.last().map(|run| &mut self.runs[*run]);
        match last.filter(|run| run.end() == blocks.start && after_ms - run.after_ms <= RUN_MS_MAX) {
            Some(run) => run.count += count,
            None => {
                stream.runs.push(self.runs.len());
                self.runs.push(Touch { after_ms, file, first: blocks.start, count });
            }
        }
    }

    /// Whether it takes no more.
    pub(super) fn is_full(&self) -> bool {
        self.runs.len() >= Observation::RUNS_MAX
    }

    /// What was touched, in order.
    pub(super) fn touches(&self) -> Vec<Touch> {
        self.runs.iter().copied().filter(|run| run.count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(log: &Log) -> Vec<(u32, u64, u32)> {
        log.touches().iter().map(|run| (run.file.get(), run.first, run.count)).collect()
    }

    fn touch(log: &mut Log, after_ms: u32, file: u32, blocks: Range<u64>) {
        log.touch(after_ms, FileIndex::new(file).unwrap(), blocks, |_| false);
    }

    #[test]
    fn runs_are_in_the_order_of_their_first_touch() {
        let mut log = Log::default();
        touch(&mut log, 0, 1, 10..11);
        touch(&mut log, 5, 2, 100..104);
        touch(&mut log, 9, 1, 11..12);
        touch(&mut log, 9, 1, 14..15);
        touch(&mut log, 900, 2, 104..106);
        assert_eq!(shown(&log), [(1, 10, 2), (2, 100, 4), (1, 14, 1), (2, 104, 2)]);
    }

    #[test]
    fn a_scan_is_left_out_and_a_boot_beside_it_is_not() {
        let mut log = Log::default();
        // The boot reads at odd places, of which one lies in the way of the scan.
        let boot = |step: u64| if step == 7 { 300..320 } else { 10_000 + step * 100..10_002 + step * 100 };
        for step in 0..200 {
            touch(&mut log, step as u32, 1, boot(step));
            for block in [step * 10..step * 10 + 5, step * 10 + 5..step * 10 + 10] {
                if !(300..320).contains(&block.start) {
                    let known = |gap: Range<u64>| gap == (300..320);
                    log.touch(step as u32, FileIndex::new(1).unwrap(), block, known);
                }
            }
        }
        let expected: Vec<_> = (0..200).map(boot).map(|run| (1, run.start, (run.end - run.start) as u32)).collect();
        assert_eq!(shown(&log), expected);
    }

    #[test]
    fn a_long_file_of_a_boot_stays() {
        let mut log = Log::default();
        touch(&mut log, 0, 1, 0..512);
        touch(&mut log, 100, 1, 512..SCAN_BLOCKS - 1);
        assert_eq!(shown(&log), [(1, 0, SCAN_BLOCKS as u32 - 1)]);
        touch(&mut log, 101, 1, SCAN_BLOCKS - 1..SCAN_BLOCKS);
        assert_eq!(shown(&log), []);
    }

    #[test]
    fn a_log_has_an_end() {
        let mut log = Log::default();
        (0..20_000).for_each(|step| touch(&mut log, step, step % 3, u64::from(step) * 40..u64::from(step) * 40 + 1));
        assert!(log.is_full());
        assert_eq!(log.touches().len(), Observation::RUNS_MAX);
    }
}
