//! Who a cache is and which versions it uses: what it tells its master with each poll of the listing.
//!
//! A header of a request, so that TCP stays read-only; short, and everything in it is checked: who sends nonsense is
//! as one who sends nothing. Of a version that is no longer in it the cache lets go; one that is silent does not.

use std::fmt;
use std::str::FromStr;

use icbd_image::{NodeUuid, Serial};

/// The request header that carries a [`NodeReport`].
pub const NODE_HEADER: &str = "icbd-node";

/// `UUID NAME [SERIAL:CLIENTS …] [+]`, with single spaces between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    pub node: NodeUuid,
    /// Of the machine, for people: 1 to 64 letters, digits, `.`, `-` and `_`.
    pub name: String,
    /// Versions in use, in order, and how many programs have each open.
    pub uses: Vec<(Serial, u32)>,
    /// Whether these are all of them: nothing is let go of by a report that is not whole, which ends with `+`.
    pub is_whole: bool,
}

/// Text that is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a node's report is its UUID, its name and at most {} versions in order, with single spaces between them",
    NodeReport::USES_MAX
)]
pub struct NodeReportError;

impl NodeReportError {
    /// The same text will never be a report.
    pub fn is_permanent(&self) -> bool {
        true
    }
}

impl NodeReport {
    /// Versions in one report: two kilobytes of header.
    pub const USES_MAX: usize = 128;
    const NAME_BYTES_MAX: usize = 64;

    /// A machine's name as it may stand in a report.
    pub fn name_of(machine: &str) -> String {
        let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        let name: String = machine.chars().filter(|c| fits(*c)).take(NodeReport::NAME_BYTES_MAX).collect();
        if name.is_empty() { "unnamed".to_owned() } else { name }
    }
}

impl fmt::Display for NodeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.node, self.name)?;
        self.uses
            .iter()
            .take(NodeReport::USES_MAX)
            .try_for_each(|(serial, clients)| write!(f, " {serial}:{clients}"))?;
        if self.is_whole && self.uses.len() <= NodeReport::USES_MAX { Ok(()) } else { f.write_str(" +") }
    }
}

impl FromStr for NodeReport {
    type Err = NodeReportError;

    fn from_str(text: &str) -> Result<NodeReport, NodeReportError> {
        let (rest, is_whole) = text.strip_suffix(" +").map_or((text, true), |rest| (rest, false));
        let mut parts = rest.split(' ');
        let node = parts.next().and_then(|node| node.parse().ok()).ok_or(NodeReportError)?;
        let name = parts.next().filter(|name| NodeReport::name_of(name) == *name).ok_or(NodeReportError)?.to_owned();
        // One more than there may be, so that too many are noticed and no more are read.
        let uses = parts.take(NodeReport::USES_MAX + 1).map(|part| {
            let (serial, clients) = part.split_once(':')?;
            Some((Serial::new(serial.parse().ok()?)?, clients.parse().ok()?))
        });
        let uses = uses.collect::<Option<Vec<(Serial, u32)>>>().ok_or(NodeReportError)?;
        let is_sorted = uses.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let report = NodeReport { node, name, uses, is_whole };
        let fits = is_sorted && report.uses.len() <= NodeReport::USES_MAX && report.to_string() == text;
        if fits { Ok(report) } else { Err(NodeReportError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_one_spelling() {
        let serial = |serial: u64| Serial::new(serial).unwrap();
        let report = |uses: u64, is_whole| NodeReport {
            node: NodeUuid::from_random([0xab; 16]),
            name: "cache-204".to_owned(),
            uses: (1..=uses).map(|at| (serial(at * 1000), at as u32 % 3)).collect(),
            is_whole,
        };
        for (uses, is_whole) in [(0, true), (0, false), (2, true), (128, true), (128, false)] {
            let report = report(uses, is_whole);
            assert_eq!(report.to_string().parse(), Ok(report));
        }
        // What does not fit is left out, and said to be.
        let cut: NodeReport = report(129, true).to_string().parse().unwrap();
        assert_eq!((cut.uses.len(), cut.is_whole), (128, false));
        let id = NodeUuid::from_random([0xab; 16]);
        for text in [
            String::new(),
            id.to_string(),
            format!("{id} "),
            format!("{id} a/b"),
            format!("{id} {}", "x".repeat(65)),
            format!("{id}  cache"),
            format!("{id} cache 5"),
            format!("{id} cache 5:-1"),
            format!("{id} cache 0:1"),
            format!("{id} cache 5:1 4:1"),
            format!("{id} cache 5:1 5:1"),
            format!("{id} cache +5:1"),
            format!("{} cache", id.to_string().to_uppercase()),
        ] {
            assert_eq!(text.parse::<NodeReport>(), Err(NodeReportError), "{text:?}");
        }
        assert_eq!(NodeReport::name_of("labör 1/x"), "labr1x");
        assert_eq!(NodeReport::name_of("…"), "unnamed");
    }
}
