//! `image verify`, on a master and on a cache: what was read, and what of it is not as it was published.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use icbd_image::{Root, Trust, VersionId};
use icbd_master::Repository;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::output::Progress;

/// The body of requests that name a version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VersionBody<T> {
    pub version: T,
}

/// What a verification found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VerifyResult {
    pub version: VersionId,
    pub root: Root,
    /// Blocks that were compared with the manifest.
    pub blocks: u64,
    /// The trusted key that signed the version, if one did.
    pub signer: Option<String>,
    pub seconds: f64,
    /// What is wrong; the first of it.
    pub faults: Vec<String>,
    pub fault_count: u64,
}

/// So many faults are named; all are counted.
pub(crate) const FAULTS_SHOWN_MAX: usize = 100;

/// Re-reads a version of a master's repository. Blocks; `cancel` ends it soon.
pub(crate) fn on_master(
    repository: &Repository,
    version: &VersionId,
    trust: &Trust,
    progress: &(dyn Fn(Progress) + Sync),
    cancel: &AtomicBool,
) -> anyhow::Result<VerifyResult> {
    let started = Instant::now();
    let tell = |now: icbd_master::VerifyProgress| {
        progress(Progress { what: "verifying".into(), done_bytes: now.done_bytes, total_bytes: now.all_bytes });
    };
    let report = repository.verify(version, trust, &tell, cancel).map_err(Failure::from)?;
    Ok(VerifyResult {
        version: report.version,
        root: report.root,
        blocks: report.blocks,
        signer: report.signer.map(|key| key.to_string()),
        seconds: started.elapsed().as_secs_f64(),
        faults: report.faults.iter().take(FAULTS_SHOWN_MAX).map(ToString::to_string).collect(),
        fault_count: report.fault_count,
    })
}
