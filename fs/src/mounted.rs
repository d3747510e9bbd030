//! A mount that is served: made or taken over, looked at, ended or left to a successor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use icbd_cache::Cache;
use icbd_image::Serial;
use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::edge::session::{self, Notify, SetUp};
use crate::edge::{Edge, backing};
use crate::invalidate::Invalidator;
use crate::modes::{Modes, OpenHandles};
use crate::mountpoint::{self, Unmounted};
use crate::service::{Buffers, Service};
use crate::table::{Stage, Table};
use crate::{FsError, Handover, MountSettings};

/// The tree of a cache, mounted and served.
///
/// Dropping it neither unmounts nor stops: that is [`Mounted::unmount`]'s or [`Mounted::leave`]'s part.
#[derive(Debug)]
pub struct Mounted {
    edge: Edge,
    invalidator: Invalidator,
    path: PathBuf,
    device: u32,
    adopted: bool,
    ended: watch::Receiver<bool>,
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
    let table = Table::map(&handover.table).map_err(|error| FsError::Handover(error.to_string()))?;
    let adopted = match table.stage() {
        Stage::Fresh => false,
        Stage::Live => true,
        Stage::Mounting => return Err(give_up(&table, "its daemon was killed while it mounted")),
        Stage::Gone => return Err(FsError::Renew("it was unmounted".to_owned())),
    };
    let Handover { fuse, table: _ } = handover.try_clone()?;
    let modes = Modes::new(table, |id| backing::close(&fuse, id));
    let set_up = if adopted { SetUp::Adopted } else { SetUp::Fresh { passthrough: settings.passthrough } };
    let passthrough = settings.passthrough;
    let edge = Edge {
        service: Arc::new(Service { cache, modes, fuse, passthrough, buffers: Buffers::default() }),
        runtime: Runtime::current(),
        tasks: TaskTracker::new(),
        leaving: Arc::new(AtomicBool::new(false)),
        over: CancellationToken::new(),
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
    let adopted = edge.set_up == SetUp::Adopted;
    let session = if adopted { take_over(&edge, settings, handover)? } else { set_up(&edge, settings, handover)? };
    let table = edge.service.modes.table();
    table.set_stage(Stage::Live);
    let (path, device) = (table.mount_path(), table.device());
    let invalidator = Invalidator::start(edge.service.cache.clone(), Notify::of(&session))?;
    let (tell, ended) = watch::channel(false);
    session::serve(session, move || {
        let _ = tell.send(true);
    })?;
    mountpoint::set_readahead(device, settings.readahead_kib);
    info!(path = %path.display(), device, adopted, "the tree is mounted");
    Ok(Mounted { edge, invalidator, path, device, adopted, ended })
}

fn set_up(edge: &Edge, settings: &MountSettings, handover: &Handover) -> Result<session::FuseSession, FsError> {
    let path = mountpoint::prepare(&settings.path)?;
    let table = edge.service.modes.table();
    table.set_mount_path(&path);
    table.set_stage(Stage::Mounting);
    let fuse = handover.try_clone()?.fuse;
    let device = mountpoint::attach(&path, &fuse).inspect_err(|_| table.set_stage(Stage::Fresh))?;
    table.set_device(device);
    session::begin(edge.clone(), fuse, settings.threads).map_err(|error| {
        let undone = give_up(table, "the kernel and icbd could not agree");
        warn!(%undone, "the mount was undone");
        FsError::system("agree with the kernel on FUSE", "see the kernel's log; Linux 5.4 or later is needed")(error)
    })
}

fn take_over(edge: &Edge, settings: &MountSettings, handover: &Handover) -> Result<session::FuseSession, FsError> {
    let table = edge.service.modes.table();
    let was = table.mount_path();
    if !same_path(&was, &settings.path) {
        return Err(FsError::Moved { was, now: settings.path.clone() });
    }
    if !mountpoint::shows(&was, table.device())? {
        return Err(give_up(table, "somebody unmounted it"));
    }
    session::adopt(edge.clone(), &handover.fuse, settings.threads, &table.negotiated()).map_err(|error| {
        give_up(table, &format!("the kernel does not send unanswered requests again ({error}); Linux 6.9 does"))
    })
}

/// Ends a mount that cannot be taken over, so that nobody hangs on it.
fn give_up(table: &Table, why: &str) -> FsError {
    let (path, device) = (table.mount_path(), table.device());
    if device != 0 {
        mountpoint::abort(device);
        if let Err(error) = mountpoint::detach(&path, device) {
            warn!(path = %path.display(), %error, "cannot unmount what the earlier daemon mounted");
        }
    }
    table.set_stage(Stage::Gone);
    FsError::Renew(why.to_owned())
}

/// Compares without asking the mount itself, which nobody serves yet.
fn same_path(canonical: &Path, given: &Path) -> bool {
    let parent = |path: &Path| {
        path.parent().and_then(|parent| {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            parent.canonicalize().ok()
        })
    };
    canonical == given || (canonical.file_name() == given.file_name() && parent(canonical) == parent(given))
}

impl Mounted {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// To be called when the cache's view has changed. Returns at once.
    pub fn view_changed(&self) {
        self.invalidator.wake();
    }

    /// How it is doing; never waits for the mount.
    pub fn status(&self) -> MountStatus {
        let service = &self.edge.service;
        MountStatus {
            path: self.path.clone(),
            adopted: self.adopted,
            passthrough: service.passthrough && service.modes.table().negotiated().passthrough,
            open: service.modes.count(),
            open_by_version: service.modes.count_by_version(),
            waiting: self.edge.tasks.len(),
        }
    }

    /// Until the mount has ended, for instance because somebody unmounted it.
    pub async fn wait(&self) {
        let mut ended = self.ended.clone();
        // An error means that the serving thread is gone, which is the end too.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Unmounts and joins everything. A mount in use is detached: its users keep it until this process ends.
    pub async fn unmount(self) -> Result<Unmounted, FsError> {
        let (path, device) = (self.path.clone(), self.device);
        let detach = move || mountpoint::detach(&path, device);
        let unmounted = tokio::task::spawn_blocking(detach)
            .await
            .map_err(|error| FsError::system("unmount", "run `umount` on it")(std::io::Error::other(error)))??;
        self.edge.service.modes.table().set_stage(Stage::Gone);
        if unmounted == Unmounted::Detached {
            return Ok(unmounted);
        }
        self.wait().await;
        // What the kernel reads ahead keeps no mount busy. Nobody hears of it now, and its source may be away for days.
        self.edge.leaving.store(true, Ordering::Release);
        self.edge.over.cancel();
        self.edge.tasks.close();
        self.edge.tasks.wait().await;
        let _ = tokio::task::spawn_blocking(move || self.invalidator.join()).await;
        info!(path = %self.path.display(), "unmounted");
        Ok(unmounted)
    }

    /// Leaves the mount, and every unanswered request, to the next daemon that gets the handover.
    ///
    /// The process must end soon: its threads take no more requests that they would answer.
    pub fn leave(self) {
        self.edge.leaving.store(true, Ordering::Release);
        info!(path = %self.path.display(), "left the mount to the next daemon");
    }
}
