//! Prefetch jobs as they travel from the daemon and are shown.

use icbd_image::VersionId;
use serde::{Deserialize, Serialize};

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobReport {
    pub id: i64,
    pub version: VersionId,
    /// `queued`, `running`, `done` or `cancelled`.
    pub state: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
    pub bytes_per_second: u64,
    /// Why it does not get on, if it does not.
    pub trouble: Option<String>,
}
