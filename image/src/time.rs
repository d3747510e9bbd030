//! Points in time as files carry them. Pure: whoever needs "now" passes it in.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970 (negative before) and nanoseconds within that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
pub struct Timestamp {
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// A time in UTC, to the second: `2026-03-01 08:50:12Z`. Far-off times too, for they come from outside.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.seconds.div_euclid(86400), self.seconds.rem_euclid(86400));
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp { seconds: since.as_secs() as i64, nanoseconds: since.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                match before.subsec_nanos() {
                    0 => Timestamp { seconds: -(before.as_secs() as i64), nanoseconds: 0 },
                    nanos => Timestamp { seconds: -(before.as_secs() as i64) - 1, nanoseconds: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    /// The nearest time the platform can name; times out of its range become 1970.
    fn from(time: Timestamp) -> SystemTime {
        let seconds = Duration::from_secs(time.seconds.unsigned_abs());
        let whole = if time.seconds >= 0 { UNIX_EPOCH.checked_add(seconds) } else { UNIX_EPOCH.checked_sub(seconds) };
        whole.and_then(|t| t.checked_add(Duration::from_nanos(u64::from(time.nanoseconds)))).unwrap_or(UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_utc() {
        let check = |seconds, expected: &str| assert_eq!(Timestamp { seconds, nanoseconds: 0 }.to_string(), expected);
        check(0, "1970-01-01 00:00:00Z");
        check(1_767_225_599, "2025-12-31 23:59:59Z");
        check(1_709_208_000, "2024-02-29 12:00:00Z");
        check(-1, "1969-12-31 23:59:59Z");
    }

    proptest! {
        #[test]
        fn system_time_round_trips(seconds in -(1i64 << 40)..1 << 40, nanoseconds in 0u32..1_000_000_000) {
            let time = Timestamp { seconds, nanoseconds };
            prop_assert_eq!(Timestamp::from(SystemTime::from(time)), time);
        }
    }
}
