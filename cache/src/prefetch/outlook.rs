//! How long it takes and when it has to begin. Pure: whoever asks brings time and speed.

use std::num::NonZeroU64;

use jiff::{SignedDuration, Timestamp};

use super::schedule::Zone;
use super::window::Window;

/// A quarter more than the rate says, and five minutes: lines slow down, masters restart, clocks differ.
const MARGIN_SHARE: i32 = 4;
const MARGIN_MIN: SignedDuration = SignedDuration::from_mins(5);
/// A time beyond this is not worth telling.
const FORESIGHT: SignedDuration = SignedDuration::from_hours(24 * 366);

/// How fast bytes come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speed<'a> {
    /// What the line gives, in bytes a second.
    pub(crate) line: u64,
    pub(crate) limit: Option<NonZeroU64>,
    /// For what has to keep to it.
    pub(crate) window: Option<(&'a Window, &'a Zone)>,
}

impl Speed<'_> {
    /// Bytes a second at a moment, and when that changes.
    fn at(&self, at: Timestamp) -> (u64, Option<Timestamp>) {
        let limited = |limit: Option<NonZeroU64>| limit.map_or(self.line, |limit| self.line.min(limit.get())).max(1);
        let all = limited(self.limit);
        match self.window {
            Some((window, zone)) if window.is_open(at, zone) => (all, window.next_edge(at, zone)),
            Some((window, zone)) => {
                (all.min(limited(Some(window.outside_bytes_per_second))), window.next_edge(at, zone))
            }
            None => (all, None),
        }
    }

    /// How long so many bytes take from a moment on; `None`: for more than a year.
    pub(crate) fn time_for(&self, bytes: u64, from: Timestamp) -> Option<SignedDuration> {
        let last = from.checked_add(FORESIGHT).ok()?;
        let (mut at, mut left) = (from, bytes as f64);
        loop {
            let (rate, changes) = self.at(at);
            let seconds = left / rate as f64;
            let end = at.checked_add(SignedDuration::try_from_secs_f64(seconds).ok()?).ok();
            match (end, changes) {
                (Some(end), changes) if changes.is_none_or(|changes| end <= changes) => {
                    return (end <= last).then(|| end.duration_since(from));
                }
                (_, Some(changes)) if changes <= last => {
                    left -= changes.duration_since(at).as_secs_f64() * rate as f64;
                    at = changes;
                }
                _ => return None,
            }
        }
    }
}

/// When each of several jobs has to begin at the latest, so that all are done by their deadlines one after the other.
pub(crate) fn latest_starts(jobs: &[(Timestamp, SignedDuration)]) -> Vec<Timestamp> {
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(jobs[*at].0));
    let mut starts = vec![Timestamp::MAX; jobs.len()];
    let mut next = Timestamp::MAX;
    for at in order {
        let (deadline, takes) = jobs[at];
        let takes = takes.saturating_add(takes / MARGIN_SHARE).saturating_add(MARGIN_MIN);
        next = deadline.min(next).checked_sub(takes).unwrap_or(Timestamp::MIN);
        starts[at] = next;
    }
    starts
}

#[cfg(test)]
mod tests {
    use jiff::civil::Time;
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_is_limited_outside_of_a_window_goes_on_in_it() {
        let zone = Zone::named("UTC").unwrap();
        let from = Time::constant(19, 0, 0, 0);
        let window =
            Window { from, to: Time::constant(7, 0, 0, 0), outside_bytes_per_second: NonZeroU64::new(10).unwrap() };
        let plain = Speed { line: 1000, limit: NonZeroU64::new(100), window: None };
        let speed = Speed { window: Some((&window, &zone)), ..plain };
        let evening: Timestamp = "2026-11-22T18:59:00Z".parse().unwrap();
        assert_eq!(plain.time_for(6000, evening), Some(SignedDuration::from_secs(60)));
        // 600 bytes in the minute before seven, the rest at the limit.
        assert_eq!(speed.time_for(6600, evening), Some(SignedDuration::from_secs(120)));
        assert_eq!(speed.time_for(600, evening), Some(SignedDuration::from_secs(60)));
        assert_eq!(speed.time_for(u64::MAX, evening), None);
        assert_eq!(
            Speed { line: 0, limit: None, window: None }.time_for(3, evening),
            Some(SignedDuration::from_secs(3))
        );
    }

    #[test]
    fn who_shares_a_deadline_begins_earlier() {
        let minutes = SignedDuration::from_mins;
        let starts =
            latest_starts(&[(at(100_000), minutes(20)), (at(100_000), minutes(40)), (at(200_000), minutes(4))]);
        assert_eq!(starts[2], at(200_000) - minutes(10));
        let mut both = [starts[0], starts[1]];
        both.sort();
        assert_eq!(both[0], at(100_000) - minutes(85));
        assert!(both[1] == at(100_000) - minutes(30) || both[1] == at(100_000) - minutes(55));
        assert_eq!(latest_starts(&[(Timestamp::MIN, SignedDuration::MAX)]), [Timestamp::MIN]);
    }

    proptest! {
        /// Who begins in time, at the rate that was assumed, is done in time: in the order of the deadlines, each by its own.
        #[test]
        fn latest_starts_keep_every_deadline(jobs in prop::collection::vec((0i64..1_000_000, 0i64..100_000), 0..8)) {
            let jobs: Vec<_> = jobs.iter().map(|(by, takes)| (at(*by), SignedDuration::from_secs(*takes))).collect();
            let starts = latest_starts(&jobs);
            let mut order: Vec<usize> = (0..jobs.len()).collect();
            order.sort_by_key(|job| starts[*job]);
            let mut now = Timestamp::MIN;
            for job in order {
                now = now.max(starts[job]) + jobs[job].1;
                prop_assert!(now <= jobs[job].0, "{:?}", jobs);
            }
        }

        /// More bytes never take less time, nor does a later hour of the same speed.
        #[test]
        fn time_rises_with_bytes(bytes in 0u64..1 << 40, more in 0u64..1 << 30, line in 1u64..1 << 30, second in 0i64..2_000_000_000) {
            let zone = Zone::named("America/Sao_Paulo").unwrap();
            let (from, to) = (Time::constant(19, 0, 0, 0), Time::constant(7, 0, 0, 0));
            let window = Window { from, to, outside_bytes_per_second: NonZeroU64::new(line / 7 + 1).unwrap() };
            let speed = Speed { line, limit: None, window: Some((&window, &zone)) };
            let time = |bytes| speed.time_for(bytes, at(second)).unwrap_or(SignedDuration::MAX);
            prop_assert!(time(bytes) <= time(bytes + more));
            let free = Speed { window: None, ..speed }.time_for(bytes, at(second)).unwrap_or(SignedDuration::MAX);
            prop_assert!(free <= time(bytes).saturating_add(SignedDuration::from_micros(1)));
        }
    }
}
