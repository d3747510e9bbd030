//! A mount that is served: made or taken over, looked at, ended or left to a successor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use icbd_cache::Cache;
use icbd_image::Serial;
use tracing::info;

use crate::connection::{self, Connection, Served, Shows};
use crate::edge::session::{Notify, SetUp};
use crate::edge::{Answers, Edge, backing};
use crate::invalidate::Invalidator;
use crate::modes::{Modes, OpenHandles};
use crate::mountpoint::{self, Unmounted};
use crate::service::{Buffers, Service};
use crate::{FsError, Handover, MountSettings};

/// The tree of a cache, mounted and served.
///
/// Dropping it neither unmounts nor stops: that is [`Mounted::unmount`]'s or [`Mounted::leave`]'s part.
#[derive(Debug)]
pub struct Mounted {
    edge: Edge,
    invalidator: Invalidator,
    served: Served,
}

/// How a mount is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountStatus {
    pub path: PathBuf,
    /// Whether it was taken over from an earlier daemon.
    pub adopted: bool,
    /// Whether complete files are read past the daemon.
    pub passthrough: bool,
    /// Those that programs hold, by how they read.
    pub open: OpenHandles,
    /// Those of files of at least 1 MiB, by version.
    pub open_by_version: BTreeMap<Serial, u64>,
    /// Requests that wait for a block, a head or the disk.
    pub waiting: usize,
}

/// Shows the tree of `cache`: mounts it, or takes over the mount that `handover` brings.
///
/// To be called in a tokio runtime, which answers what has to wait. [`FsError::Renew`] means that the
/// mount which was handed over is lost and cleaned up: mount anew with [`Handover::create`], or, under
/// a keeper, exit with [`crate::keeper::RENEW_EXIT_CODE`].
pub async fn mount(cache: Arc<Cache>, settings: MountSettings, handover: Handover) -> Result<Mounted, FsError> {
    let (table, adopted) = connection::begin(&handover)?;
    let Handover { fuse, table: _ } = handover.try_clone()?;
    let modes = Modes::new(table, |id| backing::close(&fuse, id));
    let set_up = if adopted { SetUp::Adopted } else { SetUp::Fresh { passthrough: settings.passthrough } };
    let passthrough = settings.passthrough;
    let edge = Edge {
        service: Arc::new(Service { cache, modes, fuse, passthrough, buffers: Buffers::default() }),
        answers: Answers::new(),
        set_up,
    };
    if adopted {
        edge.service.guard_inherited().await;
    }
    let connect = move || connect(edge, &settings, &handover);
    tokio::task::spawn_blocking(connect).await.unwrap_or_else(|error| Err(FsError::Renew(error.to_string())))
}

/// The part that makes system calls which may wait for the disk or another daemon.
fn connect(edge: Edge, settings: &MountSettings, handover: &Handover) -> Result<Mounted, FsError> {
    let invalidates = edge.service.cache.clone();
    let connection = Connection { path: &settings.path, threads: settings.threads, handover, shows: Shows::Images };
    let (served, invalidator) = connection.serve(edge.clone(), edge.set_up, edge.service.modes.table(), |session| {
        Invalidator::start(invalidates, Notify::of(session))
    })?;
    mountpoint::set_readahead(served.device(), settings.readahead_kib);
    info!(path = %served.path().display(), adopted = served.is_adopted(), "the tree is mounted");
    Ok(Mounted { edge, invalidator, served })
}

impl Mounted {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.served.path()
    }

    /// To be called when the cache's view has changed. Returns at once.
    pub fn view_changed(&self) {
        self.invalidator.wake();
    }

    /// How it is doing; never waits for the mount.
    pub fn status(&self) -> MountStatus {
        let service = &self.edge.service;
        MountStatus {
            path: self.path().to_owned(),
            adopted: self.served.is_adopted(),
            passthrough: service.passthrough && service.modes.table().negotiated().passthrough,
            open: service.modes.count(),
            open_by_version: service.modes.count_by_version(),
            waiting: self.edge.answers.waiting(),
        }
    }

    /// Until the mount has ended, for instance because somebody unmounted it.
    pub async fn wait(&self) {
        self.served.wait().await;
    }

    /// Unmounts and joins everything. A mount in use is detached: its users keep it until this process ends.
    pub async fn unmount(self) -> Result<Unmounted, FsError> {
        let unmounted = self.served.unmount(self.edge.service.modes.table(), &self.edge.answers).await?;
        if unmounted != Unmounted::Detached {
            let _ = tokio::task::spawn_blocking(move || self.invalidator.join()).await;
        }
        Ok(unmounted)
    }

    /// Leaves the mount, and every unanswered request, to the next daemon that gets the handover.
    ///
    /// The process must end soon: its threads take no more requests that they would answer.
    pub fn leave(self) {
        self.served.leave(&self.edge.answers);
    }
}
