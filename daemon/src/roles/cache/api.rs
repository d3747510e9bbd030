//! What the control socket of a cache server answers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use axum::{Json, Router};
use icbd_cache::{JobId, JobState, JobStatus};
use icbd_image::{ImageRef, VersionId};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::state::CacheServer;
use crate::audit;
use crate::control::events::{self, Teller};
use crate::control::{Event, Peer, fail};
use crate::failure::{Exit, Failure};
use crate::images::{ImageSummary, find_version};
use crate::jobs::JobReport;
use crate::output::Progress;
use crate::report::Report;
use crate::verify::{FAULTS_SHOWN_MAX, VerifyResult, VersionBody};

/// How often a job's progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

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
        .route("/v1/prefetch", get(jobs).post(add))
        .route("/v1/prefetch/{job}", delete(cancel))
        .route("/v1/prefetch/{job}/wait", post(wait))
        .route("/v1/reload", post(reload))
        .route("/v1/publish", any(not_here))
        .route("/v1/deploy", any(not_here))
        .with_state(Api { server, runtime: Handle::current(), tasks })
}

async fn status(State(api): State<Api>) -> Json<Report> {
    Json(api.server.report())
}

async fn list(State(api): State<Api>) -> Json<Vec<ImageSummary>> {
    Json(api.server.images())
}

async fn audit_log(State(api): State<Api>) -> Response {
    answer(api.server.audit.last(audit::SHOWN_MAX))
}

async fn jobs(State(api): State<Api>) -> Json<Vec<JobReport>> {
    Json(api.server.cache.prefetch_list().iter().map(JobReport::from).collect())
}

async fn not_here(State(api): State<Api>) -> Response {
    let sources: Vec<String> = api.server.sources.health().into_iter().map(|source| source.name).collect();
    let message = format!(
        "this is a cache server: images are changed on their master ({}); run the command there, or name a \
        master's socket with --socket",
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

async fn add(State(api): State<Api>, peer: Peer, Json(body): Json<VersionBody<ImageRef>>) -> Response {
    let server = api.server.clone();
    let added = async move {
        let found = find_version(&server.images(), &body.version).map(|found| found.version.clone());
        let name = found.as_ref().map_or_else(|_| body.version.to_string(), ToString::to_string);
        let added = add_job(&server, found).await;
        server.audit.record(&peer, &format!("prefetch add {name} --all"), &added);
        job(&server, added?)
    };
    on_daemon(&api, added).await
}

async fn add_job(server: &CacheServer, found: Result<VersionId, Failure>) -> anyhow::Result<JobId> {
    Ok(server.cache.prefetch_add(&found?).await.map_err(Failure::from)?)
}

async fn cancel(State(api): State<Api>, peer: Peer, Path(job): Path<JobId>) -> Response {
    let server = api.server.clone();
    let cancelled = async move {
        let cancelled =
            server.cache.prefetch_cancel(job).await.map_err(|error| anyhow::Error::from(Failure::from(error)));
        server.audit.record(&peer, &format!("prefetch cancel {job}"), &cancelled);
        Ok(JobReport::from(&cancelled?))
    };
    on_daemon(&api, cancelled).await
}

/// Tells a job's progress until it ends; the job goes on when the client leaves.
async fn wait(State(api): State<Api>, Path(id): Path<JobId>) -> Response {
    let (teller, response) = events::answer();
    let server = api.server.clone();
    let watch = async move {
        let gone = teller.cancelled().clone();
        tokio::select! {
            outcome = watch_job(&server, id, &teller) => teller.end(&outcome).await,
            () = gone.cancelled() => {}
        }
    };
    api.tasks.spawn_on(watch, &api.runtime);
    response
}

async fn watch_job(server: &CacheServer, id: JobId, teller: &Teller) -> anyhow::Result<JobReport> {
    let mut done = std::pin::pin!(server.cache.prefetch_wait(id));
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            done = done.as_mut() => return Ok(JobReport::from(&done.map_err(Failure::from)?)),
            _ = ticks.tick() => {
                let job = job(server, id)?;
                let what = job.trouble.map_or("fetching".to_owned(), |trouble| format!("waiting ({trouble})"));
                teller.tell(Event::Progress(Progress { what, done_bytes: job.done_bytes, total_bytes: job.total_bytes }));
            }
        }
    }
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

async fn verify(server: &CacheServer, wanted: &ImageRef, teller: &Teller) -> anyhow::Result<VerifyResult> {
    let version = find_version(&server.images(), wanted)?.version.clone();
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

fn job(server: &CacheServer, id: JobId) -> anyhow::Result<JobReport> {
    let jobs = server.cache.prefetch_list();
    let job = jobs.iter().find(|job| job.id == id).map(JobReport::from);
    let message = format!("there is no prefetch job {id}; `icbd prefetch list` shows them");
    job.ok_or_else(|| Failure::new(Exit::Absent, message).into())
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

impl From<&JobStatus> for JobReport {
    fn from(job: &JobStatus) -> JobReport {
        let state = match job.state {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Cancelled => "cancelled",
        };
        JobReport {
            id: job.id,
            version: job.version.clone(),
            state: state.to_owned(),
            done_bytes: job.done_bytes,
            total_bytes: job.total_bytes,
            bytes_per_second: job.bytes_per_second,
            trouble: job.trouble.clone(),
        }
    }
}
