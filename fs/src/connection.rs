//! What both mounts have in common: making one or taking it over, serving it, ending it or leaving it to a successor.

use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::edge::Answers;
use crate::edge::session::{self, Served as Serve, SetUp};
pub(crate) use crate::mountpoint::Shows;
use crate::mountpoint::{self, Unmounted};
use crate::table::{Stage, Table};
use crate::{FsError, Handover};

/// How a mount is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection<'a> {
    pub(crate) path: &'a Path,
    pub(crate) threads: usize,
    pub(crate) handover: &'a Handover,
    pub(crate) shows: Shows,
}

/// A mount that is served.
#[derive(Debug)]
pub(crate) struct Served {
    path: PathBuf,
    device: u32,
    adopted: bool,
    ended: watch::Receiver<bool>,
}

/// The table that is handed over, and whether there is a mount to be taken over with it.
pub(crate) fn begin(handover: &Handover) -> Result<(Table, bool), FsError> {
    let table = Table::map(&handover.table).map_err(|error| FsError::Handover(error.to_string()))?;
    match table.stage() {
        Stage::Fresh => Ok((table, false)),
        Stage::Live => Ok((table, true)),
        Stage::Mounting => Err(give_up(&table, "its daemon was killed while it mounted")),
        Stage::Gone => Err(FsError::Renew("it was unmounted".to_owned())),
    }
}

impl Connection<'_> {
    /// Mounts or takes over, and starts the threads that read requests, after `before`. Blocks.
    pub(crate) fn serve<F: Serve, T>(
        &self,
        edge: F,
        set_up: SetUp,
        table: &Table,
        before: impl FnOnce(&session::FuseSession<F>) -> Result<T, FsError>,
    ) -> Result<(Served, T), FsError> {
        let adopted = set_up == SetUp::Adopted;
        let session = if adopted { self.take_over(edge, table)? } else { self.set_up(edge, table)? };
        table.set_stage(Stage::Live);
        let besides = before(&session)?;
        let (tell, ended) = watch::channel(false);
        session::serve(session, move || {
            let _ = tell.send(true);
        })?;
        Ok((Served { path: table.mount_path(), device: table.device(), adopted, ended }, besides))
    }

    fn set_up<F: Serve>(&self, edge: F, table: &Table) -> Result<session::FuseSession<F>, FsError> {
        let path = mountpoint::prepare(self.path)?;
        table.set_mount_path(&path);
        table.set_stage(Stage::Mounting);
        let fuse = self.handover.try_clone()?.fuse;
        let device = mountpoint::attach(&path, &fuse, self.shows).inspect_err(|_| table.set_stage(Stage::Fresh))?;
        table.set_device(device);
        session::begin(edge, fuse, self.threads).map_err(|error| {
            let undone = give_up(table, "the kernel and icbd could not agree");
            warn!(%undone, "the mount was undone");
            FsError::system("agree with the kernel on FUSE", "see the kernel's log; Linux 5.4 or later is needed")(
                error,
            )
        })
    }

    fn take_over<F: Serve>(&self, edge: F, table: &Table) -> Result<session::FuseSession<F>, FsError> {
        let was = table.mount_path();
        if !same_path(&was, self.path) {
            return Err(FsError::Moved { was, now: self.path.to_owned() });
        }
        if !mountpoint::shows(&was, table.device())? {
            return Err(give_up(table, "somebody unmounted it"));
        }
        session::adopt(edge, &self.handover.fuse, self.threads, &table.negotiated()).map_err(|error| {
            give_up(table, &format!("the kernel does not send unanswered requests again ({error}); Linux 6.9 does"))
        })
    }
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

impl Served {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn device(&self) -> u32 {
        self.device
    }

    pub(crate) fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// Until the mount has ended.
    pub(crate) async fn wait(&self) {
        let mut ended = self.ended.clone();
        // An error means that the serving thread is gone, which is the end too.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Unmounts and joins all that answers. A mount in use is detached: its users keep it until this process ends.
    pub(crate) async fn unmount(&self, table: &Table, answers: &Answers) -> Result<Unmounted, FsError> {
        let (path, device) = (self.path.clone(), self.device);
        let detach = move || mountpoint::detach(&path, device);
        let unmounted = tokio::task::spawn_blocking(detach)
            .await
            .map_err(|error| FsError::system("unmount", "run `umount` on it")(std::io::Error::other(error)))??;
        table.set_stage(Stage::Gone);
        if unmounted == Unmounted::Detached {
            return Ok(unmounted);
        }
        self.wait().await;
        answers.end().await;
        info!(path = %self.path.display(), "unmounted");
        Ok(unmounted)
    }

    /// Leaves the mount, and every unanswered request, to the next daemon that gets the handover.
    pub(crate) fn leave(&self, answers: &Answers) {
        answers.leave();
        info!(path = %self.path.display(), "left the mount to the next daemon");
    }
}
