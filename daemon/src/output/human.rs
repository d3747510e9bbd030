//! Numbers as people read them.

use std::fmt::Display;

use icbd_image::Timestamp;

/// `312 GiB`, `1.5 MiB`, `0 B`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    // Three figures: enough to see a change, few enough to read.
    if unit == "B" || value >= 99.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// `41 Mbit/s`, `1.2 Gbit/s`: a rate as lines are sold.
pub(crate) fn bit_rate(bytes_per_second: u64) -> String {
    let mut value = bytes_per_second as f64 * 8.0;
    let mut unit = "bit/s";
    for next in ["kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "bit/s" || value >= 9.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// `1 image`, `2 images`.
pub(crate) fn counted<N: Display + PartialEq + From<u8>>(count: N, what: &str) -> String {
    format!("{count} {what}{}", if count == N::from(1) { "" } else { "s" })
}

/// `61 %`: rounded down, so that 100 % means all of it.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let percent = if whole == 0 { 100 } else { u128::from(part) * 100 / u128::from(whole) };
    format!("{percent} %")
}

/// `9 s`, `3 min`, `5 h`, `12 d`.
pub(crate) fn seconds(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// A time in UTC, to the second: `2026-03-01 08:50:12Z`.
pub(crate) fn time(at: Timestamp) -> String {
    at.to_string()
}

/// Now, for records and file names.
pub(crate) fn now() -> Timestamp {
    Timestamp::from(std::time::SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([bytes(0), bytes(999), bytes(1000), bytes(212 << 20)], ["0 B", "999 B", "1.0 KiB", "212 MiB"]);
        assert_eq!([bytes(1536 << 10), bytes(u64::MAX)], ["1.5 MiB", "16.0 EiB"]);
        assert_eq!([bit_rate(0), bit_rate(5_125_000), bit_rate(150_000_000)], ["0 bit/s", "41 Mbit/s", "1.2 Gbit/s"]);
        assert_eq!([percent(999, 1000), percent(0, 0), percent(u64::MAX, u64::MAX)], ["99 %", "100 %", "100 %"]);
        assert_eq!([seconds(9), seconds(540), seconds(86400 * 12)], ["9 s", "9 min", "12 d"]);
    }
}
