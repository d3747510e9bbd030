//! What the control socket of a cache server answers.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use icbd_cache::OrderId;
use icbd_image::{ImageRef, Profile, VersionId};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::prefetch::{self, Verb};
use super::state::CacheServer;
use super::{clients, clones, evict, exports, local, netboot, replicate, seal};
use crate::audit;
use crate::clients::{BootsSpec, ClientSpec, ImportSpec, SHEET_BYTES_MAX, WakeSpec};
use crate::clones::CloneSpec;
use crate::control::events::{self, Teller};
use crate::control::{Event, Peer, fail};
use crate::evictions::{EvictSpec, PinSpec};
use crate::exports::{ExportSpec, UnexportSpec};
use crate::failure::{Exit, Failure};
use crate::images::ImageSummary;
use crate::improvements::EditCloneSpec;
use crate::moves::LocalSpec;
use crate::netboot::NetbootSpec;
use crate::orders::{OrderBody, Subject, Terms};
use crate::output::Progress;
use crate::profiles::ImportBody;
use crate::replicas::ReplicateSpec;
use crate::report::Report;
use crate::scrubs::{ScrubSpec, SealSpec};
use crate::verify::{FAULTS_SHOWN_MAX, VerifyResult, VersionBody};

/// The longest profile as hexadecimal digits, and what is around it.
const IMPORT_BYTES_MAX: usize = 2 * Profile::BYTES_MAX + 4096;
/// A list of workstations as JSON, which takes up to six characters for one, and what is around it.
const SHEET_BODY_BYTES_MAX: usize = 6 * SHEET_BYTES_MAX + 65536;

/// What the handlers share: the server, and the runtime on which all but status is done.
#[derive(Clone)]
struct Api {
    server: Arc<CacheServer>,
    runtime: Handle,
    tasks: TaskTracker,
}

/// The routes. Called on the daemon's own runtime; what outlives a request is in `tasks`.
pub(super) fn router(server: Arc<CacheServer>, tasks: TaskTracker) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/images", get(list))
        .route("/v1/audit", get(audit_log))
        .route("/v1/verify", post(start_verify))
        .route("/v1/prefetch", get(orders).post(add_order))
        .route("/v1/prefetch/{order}", post(set_order))
        .route("/v1/prefetch/{order}/wait", post(wait))
        .route("/v1/prefetch/{order}/{verb}", post(alter_order))
        .route("/v1/explain", post(explain))
        .route("/v1/reload", post(reload))
        .route("/v1/profile/show", post(show_profile))
        .route("/v1/profile/export", post(export_profile))
        // A profile of 4 MiB as digits.
        .route("/v1/profile/import", post(import_profile).layer(DefaultBodyLimit::max(IMPORT_BYTES_MAX)))
        .route("/v1/publish", any(not_here))
        .route("/v1/local", post(roll_back))
        .route("/v1/seal", post(start_seal))
        .route("/v1/scrub", post(start_scrub))
        .route("/v1/evict", post(evict))
        .route("/v1/pin", post(pin))
        .route("/v1/exports", get(list_exports).post(add_export))
        .route("/v1/unexport", post(remove_export))
        .route("/v1/clones", get(list_clones).post(change_clone))
        .route("/v1/clones/edit", post(edit_clone))
        .route("/v1/clients", get(list_clients).post(import_clients).layer(DefaultBodyLimit::max(SHEET_BODY_BYTES_MAX)))
        .route("/v1/clients/show", post(show_client))
        .route("/v1/clients/explain", post(explain_client))
        .route("/v1/clients/boots", post(list_boots))
        .route("/v1/clients/wake", post(wake_clients))
        .route("/v1/netboot", get(show_netboot).post(change_netboot))
        .route("/v1/replicate", post(start_replicate))
        .route("/v1/move", any(not_here))
        .route("/v1/plan", any(not_here))
        .route("/v1/edit", any(not_here))
        .route("/v1/save", any(not_here))
        .route("/v1/improve", any(not_here))
        .route("/v1/discard", any(not_here))
        .route("/v1/prune", any(not_here))
        .route("/v1/nodes", any(not_here))
        .route("/v1/nodes/{name}/release", any(not_here))
        .with_state(Api { server, runtime: Handle::current(), tasks })
}

async fn status(State(api): State<Api>) -> Json<Report> {
    Json(api.server.report())
}

async fn list(State(api): State<Api>) -> Json<Vec<ImageSummary>> {
    Json(api.server.listed())
}

async fn audit_log(State(api): State<Api>) -> Response {
    answer(api.server.audit.last(audit::SHOWN_MAX))
}

async fn orders(State(api): State<Api>) -> Response {
    on_daemon(&api, prefetch::list(api.server.clone())).await
}

async fn add_order(State(api): State<Api>, peer: Peer, Json(body): Json<OrderBody>) -> Response {
    on_daemon(&api, prefetch::add(api.server.clone(), peer, body)).await
}

