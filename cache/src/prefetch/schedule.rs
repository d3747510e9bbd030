//! When an order is to be ready: deadlines of a week in a time zone. Pure: whoever asks brings the time.
//!
//! A clock that is set forward skips times of day, one that is set back has some twice. A promise is then
//! for the earlier of the moments that could be meant.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;

/// Days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weekdays(u8);

/// A time zone with the name it was given by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

/// When something is to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    Once(Timestamp),
    /// At this time of day, in the order's zone.
    Weekly(Time, Weekdays),
}

/// A text that names no weekdays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no weekday; write days such as \"mon-fri\" or \"mon,wed,sun\" (mon tue wed thu fri sat sun)")]
pub struct WeekdaysError {
    word: String,
}

/// A name that the time zone database does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no known time zone; write a name such as \"Europe/Madrid\" or \"UTC\"")]
pub struct ZoneError {
    pub name: String,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// The machine's zone where it has no name.
const UNNAMED: &str = "local";
/// Every weekday comes within a week; a day on each side for shifts of the clock, and one for dates that a
/// zone left out (Samoa had no 30 December 2011).
const DAYS_SEARCHED: usize = 10;

impl Weekdays {
    pub const ALL: Weekdays = Weekdays(0x7f);

    fn has(self, day: Weekday) -> bool {
        self.0 & (1 << day.to_monday_zero_offset()) != 0
    }
}

impl FromStr for Weekdays {
    type Err = WeekdaysError;

    fn from_str(text: &str) -> Result<Weekdays, WeekdaysError> {
        let day = |word: &str| {
            let at = DAYS.iter().position(|day| word.trim().eq_ignore_ascii_case(day));
            at.ok_or_else(|| WeekdaysError { word: word.trim().chars().take(40).collect() })
        };
        let mut days = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (mut at, last) = (day(first)?, day(last)?);
            days |= 1 << at;
            // "fri-mon" goes over the weekend.
            while at != last {
                at = (at + 1) % 7;
                days |= 1 << at;
            }
        }
        Ok(Weekdays(days))
    }
}

impl fmt::Display for Weekdays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = 0;
        let mut separator = "";
        while at < 7 {
            let length = (self.0 >> at).trailing_ones().min(7 - at) as usize;
            match length {
                0 => {}
                1 => write!(f, "{separator}{}", DAYS[at as usize])?,
                _ => write!(f, "{separator}{}-{}", DAYS[at as usize], DAYS[at as usize + length - 1])?,
            }
            separator = if length > 0 { "," } else { separator };
            at += length.max(1) as u32;
        }
        Ok(())
    }
}

impl Zone {
    /// A zone by its name in the IANA database.
    pub fn named(name: &str) -> Result<Zone, ZoneError> {
        let zone = if name == UNNAMED { Ok(TimeZone::system()) } else { TimeZone::get(name) };
        match zone {
            Ok(zone) => Ok(Zone { name: zone.iana_name().unwrap_or(name).to_owned(), zone }),
            Err(_) => Err(ZoneError { name: name.chars().take(60).collect() }),
        }
    }

    /// The machine's.
    pub fn system() -> Zone {
        let zone = TimeZone::system();
        Zone { name: zone.iana_name().unwrap_or(UNNAMED).to_owned(), zone }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// For showing times.
    pub fn time_zone(&self) -> &TimeZone {
        &self.zone
    }
}

impl Deadline {
    /// The first moment after `after` at which something is to be ready.
    pub fn next(&self, after: Timestamp, zone: &Zone) -> Option<Timestamp> {
        match self {
            Deadline::Once(at) => (*at > after).then_some(*at),
            Deadline::Weekly(time, days) => {
                let mut date = after.to_zoned(zone.zone.clone()).date().yesterday().ok()?;
                for _ in 0..DAYS_SEARCHED {
                    if days.has(date.weekday()) {
                        let at = zone.zone.to_ambiguous_timestamp(date.to_datetime(*time)).earlier().ok()?;
                        if at > after {
                            return Some(at);
                        }
                    }
                    date = date.tomorrow().ok()?;
                }
                None
            }
        }
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deadline::Once(at) => at.fmt(f),
            Deadline::Weekly(time, days) => write!(f, "{days} {}", time.strftime("%H:%M")),
        }
    }
}

/// What [`Deadline`]'s `Display` wrote.
impl FromStr for Deadline {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Deadline, jiff::Error> {
        match text.split_once(' ') {
            Some((days, time)) => {
                let days =
                    days.parse().map_err(|error: WeekdaysError| jiff::Error::from_args(format_args!("{error}")))?;
                Ok(Deadline::Weekly(time.parse()?, days))
            }
            None => text.parse().map(Deadline::Once),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, ToSpan};
    use proptest::prelude::*;

