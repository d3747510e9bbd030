//! The limits of fetching, each with its reason.

use std::time::Duration;

/// How long a source may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOuts {
    /// For a connection to be made. A SYN is repeated after 1 s and 3 s: two losses in a row are survived.
    pub connect: Duration,
    /// From the request to the first byte of its answer, connecting included. A master whose disks
    /// have to spin up answers within this.
    pub first_byte: Duration,
    /// Between two pieces of an answer. Any byte starts it anew, so a slow line never trips it.
    pub stall: Duration,
}

impl Default for TimeOuts {
    fn default() -> TimeOuts {
        TimeOuts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(10),
            stall: Duration::from_secs(10),
        }
    }
}

/// How [`Sources`](crate::Sources) asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Runs of blocks in flight for each source. 16 runs of 1 MiB fill 1 Gbit/s over 100 ms of round trip.
    /// Readahead gets at most three quarters of the places and prefetch half of them, so that a slow
    /// source never keeps one who waits behind what nobody waits for.
    pub requests_max: usize,
    /// Tries at one source before the next is asked. A restarting master is back within a few.
    pub tries_max: u32,
    /// Longest wait before the first repetition; doubles with each, and the wait is a random part of it.
    pub back_off_min: Duration,
    pub back_off_max: Duration,
    /// How long a source that failed is passed over at first; doubles up to the maximum.
    pub cool_down_min: Duration,
    /// A source that was repaired is noticed after this at the latest: a lab that stands still should not for much
    /// longer than its master did, and one request in five seconds is no burden to anybody.
    pub cool_down_max: Duration,
    /// How long a source is not asked again for a block that it gave with a wrong hash.
    pub bad_block: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            requests_max: 16,
            tries_max: 3,
            back_off_min: Duration::from_millis(50),
            back_off_max: Duration::from_secs(1),
            cool_down_min: Duration::from_millis(500),
            cool_down_max: Duration::from_secs(5),
            bad_block: Duration::from_secs(60),
        }
    }
}
