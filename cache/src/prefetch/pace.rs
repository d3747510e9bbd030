//! How fast bytes came lately: an average that forgets.

use std::time::Duration;

/// After so long a sample counts for a third: a line that slows down is noticed within seconds, one slow run is not.
const MEMORY: Duration = Duration::from_secs(10);

const SECONDS_MIN: f64 = 0.5;
const BYTES_MIN: f64 = (16 << 20) as f64;

/// Samples of a rate.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    /// Bytes and seconds, both faded.
    bytes: f64,
    seconds: f64,
}

impl Pace {
    /// As if it had been measured for long.
    pub(crate) fn known(bytes_per_second: u64) -> Pace {
        let seconds = MEMORY.as_secs_f64();
        Pace { bytes: bytes_per_second as f64 * seconds, seconds }
    }

    pub(crate) fn sample(&mut self, bytes: u64, time: Duration) {
        let fade = (-time.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.bytes = self.bytes * fade + bytes as f64;
        self.seconds = self.seconds * fade + time.as_secs_f64();
    }

    /// `None` before there is enough to tell: some time, or many bytes in less.
    pub(crate) fn bytes_per_second(&self) -> Option<u64> {
        let is_enough = self.seconds >= SECONDS_MIN || self.seconds > 0.0 && self.bytes >= BYTES_MIN;
        is_enough.then_some((self.bytes / self.seconds) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_slows_to_a_hundredth_is_noticed() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::default();
        assert_eq!(pace.bytes_per_second(), None);
        (0..60).for_each(|_| pace.sample(1_000_000, second));
        assert!((999_000..1_001_000).contains(&pace.bytes_per_second().unwrap()));
        pace.sample(10_000, second);
        assert!(pace.bytes_per_second().unwrap() > 850_000);
        (0..60).for_each(|_| pace.sample(10_000, second));
        assert!(pace.bytes_per_second().unwrap() < 13_000, "{pace:?}");
        assert_eq!(Pace::known(5).bytes_per_second(), Some(5));
    }

    #[test]
    fn many_bytes_in_no_time_are_a_rate_too() {
        let (tenth, mut pace) = (Duration::from_millis(100), Pace::default());
        pace.sample(1 << 20, tenth);
        assert_eq!(pace.bytes_per_second(), None);
        pace.sample(20 << 20, tenth);
        assert!((100 << 20..106 << 20).contains(&pace.bytes_per_second().unwrap()), "{pace:?}");
    }
}
