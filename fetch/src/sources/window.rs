//! How much may be on its way at once: as much as fills the line, and hardly more.
//!
//! What waits in a queue on the line delays whoever asks next. So the answers' beginnings are timed: as long
//! as they come as soon as from an idle line, more is asked for at once; when they come later, less (the idea
//! of LEDBAT, RFC 6817). What fills the line are blocks as they travel: where they shrink to little, more of
//! them are on their way at once.

use std::time::Duration;

use icbd_image::BLOCK_BYTES;
use tokio::time::Instant;

/// So long a queue is worth a full line. The answer of a busy master varies by less.
const QUEUE: Duration = Duration::from_millis(3);
/// Blocks on their way: of one there is always something to come, and below that no line is filled.
const BLOCKS_MIN: f64 = 2.0;
/// 16 MiB fill 1 Gbit/s over 100 ms.
const BLOCKS_MAX: f64 = 256.0;
/// Before anything is known.
const BLOCKS_START: f64 = 8.0;
/// What a block travels as before any came: an operating system's files shrink to about that.
const SHARE_START: f64 = 0.4;
/// What blocks travel as is measured over so many of them, and so much of that is believed: an image's full parts give way
/// to empty ones, and to full ones again, within a few windows.
const SHARE_BLOCKS: u32 = 8;
const SHARE_FADE: f64 = 0.5;
const SHARE_MIN: f64 = 1.0 / 32.0;
/// By so much a window grows with each window that came in time.
const STEP_BLOCKS: f64 = 4.0;
/// The quickest answer is believed for so long: ways change. Then …
const MEMORY: Duration = Duration::from_secs(30);
/// … so many answers are timed with next to nothing on its way.
const PROBES: u32 = 12;

#[derive(Debug)]
pub(super) struct Window {
    /// As it travels, in plain blocks' bytes.
    packed: f64,
    /// What a block travels as, of its bytes.
    share: f64,
    /// Blocks since that was measured, and what the source had sent then.
    came: u32,
    travelled: Option<u64>,
    /// Doubles with each window until the first queue.
    is_starting: bool,
    /// Somebody had to wait for it since the last answer.
    is_wanting: bool,
    quickest: Option<Duration>,
    /// When the line was last seen idle, and how many answers are left to see it so again.
    probed: Instant,
    probes: u32,
}

impl Window {
    pub(super) fn new(now: Instant) -> Window {
        Window {
            packed: BLOCKS_START * SHARE_START,
            share: SHARE_START,
            came: 0,
            travelled: None,
            is_starting: true,
            is_wanting: false,
            quickest: None,
            probed: now,
            probes: 0,
        }
    }

    /// Blocks that may be on their way.
    pub(super) fn blocks(&self) -> u32 {
        let blocks = (self.packed / self.share).clamp(BLOCKS_MIN, BLOCKS_MAX);
        if self.probes > 0 { BLOCKS_MIN as u32 } else { blocks as u32 }
    }

    /// A block came; the source has sent `travelled` bytes so far, as they travel.
    pub(super) fn came(&mut self, travelled: u64) {
        let before = *self.travelled.get_or_insert(travelled);
        self.came += 1;
        if self.came > SHARE_BLOCKS {
            let plain = f64::from(self.came - 1) * BLOCK_BYTES as f64;
            let share = travelled.saturating_sub(before) as f64 / plain;
            self.share += (share.clamp(SHARE_MIN, 1.0) - self.share) * SHARE_FADE;
            (self.came, self.travelled) = (1, Some(travelled));
        }
    }

    /// Somebody has to wait for it.
    pub(super) fn wanting(&mut self) {
        self.is_wanting = true;
    }

