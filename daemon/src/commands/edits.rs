//! `icbd image edit`, `save`, `discard` and `prune`.

use anyhow::Result;
use http::Method;

use super::publish::{absolute, tell_skipped};
use super::tunnel::Tunnel;
use super::{follow, interrupted};
use crate::args::{DiscardArgs, EditArgs, PruneArgs, SaveArgs};
use crate::control::Client;
use crate::edits::{EditReport, EditSpec, PruneReport, PruneSpec, SaveSpec};
use crate::improvements::{EditCloneReport, EditCloneSpec, ImproveResult, ImproveSpec};
use crate::roles::master::PublishResult;
use crate::settings::{Role, Settings};

pub(super) async fn edit(settings: &Settings, args: EditArgs) -> Result<()> {
    if let Some(client) = args.client {
        let spec = EditCloneSpec { image: args.image, client, why: args.message };
        let mut cache = Client::connect(&settings.sockets(Role::Cache)).await?;
        let begun: EditCloneReport = cache.call(Method::POST, "/v1/clones/edit", &spec).await?;
        return settings.talk().result(&begun, EditCloneReport::words);
    }
    let spec = EditSpec { image: args.image, why: args.message };
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    let copy: EditReport = client.call(Method::POST, "/v1/edit", &spec).await?;
    settings.talk().result(&copy, |copy| copy.path.display().to_string())
}

pub(super) async fn discard(settings: &Settings, args: DiscardArgs) -> Result<()> {
    let spec = EditSpec { image: args.image, why: args.message };
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    client.call(Method::POST, "/v1/discard", &spec).await
}

pub(super) async fn save(settings: &Settings, args: SaveArgs) -> Result<()> {
    let sign = args.sign.as_deref().map(absolute).transpose()?;
    let SaveArgs { image, client, from, via, force, message, .. } = args;
    let note = message.unwrap_or_default();
    if let (Some(client), Some(from)) = (client, from) {
        return improve(settings, ImproveSpec { image, client, from, via, socket: None, force, note, sign }).await;
    }
    let spec = SaveSpec { image, note, sign };
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    let saved: Option<PublishResult> = follow(&mut client, "/v1/save", &spec, settings.talk()).await?;
    let image = &spec.image;
    let saved = saved.ok_or_else(|| {
        interrupted(&format!(
            "the working copy is as it was, unless the last step had begun: `icbd image list {image}` shows it"
        ))
    })?;
    tell_skipped(settings, &saved);
    if saved.unchanged {
        settings.talk().say(format_args!("nothing was changed: it is the same as the version before"));
    }
    settings.talk().result(&saved, |saved| saved.version.to_string())
}

/// Saves what a workstation wrote.
async fn improve(settings: &Settings, mut spec: ImproveSpec) -> Result<()> {
    let target = spec.target()?;
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    let tunnel = match &spec.via {
        Some(via) => Some(Tunnel::open(via, &target).await?),
        None => None,
    };
    spec.socket = tunnel.as_ref().map(|tunnel| tunnel.socket.clone());
    let done = follow(&mut client, "/v1/improve", &spec, settings.talk()).await;
    if let Some(tunnel) = tunnel {
        tunnel.close().await;
    }
    let done: Option<ImproveResult> = done?;
    let image = &spec.image;
    let done = done.ok_or_else(|| {
        interrupted(&format!("nothing was saved, unless the last step had begun: `icbd image list {image}` shows it"))
    })?;
    tell_skipped(settings, &done.saved);
    done.notes().iter().for_each(|note| settings.talk().say(note));
    settings.talk().result(&done, |done| done.saved.version.to_string())
}

pub(super) async fn prune(settings: &Settings, args: PruneArgs) -> Result<()> {
    let spec = PruneSpec { yes: args.yes, force: args.force, why: args.message };
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    let report: PruneReport = client.call(Method::POST, "/v1/prune", &spec).await?;
    settings.talk().result(&report, PruneReport::words)
}
