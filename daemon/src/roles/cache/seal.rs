//! Sealing versions, by word and by themselves, and reading everything again.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use icbd_cache::{CacheError, Order, Pace, VerifyProgress, VersionStatus, What};
use icbd_image::{Serial, Timestamp, VersionId};
use tokio_util::sync::CancellationToken;

use super::prefetch;
use super::state::CacheServer;
use crate::audit::Change;
use crate::control::{Event, Peer, events::Teller};
use crate::failure::{Exit, Failure};
use crate::output::{Progress, counted};
use crate::roles::every::Every;
use crate::scrubs::{ScrubResult, ScrubSpec, SealResult, SealSpec};
use crate::settings::SealWhen;

/// So often it is looked what is complete.
const INTERVAL: Duration = Duration::from_secs(20);
/// What could not be sealed is tried again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// A version is hot of which programs were seen to have files open within this.
const HOT: Duration = Duration::from_secs(86_400);
/// How fast a version is verified that nobody waits for: readers need the disk, too.
const UNHURRIED: Pace = Pace { bytes_per_second: NonZeroU64::new(100 << 20) };

/// Seals what is complete, again and again until `stop`.
pub(super) async fn watch(server: Arc<CacheServer>, stop: CancellationToken) {
    let (mut every, mut seen) = (Every::new(INTERVAL, stop), Seen::default());
    while every.turn(seal_complete(&server, &mut seen)).await.is_some() {}
}

/// What earlier looks saw, and when last.
#[derive(Default)]
struct Seen {
    open: HashMap<Serial, Instant>,
    failed: HashMap<Serial, Instant>,
    /// The store's disk can seal nothing, and does not learn it.
    is_hopeless: bool,
}

async fn seal_complete(server: &CacheServer, Seen { open, failed, is_hopeless }: &mut Seen) {
    open.extend(server.open_by_version().into_keys().map(|serial| (serial, Instant::now())));
    open.retain(|_, when| when.elapsed() < HOT);
    failed.retain(|_, when| when.elapsed() < AGAIN_AFTER);
    let when = server.seal_when();
    if when == SealWhen::Never || *is_hopeless {
        return;
    }
    let due = server.cache.status().versions.into_iter().filter(|version| {
        let is_due = version.complete && version.sealed_since.is_none() && !version.filling;
        is_due && (when == SealWhen::Complete || open.contains_key(&version.serial))
    });
    for version in due.filter(|version| !failed.contains_key(&version.serial)).collect::<Vec<_>>() {
        match server.cache.seal(&version.id, UNHURRIED, |_| {}).await {
            Ok(report) => tracing::info!(version = %version.id, blocks = report.blocks_checked, "sealed"),
            Err(CacheError::Closed) => return,
            Err(error @ CacheError::CannotShare(_)) => {
                tracing::info!(%error, "versions are not sealed here");
                *is_hopeless = true;
                return;
            }
            Err(error) => {
                tracing::info!(version = %version.id, %error, "not sealed");
                failed.insert(version.serial, Instant::now());
            }
        }
    }
}

/// Completes a version, verifies it and seals it, with both ends of it in the audit log.
pub(super) async fn seal(
    server: &Arc<CacheServer>,
    peer: &Peer,
    spec: SealSpec,
    teller: &Teller,
) -> anyhow::Result<SealResult> {
    let version = server.find_version(&spec.version)?.version;
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    server.audit.both_ends(peer, change, act(server, &version, teller)).await
}

async fn act(server: &Arc<CacheServer>, version: &VersionId, teller: &Teller) -> anyhow::Result<SealResult> {
    let status = server.cache.status();
    if !status.versions.iter().any(|held| held.id == *version && held.complete) {
        let order = Order::of_version(version, What::All);
        let order = server.cache.prefetch_add(order).await.map_err(Failure::from)?;
        prefetch::watch(server, order, teller).await?;
        server.cache.flush().await;
    }
    let report = server.cache.seal(version, Pace::default(), telling(teller, "verifying")).await;
    let report = report.map_err(Failure::from)?;
    Ok(SealResult {
        version: report.version,
        since: Timestamp::from(report.since),
        was_sealed: report.was_sealed,
        blocks: report.blocks_checked,
        mended: report.mended,
        seconds: report.elapsed.as_secs_f64(),
        freezing_seconds: report.freezing.as_secs_f64(),
    })
}

fn telling(teller: &Teller, what: &str) -> impl FnMut(VerifyProgress) + Send + use<> {
    let (teller, what) = (teller.clone(), what.to_owned());
    move |VerifyProgress { done_bytes, total_bytes }| {
        teller.tell(Event::Progress(Progress { what: what.clone(), done_bytes, total_bytes }));
    }
}

/// Reads everything that is here again, and mends what is spoilt.
pub(super) async fn scrub(server: &CacheServer, spec: &ScrubSpec, teller: &Teller) -> anyhow::Result<ScrubResult> {
    if !spec.from.is_empty() {
        let message = "--from is for a master; a cache server mends from its sources (--master, [[source]])";
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let (started, pace) = (Instant::now(), Pace { bytes_per_second: spec.bytes_per_second });
    let (status, lost) = (server.cache.status(), server.cache.lost());
    let is_held = |version: &VersionStatus| version.residency.resident_bytes > 0 || lost.contains(&version.id);
    let mut held: Vec<VersionId> =
        status.versions.iter().filter(|version| is_held(version)).map(|version| version.id.clone()).collect();
    held.extend(lost.iter().filter(|lost| !status.versions.iter().any(|version| version.id == **lost)).cloned());
    let mut result = ScrubResult::default();
    for version in held {
        let tell = telling(teller, &format!("reading {version}"));
        let (report, mended) = match server.cache.scrub(&version, pace, tell).await {
            // What is withheld is read by nobody.
            Err(CacheError::Untrusted { .. } | CacheError::UnknownVersion(_)) => continue,
            scrubbed => scrubbed.map_err(Failure::from)?,
        };
        let faults = report.bad.iter().map(|bad| format!("{}:{}, block {}", version, bad.path, bad.block));
        let lost = report.lost_blocks;
        let taken = (lost > 0)
            .then(|| format!("{}: {} of it were here until its tree was taken away", version, counted(lost, "block")));
        result.add(report.blocks_checked, report.bad.len() as u64 + lost, mended, taken.into_iter().chain(faults));
    }
    result.seconds = started.elapsed().as_secs_f64();
    Ok(result)
}
