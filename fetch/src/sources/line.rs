//! How fast the way to a source is, and the codec that suits it.
//!
//! What is measured is bytes as they travel per second in which an answer was coming in: neither idle
//! time nor the way there and back says how fast a line is. (A little of each answer comes with its
//! head, so single blocks make a line look up to a third faster.) Packing pays while the line is slower than the
//! packing. On one core lz4 packs 1.1 GB/s to 0.6 and zstd 0.78 GB/s to 0.55, on both ends beside all else that
//! they do: above 250 MB/s (more than 1 Gbit/s can look like) packing costs more than it saves, below 40 MB/s each
//! byte saved counts. A codec is left only when the line is clearly on the other side, so that one near
//! the border does not flap.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use icbd_wire::Codec;
use tokio::time::Instant;

/// Below this packing begins, above that it ends, in bytes a second.
const PACK_BELOW: u64 = 150_000_000;
const UNPACKED_ABOVE: u64 = 250_000_000;
/// Below this zstd begins, above that it ends.
const SQUEEZE_BELOW: u64 = 40_000_000;
const SQUEEZED_UNTIL: u64 = 60_000_000;
/// A measurement is worth something after so much …
const MEASURED_BYTES_MIN: u64 = 4 << 20;
/// … or, on a slow line, after so long with at least a run's worth.
const MEASURED_TIME_ENOUGH: Duration = Duration::from_secs(2);
const MEASURED_BYTES_FEW: u64 = 1 << 20;
/// With less than that the source is silent, not slow: it is measured anew.
const SILENT: Duration = Duration::from_secs(10);

/// The line to one source.
#[derive(Debug)]
pub(super) struct Line(Mutex<Measured>);

#[derive(Debug)]
struct Measured {
    codec: Codec,
    runs: u32,
    /// Since when `runs` is not 0, or since when that was last added to `busy`.
    since: Instant,
    /// Of this measurement, with a run under way.
    busy: Duration,
    /// What the source had received when it began.
    received: u64,
}

impl Line {
    /// A line of which nothing is known: lz4 is not far from the best on any.
    pub(super) fn new() -> Line {
        Line(Mutex::new(Measured {
            codec: Codec::Lz4,
            runs: 0,
            since: Instant::now(),
            busy: Duration::ZERO,
            received: 0,
        }))
    }

    /// How blocks shall travel now.
    pub(super) fn codec(&self) -> Codec {
        self.lock().codec
    }

    /// An answer begins to come in, when the source has received so much so far.
    pub(super) fn begin(&self, received: u64) {
        let mut line = self.lock();
        line.look(received);
        line.runs += 1;
    }

    /// An answer has ended, in whatever way.
    pub(super) fn end(&self, received: u64) {
        let mut line = self.lock();
        line.look(received);
        line.runs = line.runs.saturating_sub(1);
    }

    fn lock(&self) -> MutexGuard<'_, Measured> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl Measured {
    fn look(&mut self, received: u64) {
        let now = Instant::now();
        if self.runs > 0 {
            self.busy += now - self.since;
        }
        self.since = now;
        let bytes = received.saturating_sub(self.received);
        let much = bytes >= MEASURED_BYTES_MIN;
        let long = bytes >= MEASURED_BYTES_FEW && self.busy >= MEASURED_TIME_ENOUGH;
        if much || long {
            let rate = (bytes as f64 / self.busy.as_secs_f64().max(1e-6)) as u64;
            let codec = suited(self.codec, rate);
            if codec != self.codec {
                tracing::debug!(%codec, was = %self.codec, bytes_per_second = rate, "blocks travel otherwise from now on");
                self.codec = codec;
            }
        } else if self.busy < SILENT {
            return;
        }
        (self.busy, self.received) = (Duration::ZERO, received);
    }
}

/// The codec for a line of so many bytes a second, on which `now` is used.
fn suited(now: Codec, rate: u64) -> Codec {
    let (unpacked, squeezed) = (now == Codec::None, now == Codec::Zstd);
    if rate > UNPACKED_ABOVE || (unpacked && rate >= PACK_BELOW) {
        Codec::None
    } else if rate < SQUEEZE_BELOW || (squeezed && rate <= SQUEEZED_UNTIL) {
        Codec::Zstd
    } else {
        Codec::Lz4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten seconds at so many MB/s, in runs of 1 MiB as they travel; the codec afterwards.
    async fn at(line: &Line, received: &mut u64, megabytes: u64) -> Codec {
        for _ in 0..megabytes * 10 {
            line.begin(*received);
            tokio::time::advance(Duration::from_secs(1) / megabytes as u32).await;
            *received += 1_000_000;
            line.end(*received);
            // Nobody asks for anything: that says nothing of the line.
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        line.codec()
    }

    #[tokio::test(start_paused = true)]
    async fn fast_lines_carry_blocks_as_they_are_and_slow_ones_squeezed() {
        let (line, mut received) = (Line::new(), 0);
        assert_eq!(line.codec(), Codec::Lz4);
        let steps = [
            (80, Codec::Lz4),
            (500, Codec::None),
            // Between the borders all stays as it is.
            (200, Codec::None),
            (118, Codec::Lz4),
            (200, Codec::Lz4),
            (12, Codec::Zstd),
            (50, Codec::Zstd),
            (70, Codec::Lz4),
            (50, Codec::Lz4),
            (3, Codec::Zstd),
            (400, Codec::None),
            (5, Codec::Zstd),
        ];
        for (megabytes, expected) in steps {
            assert_eq!(at(&line, &mut received, megabytes).await, expected, "{megabytes} MB/s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_source_is_not_a_slow_one() {
        let (line, mut received) = (Line::new(), 0);
        assert_eq!(at(&line, &mut received, 400).await, Codec::None);
        line.begin(received);
        tokio::time::advance(Duration::from_secs(60)).await;
        line.end(received);
        assert_eq!(line.codec(), Codec::None);
    }

    #[tokio::test(start_paused = true)]
    async fn runs_at_once_share_the_line() {
        let line = Line::new();
        for _ in 0..8 {
            line.begin(0);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..8 {
            line.end(400_000_000);
        }
        assert_eq!(line.codec(), Codec::None);
    }
}
