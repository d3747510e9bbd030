//! `image replicate` at a cache server: all of a version from a source that it has, as an order.

use std::time::Instant;

use icbd_cache::{Order, What};

use super::prefetch;
use super::state::CacheServer;
use crate::audit::Change;
use crate::control::{Peer, events::Teller};
use crate::failure::{Exit, Failure};
use crate::replicas::{ReplicateResult, ReplicateSpec, StreamKind};

/// Fetches what is not here of a version, with both ends of it in the audit log; the order goes on when its client leaves.
pub(super) async fn replicate(
    server: &CacheServer,
    peer: &Peer,
    spec: ReplicateSpec,
    teller: &Teller,
) -> anyhow::Result<ReplicateResult> {
    check(server, &spec)?;
    let what = spec.to_string();
    server.audit.both_ends(peer, Change::from(&what), act(server, spec, teller)).await
}

/// A cache server believes its own sources only, and what it asks them for is its own to decide.
fn check(server: &CacheServer, spec: &ReplicateSpec) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(Exit::Usage, message));
    if spec.via.is_some() || spec.stream == StreamKind::Btrfs || spec.compress.is_some() {
        return refuse(
            "this is a cache server: it fetches blocks straight from its sources, packed as [[source]] says; leave out \
             --via, --stream and --compress, or name a master's socket with --socket"
                .to_owned(),
        );
    }
    let sources: Vec<String> = server.sources.health().into_iter().map(|source| source.name).collect();
    let same = |source: &String| source.trim_end_matches('/') == spec.from.trim_end_matches('/');
    if !sources.iter().any(same) {
        let (from, sources) = (&spec.from, sources.join(", "));
        return refuse(format!("{from} is no source of this cache server ({sources}); add it as a [[source]]"));
    }
    Ok(())
}

async fn act(server: &CacheServer, spec: ReplicateSpec, teller: &Teller) -> anyhow::Result<ReplicateResult> {
    let (started, version) = (Instant::now(), server.find_version(&spec.version)?);
    let received = || server.sources.health().iter().map(|source| source.received_bytes).sum::<u64>();
    let before = received();
    let order =
        server.cache.prefetch_add(Order::of_version(&version.version, What::All)).await.map_err(Failure::from)?;
    let looked = prefetch::look(server, order).await?;
    let done = prefetch::watch(server, order, teller).await?;
    if !done.is_complete() {
        let message = format!("order {order} ended before all of {} was here: {}", version.version, done.says);
        return Err(Failure::new(Exit::Refused, message).into());
    }
    server.cache.flush().await;
    Ok(ReplicateResult {
        version: version.version,
        root: version.root,
        is_new: !looked.is_complete(),
        data_bytes: version.data_bytes,
        fetched_bytes: looked.left_bytes.min(version.data_bytes),
        received_bytes: received() - before,
        seconds: started.elapsed().as_secs_f64(),
    })
}
