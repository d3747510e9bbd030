//! A token bucket: so many bytes a second and no more, changeable while somebody waits for it.

use std::num::NonZeroU64;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use icbd_image::BLOCK_BYTES;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::budget::RUN_BLOCKS_MAX;

/// What was not used is kept for so long: a pause is no reason for a burst that others feel.
const BURST: Duration = Duration::from_millis(100);
/// A run takes at most so long at the rate, or it would be the burst.
const RUN: Duration = Duration::from_millis(250);

/// Leave to fetch bytes. Without a rate it is given at once.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: watch::Sender<Option<NonZeroU64>>,
    level: Mutex<Level>,
    /// Bytes of blocks that were asked for.
    asked: AtomicU64,
}

#[derive(Debug)]
struct Level {
    /// Bytes that may be taken; below zero they are owed.
    bytes: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(bytes_per_second: Option<NonZeroU64>) -> Bucket {
        let level = Mutex::new(Level { bytes: 0.0, at: Instant::now() });
        Bucket { rate: watch::Sender::new(bytes_per_second), level, asked: AtomicU64::new(0) }
    }

    /// Notes that so many bytes of blocks are asked for.
    pub(crate) fn ask(&self, bytes: u64) {
        self.asked.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many bytes of blocks were asked for so far.
    pub(crate) fn asked_bytes(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    pub(crate) fn rate(&self) -> Option<NonZeroU64> {
        *self.rate.borrow()
    }

    /// From now on another rate; who waits, waits by it.
    pub(crate) fn set(&self, bytes_per_second: Option<NonZeroU64>) {
        if self.rate() != bytes_per_second {
            // What was earned was earned at the old rate.
            self.fill();
            self.rate.send_replace(bytes_per_second);
        }
    }

    /// The longest run to ask for at once, in blocks.
    pub(crate) fn run_blocks_max(&self) -> u32 {
        let Some(rate) = self.rate() else { return RUN_BLOCKS_MAX };
        let bytes = rate.get() as f64 * RUN.as_secs_f64();
        ((bytes / BLOCK_BYTES as f64) as u32).clamp(1, RUN_BLOCKS_MAX)
    }

    /// Takes bytes as soon as none are owed; whether that was at once.
    pub(crate) async fn take(&self, bytes: u64) -> bool {
        let mut rates = self.rate.subscribe();
        let mut at_once = true;
        loop {
            let rate = *rates.borrow_and_update();
            self.fill();
            let owed = {
                let mut level = self.level.lock().expect("no panic under this lock");
                if rate.is_none() || level.bytes >= 0.0 {
                    level.bytes -= if rate.is_none() { 0.0 } else { bytes as f64 };
                    return at_once;
                }
                -level.bytes
            };
            at_once = false;
            let seconds = owed / rate.map_or(1.0, |rate| rate.get() as f64);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs_f64(seconds.min(3600.0))) => {}
                _ = rates.changed() => {}
            }
        }
    }

    /// Adds what was earned since the last time.
    fn fill(&self) {
        let rate = self.rate().map_or(0.0, |rate| rate.get() as f64);
        let mut level = self.level.lock().expect("no panic under this lock");
        let now = Instant::now();
        let earned = rate * (now - level.at).as_secs_f64();
        *level = Level { bytes: (level.bytes + earned).min(rate * BURST.as_secs_f64()), at: now };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    async fn seconds_for(bucket: &Bucket, takes: u32, bytes: u64) -> f64 {
        let since = Instant::now();
        for _ in 0..takes {
            bucket.take(bytes).await;
        }
        since.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_come_at_the_rate_and_a_pause_saves_little() {
        let bucket = Bucket::new(NonZeroU64::new(1 << 20));
        // The first is at once, the last is owed.
        let took = seconds_for(&bucket, 81, 1 << 17).await;
        assert!((9.9..10.1).contains(&took), "{took}");
        tokio::time::advance(Duration::from_secs(60)).await;
        let took = seconds_for(&bucket, 81, 1 << 17).await;
        assert!((9.7..10.1).contains(&took), "{took}");
        assert_eq!((bucket.run_blocks_max(), Bucket::new(None).run_blocks_max()), (4, RUN_BLOCKS_MAX));
        assert_eq!(Bucket::new(NonZeroU64::new(1)).run_blocks_max(), 1);
        assert_eq!(seconds_for(&Bucket::new(None), 1000, 1 << 30).await, 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_holds_for_who_waits_already() {
        let bucket = Arc::new(Bucket::new(NonZeroU64::new(1)));
        bucket.take(1 << 20).await;
        let (waits, since) = (bucket.clone(), Instant::now());
        let waiter = tokio::spawn(async move { waits.take(1).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        bucket.set(NonZeroU64::new(1 << 20));
        assert!(!waiter.await.unwrap());
        assert!(since.elapsed() < Duration::from_millis(2100), "{:?}", since.elapsed());
        bucket.take(1 << 30).await;
        bucket.set(None);
        assert!(bucket.take(1 << 30).await);
    }
}
