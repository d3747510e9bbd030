//! How much of which versions is on a cache: what it tells its master with each poll of the listing, beside what it uses.
//!
//! It holds nothing back from removal: it says what a deployment may wait for.

use std::fmt;
use std::str::FromStr;

use icbd_image::Serial;

/// The request header that carries a [`ReadyReport`].
pub const READY_HEADER: &str = "icbd-ready";

/// How much of a version is on a node; each has what the one before has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Readiness {
    /// All that boots are known to read.
    Boot,
    /// Every block.
    Complete,
    /// A read-only snapshot, verified.
    Sealed,
}

/// A word that is no readiness.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no readiness; write boot, complete or sealed")]
pub struct ReadinessError(String);

/// `SERIAL:READINESS …`, in order of the serials and with single spaces between them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadyReport {
    pub versions: Vec<(Serial, Readiness)>,
}

/// Text that is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a report of what is ready is at most {} of SERIAL:READINESS in order", ReadyReport::VERSIONS_MAX)]
pub struct ReadyReportError;

impl Readiness {
    const ALL: [Readiness; 3] = [Readiness::Boot, Readiness::Complete, Readiness::Sealed];

    pub fn as_str(self) -> &'static str {
        match self {
            Readiness::Boot => "boot",
            Readiness::Complete => "complete",
            Readiness::Sealed => "sealed",
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Readiness {
    type Err = ReadinessError;

    fn from_str(text: &str) -> Result<Readiness, ReadinessError> {
        let known = Readiness::ALL.into_iter().find(|readiness| readiness.as_str() == text);
        known.ok_or_else(|| ReadinessError(text.chars().take(40).collect()))
    }
}

impl ReadinessError {
    /// The same word will never be one.
    pub fn is_permanent(&self) -> bool {
        true
    }
}

impl ReadyReportError {
    /// The same text will never be a report.
    pub fn is_permanent(&self) -> bool {
        true
    }
}

impl ReadyReport {
    /// Versions in one report: three kilobytes of header. Of more the newest are told.
    pub const VERSIONS_MAX: usize = 128;

    /// Of versions in any order.
    pub fn new(versions: impl IntoIterator<Item = (Serial, Readiness)>) -> ReadyReport {
        let mut versions: Vec<_> = versions.into_iter().collect();
        versions.sort_unstable();
        versions.drain(..versions.len().saturating_sub(ReadyReport::VERSIONS_MAX));
        ReadyReport { versions }
    }
}

impl fmt::Display for ReadyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (serial, readiness)) in self.versions.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{serial}:{readiness}")?;
        }
        Ok(())
    }
}

impl FromStr for ReadyReport {
    type Err = ReadyReportError;

    fn from_str(text: &str) -> Result<ReadyReport, ReadyReportError> {
        let parts = text.split(' ').filter(|_| !text.is_empty()).take(ReadyReport::VERSIONS_MAX + 1);
        let versions = parts.map(|part| {
            let (serial, readiness) = part.split_once(':')?;
            Some((Serial::new(serial.parse().ok()?)?, readiness.parse().ok()?))
        });
        let report = ReadyReport { versions: versions.collect::<Option<_>>().ok_or(ReadyReportError)? };
        let is_sorted = report.versions.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let fits = is_sorted && report.versions.len() <= ReadyReport::VERSIONS_MAX && report.to_string() == text;
        if fits { Ok(report) } else { Err(ReadyReportError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_one_spelling() {
        let serial = |serial: u64| Serial::new(serial).unwrap();
        let all = (1..=200).map(|at| (serial(at), Readiness::ALL[at as usize % 3]));
        for count in [0, 1, 128, 200] {
            let report = ReadyReport::new(all.clone().take(count));
            assert_eq!(report.to_string().parse(), Ok(report));
        }
        let newest = ReadyReport::new(all).versions;
        assert_eq!((newest.len(), newest[0].0), (128, serial(73)));
        for text in [" ", "5", "5:ready", "0:boot", "5:boot ", "5:boot 4:boot", "5:boot 5:sealed", "+5:boot"] {
            assert!(text.parse::<ReadyReport>().is_err(), "{text:?}");
        }
        assert!(Readiness::Boot < Readiness::Complete && Readiness::Complete < Readiness::Sealed);
        assert_eq!("sealed".parse(), Ok(Readiness::Sealed));
    }
}
