//! The wall clock, which a test can set.

#[cfg(test)]
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

/// The time of day.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    #[cfg(test)]
    ahead_seconds: AtomicI64,
}

impl Clock {
    pub(crate) fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        #[cfg(test)]
        let now = now + jiff::SignedDuration::from_secs(self.ahead_seconds.load(Ordering::Relaxed));
        now
    }

    #[cfg(test)]
    pub(crate) fn advance(&self, seconds: i64) {
        self.ahead_seconds.fetch_add(seconds, Ordering::Relaxed);
    }
}
