//! Where a version stands in its life cycle.

use std::fmt;

/// The states a version goes through, left to right (the thesis' names in parentheses).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionState {
    /// Published, not yet announced to users (Not Published).
    Ready,
    /// What `current`, menus and the bare image name mean (Deployed).
    Deployed,
    /// Superseded; stays served while anybody may use it (Marked for Decommission).
    Retiring,
    /// Out of service; removed or kept in cold storage (Decommission).
    Archived,
}

impl fmt::Display for VersionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VersionState::Ready => "ready",
            VersionState::Deployed => "deployed",
            VersionState::Retiring => "retiring",
            VersionState::Archived => "archived",
        })
    }
}
