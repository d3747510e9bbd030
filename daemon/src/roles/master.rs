//! The master: a repository, served read-only over TCP and changed over the control socket.

mod api;
mod edits;
mod fetching;
mod hear;
mod improve;
mod learn;
mod look;
mod mend;
mod operations;
mod pack;
mod plans;
mod publish;
mod replicate;
mod state;
mod streamed;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use icbd_master::{MasterError, Repository};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{self, RunningConfig};
use crate::args::MasterArgs;
use crate::audit::Audit;
use crate::control::ControlServer;
use crate::failure::{Exit, Failure};
use crate::logging;
use crate::metrics;
use crate::notify::{self, Signals, Told};
use crate::serve::{self, Allow, Certificate, Offers, Reports, Tls};
use crate::settings::{MasterSettings, Role, Settings};
pub(crate) use publish::{PublishResult, PublishSpec, publish, read_secret_key};
use state::{Believed, Master};

/// Threads for blocking reads of the repository: its disks have no use for more at once.
const BLOCKING_THREADS_MAX: usize = 64;

/// Runs a master until it is told to stop.
pub(crate) fn run(settings: &Settings, args: &MasterArgs) -> anyhow::Result<()> {
    let master = settings.master(args)?;
    let config = RunningConfig::new(Role::Master, settings, args.clone(), logging::start(settings.log_level()));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()?;
    runtime.block_on(serve(master, config))
}

async fn serve(settings: MasterSettings, config: RunningConfig<MasterArgs>) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    // First: who cannot listen leaves no new repository behind.
    let tls = settings.tls.as_ref().map(Certificate::load).transpose().map_err(unusable)?.map(Tls::new);
    let allow = Allow::new(&settings.allow);
    let listeners = serve::listen(&settings.listen, &allow).await?;
    let repository = open(&settings.repo).await?;
    let listen: Vec<SocketAddr> = listeners.iter().map(|(_, address)| *address).collect();
    let audit = Audit::open(&settings.repo)?;
    let believed = Believed::of(&settings)?;
    let acceptor = tls.as_ref().map(Tls::acceptor).transpose()?;
    let master = Arc::new(Master::new(repository, audit, listen.clone(), believed, allow.clone(), tls, config));
    let tasks = TaskTracker::new();
    let control = ControlServer::start(&settings.socket, api::router(master.clone(), tasks.clone()))?;
    let stop = CancellationToken::new();
    let mut servers = JoinSet::new();
    let (offers, offered) = Offers::channel();
    servers.spawn(learn::run(master.repository.clone(), offered, stop.clone()));
    let (reports, reported) = Reports::channel();
    servers.spawn(hear::run(master.clone(), reported, stop.clone()));
    servers.spawn(plans::run(master.clone(), stop.clone()));
    servers.spawn(pack::run(master.clone(), stop.clone()));
    servers.spawn(look::run(master.repository.clone(), stop.clone()));
    servers.spawn(master.space.clone().watch(stop.clone()));
    for (listener, _) in listeners {
        let told = master.clone();
        let router = serve::router(master.repository.clone(), master.sent.clone(), offers.clone(), reports.clone())
            .merge(serve::metrics_router(move || metrics::text(&told.report(), &[])));
        servers.spawn(serve::serve(listener, router, allow.clone(), acceptor.clone(), stop.clone()));
    }
    notify::ready(&format!("serving {} on {}", settings.repo.display(), join(&listen)));
    loop {
        match signals.told().await {
            Told::Stop => break,
            Told::Reload => {
                let master = master.clone();
                config::log(&tokio::task::spawn_blocking(move || master.reload()).await?);
            }
            Told::Restart => tracing::info!("a master has nothing to leave to another; restart it"),
        }
    }
    tracing::info!("stopping");
    notify::stopping();
    master.operations.cancel_all();
    stop.cancel();
    while servers.join_next().await.is_some() {}
    tasks.close();
    control.stop_after(&tasks).await;
    Ok(())
}

/// A certificate that cannot be shown is an error of the configuration.
fn unusable(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, format!("{error:#}"))
}

/// Opens the repository; makes it in a directory that is missing or empty.
async fn open(path: &Path) -> anyhow::Result<Arc<Repository>> {
    let path = path.to_owned();
    let open = move || {
        let is_new = is_missing_or_empty(&path);
        let repository = Repository::open_or_create(&path, icbd_master::Settings::default())?;
        if is_new {
            tracing::info!(path = %path.display(), id = %repository.id(), "created a new repository");
        }
        Ok::<_, MasterError>(Arc::new(repository))
    };
    let opened = tokio::task::spawn_blocking(open).await.context("opening the repository panicked")?;
    Ok(opened.map_err(Failure::from)?)
}

fn is_missing_or_empty(path: &Path) -> bool {
    std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}

fn join(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl From<MasterError> for Failure {
    fn from(error: MasterError) -> Failure {
        Failure::new(exit_of(&error), error.to_string()).of_disk(&error)
    }
}

fn exit_of(error: &MasterError) -> Exit {
    match error {
        MasterError::Shared(error) => exit_of(error),
        _ if error.is_absent() => Exit::Absent,
        MasterError::SourceMissing(_) | MasterError::NotARepository(_) => Exit::Absent,
        MasterError::Locked { .. }
        | MasterError::NotEmpty(_)
        | MasterError::IsAStore { .. }
        | MasterError::TreesKind { .. }
        | MasterError::SourceOverlaps { .. }
        | MasterError::Changed(_)
        | MasterError::CopyGone { .. }
        | MasterError::CopyBeingMade(_)
        | MasterError::Planned(_)
        | MasterError::DeployedAlready(_)
        | MasterError::ForeignVersion { .. }
        | MasterError::HereAlready(_)
        | MasterError::OtherVersion(_)
        | MasterError::ImpossibleSerials(_)
        | MasterError::RemovedHere(_)
        | MasterError::ReceivedTwice(_)
        | MasterError::ImprovedTwice(_)
        | MasterError::NotHere { .. }
        | MasterError::NotNewest { .. }
        | MasterError::NoStreams(_)
        | MasterError::Refused(_) => Exit::Refused,
        MasterError::Cancelled => Exit::Interrupted,
        MasterError::Altered { .. }
        | MasterError::Damaged { .. }
        | MasterError::Unsound { .. }
        | MasterError::NotAsSent(_)
        | MasterError::NotAsStreamed(_)
        | MasterError::OtherDisk { .. }
        | MasterError::Manifest { .. }
        | MasterError::Head { .. }
        | MasterError::Page { .. }
        | MasterError::Statement(_) => Exit::Verification,
        _ => Exit::Failed,
    }
}
