//! Working copies, pruning and nodes: what the control socket of a master answers about them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use icbd_image::{ImageName, NodeUuid, VersionId};
use icbd_master::{NodeRecord, SaveRequest};

use super::api::Api;
use super::publish::{self, PublishResult};
use super::state::Master;
use crate::audit::Change;
use crate::control::events::{self, Event};
use crate::control::{Peer, fail};
use crate::edits::{EditReport, EditSpec, NodeReport, PruneReport, PruneSpec, ReleaseSpec, SaveSpec};
use crate::failure::{Exit, Failure};
use crate::images::find_image;
use crate::near;
use crate::output;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/edit", post(edit))
        .route("/v1/discard", post(discard))
        .route("/v1/save", post(start_save))
        .route("/v1/prune", post(prune))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{name}/release", post(release))
}

/// What a full disk must not keep anybody from, and the rest.
enum Effect {
    MakesRoom,
    Other,
}

/// Does `work` where it may block, with both ends of it in the audit log.
async fn logged<T: serde::Serialize + Send + 'static>(
    api: Api,
    peer: Peer,
    effect: Effect,
    what: String,
    why: String,
    work: impl FnOnce(&Master, &Peer) -> anyhow::Result<T> + Send + 'static,
) -> Response {
    let master = api.master;
    let done = api.runtime.spawn_blocking(move || {
        let change = Change { what: &what, why: &why };
        let _room = matches!(effect, Effect::MakesRoom).then(|| master.repository.spare_room());
        match effect {
            Effect::MakesRoom => master.audit.begin_to_make_room(&peer, change)?,
            Effect::Other => master.audit.begin(&peer, change)?,
        }
        let done = work(&master, &peer);
        master.audit.record(&peer, change, &done);
        done
    });
    match done.await.unwrap_or_else(|error| Err(error.into())) {
        Ok(result) => Json(result).into_response(),
        Err(error) => fail(&error),
    }
}

async fn edit(State(api): State<Api>, peer: Peer, Json(spec): Json<EditSpec>) -> Response {
    let EditSpec { image, why } = spec;
    logged(api, peer, Effect::Other, format!("image edit {image}"), why, move |master, peer| {
        find_image(&master.images(), &image)?;
        let copy = master.repository.edit(&image, &peer.user).map_err(Failure::from)?;
        Ok(report(&image, copy))
    })
    .await
}

fn report(image: &ImageName, copy: icbd_master::WorkingCopy) -> EditReport {
    let of = copy.editing.of.map(|number| VersionId { image: image.clone(), number });
    EditReport { image: image.clone(), path: copy.path, by: copy.editing.by, since: copy.editing.since, of }
}

/// All working copies.
pub(super) fn all(master: &Master) -> Vec<EditReport> {
    let listing = master.repository.listing();
    let copies = listing.images.iter().filter_map(|image| {
        let copy = master.repository.working_copy(&image.name).ok().flatten()?;
        Some(report(&image.name, copy))
    });
    copies.collect()
}

async fn discard(State(api): State<Api>, peer: Peer, Json(spec): Json<EditSpec>) -> Response {
    let EditSpec { image, why } = spec;
    logged(api, peer, Effect::MakesRoom, format!("image discard {image}"), why, move |master, _| {
        find_image(&master.images(), &image)?;
        Ok(master.repository.discard(&image).map_err(Failure::from)?)
    })
    .await
}

async fn start_save(State(api): State<Api>, peer: Peer, Json(spec): Json<SaveSpec>) -> Response {
    let (teller, response) = events::answer();
    let master = api.master;
    let task = async move {
        let what = format!("image save {}", spec.image);
        let (working, progress) = (master.clone(), teller.clone());
        let work = move |cancel: &AtomicBool| save(&working, spec, &|now| progress.tell(Event::Progress(now)), cancel);
        let outcome = match master.audit.begin(&peer, &what) {
            Ok(()) => master.operations.run(&peer, &what, teller.cancelled(), work).await,
            Err(error) => Err(error),
        };
        let what = outcome.as_ref().map_or(what.clone(), |done| format!("{what} as {}", done.version));
        master.audit.record(&peer, &what, &outcome);
        teller.end(&outcome).await;
    };
    api.tasks.spawn_on(task, &api.runtime);
    response
}