async fn set_order(State(api): State<Api>, peer: Peer, Path(id): Path<OrderId>, Json(terms): Json<Terms>) -> Response {
    on_daemon(&api, prefetch::set(api.server.clone(), peer, id, terms)).await
}

async fn alter_order(State(api): State<Api>, peer: Peer, Path((id, verb)): Path<(OrderId, Verb)>) -> Response {
    on_daemon(&api, prefetch::alter(api.server.clone(), peer, id, verb)).await
}

async fn explain(State(api): State<Api>, Json(subject): Json<Subject>) -> Response {
    on_daemon(&api, prefetch::explain(api.server.clone(), subject)).await
}

async fn roll_back(State(api): State<Api>, peer: Peer, Json(spec): Json<LocalSpec>) -> Response {
    on_daemon(&api, local::roll_back(api.server.clone(), peer, spec)).await
}

async fn evict(State(api): State<Api>, peer: Peer, Json(spec): Json<EvictSpec>) -> Response {
    on_daemon(&api, evict::evict(api.server.clone(), peer, spec)).await
}

async fn pin(State(api): State<Api>, peer: Peer, Json(spec): Json<PinSpec>) -> Response {
    on_daemon(&api, evict::pin(api.server.clone(), peer, spec)).await
}

async fn list_exports(State(api): State<Api>) -> Response {
    let server = api.server.clone();
    on_daemon(&api, async move { Ok(server.exports.list(&server).await?) }).await
}

async fn add_export(State(api): State<Api>, peer: Peer, Json(spec): Json<ExportSpec>) -> Response {
    on_daemon(&api, exports::add(api.server.clone(), peer, spec)).await
}

async fn remove_export(State(api): State<Api>, peer: Peer, Json(spec): Json<UnexportSpec>) -> Response {
    on_daemon(&api, exports::remove(api.server.clone(), peer, spec)).await
}

async fn list_clones(State(api): State<Api>) -> Response {
    on_daemon(&api, clones::list(api.server.clone())).await
}

async fn change_clone(State(api): State<Api>, peer: Peer, Json(spec): Json<CloneSpec>) -> Response {
    on_daemon(&api, clones::change(api.server.clone(), peer, spec)).await
}

async fn edit_clone(State(api): State<Api>, peer: Peer, Json(spec): Json<EditCloneSpec>) -> Response {
    on_daemon(&api, clones::edit(api.server.clone(), peer, spec)).await
}

async fn list_clients(State(api): State<Api>) -> Response {
    on_daemon(&api, clients::list(api.server.clone())).await
}

async fn import_clients(State(api): State<Api>, peer: Peer, Json(spec): Json<ImportSpec>) -> Response {
    on_daemon(&api, clients::import(api.server.clone(), peer, spec)).await
}

async fn show_client(State(api): State<Api>, Json(spec): Json<ClientSpec>) -> Response {
    on_daemon(&api, clients::show(api.server.clone(), spec)).await
}

async fn explain_client(State(api): State<Api>, Json(spec): Json<ClientSpec>) -> Response {
    on_daemon(&api, clients::explain(api.server.clone(), spec)).await
}

async fn list_boots(State(api): State<Api>, Json(spec): Json<BootsSpec>) -> Response {
    on_daemon(&api, clients::boots(api.server.clone(), spec)).await
}

async fn wake_clients(State(api): State<Api>, Json(spec): Json<WakeSpec>) -> Response {
    on_daemon(&api, clients::wake(api.server.clone(), spec)).await
}

async fn show_netboot(State(api): State<Api>) -> Response {
    on_daemon(&api, netboot::show(api.server.clone())).await
}

async fn change_netboot(State(api): State<Api>, peer: Peer, Json(spec): Json<NetbootSpec>) -> Response {
    on_daemon(&api, netboot::change(api.server.clone(), peer, spec)).await
}

async fn not_here(State(api): State<Api>) -> Response {
    let sources: Vec<String> = api.server.sources.health().into_iter().map(|source| source.name).collect();
    let message = format!(
        "this is a cache server, and that is done on a master ({}): run the command there, or name a master's socket \
        with --socket",
        sources.join(", ")
    );
    Failure::new(Exit::Usage, message).into_response()
}

async fn reload(State(api): State<Api>, peer: Peer) -> Response {
    let server = api.server.clone();
    let reloaded = api.runtime.spawn_blocking(move || {
        let reloaded = server.reload();
        server.audit.record(&peer, "config reload", &reloaded);
        reloaded
    });
    answer(reloaded.await.unwrap_or_else(|error| Err(error.into())))
}

