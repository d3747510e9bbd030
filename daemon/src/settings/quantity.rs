//! Durations, sizes and rates as people write them: `120s`, `5m`, `64MiB`, `50mbit`, `6MB/s`, `19:00-07:00`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use icbd_cache::Quota;
use jiff::civil::Time;

/// A length of time: a whole number and one of `ms s m h d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub Duration);

/// A number of bytes: a whole number and one of `B KiB MiB GiB TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteCount(pub u64);

/// A rate above zero: a whole number and one of `kbit Mbit Gbit kB/s MB/s GB/s KiB/s MiB/s GiB/s`. In bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BitRate(u64);

/// A part of a file system: a size, or a share of 1 to 100 percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Portion(pub Quota);

/// How many bytes may be kept: a size, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keep(pub u64);

/// Hours of the day: `19:00-07:00`, or `always`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hours {
    pub from: Time,
    /// The same as `from`: always.
    pub to: Time,
}

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub(crate) struct QuantityError {
    text: String,
    expected: &'static str,
}

/// Units of time in milliseconds, the largest first.
const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// Units of rates in bits a second, in small letters; and in bytes.
const BIT_UNITS: [(&str, u64); 3] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1000)];
const RATE_UNITS: [(&str, u64); 6] = [
    ("GiB/s", 1 << 30),
    ("MiB/s", 1 << 20),
    ("KiB/s", 1 << 10),
    ("GB/s", 1_000_000_000),
    ("MB/s", 1_000_000),
    ("kB/s", 1000),
];
const ALWAYS: &str = "always";
/// No limit, no deadline, nothing kept.
pub(crate) const OFF: &str = "off";
/// Units of size in bytes, the largest first.
const BYTE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Span, QuantityError> {
        let expected = "a length of time such as \"120s\" or \"5m\" (ms, s, m, h or d)";
        parse(text, &SPAN_UNITS, expected).map(|millis| Span(Duration::from_millis(millis)))
    }
}

impl FromStr for ByteCount {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<ByteCount, QuantityError> {
        parse(text, &BYTE_UNITS, "a size in whole numbers such as \"64MiB\" (B, KiB, MiB, GiB or TiB)").map(ByteCount)
    }
}

impl FromStr for BitRate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<BitRate, QuantityError> {
        let expected = "a rate above zero such as \"50mbit\" or \"6MB/s\" (kbit, mbit, gbit, kB/s, MB/s, GB/s, KiB/s, \
            MiB/s or GiB/s)";
        // Bits in any case, and as often without the second: "50mbit", "50 Mbit/s".
        let lower = text.trim_end_matches("/s").to_ascii_lowercase();
        let bits =
            if lower.ends_with("bit") { parse(&lower, &BIT_UNITS, expected).map(|bits| bits / 8) } else { Ok(0) };
        let rate = if lower.ends_with("bit") { bits? } else { parse(text, &RATE_UNITS, expected)? };
        let error = || QuantityError { text: text.chars().take(40).collect(), expected };
        (rate > 0).then_some(BitRate(rate)).ok_or_else(error)
    }
}

impl BitRate {
    pub(crate) const fn from_mbit(mbit: u64) -> BitRate {
        BitRate(mbit * 125_000)
    }

    pub(crate) fn bytes_per_second(self) -> u64 {
        self.0
    }
}

impl FromStr for Portion {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Portion, QuantityError> {
        let expected = "a share such as \"80%\" (1 to 100), or a size such as \"400GiB\"";
        let quota = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| (1..=100).contains(percent)).map(Quota::Percent),
            None => parse(text, &BYTE_UNITS, expected).ok().map(Quota::Bytes),
        };
        quota.map(Portion).ok_or_else(|| QuantityError { text: text.chars().take(40).collect(), expected })
    }
}

impl FromStr for Keep {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Keep, QuantityError> {
        let expected = "a size in whole numbers such as \"20GiB\" (B, KiB, MiB, GiB or TiB), or \"off\"";
        if text == OFF {
            return Ok(Keep(0));
        }
        parse(text, &BYTE_UNITS, expected).map(Keep)
    }
}

impl FromStr for Hours {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Hours, QuantityError> {
        if text == ALWAYS {
            return Ok(Hours { from: Time::midnight(), to: Time::midnight() });
        }
        let time = |text: &str| text.trim().parse::<Time>().ok();
        let hours = text.split_once('-').and_then(|(from, to)| Some(Hours { from: time(from)?, to: time(to)? }));
        let expected = "hours of the day such as \"19:00-07:00\", or \"always\"";
        hours.ok_or_else(|| QuantityError { text: text.chars().take(40).collect(), expected })
    }
}