fn save(
    master: &Master,
    spec: SaveSpec,
    progress: &(dyn Fn(output::Progress) + Sync),
    cancel: &AtomicBool,
) -> anyhow::Result<PublishResult> {
    let SaveSpec { image, note, sign } = spec;
    find_image(&master.images(), &image)?;
    let sign = sign.or_else(|| master.believed().sign_key);
    let sign = sign.as_deref().map(publish::read_secret_key).transpose()?.map(Arc::new);
    let request = SaveRequest { image, note, sign };
    let tell = |now| progress(publish::progress(now));
    let saved = master.repository.save(&request, &tell, cancel).map_err(Failure::from)?;
    Ok(PublishResult::new(saved, false))
}

async fn prune(State(api): State<Api>, peer: Peer, Json(spec): Json<PruneSpec>) -> Response {
    let PruneSpec { yes, force, why } = spec;
    let (retention, known) = (api.master.retention(), api.master.repository.nodes());
    let forced: Result<Vec<NodeUuid>, Failure> =
        force.iter().map(|name| find_node(&known, name).map(|node| node.id)).collect();
    let forced = match forced {
        Ok(forced) => forced,
        Err(failure) => return failure.into_response(),
    };
    if !yes {
        let master = api.master;
        let planned = api.runtime.spawn_blocking(move || master.repository.plan_pruning(&retention, &forced));
        return match planned.await {
            Ok(Ok(pruning)) => Json(PruneReport::new(pruning, false)).into_response(),
            Ok(Err(error)) => Failure::from(error).into_response(),
            Err(error) => fail(&error.into()),
        };
    }
    let insists: String = force.iter().map(|name| format!(" --force {name}")).collect();
    logged(api, peer, Effect::MakesRoom, format!("image prune --yes{insists}"), why, move |master, _| {
        let pruning = master.repository.prune(&retention, &forced).map_err(Failure::from)?;
        for verdict in &pruning.verdicts {
            tracing::info!(version = %verdict.version, fate = ?verdict.fate, reason = verdict.reason, "pruned");
        }
        Ok(PruneReport::new(pruning, true))
    })
    .await
}

async fn nodes(State(api): State<Api>) -> Json<Vec<NodeReport>> {
    let listing = api.master.repository.listing();
    let named = |serial| {
        let versions = listing.images.iter().flat_map(|image| &image.versions);
        versions
            .clone()
            .find(|version| version.serial() == serial)
            .map(|version| version.statement.statement().version())
    };
    let nodes = api.master.repository.nodes();
    Json(nodes.iter().map(|node| NodeReport::new(node, output::now(), named)).collect())
}

/// Lets go of all that a node uses, by an administrator who knows that it will not come back.
async fn release(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<String>,
    Json(ReleaseSpec { force, why }): Json<ReleaseSpec>,
) -> Response {
    let insists = if force { " --force" } else { "" };
    logged(api, peer, Effect::Other, format!("node remove {name}{insists}"), why, move |master, _| {
        let nodes = master.repository.nodes();
        let node = find_node(&nodes, &name)?;
        if !force && !node.is_unknown(output::now()) {
            let message = format!(
                "{name} was heard of at {}, and what it uses would be let go of; stop it first, or insist with --force: as \
                 long as it runs it comes back",
                node.seen
            );
            return Err(Failure::new(Exit::Refused, message).into());
        }
        Ok(master.repository.forget_node(node.id).map_err(Failure::from)?)
    })
    .await
}

/// The node of this name or id: nobody is to guess which of two is meant.
fn find_node<'n>(nodes: &'n [NodeRecord], name: &str) -> Result<&'n NodeRecord, Failure> {
    let named: Vec<&NodeRecord> =
        nodes.iter().filter(|node| node.name == name || node.id.to_string() == name).collect();
    match named[..] {
        [node] => Ok(node),
        [] => {
            let hint = near::hint(name, nodes.iter().map(|node| node.name.as_str()));
            let message = format!("there is no node {name}{hint}; `icbd node list` shows those there are");
            Err(Failure::new(Exit::Absent, message))
        }
        _ => {
            let each = |node: &&NodeRecord| format!("{} ({}, last seen {})", node.id, node.address, node.seen);
            let each = named.iter().map(each).collect::<Vec<_>>().join(", ");
            let message = format!("{} nodes are called {name}; name the one you mean by its id: {each}", named.len());
            Err(Failure::new(Exit::Refused, message))
        }
    }
}
