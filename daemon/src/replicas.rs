//! Replicating a version from another master, as it travels between command and daemon.

use std::fmt;

use icbd_image::{ImageRef, Root, VersionId};
use icbd_wire::Codec;
use serde::{Deserialize, Serialize};

use crate::output::bytes;

/// What is to be fetched from where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReplicateSpec {
    pub version: ImageRef,
    /// The other master.
    pub from: String,
    /// How blocks travel; without it, as the measured speed suggests.
    pub codec: Option<Codec>,
}

/// A version that is here now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReplicateResult {
    pub version: VersionId,
    pub root: Root,
    pub data_bytes: u64,
    /// Of its blocks, those that were not here.
    pub fetched_bytes: u64,
    /// As they travelled.
    pub received_bytes: u64,
    pub seconds: f64,
}

/// The command, as it is written in the audit log.
impl fmt::Display for ReplicateSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image replicate {} --from {}", self.version, self.from)
    }
}

impl ReplicateResult {
    pub(crate) fn words(&self) -> String {
        let ReplicateResult { version, data_bytes, fetched_bytes, received_bytes, seconds, .. } = self;
        let rate = (*received_bytes as f64 / seconds.max(0.001)) as u64;
        format!(
            "{version}: {} of {} were not here, {} over the line in {seconds:.1} s ({}/s); it is ready",
            bytes(*fetched_bytes),
            bytes(*data_bytes),
            bytes(*received_bytes),
            bytes(rate)
        )
    }
}
