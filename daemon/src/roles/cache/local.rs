//! Rolling back here, whatever the master deploys and whether it is there or not.

use std::sync::Arc;

use icbd_image::VersionNumber;

use super::state::CacheServer;
use crate::audit::Change;
use crate::control::Peer;
use crate::failure::Failure;
use crate::images::find_image;
use crate::moves::{LocalResult, LocalSpec};

/// Does it, with both ends of it in the audit log.
pub(super) async fn roll_back(server: Arc<CacheServer>, peer: Peer, spec: LocalSpec) -> anyhow::Result<LocalResult> {
    find_image(&server.images(), &spec.image)?;
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    server.audit.both_ends(&peer, change, act(&server, &peer, &spec)).await
}

async fn act(server: &CacheServer, peer: &Peer, spec: &LocalSpec) -> anyhow::Result<LocalResult> {
    let image = &spec.image;
    let deployed = || server.cache.view().image(image).and_then(|image| image.deployed);
    let deployed_before = deployed();
    let done = match spec.clear {
        true => server.cache.clear_rollback(image).await,
        false => server.cache.roll_back(image, spec.to, &peer.user).await,
    };
    done.map_err(Failure::from)?;
    server.view_changed();
    let deployed = deployed();
    let is_complete = |number| {
        let status = server.cache.status();
        status
            .versions
            .iter()
            .any(|version| version.id.image == *image && version.id.number == number && version.complete)
    };
    let open_handles = deployed_before.map_or(0, |number| open_handles(server, spec, number));
    let complete = deployed.is_some_and(is_complete);
    Ok(LocalResult { image: image.clone(), deployed_before, deployed, open_handles, complete })
}

fn open_handles(server: &CacheServer, spec: &LocalSpec, number: VersionNumber) -> u64 {
    let view = server.cache.view();
    let record = view.image(&spec.image).and_then(|image| image.version(number));
    record.and_then(|record| server.open_by_version().get(&record.serial()).copied()).unwrap_or(0)
}
