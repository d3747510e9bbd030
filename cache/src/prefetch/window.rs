//! The hours in which background fill may use the whole line. Pure: whoever asks brings the time.

use std::num::NonZeroU64;

use jiff::Timestamp;
use jiff::civil::Time;

use super::schedule::{Deadline, Weekdays, Zone};

/// Hours of the day, on the machine's clock, and how fast background fill may be outside of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub from: Time,
    /// Not included; the next day's where it is before `from`. The same as `from`: all day.
    pub to: Time,
    pub outside_bytes_per_second: NonZeroU64,
}

impl Window {
    pub(crate) fn is_open(&self, at: Timestamp, zone: &Zone) -> bool {
        let now = at.to_zoned(zone.time_zone().clone()).time();
        if self.from < self.to { self.from <= now && now < self.to } else { now >= self.from || now < self.to }
    }

    /// When it opens or closes next.
    pub(crate) fn next_edge(&self, after: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let edge = |time| Deadline::Weekly(time, Weekdays::ALL).next(after, zone);
        edge(self.from).into_iter().chain(edge(self.to)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_go_over_midnight() {
        let zone = Zone::named("Europe/Madrid").unwrap();
        let window = |from, to| Window {
            from: Time::constant(from, 0, 0, 0),
            to: Time::constant(to, 0, 0, 0),
            outside_bytes_per_second: NonZeroU64::MIN,
        };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let is_open = |window: Window, text: &str| window.is_open(at(text), &zone);
        let night = window(19, 7);
        assert!(is_open(night, "2026-11-22T18:00:00Z") && is_open(night, "2026-11-22T05:59:59Z"));
        assert!(!is_open(night, "2026-11-22T17:59:59Z") && !is_open(night, "2026-11-22T06:00:00Z"));
        let day = window(7, 19);
        assert!(is_open(day, "2026-11-22T06:00:00Z") && !is_open(day, "2026-11-22T18:00:00Z"));
        assert!(is_open(window(7, 7), "2026-11-22T18:00:00Z"));
        assert_eq!(night.next_edge(at("2026-11-22T12:00:00Z"), &zone), Some(at("2026-11-22T18:00:00Z")));
        assert_eq!(night.next_edge(at("2026-11-22T18:00:00Z"), &zone), Some(at("2026-11-23T06:00:00Z")));
    }
}
