//! What `status` tells: the daemons' side fills it in, the command prints it. Its keys are stable.

mod show;
#[cfg(test)]
pub(crate) mod testing;

use std::net::SocketAddr;
use std::path::PathBuf;

use icbd_image::{RepositoryId, Timestamp, VersionId, VersionNumber, VersionState};
use serde::{Deserialize, Serialize};

use crate::edits::EditReport;
use crate::moves::PlanReport;
pub(crate) use show::show;

/// How a daemon is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub(crate) enum Report {
    Master(MasterReport),
    Cache(CacheReport),
}

/// What is said of every daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// The machine's.
    pub name: String,
    pub icbd: String,
    pub pid: u32,
    pub uptime_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MasterReport {
    #[serde(flatten)]
    pub process: Process,
    pub repository: RepositoryId,
    pub path: PathBuf,
    pub listen: Vec<SocketAddr>,
    /// Whether what is served there is encrypted.
    #[serde(default)]
    pub tls: bool,
    pub images: usize,
    pub versions: usize,
    /// What is to be deployed, the next one first; and what should have been.
    #[serde(default)]
    pub plans: Vec<PlanReport>,
    /// Working copies.
    #[serde(default)]
    pub editing: Vec<EditReport>,
    pub operations: Vec<OperationReport>,
    pub sent: SentReport,
    /// `None` where nothing is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<PackedReport>,
    /// The repository's file system, once it was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskReport>,
    pub warnings: Vec<String>,
}

/// A file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskReport {
    pub file_system: String,
    pub used_bytes: u64,
    pub size_bytes: u64,
    /// What may still be written.
    pub free_bytes: u64,
    pub is_read_only: bool,
}

/// What is packed before anybody fetches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackedReport {
    pub bytes: u64,
    pub bytes_max: u64,
    /// Whether all that is published was looked at.
    pub is_complete: bool,
}

/// Something long that runs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OperationReport {
    pub id: u64,
    pub what: String,
    pub user: String,
    /// Of the command that asked for it.
    pub pid: i32,
    pub seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SentReport {
    pub requests: u64,
    /// Answers to block requests only.
    pub blocks: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CacheReport {
    #[serde(flatten)]
    pub process: Process,
    /// Unknown until a master was heard for the first time.
    pub repository: Option<RepositoryId>,
    /// Where it serves over TCP, if anywhere.
    pub listen: Vec<SocketAddr>,
    pub sources: Vec<SourceReport>,
    pub store: StoreReport,
    pub mount: MountReport,
    pub versions: Vec<VersionReport>,
    /// Which images were rolled back here, whatever their master deploys.
    #[serde(default)]
    pub local: Vec<LocalReport>,
    pub waiting: Vec<WaitingReport>,
    /// Reads that were given up since the start: programs got an I/O error.
    #[serde(default)]
    pub failed_reads: u64,
    /// The last of them, while it is worth a word.
    #[serde(default)]
    pub failed_lately: Option<String>,
    pub warnings: Vec<String>,
    /// Bytes of blocks fetched since the start, decoded.
    pub fetched_bytes: u64,
    /// Bytes of blocks copied from other versions here since the start.
    pub reused_bytes: u64,
    /// Memory that blocks in flight take now.
    pub in_flight_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SourceReport {
    pub url: String,
    /// `null` until it was asked for the first time.
    pub online: Option<bool>,
    /// Seconds since it has been so.
    pub since_seconds: u64,
    pub error: Option<String>,
    /// Encoded, as they travelled.
    pub bytes_received: u64,
    pub requests: u64,
    pub in_flight: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoreReport {
    pub path: PathBuf,
    pub file_system: String,
    pub used_bytes: u64,
    pub size_bytes: u64,
    /// `ok`, `full` or `suspect`.
    pub state: String,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MountReport {
    pub path: PathBuf,
    pub mounted: bool,
    /// Whether it was taken over from an earlier daemon.
    pub adopted: bool,
    /// Whether complete files are read past the daemon.
    pub passthrough: bool,
    /// Those that programs hold, by how they read.
    pub cached_handles: u64,
    pub passthrough_handles: u64,
    /// Requests that wait for a block, a head or the disk.
    pub waiting_requests: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VersionReport {
    pub version: VersionId,
    pub state: VersionState,
    pub blocks: u64,
    pub resident_blocks: u64,
    pub durable_blocks: u64,
    pub bytes: u64,
    pub resident_bytes: u64,
    pub durable_bytes: u64,
    pub complete: bool,
    /// Seconds since 1970.
    pub complete_since: Option<i64>,
    /// Since when all that boots are known to read is here, of one that is not complete.
    #[serde(default)]
    pub boot_set_since: Option<i64>,
    /// The same of being sealed.
    pub sealed_since: Option<i64>,
    /// Who pinned it, if it is pinned.
    #[serde(default)]
    pub pinned_by: Option<String>,
    /// Whether a prefetch job is at it.
    pub filling: bool,
    /// Whether it was deployed before the version that is now.
    pub fallback: bool,
    /// Files of at least 1 MiB that programs have open; a file counts once for each open.
    pub open_handles: u64,
    /// Bytes of its blocks that came from sources since midnight, decoded.
    pub fetched_today_bytes: u64,
}

/// An image that was rolled back on a cache server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LocalReport {
    /// What the image's bare name means there.
    pub version: VersionId,
    pub by: String,
    pub since: Timestamp,
    /// What the master deploys.
    pub deployed: Option<VersionNumber>,
}

/// A read that has waited for more than a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct WaitingReport {
    pub version: VersionId,
    pub file: String,
    /// `null` while its manifest is waited for.
    pub block: Option<u64>,
    pub seconds: u64,
    pub reason: Option<String>,
}

impl VersionReport {
    /// Whether it is in use or may soon be, or anything of it is here.
    pub(crate) fn is_of_interest(&self) -> bool {
        self.state == VersionState::Deployed
            || self.fallback
            || self.open_handles > 0
            || self.resident_bytes > 0
            || self.fetched_today_bytes > 0
    }
}

impl Process {
    /// This process, which started at `started`.
    pub(crate) fn this(started: std::time::Instant) -> Process {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Process {
            name: name.trim().to_owned(),
            icbd: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: started.elapsed().as_secs(),
        }
    }
}