fn parse(text: &str, units: &[(&str, u64)], expected: &'static str) -> Result<u64, QuantityError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = units.iter().find(|(name, _)| *name == unit.trim_start());
    let value = unit.and_then(|(_, factor)| number.parse::<u64>().ok()?.checked_mul(*factor));
    value.ok_or_else(|| QuantityError { text: text.chars().take(40).collect(), expected })
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_largest(f, self.0.as_millis() as u64, &SPAN_UNITS[3..])
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_largest(f, self.0, &BYTE_UNITS)
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Quota::Percent(percent) => write!(f, "{percent}%"),
            Quota::Bytes(bytes) => write!(f, "{}", ByteCount(bytes)),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str(OFF),
            bytes => ByteCount(bytes).fmt(f),
        }
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.checked_mul(8).filter(|bits| bits.is_multiple_of(1000)) {
            Some(bits) => write_largest(f, bits, &BIT_UNITS),
            // What is no number of kbit was not written in bits.
            None if self.0.is_multiple_of(1000) => write!(f, "{}kB/s", self.0 / 1000),
            None => write!(f, "{}KiB/s", (self.0 >> 10).max(1)),
        }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from == self.to {
            true => f.write_str(ALWAYS),
            false => write!(f, "{}-{}", self.from.strftime("%H:%M"), self.to.strftime("%H:%M")),
        }
    }
}

fn write_largest(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let whole = units.iter().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor));
    let (unit, factor) = whole.or(units.last()).copied().unwrap_or(("", 1));
    write!(f, "{}{unit}", value / factor)
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_text!(Span);
serde_as_text!(ByteCount);
serde_as_text!(Portion);
serde_as_text!(Keep);
serde_as_text!(BitRate);
serde_as_text!(Hours);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_and_written() {
        let span = |text: &str| text.parse::<Span>().map(|span| span.0.as_millis());
        assert_eq!(
            (span("120s"), span("5m"), span("250ms"), span("2 h")),
            (Ok(120_000), Ok(300_000), Ok(250), Ok(7_200_000))
        );
        for portion in ["80%", "400GiB"] {
            assert_eq!(portion.parse::<Portion>().unwrap().to_string(), portion);
        }
        for text in ["0%", "101%", "%", "80", "-1%", "1.5%"] {
            assert!(text.parse::<Portion>().is_err(), "{text}");
        }
        for keep in ["20GiB", "off"] {
            assert_eq!(keep.parse::<Keep>().unwrap().to_string(), keep);
        }
        assert_eq!("off".parse(), Ok(Keep(0)));
        assert!("on".parse::<Keep>().is_err() && "64MB".parse::<Keep>().is_err());
        let bytes = |text: &str| text.parse::<ByteCount>().map(|bytes| bytes.0);
        assert_eq!((bytes("64MiB"), bytes("3B")), (Ok(64 << 20), Ok(3)));
        for text in ["", "s", "12", "12 parsecs", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(span(text).is_err(), "{text}");
        }
        assert_eq!(
            (Span(Duration::from_secs(120)).to_string(), ByteCount(64 << 20).to_string()),
            ("120s".into(), "64MiB".into())
        );
        assert_eq!(
            (Span(Duration::from_millis(1500)).to_string(), ByteCount(0).to_string()),
            ("1500ms".into(), "0B".into())
        );
    }

    #[test]
    fn rates_have_a_unit_and_are_not_zero() {
        let rate = |text: &str| text.parse::<BitRate>().map(BitRate::bytes_per_second).ok();
        assert_eq!(
            (rate("50mbit"), rate("50 Mbit/s"), rate("1gbit")),
            (Some(6_250_000), Some(6_250_000), Some(125_000_000))
        );
        assert_eq!((rate("6MB/s"), rate("6 MiB/s"), rate("100kbit")), (Some(6_000_000), Some(6 << 20), Some(12_500)));
        for text in ["0", "50", "", "mbit", "0mbit", "0MB/s", "-5mbit", "5.5mbit", "5mb", "99999999999999gbit"] {
            assert_eq!(rate(text), None, "{text}");
        }
        for text in ["50mbit", "6MiB/s", "1gbit"] {
            let rate: BitRate = text.parse().unwrap();
            assert_eq!(rate.to_string().parse::<BitRate>().unwrap(), rate);
        }
        let hours = |text: &str| text.parse::<Hours>().map(|hours| hours.to_string()).ok();
        assert_eq!((hours("19:00-07:00"), hours("always")), (Some("19:00-07:00".into()), Some("always".into())));
        assert_eq!((hours("19-7:00"), hours("19:00"), hours("25:00-26:00")), (None, None, None));
    }
}
