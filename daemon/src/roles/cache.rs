//! The cache server: a store filled from sources, shown by a mount that outlives the daemon.
//!
//! `icbd cache` is a keeper: it holds the mount's descriptors and starts itself again as the daemon
//! (`--handover`), which serves. With `--fd-store` systemd is the keeper.

mod api;
mod boot;
mod boots;
mod clients;
mod clones;
mod daemon;
mod demand;
mod evict;
mod exports;
mod handover;
mod local;
mod netboot;
mod prefetch;
mod ready;
mod refresh;
mod replicate;
mod seal;
mod state;

use std::process::ExitCode;

use icbd_cache::CacheError;
use icbd_fs::FsError;
use icbd_fs::keeper::{self, KeeperSettings};
use icbd_image::HeadError;

use super::config::RunningConfig;
use crate::args::CacheArgs;
use crate::doctor::Finding;
use crate::failure::{Exit, Failure};
use crate::logging;
use crate::settings::{CacheSettings, Role, Settings};
use demand::DemandThread;
use handover::Keeping;

/// The option by which the keeper passes the descriptors on.
const HANDOVER_OPTION: &str = "--handover";

/// Whether what is exported could be served. Blocks.
pub(crate) fn examine_exports(settings: &CacheSettings) -> Vec<Finding> {
    exports::examine(settings)
}

/// Runs a cache server until it is told to stop.
pub(crate) fn run(settings: &Settings, args: &CacheArgs) -> anyhow::Result<ExitCode> {
    // Before anything is started: what is wrong with them is said once, by whoever was started by a person.
    let cache = settings.cache(args)?;
    let config = RunningConfig::new(Role::Cache, settings, args.clone(), logging::start(settings.log_level()));
    let keeping = match &args.handover[..] {
        [] if args.fd_store => Keeping::by_systemd().map_err(Failure::from)?,
        [] => return keep(),
        numbers => Keeping::by_keeper(numbers).map_err(Failure::from)?,
    };
    let demand = DemandThread::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(daemon::serve(cache, config, keeping, demand.handle()));
    // What still waits for a hung disk must not keep the process.
    runtime.shutdown_background();
    code
}

/// Starts this program as the daemon, again and again, until it ends on purpose.
fn keep() -> anyhow::Result<ExitCode> {
    let settings = KeeperSettings {
        program: "/proc/self/exe".into(),
        arguments: std::env::args_os().skip(1).collect(),
        option: HANDOVER_OPTION.into(),
    };
    let code = keeper::run(&settings).map_err(Failure::from)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Failure {
        let exit = match &error {
            CacheError::UnknownSerial(_)
            | CacheError::UnknownImage(_)
            | CacheError::UnknownVersion(_)
            | CacheError::NoSuchFile { .. }
            | CacheError::UnknownClone(_)
            | CacheError::UnknownOrder(_) => Exit::Absent,
            CacheError::InUse { .. }
            | CacheError::NewerStore { .. }
            | CacheError::NoFormat { .. }
            | CacheError::NotAStore { .. }
            | CacheError::OrderEnded { .. }
            | CacheError::CloneLimit { .. }
            | CacheError::Refused(_)
            | CacheError::CannotShare(_) => Exit::Refused,
            CacheError::Unavailable { .. } | CacheError::Fetch(_) | CacheError::Closed => Exit::Unreachable,
            // One that is newer than this icbd is as good as any; what is damaged is not.
            CacheError::Unusable { why: HeadError::Format(_), .. } => Exit::Refused,
            CacheError::Unusable { .. } | CacheError::Untrusted { .. } | CacheError::Damaged { .. } => {
                Exit::Verification
            }
            _ => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Failure {
        match error {
            FsError::Cache(error) => Failure::from(error),
            FsError::Missing(_) => Failure::new(Exit::Absent, error.to_string()),
            FsError::NotDirectory(_)
            | FsError::NotEmpty(_)
            | FsError::Served(_)
            | FsError::Hung(_)
            | FsError::Foreign { .. }
            | FsError::Moved { .. } => Failure::new(Exit::Refused, error.to_string()),
            _ => Failure::new(Exit::Failed, error.to_string()),
        }
    }
}