    /// From a request to the beginning of its answer on an idle line; `None` before the first.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.quickest
    }

    /// The answer to a request for `blocks` began after `waited`.
    pub(super) fn answered(&mut self, waited: Duration, blocks: u32, now: Instant) {
        if now - self.probed > MEMORY {
            (self.probed, self.probes, self.quickest) = (now, PROBES, None);
        }
        let idle = self.quickest.map_or(waited, |quickest| quickest.min(waited));
        self.quickest = Some(idle);
        if self.probes > 0 {
            self.probes -= 1;
            return;
        }
        // 1 without a queue, 0 at the queue that is wanted, and negative beyond it.
        let room = (1.0 - (waited - idle).as_secs_f64() / QUEUE.as_secs_f64()).max(-1.0);
        let was_wanting = std::mem::take(&mut self.is_wanting);
        if room < 0.0 {
            self.is_starting = false;
        } else if !was_wanting {
            return;
        }
        let window = self.packed / self.share;
        let step = if self.is_starting { 1.0 } else { STEP_BLOCKS / window };
        let changed = (window + room * step * f64::from(blocks)).clamp(BLOCKS_MIN, BLOCKS_MAX);
        self.packed = changed * self.share;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line with so many milliseconds for a block and for the way; keeps the window full for a while. The
    /// average of blocks that queue.
    fn fill(window: &mut Window, block_ms: f64, way_ms: f64, answers: usize) -> f64 {
        let (mut now, mut queued) = (Instant::now(), 0.0);
        for _ in 0..answers {
            let on_the_way = way_ms / block_ms;
            let queue = (f64::from(window.blocks()) - on_the_way).max(0.0);
            queued += queue / answers as f64;
            window.wanting();
            now += Duration::from_secs_f64(block_ms / 1e3 * 2.0);
            window.answered(Duration::from_secs_f64((way_ms + (1.0 + queue) * block_ms) / 1e3), 2, now);
        }
        queued
    }

    #[test]
    fn a_window_fills_the_line_and_queues_little() {
        // Block and way in milliseconds: 100 Mbit/s near and far, 1 Gbit/s near and far, 10 Mbit/s.
        for (block_ms, way_ms) in [(2.6, 0.3), (2.6, 10.0), (0.26, 0.3), (0.26, 10.0), (26.0, 1.0)] {
            let mut window = Window::new(Instant::now());
            window.answered(Duration::from_secs_f64((way_ms + block_ms) / 1e3), 1, Instant::now());
            fill(&mut window, block_ms, way_ms, 2_000);
            let queued_ms = fill(&mut window, block_ms, way_ms, 1_000) * block_ms;
            assert!(f64::from(window.blocks()) * block_ms > way_ms, "{block_ms} {way_ms}: {window:?}");
            assert!(queued_ms < 8.0 + 4.0 * block_ms, "{block_ms} {way_ms}: {queued_ms} ms queue in {window:?}");
        }
    }

    #[test]
    fn a_long_line_is_filled_within_some_round_trips() {
        let mut window = Window::new(Instant::now());
        // 1 Gbit/s over 50 ms takes 190 blocks.
        fill(&mut window, 0.26, 50.0, 120);
        assert!(window.blocks() > 150, "{window:?}");
    }

    /// An image's full parts and its nearly empty ones: the line is full in both, and its queue short.
    #[test]
    fn as_much_travels_whatever_blocks_shrink_to() {
        let (mut window, mut travelled) = (Window::new(Instant::now()), 0);
        let mut come = |window: &mut Window, share: f64, blocks: u32| {
            for _ in 0..blocks {
                travelled += (share * BLOCK_BYTES as f64) as u64;
                window.came(travelled);
            }
        };
        come(&mut window, 1.0, 100);
        window.answered(Duration::from_millis(10), 1, Instant::now());
        // 1 Gbit/s and 10 ms: 0.52 ms for a block that does not shrink.
        fill(&mut window, 0.52, 10.0, 2_000);
        let full = f64::from(window.blocks());
        come(&mut window, 0.1, 5 * SHARE_BLOCKS);
        let empty = f64::from(window.blocks());
        assert!((5.0..10.5).contains(&(empty / full)), "{full} blocks, then {empty}");
        come(&mut window, 1.0, 5 * SHARE_BLOCKS);
        assert!(f64::from(window.blocks()) < full * 1.3, "{full} blocks, then {window:?}");
    }

    #[test]
    fn a_window_that_nobody_fills_stays_as_it_is() {
        let mut window = Window::new(Instant::now());
        let before = window.blocks();
        (0..100).for_each(|_| window.answered(Duration::from_millis(1), 1, Instant::now()));
        assert_eq!(window.blocks(), before);
    }

    /// A line that becomes longer is not taken for a queue for ever.
    #[test]
    fn a_way_that_changes_is_noticed() {
        let mut window = Window::new(Instant::now());
        window.answered(Duration::from_millis(1), 1, Instant::now());
        fill(&mut window, 0.26, 0.3, 500);
        let (mut now, step) = (Instant::now(), Duration::from_millis(50));
        for _ in 0..2 * MEMORY.as_millis() / step.as_millis() {
            now += step;
            window.wanting();
            window.answered(Duration::from_millis(40), 4, now);
        }
        assert_eq!(window.round_trip(), Some(Duration::from_millis(40)));
        assert!(window.blocks() > 50, "{window:?}");
    }
}
