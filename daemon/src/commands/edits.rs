//! `icbd image edit`, `save`, `discard` and `prune`.

use anyhow::Result;
use http::Method;

use super::publish::{absolute, tell_skipped};
use super::{follow, interrupted};
use crate::args::{EditArgs, PruneArgs, SaveArgs};
use crate::control::Client;
use crate::edits::{EditReport, EditSpec, PruneReport, PruneSpec, SaveSpec};
use crate::roles::master::PublishResult;
use crate::settings::{Role, Settings};

pub(super) async fn edit(settings: &Settings, args: EditArgs) -> Result<()> {
    let spec = EditSpec { image: args.image, why: args.message };
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    let copy: EditReport = client.call(Method::POST, "/v1/edit", &spec).await?;
    settings.talk().result(&copy, |copy| copy.path.display().to_string())
}

pub(super) async fn discard(settings: &Settings, args: EditArgs) -> Result<()> {
    let spec = EditSpec { image: args.image, why: args.message };
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    client.call(Method::POST, "/v1/discard", &spec).await
}

pub(super) async fn save(settings: &Settings, args: SaveArgs) -> Result<()> {
    let sign = args.sign.as_deref().map(absolute).transpose()?;
    let spec = SaveSpec { image: args.image, note: args.message, sign };
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

pub(super) async fn prune(settings: &Settings, args: PruneArgs) -> Result<()> {
    let spec = PruneSpec { yes: args.yes, force: args.force, why: args.message };
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    let report: PruneReport = client.call(Method::POST, "/v1/prune", &spec).await?;
    settings.talk().result(&report, PruneReport::words)
}
