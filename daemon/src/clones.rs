//! Clones as they travel between command and cache server.

use std::fmt;

use icbd_image::{ClientName, ImageRef, Timestamp, VersionId};
use serde::{Deserialize, Serialize};

use crate::exports::SessionReport;
use crate::output::{bytes, table, time};

/// Which clone is meant, and what is to be done with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CloneSpec {
    pub client: ClientName,
    /// Without a number, the only one of the image that the client has.
    pub version: ImageRef,
    pub change: CloneChange,
    #[serde(default)]
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CloneChange {
    Reset,
    /// And what clone.hook made.
    ResetAll,
    Keep,
    LetGo,
    Remove,
}

/// How clones are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClonesReport {
    pub clones: Vec<CloneReport>,
    pub written_bytes: u64,
    /// What they may take.
    pub reserve_bytes: u64,
    /// What is wrong.
    pub troubles: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CloneReport {
    pub version: VersionId,
    pub client: ClientName,
    /// Of the disk; what was not written takes nothing.
    pub written_bytes: u64,
    /// The same of what clone.hook made, which a reset leaves; absent where it made nothing.
    #[serde(default)]
    pub personal_bytes: Option<u64>,
    /// Never reset.
    pub kept: bool,
    /// It is to become a version, and is what its workstation boots until then.
    #[serde(default)]
    pub edited: bool,
    /// When it was made or reset.
    pub since: Timestamp,
    pub sessions: Vec<SessionReport>,
}

/// The command, as it is written in the audit log.
impl fmt::Display for CloneSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, option) = match self.change {
            CloneChange::Reset => ("reset", ""),
            CloneChange::ResetAll => ("reset", " --personal"),
            CloneChange::Keep => ("keep", ""),
            CloneChange::LetGo => ("keep", " --no"),
            CloneChange::Remove => ("remove", ""),
        };
        write!(f, "clone {verb} {} {}{option}", self.client, self.version)
    }
}

impl ClonesReport {
    pub(crate) fn words(&self) -> String {
        let mut lines = Vec::new();
        if self.clones.is_empty() {
            lines.push("there is no clone; one is made when a workstation of an export with --clone boots".to_owned());
        } else {
            let rows = self.clones.iter().map(|clone| {
                let sessions: Vec<String> = clone.sessions.iter().map(SessionReport::words).collect();
                let session = if sessions.is_empty() { "-".to_owned() } else { sessions.join(", ") };
                let kept = match (clone.edited, clone.kept) {
                    (true, _) => "edited",
                    (false, true) => "kept",
                    (false, false) => "reset at boot",
                };
                let (version, client) = (clone.version.to_string(), clone.client.to_string());
                let personal = clone.personal_bytes.map_or_else(|| "-".to_owned(), bytes);
                let written = bytes(clone.written_bytes);
                vec![version, client, written, personal, time(clone.since), kept.to_owned(), session]
            });
            let rows: Vec<_> = rows.collect();
            lines.push(table(&["IMAGE@N", "CLIENT", "WRITTEN", "PERSONAL", "SINCE", "FATE", "IN USE BY"], rows));
        }
        lines.push(format!("clones take {} of {}", bytes(self.written_bytes), bytes(self.reserve_bytes)));
        lines.extend(self.troubles.iter().map(|trouble| format!("! {trouble}")));
        lines.join("\n")
    }
}