/// Tells an order's progress until it is done; the order goes on when the client leaves.
async fn wait(State(api): State<Api>, Path(id): Path<OrderId>) -> Response {
    let (teller, response) = events::answer();
    let server = api.server.clone();
    let watch = async move {
        let gone = teller.cancelled().clone();
        tokio::select! {
            outcome = prefetch::watch(&server, id, &teller) => teller.end(&outcome).await,
            () = gone.cancelled() => {}
        }
    };
    api.tasks.spawn_on(watch, &api.runtime);
    response
}

async fn show_profile(State(api): State<Api>, Json(body): Json<VersionBody<ImageRef>>) -> Response {
    let server = api.server.clone();
    on_daemon(&api, async move { server.profile_report(&body.version).await }).await
}

async fn export_profile(State(api): State<Api>, Json(body): Json<VersionBody<ImageRef>>) -> Response {
    let server = api.server.clone();
    on_daemon(&api, async move { server.export_profile(&body.version).await }).await
}

async fn import_profile(State(api): State<Api>, peer: Peer, Json(body): Json<ImportBody>) -> Response {
    let server = api.server.clone();
    on_daemon(&api, async move { server.import_profile(&peer, body).await }).await
}

async fn start_verify(State(api): State<Api>, Json(body): Json<VersionBody<ImageRef>>) -> Response {
    let (teller, response) = events::answer();
    let server = api.server.clone();
    let check = async move {
        let gone = teller.cancelled().clone();
        tokio::select! {
            outcome = verify(&server, &body.version, &teller) => teller.end(&outcome).await,
            () = gone.cancelled() => {}
        }
    };
    api.tasks.spawn_on(check, &api.runtime);
    response
}

async fn start_seal(State(api): State<Api>, peer: Peer, Json(spec): Json<SealSpec>) -> Response {
    let (teller, response) = events::answer();
    let server = api.server.clone();
    // Goes on when its client leaves, as an order does.
    let task = async move {
        let outcome = seal::seal(&server, &peer, spec, &teller).await;
        teller.end(&outcome).await;
    };
    api.tasks.spawn_on(task, &api.runtime);
    response
}

async fn start_replicate(State(api): State<Api>, peer: Peer, Json(spec): Json<ReplicateSpec>) -> Response {
    let (teller, response) = events::answer();
    let server = api.server.clone();
    // Goes on when its client leaves, as an order does.
    let task = async move {
        let outcome = replicate::replicate(&server, &peer, spec, &teller).await;
        teller.end(&outcome).await;
    };
    api.tasks.spawn_on(task, &api.runtime);
    response
}

async fn start_scrub(State(api): State<Api>, Json(spec): Json<ScrubSpec>) -> Response {
    let (teller, response) = events::answer();
    let server = api.server.clone();
    let task = async move {
        let gone = teller.cancelled().clone();
        tokio::select! {
            outcome = seal::scrub(&server, &spec, &teller) => teller.end(&outcome).await,
            () = gone.cancelled() => {}
        }
    };
    api.tasks.spawn_on(task, &api.runtime);
    response
}

async fn verify(server: &CacheServer, wanted: &ImageRef, teller: &Teller) -> anyhow::Result<VerifyResult> {
    let version = server.find_version(wanted)?.version;
    let signer = signer(server, &version)?;
    let tell = |now: icbd_cache::VerifyProgress| {
        let (done_bytes, total_bytes) = (now.done_bytes, now.total_bytes);
        teller.tell(Event::Progress(Progress { what: "verifying".into(), done_bytes, total_bytes }));
    };
    let report = server.cache.verify(&version, tell).await.map_err(Failure::from)?;
    let faults = report.bad.iter().take(FAULTS_SHOWN_MAX).map(|bad| format!("{}, block {}", bad.path, bad.block));
    Ok(VerifyResult {
        version: report.version,
        root: report.root,
        blocks: report.blocks_checked,
        all_blocks: Some(report.blocks_all).filter(|all| *all > report.blocks_checked),
        signer,
        seconds: report.elapsed.as_secs_f64(),
        faults: faults.collect(),
        fault_count: report.bad.len() as u64,
    })
}

fn signer(server: &CacheServer, version: &VersionId) -> Result<Option<String>, Failure> {
    let view = server.cache.view();
    let Some(record) = view.version(version) else { return Ok(None) };
    let trust = server.trust();
    let signer = trust.signer(&record.statement);
    let signer = signer.map_err(|error| Failure::new(Exit::Verification, error.to_string()))?;
    Ok(signer.map(|key| key.id().to_string()))
}

/// Does `work` on the daemon's runtime: this one must stay free for status.
async fn on_daemon<T: Serialize + Send + 'static>(
    api: &Api,
    work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> Response {
    answer(api.tasks.spawn_on(work, &api.runtime).await.unwrap_or_else(|error| Err(error.into())))
}

fn answer<T: Serialize>(outcome: anyhow::Result<T>) -> Response {
    match outcome {
        Ok(result) => Json(result).into_response(),
        Err(error) => fail(&error),
    }
}