    use super::*;

    fn next(by: &str, after: &str, zone: &str) -> String {
        let deadline: Deadline = by.parse().unwrap();
        let zone = Zone::named(zone).unwrap();
        let at = deadline.next(after.parse().unwrap(), &zone);
        at.map_or("never".to_owned(), |at| at.to_zoned(zone.zone).strftime("%a %F %H:%M %:z").to_string())
    }

    #[test]
    fn a_deadline_is_local_time_whatever_the_clocks_do() {
        let madrid = |by: &str, after: &str| next(by, after, "Europe/Madrid");
        assert_eq!(madrid("mon-fri 08:45", "2026-11-20T08:00:00Z"), "Mon 2026-11-23 08:45 +01:00");
        assert_eq!(madrid("mon-fri 08:45", "2026-11-23T07:44:59Z"), "Mon 2026-11-23 08:45 +01:00");
        assert_eq!(madrid("mon-fri 08:45", "2026-11-23T07:45:00Z"), "Tue 2026-11-24 08:45 +01:00");
        // Clocks go forward on 29 March: 02:30 is not there. The promise is for the earlier moment.
        assert_eq!(madrid("sun 02:30", "2026-03-28T12:00:00Z"), "Sun 2026-03-29 01:30 +01:00");
        assert_eq!(madrid("mon 02:30", "2026-03-28T12:00:00Z"), "Mon 2026-03-30 02:30 +02:00");
        // They go back on 25 October: 02:30 comes twice.
        assert_eq!(madrid("sun 02:30", "2026-10-24T12:00:00Z"), "Sun 2026-10-25 02:30 +02:00");
        assert_eq!(madrid("mon-sun 02:30", "2026-10-25T00:30:00Z"), "Mon 2026-10-26 02:30 +01:00");
        // Samoa went to bed on Thursday and woke up on Saturday.
        assert_eq!(next("fri 12:00", "2011-12-29T12:00:00Z", "Pacific/Apia"), "Thu 2011-12-29 12:00 -10:00");
        assert_eq!(next("2026-11-22T09:00:00Z", "2026-11-22T09:00:00Z", "UTC"), "never");
        assert_eq!(next("mon 00:00", "9999-12-30T12:00:00Z", "UTC"), "never");
    }

    #[test]
    fn weekdays_are_read_and_written() {
        let check = |text: &str, shown: &str| assert_eq!(text.parse::<Weekdays>().unwrap().to_string(), shown);
        check("mon-fri", "mon-fri");
        check("Sun, mon-wed", "mon-wed,sun");
        check("fri-mon", "mon,fri-sun");
        check("mon,tue,wed,thu,fri,sat,sun", "mon-sun");
        for text in ["", "monday", "mon-", "mo", "mon-fry", "mon;tue"] {
            assert!(text.parse::<Weekdays>().is_err(), "{text}");
        }
        assert!(Zone::named("Europe/Madird").is_err() && Zone::named("").is_err());
        assert_eq!(Zone::named("europe/madrid").unwrap().name(), "Europe/Madrid");
    }

    proptest! {
        /// Deadlines rise, none is skipped, and each is at its time on its day unless the clocks have no such time.
        #[test]
        fn deadlines_follow_the_local_clock(
            second in 0i64..4_000_000_000, minute in 0i8..60, hour in 0i8..24, days in 1u8..128,
            zone in prop::sample::select(&["Europe/Madrid", "America/Sao_Paulo", "Australia/Lord_Howe", "Africa/Casablanca", "UTC"][..]),
        ) {
            let (zone, days) = (Zone::named(zone).unwrap(), Weekdays(days));
            let time = Time::constant(hour, minute, 0, 0);
            let deadline = Deadline::Weekly(time, days);
            prop_assert_eq!(deadline.to_string().parse::<Deadline>().unwrap(), deadline);
            let after = Timestamp::from_second(second).unwrap();
            let at = deadline.next(after, &zone).unwrap();
            prop_assert!(at > after && at <= after + 9 * SignedDuration::from_hours(24));
            // Whoever asks just before it is told the same, and whoever asks at it the one after.
            prop_assert_eq!(deadline.next(at - 1.nanosecond(), &zone), Some(at));
            prop_assert!(deadline.next(at, &zone).unwrap() > at);
            let local = at.to_zoned(zone.zone.clone());
            let is_shown = local.time() == time && days.has(local.weekday());
            // Where the clock jumped there is no such time; the moment is within three hours of one.
            let near = |hours: i64| (at + SignedDuration::from_hours(hours)).to_zoned(zone.zone.clone()).offset();
            prop_assert!(is_shown || near(-3) != near(3), "{} for {}", local, deadline);
        }
    }
}
