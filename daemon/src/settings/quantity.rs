//! Durations and sizes as people write them in the configuration: `120s`, `5m`, `64MiB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time: a whole number and one of `ms s m h d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub Duration);

/// A number of bytes: a whole number and one of `B KiB MiB GiB TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteCount(pub u64);

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub(crate) struct QuantityError {
    text: String,
    expected: &'static str,
}

/// Units of time in milliseconds, the largest first.
const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
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
        parse(text, &BYTE_UNITS, "a size such as \"64MiB\" (B, KiB, MiB, GiB or TiB)").map(ByteCount)
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
}
