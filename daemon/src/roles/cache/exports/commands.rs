//! What the control socket of a cache server answers about exports.

use std::sync::Arc;

use icbd_export::{Declaration, Protocol, bootable};
use icbd_image::ImageName;
use ipnet::IpNet;

use super::super::state::CacheServer;
use super::{Seen, disk};
use crate::audit::Change;
use crate::control::Peer;
use crate::exports::{ExportReport, ExportSpec, OfferReport, SessionReport, UnexportSpec};
use crate::failure::{Exit, Failure};
use crate::images::find_image;
use crate::near;

pub(super) fn report(declaration: &Declaration, seen: &Seen) -> ExportReport {
    let Declaration { image, protocol, clients, disk, clone } = declaration.clone();
    let offers = seen.offered.iter().filter(|offered| offered.version().image == image).map(|offered| OfferReport {
        name: offered.name.to_string(),
        url: OfferReport::url(&offered.name, &seen.portals, &clients),
        leaving: !seen.wanted.contains(&offered.name),
        sessions: offered.sessions.iter().map(SessionReport::from).collect(),
    });
    let troubles = seen.trouble.iter().chain(seen.troubles.get(&image).into_iter().flatten());
    ExportReport {
        offers: offers.collect(),
        troubles: troubles.cloned().collect(),
        server: seen.server.map(str::to_owned),
        image,
        protocol,
        clients,
        disk,
        clone,
    }
}

/// Offers an image, with both ends of it in the audit log.
pub(in super::super) async fn add(
    server: Arc<CacheServer>,
    peer: Peer,
    spec: ExportSpec,
) -> anyhow::Result<ExportReport> {
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    server.audit.both_ends(&peer, change, act_on_add(&server, &spec)).await
}

async fn act_on_add(server: &Arc<CacheServer>, spec: &ExportSpec) -> anyhow::Result<ExportReport> {
    find_image(&server.images(), &spec.image)?;
    let ExportSpec { image, protocol, disk: named, clone, .. } = spec.clone();
    let mut clients = spec.clients.clone();
    clients.sort_unstable();
    clients.dedup();
    if clients.iter().any(|client| client.prefix_len() == 0) {
        // Everybody, whatever they speak.
        clients = vec![IpNet::default()];
    }
    let declaration = Declaration { image, protocol, clients, disk: named, clone };
    // What cannot be served at all is refused now; what comes later is told when it comes.
    let view = server.cache.view();
    let image = view.image(&spec.image);
    let first = image.and_then(|image| image.version(image.deployed?));
    let first = first.or_else(|| image.and_then(|image| bootable(image).last())).ok_or_else(|| {
        let message = format!("no version of {} is ready; publish or restore one first", spec.image);
        Failure::new(Exit::Refused, message)
    })?;
    disk(server, first, &declaration).await?;
    server.exports.check_same_kind(&declaration)?;
    let working = server.clone();
    let answers = tokio::task::spawn_blocking(move || working.exports.server()?.offered()).await?;
    answers.map_err(Failure::from)?;
    server.exports.declared()?.add(declaration).map_err(Failure::from)?;
    let exports = server.exports.list().await?;
    let export = exports.into_iter().find(|export| (&export.image, export.protocol) == (&spec.image, protocol));
    export.ok_or_else(|| Failure::new(Exit::Refused, "somebody removed it meanwhile").into())
}

/// Offers it no more, with both ends of it in the audit log.
pub(in super::super) async fn remove(server: Arc<CacheServer>, peer: Peer, spec: UnexportSpec) -> anyhow::Result<()> {
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    server.audit.both_ends(&peer, change, act_on_remove(&server, spec.image.clone(), spec.protocol)).await
}

async fn act_on_remove(server: &Arc<CacheServer>, image: ImageName, protocol: Protocol) -> anyhow::Result<()> {
    let exports = server.exports.list().await?;
    let Some(export) = exports.iter().find(|export| (&export.image, export.protocol) == (&image, protocol)) else {
        let hint = near::hint(image.as_str(), exports.iter().map(|export| export.image.as_str()));
        let message = format!("{image} is not exported by {protocol}{hint}; `icbd export list` shows what is");
        return Err(Failure::new(Exit::Absent, message).into());
    };
    let sessions = export.offers.iter().flat_map(|offer| &offer.sessions).map(SessionReport::words);
    let sessions: Vec<String> = sessions.chain(server.exports.awaited(&image)).collect();
    if !sessions.is_empty() {
        let message = format!("{image} is in use by {}; shut these down first", sessions.join(", "));
        return Err(Failure::new(Exit::Refused, message).into());
    }
    server.exports.declared()?.remove(&image, protocol).map_err(Failure::from)?;
    server.exports.settle().await;
    Ok(())
}
