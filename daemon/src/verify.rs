//! `image verify`, on a master and on a cache: what was read, and what of it is not as it was published.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
    /// Blocks that the version has, if they are more: the others are not here.
    #[serde(default)]
    pub all_blocks: Option<u64>,
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
        all_blocks: None,
        signer: report.signer.map(|key| key.to_string()),
        seconds: started.elapsed().as_secs_f64(),
        faults: report.faults.iter().take(FAULTS_SHOWN_MAX).map(ToString::to_string).collect(),
        fault_count: report.fault_count,
    })
}

/// Tells how far the reading of a version is, and holds it back to a rate.
pub(crate) fn paced<'a>(
    version: &'a VersionId,
    bytes_per_second: Option<NonZeroU64>,
    tell: &'a (dyn Fn(Progress) + Sync),
    cancel: &'a AtomicBool,
) -> impl Fn(icbd_master::VerifyProgress) + Sync + 'a {
    let begun = Instant::now();
    move |now| {
        let what = format!("reading {version}");
        tell(Progress { what, done_bytes: now.done_bytes, total_bytes: now.all_bytes });
        if let Some(rate) = bytes_per_second {
            let due = Duration::from_secs_f64(now.done_bytes as f64 / rate.get() as f64);
            hold_back(due.saturating_sub(begun.elapsed()), cancel);
        }
    }
}

/// Waits, and not much longer than until `cancel`.
fn hold_back(mut time: Duration, cancel: &AtomicBool) {
    const SLICE: Duration = Duration::from_millis(50);
    while !time.is_zero() && !cancel.load(Ordering::Relaxed) {
        std::thread::sleep(time.min(SLICE));
        time = time.saturating_sub(SLICE);
    }
}
