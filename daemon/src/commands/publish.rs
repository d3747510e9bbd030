//! `icbd image publish`: through the daemon that serves the repository, else on the repository itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use icbd_master::Repository;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{follow, interrupted};
use crate::args::{PublishArgs, RepoArgs};
use crate::audit::Audit;
use crate::control::{Client, Peer};
use crate::failure::{Exit, Failure};
use crate::moves::{MoveResult, MoveSpec};
use crate::output::{ProgressBar, plain};
use crate::report::Report;
use crate::roles::master::{self, PublishResult, PublishSpec};
use crate::settings::{Role, Settings};

/// How long an interrupted command waits for the daemon to tidy up.
const TIDY_MAX: Duration = Duration::from_secs(10);
const TIDY_POLL: Duration = Duration::from_millis(50);
/// Progress that waits to be shown; what does not fit is left out.
const PROGRESS_QUEUE_MAX: usize = 16;

pub(super) async fn publish(settings: &Settings, args: PublishArgs) -> Result<()> {
    let spec = PublishSpec {
        image: args.image,
        path: absolute(&args.path)?,
        raw: args.raw,
        note: args.message,
        deploy: args.deploy,
        sign: args.sign.as_deref().map(absolute).transpose()?,
    };
    let result = match daemon_for(settings, &args.repo).await? {
        Some(client) => through_daemon(settings, client, spec).await?,
        None => directly(settings, &args.repo, spec).await?,
    };
    tell_skipped(settings, &result);
    settings.talk().result(&result, |result| result.version.to_string())
}

/// Says what is not in a version.
pub(super) fn tell_skipped(settings: &Settings, result: &PublishResult) {
    for skipped in &result.skipped {
        settings.talk().say(format_args!("left out: {}", plain(skipped)));
    }
    let unnamed = result.skipped_count.saturating_sub(result.skipped.len() as u64);
    if unnamed > 0 {
        settings.talk().say(format_args!("left out: {unnamed} more"));
    }
}

/// The daemon to go through; `None` when `--repo` names a repository that the daemon found does not serve.
pub(super) async fn daemon_for(settings: &Settings, repo: &RepoArgs) -> Result<Option<Client>> {
    let sockets = settings.sockets(Role::Master);
    let Some(repo) = &repo.repo else {
        return Client::connect(&sockets).await.map(Some).map_err(|error| {
            let Failure { exit, message } = Failure::of(&error);
            let hint =
                if exit == Exit::Unreachable { "; a repository that none serves is named with --repo DIR" } else { "" };
            Failure::new(exit, format!("{message}{hint}")).into()
        });
    };
    let Ok(Some(mut client)) = Client::find(&sockets).await else { return Ok(None) };
    let Ok(Report::Master(report)) = client.get("/v1/status").await else { return Ok(None) };
    let is_same = repo.canonicalize().is_ok_and(|repo| report.path.canonicalize().is_ok_and(|path| path == repo));
    Ok(is_same.then_some(client))
}

async fn through_daemon(settings: &Settings, mut client: Client, spec: PublishSpec) -> Result<PublishResult> {
    let image = spec.image.clone();
    let done = follow(&mut client, "/v1/publish", &spec, settings.talk()).await?;
    match done {
        Some(result) => Ok(result),
        None => {
            // Hanging up is what cancels it.
            let socket = client.socket().to_owned();
            drop(client);
            wait_until_tidy(&socket).await;
            Err(interrupted(&format!(
                "nothing was published, unless its last step had begun: `icbd image list {image}` shows it"
            )))
        }
    }
}

/// Until the daemon no longer works for this process.
async fn wait_until_tidy(socket: &Path) {
    let (started, pid) = (Instant::now(), std::process::id().cast_signed());
    while started.elapsed() < TIDY_MAX {
        let Ok(Some(mut client)) = Client::find(&[socket.to_owned()]).await else { return };
        match client.get("/v1/status").await {
            Ok(Report::Master(report)) if report.operations.iter().any(|operation| operation.pid == pid) => {}
            _ => return,
        }
        tokio::time::sleep(TIDY_POLL).await;
    }
}

async fn directly(settings: &Settings, repo: &RepoArgs, spec: PublishSpec) -> Result<PublishResult> {
    let (repository, audit) = open(repo, true)?;
    let sign = spec.sign.or_else(|| settings.file.sign.key.clone());
    let spec = PublishSpec { sign, ..spec };
    let what = format!("image publish {} {}", spec.image, spec.path.display());
    audit.begin(&Peer::this_process(), &what)?;
    let cancel = Arc::new(AtomicBool::new(false));
    let (send, mut receive) = mpsc::channel(PROGRESS_QUEUE_MAX);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let flag = cancel.clone();
    let work = move || master::publish(&repository, spec, &|progress| drop(send.try_send(progress)), &flag);
    let mut work = tokio::task::spawn_blocking(work);
    let mut bar = ProgressBar::new(settings.talk());
    let done = loop {
        tokio::select! {
            done = &mut work => break done.context("publishing panicked")?,
            Some(progress) = receive.recv() => bar.show(&progress),
            _ = interrupt.recv() => cancel.store(true, Ordering::Relaxed),
        }
    };
    drop(bar);
    audit.record(&Peer::this_process(), &what, &done);
    match done {
        Err(_) if cancel.load(Ordering::Relaxed) => Err(interrupted("nothing was published")),
        done => done,
    }
}

/// Makes a move on a repository that no daemon serves.
pub(super) fn move_directly(repo: &RepoArgs, spec: &MoveSpec) -> Result<MoveResult> {
    let (repository, audit) = open(repo, false)?;
    spec.make(&repository, &audit, &Peer::this_process())
}

fn open(repo: &RepoArgs, create: bool) -> Result<(Repository, Audit)> {
    let path = repo.repo.as_deref().unwrap_or(Path::new("."));
    let settings = icbd_master::Settings::default();
    let opened = if create { Repository::open_or_create(path, settings) } else { Repository::open(path, settings) };
    let repository = opened.map_err(Failure::from)?;
    let audit = Audit::open(path)?;
    Ok((repository, audit))
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
}
