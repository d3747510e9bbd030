//! What the control socket of a master answers.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use icbd_image::ImageRef;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::publish::{self, PublishSpec};
use super::state::Master;
use super::{edits, improve, mend, replicate};
use crate::control::events::{self, Event};
use crate::control::{Peer, fail};
use crate::failure::{Exit, Failure};
use crate::images::{self, ImageSummary};
use crate::improvements::ImproveSpec;
use crate::moves::{MoveSpec, PlanSpec};
use crate::replicas::ReplicateSpec;
use crate::report::Report;
use crate::scrubs::ScrubSpec;
use crate::verify::{VerifyResult, VersionBody};

/// What the handlers share: the master, and the runtime that its long operations are watched on.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) master: Arc<Master>,
    pub(super) runtime: Handle,
    pub(super) tasks: TaskTracker,
}

/// The routes. Called on the daemon's own runtime; what outlives a request is in `tasks`.
pub(super) fn router(master: Arc<Master>, tasks: TaskTracker) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/images", get(list))
        .route("/v1/audit", get(audit))
        .route("/v1/publish", post(start_publish))
        .route("/v1/reload", post(reload))
        .route("/v1/move", post(make_move))
        .route("/v1/plan", post(make_plan))
        .route("/v1/local", any(not_here))
        .route("/v1/evict", any(not_here))
        .route("/v1/pin", any(not_here))
        .route("/v1/exports", any(not_here))
        .route("/v1/unexport", any(not_here))
        .route("/v1/clones", any(not_here))
        .route("/v1/netboot", any(not_here))
        .route("/v1/clones/{verb}", any(not_here))
        .route("/v1/clients", any(not_here))
        .route("/v1/clients/{verb}", any(not_here))
        .route("/v1/verify", post(start_verify))
        .route("/v1/scrub", post(start_scrub))
        .route("/v1/replicate", post(start_replicate))
        .route("/v1/improve", post(start_improve))
        .route("/v1/seal", any(not_here))
        .route("/v1/profile/{verb}", any(not_here))
        .route("/v1/prefetch", any(not_here))
        .route("/v1/prefetch/{job}", any(not_here))
        .merge(edits::routes())
        .with_state(Api { master, runtime: Handle::current(), tasks })
}

async fn status(State(api): State<Api>) -> Json<Report> {
    Json(api.master.report())
}

async fn list(State(api): State<Api>) -> Json<Vec<ImageSummary>> {
    Json(api.master.images())
}

async fn audit(State(api): State<Api>) -> Response {
    match api.master.audit.last(crate::audit::SHOWN_MAX) {
        Ok(entries) => Json(entries).into_response(),
        Err(error) => fail(&error),
    }
}

async fn reload(State(api): State<Api>, peer: Peer) -> Response {
    let master = api.master;
    let reloaded = api.runtime.spawn_blocking(move || {
        let reloaded = master.reload();
        master.audit.record(&peer, "config reload", &reloaded);
        reloaded
    });
    match reloaded.await.unwrap_or_else(|error| Err(error.into())) {
        Ok(reloaded) => Json(reloaded).into_response(),
        Err(error) => fail(&error),
    }
}

async fn not_here() -> Response {
    let message = "this is a master, and that is done on a cache server: run the command there, or name the cache's socket with \
        --socket";
    Failure::new(Exit::Usage, message).into_response()
}

async fn start_publish(State(api): State<Api>, peer: Peer, Json(spec): Json<PublishSpec>) -> Response {
    let (teller, response) = events::answer();
    let master = api.master;
    let task = async move {
        let what = format!("image publish {} {}", spec.image, spec.path.display());
        let spec = PublishSpec { sign: spec.sign.or_else(|| master.believed().sign_key), ..spec };
        let (repository, progress) = (master.repository.clone(), teller.clone());
        let work = move |cancel: &std::sync::atomic::AtomicBool| {
            publish::publish(&repository, spec, &|progress_now| progress.tell(Event::Progress(progress_now)), cancel)
        };
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

async fn make_move(State(api): State<Api>, peer: Peer, Json(spec): Json<MoveSpec>) -> Response {
    let master = api.master;
    let done = api.runtime.spawn_blocking(move || spec.make(&master.repository, &master.audit, &peer));
    match done.await.unwrap_or_else(|error| Err(error.into())) {
        Ok(result) => Json(result).into_response(),
        Err(error) => fail(&error),
    }
}

async fn make_plan(State(api): State<Api>, peer: Peer, Json(spec): Json<PlanSpec>) -> Response {
    let master = api.master;
    let done = api.runtime.spawn_blocking(move || {
        let done = spec.make(&master.repository, &master.audit, &peer);
        master.planned.notify_one();
        done
    });
    match done.await.unwrap_or_else(|error| Err(error.into())) {
        Ok(result) => Json(result).into_response(),
        Err(error) => fail(&error),
    }
}

async fn start_verify(State(api): State<Api>, peer: Peer, Json(body): Json<VersionBody<ImageRef>>) -> Response {
    let (teller, response) = events::answer();
    let master = api.master;
    let task = async move {
        let outcome = verify(&master, &peer, &body.version, &teller).await;
        teller.end(&outcome).await;
    };
    api.tasks.spawn_on(task, &api.runtime);
    response
}

async fn start_replicate(State(api): State<Api>, peer: Peer, Json(spec): Json<ReplicateSpec>) -> Response {
    let (teller, response) = events::answer();
    let master = api.master;
    let task = async move {
        let outcome = replicate::replicate(&master, &peer, spec, &teller).await;
        teller.end(&outcome).await;
    };
    api.tasks.spawn_on(task, &api.runtime);
    response
}

async fn start_improve(State(api): State<Api>, peer: Peer, Json(spec): Json<ImproveSpec>) -> Response {
    let (teller, response) = events::answer();
    let master = api.master;
    let task = async move {
        let outcome = improve::improve(&master, &peer, spec, &teller).await;
        teller.end(&outcome).await;
    };
    api.tasks.spawn_on(task, &api.runtime);
    response
}

async fn start_scrub(State(api): State<Api>, peer: Peer, Json(spec): Json<ScrubSpec>) -> Response {
    let (teller, response) = events::answer();
    let master = api.master;
    let task = async move {
        let outcome = mend::scrub(&master, &peer, spec, &teller).await;
        teller.end(&outcome).await;
    };
    api.tasks.spawn_on(task, &api.runtime);
    response
}

async fn verify(
    master: &Master,
    peer: &Peer,
    wanted: &ImageRef,
    teller: &events::Teller,
) -> anyhow::Result<VerifyResult> {
    let version = images::find_version(&master.images(), wanted)?.version.clone();
    let (repository, progress, trust) = (master.repository.clone(), teller.clone(), master.believed().trust);
    let what = format!("image verify {version}");
    let work = move |cancel: &std::sync::atomic::AtomicBool| {
        crate::verify::on_master(&repository, &version, &trust, &|now| progress.tell(Event::Progress(now)), cancel)
    };
    master.operations.run(peer, &what, teller.cancelled(), work).await
}
