//! Working copies and pruning, as they travel between command and master.

use std::path::PathBuf;

use icbd_image::{ImageName, Timestamp, VersionId, VersionState};
use icbd_master::{Fate, NodeRecord, Pruning, Verdict};
use serde::{Deserialize, Serialize};

use crate::output::{bytes, plain, table};

/// Whose working copy is begun or thrown away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EditSpec {
    pub image: ImageName,
    #[serde(default)]
    pub why: String,
}

/// What a working copy is to become.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SaveSpec {
    pub image: ImageName,
    pub note: String,
    /// The file of the key to sign with, absolute; the daemon's own key if there is none.
    pub sign: Option<PathBuf>,
}

/// A working copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EditReport {
    pub image: ImageName,
    pub path: PathBuf,
    pub by: String,
    pub since: Timestamp,
    /// What it began as.
    pub of: Option<VersionId>,
}

/// What is to be pruned.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PruneSpec {
    /// Without it, nothing is done.
    pub yes: bool,
    /// Nodes that count as using nothing.
    pub force: Vec<String>,
    #[serde(default)]
    pub why: String,
}

/// How a node is to be forgotten.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReleaseSpec {
    /// Also one that was heard of just now.
    pub force: bool,
    #[serde(default)]
    pub why: String,
}

/// What becomes of each version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PruneReport {
    pub done: bool,
    pub freed_bytes: u64,
    pub versions: Vec<PrunedReport>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PrunedReport {
    pub version: VersionId,
    pub state: VersionState,
    /// `stays`, `archived`, `removed` or `waits`.
    pub fate: String,
    pub reason: String,
    pub own_bytes: u64,
}

/// A node, as the master knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    pub name: String,
    pub id: String,
    pub address: String,
    pub seen: Timestamp,
    /// Whether it was silent for so long that nothing can be said of it.
    pub unknown: bool,
    pub uses: Vec<UseReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UseReport {
    pub version: VersionId,
    /// Files that programs have open there.
    pub clients: u32,
}

impl EditReport {
    /// For the status.
    pub(crate) fn words(&self) -> String {
        let EditReport { image, path, by, since, .. } = self;
        format!("{image} is being edited by {by} since {since}: {}", path.display())
    }
}

impl PruneReport {
    pub(crate) fn new(pruning: Pruning, done: bool) -> PruneReport {
        let version = |verdict: Verdict| PrunedReport {
            fate: match verdict.fate {
                Fate::Stays => "stays",
                Fate::Archived => "archived",
                Fate::Removed => "removed",
                Fate::Waits => "waits",
            }
            .to_owned(),
            version: verdict.version,
            state: verdict.state,
            reason: verdict.reason,
            own_bytes: verdict.own_bytes,
        };
        PruneReport {
            done,
            freed_bytes: pruning.freed_bytes,
            versions: pruning.verdicts.into_iter().map(version).collect(),
        }
    }

    pub(crate) fn words(&self) -> String {
        let row = |version: &PrunedReport| {
            let PrunedReport { version, state, fate, reason, own_bytes } = version;
            vec![version.to_string(), state.to_string(), bytes(*own_bytes), fate.clone(), plain(reason)]
        };
        let list = table(&["IMAGE@N", "STATE", ">OWN", "FATE", "WHY"], self.versions.iter().map(row));
        let freed = bytes(self.freed_bytes);
        match self.done {
            true => format!("{list}\nfreed {freed}, or soon will have"),
            false => format!("{list}\nwould free {freed}; nothing was done: --yes does it"),
        }
    }
}

impl NodeReport {
    pub(crate) fn list(nodes: &[NodeReport]) -> String {
        let row = |node: &NodeReport| {
            let one = |of: &UseReport| format!("{} ({})", of.version, of.clients);
            let uses = node.uses.iter().map(one).collect::<Vec<_>>().join(", ");
            let state = if node.unknown { "unknown" } else { "up" };
            let seen = node.seen.to_string();
            vec![node.name.clone(), state.to_owned(), node.address.clone(), seen, uses, node.id.clone()]
        };
        table(&["NODE", "STATE", "ADDRESS", "LAST SEEN", "USES (OPEN FILES)", "ID"], nodes.iter().map(row))
    }

    /// A node whose uses `named` gives names.
    pub(crate) fn new(
        node: &NodeRecord,
        now: Timestamp,
        named: impl Fn(icbd_image::Serial) -> Option<VersionId>,
    ) -> NodeReport {
        let used = |(serial, clients): (&icbd_image::Serial, &u32)| {
            named(*serial).map(|version| UseReport { version, clients: *clients })
        };
        NodeReport {
            name: node.name.clone(),
            id: node.id.to_string(),
            address: node.address.clone(),
            seen: node.seen,
            unknown: node.is_unknown(now),
            uses: node.uses.iter().filter_map(used).collect(),
        }
    }
}
