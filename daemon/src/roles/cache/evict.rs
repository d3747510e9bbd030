//! Keeping room on the store's disk: when it gets short, what was used longest ago and nobody needs goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use icbd_cache::{CacheError, Holding, Pin, Room};
use icbd_image::{ImageRef, Serial, Timestamp, VersionId};
use tokio_util::sync::CancellationToken;

use super::state::CacheServer;
use crate::audit::Change;
use crate::control::Peer;
use crate::evictions::{EvictReport, EvictSpec, EvictedReport, Fate, PinReport, PinSpec};
use crate::failure::{Exit, Failure};
use crate::output;
use crate::roles::every::Every;

/// So often it is looked whether there is room.
const INTERVAL: Duration = Duration::from_secs(5);
/// Once room is made, a quarter more than must be: the next block must not begin it anew.
const MORE_SHARE: u64 = 4;
const MORE_MIN: u64 = 4 << 20;

/// Looks again and again until `stop`.
pub(super) async fn watch(server: Arc<CacheServer>, stop: CancellationToken) {
    let (mut every, mut is_short) = (Every::new(INTERVAL, stop), false);
    let clones = server.cache.clones();
    while let Some(made) = every.turn_or(clones.room_wanted(), look(&server)).await {
        clones.room_made();
        match made {
            Ok(enough) => {
                if !enough && !is_short {
                    tracing::warn!(
                        "the store's disk has less room than store.min_free says, and all that is held is needed: \
                         enlarge it, unpin or retire versions, or lower store.min_free; `icbd store evict` says what stays and why"
                    );
                }
                is_short = !enough;
            }
            Err(error) => tracing::warn!(%error, "room could not be made"),
        }
    }
}

async fn look(server: &CacheServer) -> Result<bool, CacheError> {
    // What they do not take yet is left free for them.
    server.cache.clones().fill().await?;
    make_room(server).await
}

/// Lets versions go until there is room; whether there is.
async fn make_room(server: &CacheServer) -> Result<bool, CacheError> {
    let Some(room) = server.cache.room().await?.filter(Room::is_short) else { return Ok(true) };
    let Room { free_bytes, reserve_bytes } = room;
    let wanted = reserve_bytes + (reserve_bytes / MORE_SHARE).max(MORE_MIN);
    // As long as nobody knows what is open, nothing is let go of.
    let Some(in_use) = server.in_use() else { return Ok(true) };
    for holding in server.cache.holdings(&in_use).into_iter().filter(|holding| holding.stays.is_none()) {
        tracing::info!(version = %holding.version, free_bytes, reserve_bytes, "room is short: this was used longest ago");
        // Asked again: somebody may have opened it.
        let Some(in_use) = server.in_use() else { return Ok(true) };
        match server.cache.let_go(&holding.version, &in_use).await {
            Ok(_) | Err(CacheError::Refused(_)) => {}
            Err(error) => tracing::warn!(version = %holding.version, %error, "cannot let go of what is held"),
        }
        if server.cache.room().await?.is_none_or(|room| room.free_bytes >= wanted) {
            return Ok(true);
        }
    }
    if server.in_use().is_some() {
        let freed = server.cache.thin(wanted).await?;
        if freed > 0 {
            tracing::info!(freed, "let go of what no boot reads of versions that are needed, but not complete");
        }
    }
    Ok(server.cache.room().await?.is_none_or(|room| !room.is_short()))
}

/// Says what would go, or has it go, with both ends of it in the audit log.
pub(super) async fn evict(server: Arc<CacheServer>, peer: Peer, spec: EvictSpec) -> anyhow::Result<EvictReport> {
    let holdings = server.cache.holdings(&known(&server)?);
    for version in &spec.versions {
        server.find_version(&meant(version))?;
    }
    let is_named = |holding: &Holding| spec.versions.is_empty() || spec.versions.contains(&holding.version);
    let named: Vec<Holding> = holdings.into_iter().filter(is_named).collect();
    let stays = named.iter().find_map(|holding| Some((holding, holding.stays.as_ref()?)));
    if let (false, Some((holding, why))) = (spec.versions.is_empty(), stays) {
        return Err(Failure::new(Exit::Refused, format!("{} stays: {why}", holding.version)).into());
    }
    if !spec.yes {
        let fate = |holding: &Holding| if holding.stays.is_none() { Fate::Goes } else { Fate::Stays };
        let versions = named.iter().map(|holding| report(holding, fate(holding))).collect();
        return Ok(EvictReport { done: false, freed_bytes: 0, versions });
    }
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    server.audit.begin_to_make_room(&peer, change)?;
    let done = act(&server, &named).await;
    server.audit.record(&peer, change, &done);
    done
}

async fn act(server: &CacheServer, named: &[Holding]) -> anyhow::Result<EvictReport> {
    let mut done = EvictReport { done: true, freed_bytes: 0, versions: Vec::new() };
    for holding in named {
        if holding.stays.is_some() {
            done.versions.push(report(holding, Fate::Stays));
            continue;
        }
        match server.cache.let_go(&holding.version, &known(server)?).await {
            Ok(freed) => {
                done.freed_bytes += freed;
                done.versions.push(report(holding, Fate::Went));
            }
            Err(CacheError::Refused(why)) => {
                done.versions.push(EvictedReport { reason: Some(why), ..report(holding, Fate::Stays) });
            }
            Err(error) => return Err(Failure::from(error).into()),
        }
    }
    Ok(done)
}

fn meant(version: &VersionId) -> ImageRef {
    ImageRef { image: version.image.clone(), number: Some(version.number) }
}

fn report(holding: &Holding, fate: Fate) -> EvictedReport {
    EvictedReport {
        version: holding.version.clone(),
        resident_bytes: holding.resident_bytes,
        used: holding.used.map(Timestamp::from),
        fate,
        reason: holding.stays.as_ref().map(ToString::to_string),
    }
}

/// What is open. As long as nobody knows, nothing may be let go of: after a restart programs read past the daemon what
/// they opened before.
fn known(server: &CacheServer) -> Result<BTreeMap<Serial, u64>, Failure> {
    let message = "the images are not mounted now, so what programs have open is not known; try again";
    server.in_use().ok_or_else(|| Failure::new(Exit::Refused, message))
}

/// Pins a version, or takes its pin away, with both ends of it in the audit log.
pub(super) async fn pin(server: Arc<CacheServer>, peer: Peer, spec: PinSpec) -> anyhow::Result<PinReport> {
    server.find_version(&meant(&spec.version))?;
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    server.audit.both_ends(&peer, change, act_on_pin(&server, &peer, &spec)).await
}

async fn act_on_pin(server: &CacheServer, peer: &Peer, spec: &PinSpec) -> anyhow::Result<PinReport> {
    let version = spec.version.clone();
    if spec.remove {
        let pin = server.cache.unpin(&version).await.map_err(Failure::from)?;
        return Ok(PinReport { version, pinned: false, by: pin.by, until: pin.until });
    }
    let pin = Pin { by: peer.user.clone(), since: output::now(), until: spec.until };
    server.cache.pin(&version, pin.clone()).await.map_err(Failure::from)?;
    Ok(PinReport { version, pinned: true, by: pin.by, until: pin.until })
}
