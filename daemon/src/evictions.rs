//! Making room on a cache server and pinning what shall stay, as they travel between command and daemon.

use std::fmt;

use icbd_image::{Timestamp, VersionId};
use serde::{Deserialize, Serialize};

use crate::output::{bytes, plain, table, time};

/// What is to go.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EvictSpec {
    /// All that may go, if none is named.
    pub versions: Vec<VersionId>,
    /// Without it, nothing is done.
    pub yes: bool,
    #[serde(default)]
    pub why: String,
}

/// What is held here, and what became of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EvictReport {
    pub done: bool,
    /// As the file system says, which others write to as well.
    pub freed_bytes: u64,
    pub versions: Vec<EvictedReport>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EvictedReport {
    pub version: VersionId,
    pub resident_bytes: u64,
    /// When it was read or fetched last, to ten minutes.
    pub used: Option<Timestamp>,
    /// `goes`, `went` or `stays`.
    pub fate: Fate,
    /// Why it stays.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fate {
    Goes,
    Went,
    Stays,
}

/// What is to be kept here, or no longer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PinSpec {
    pub version: VersionId,
    /// Without it, until it is unpinned.
    pub until: Option<Timestamp>,
    /// Take the pin away.
    pub remove: bool,
    #[serde(default)]
    pub why: String,
}

/// A version's pin, or that it has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PinReport {
    pub version: VersionId,
    pub pinned: bool,
    pub by: String,
    pub until: Option<Timestamp>,
}

/// The command, as it is written in the audit log.
impl fmt::Display for EvictSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("store evict")?;
        self.versions.iter().try_for_each(|version| write!(f, " {version}"))
    }
}

impl fmt::Display for PinSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.remove, self.until) {
            (true, _) => write!(f, "image unpin {}", self.version),
            (false, None) => write!(f, "image pin {}", self.version),
            (false, Some(until)) => write!(f, "image pin {} --until {until}", self.version),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fate::Goes => "goes",
            Fate::Went => "went",
            Fate::Stays => "stays",
        })
    }
}

impl EvictReport {
    pub(crate) fn words(&self) -> String {
        let row = |version: &EvictedReport| {
            let used = version.used.map_or("-".to_owned(), time);
            let why = version.reason.as_deref().map(plain).unwrap_or_default();
            let EvictedReport { version, resident_bytes, fate, .. } = version;
            vec![version.to_string(), bytes(*resident_bytes), used, fate.to_string(), why]
        };
        let list = match self.versions.is_empty() {
            true => "nothing is held here".to_owned(),
            false => table(&["IMAGE@N", ">HERE", "LAST USED", "FATE", "WHY"], self.versions.iter().map(row)),
        };
        let goes = self.versions.iter().any(|version| version.fate == Fate::Goes);
        match self.done {
            true => format!("{list}\nfreed {}", bytes(self.freed_bytes)),
            false if goes => format!("{list}\nnothing was done: --yes does it"),
            false => list,
        }
    }
}

impl PinReport {
    pub(crate) fn words(&self) -> String {
        let PinReport { version, pinned, until, .. } = self;
        match (pinned, until) {
            (false, _) => format!("{version} is not pinned any more"),
            (true, None) => format!("{version} stays here until it is unpinned"),
            (true, Some(until)) => format!("{version} stays here until {}", time(*until)),
        }
    }
}
