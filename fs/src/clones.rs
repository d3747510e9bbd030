//! Writable disks of workstations as a mount shows them: one directory of files, for root alone.
//!
//! A file's number is its clone's, which is another one after a reset: who has an old one gets ESTALE. The kernel keeps
//! nothing of what is in them, so nothing has to be forgotten there.

mod handles;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use icbd_cache::{Cache, CacheError, CloneDisk, ReadNow};
use tracing::{error, info};

use crate::connection::{self, Connection, Served, Shows};
use crate::edge::Answers;
use crate::edge::clones::ClonesEdge;
use crate::edge::session::SetUp;
use crate::errno::Refusal;
use crate::mountpoint::Unmounted;
use crate::service::Data;
use crate::{FsError, Handover};
pub(crate) use handles::Handles;

/// The directory's number.
pub(crate) const ROOT: u64 = 1;
/// Writes may wait for the disk on the threads that take requests, so there are more than a read-only mount has.
const THREADS: usize = 8;

/// The mount of all clones, served.
///
/// Dropping it neither unmounts nor stops: that is [`ClonesMounted::unmount`]'s or [`ClonesMounted::leave`]'s part.
#[derive(Debug)]
pub struct ClonesMounted {
    edge: ClonesEdge,
    served: Served,
}

/// What answers for clones.
#[derive(Debug)]
pub(crate) struct ClonesService {
    pub(crate) cache: Arc<Cache>,
    pub(crate) handles: Handles,
}

/// What the kernel is told of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CloneAttributes {
    pub(crate) number: u64,
    pub(crate) size: u64,
    pub(crate) allocated: u64,
    pub(crate) made: SystemTime,
}

/// Shows the clones of a cache in the directory `path`, or takes over the mount that `handover` brings, as
/// [`crate::mount`] does.
pub async fn mount_clones(cache: Arc<Cache>, path: PathBuf, handover: Handover) -> Result<ClonesMounted, FsError> {
    let (table, adopted) = connection::begin(&handover)?;
    let handles = Handles::new(table, cache.clones());
    let set_up = if adopted { SetUp::Adopted } else { SetUp::Fresh { passthrough: false } };
    let edge = ClonesEdge { service: Arc::new(ClonesService { cache, handles }), answers: Answers::new(), set_up };
    let connect = move || {
        let connection = Connection { path: &path, threads: THREADS, handover: &handover, shows: Shows::Clones };
        let (served, ()) = connection.serve(edge.clone(), set_up, edge.service.handles.table(), |_| Ok(()))?;
        info!(path = %served.path().display(), adopted, "clones are mounted");
        Ok(ClonesMounted { edge, served })
    };
    tokio::task::spawn_blocking(connect).await.unwrap_or_else(|error| Err(FsError::Renew(error.to_string())))
}

impl ClonesMounted {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.served.path()
    }

    /// Whether it was taken over from an earlier daemon.
    pub fn is_adopted(&self) -> bool {
        self.served.is_adopted()
    }

    /// Until the mount has ended, for instance because somebody unmounted it.
    pub async fn wait(&self) {
        self.served.wait().await;
    }

    /// Unmounts and joins everything. A mount in use is detached: its users keep it until this process ends.
    pub async fn unmount(&self) -> Result<Unmounted, FsError> {
        let unmounted = self.served.unmount(self.edge.service.handles.table(), &self.edge.answers).await?;
        if unmounted != Unmounted::Detached {
            self.edge.service.handles.forget_all();
        }
        Ok(unmounted)
    }

    /// Leaves the mount, and every unanswered request, to the next daemon that gets the handover.
    ///
    /// The process must end soon: its threads take no more requests that they would answer.
    pub fn leave(&self) {
        self.served.leave(&self.edge.answers);
    }
}

impl ClonesService {
    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<CloneAttributes, Refusal> {
        if parent != ROOT {
            return Err(Refusal::NotDirectory);
        }
        let found = self.cache.clones().all().into_iter().find(|disk| name == &*disk.name().to_string());
        found.map(|disk| CloneAttributes::of(&disk)).ok_or(Refusal::NoEntry)
    }

    pub(crate) fn attributes(&self, node: u64) -> Result<CloneAttributes, Refusal> {
        self.disk(node).map(|disk| CloneAttributes::of(&disk))
    }

    /// Calls `add` with the number, the place in the list and the name of each clone behind that place.
    pub(crate) fn list(
        &self,
        node: u64,
        after: u64,
        mut add: impl FnMut(u64, u64, &str) -> bool,
    ) -> Result<(), Refusal> {
        if node != ROOT {
            return Err(Refusal::NotDirectory);
        }
        for (place, disk) in (1..).zip(self.cache.clones().all()).skip(usize::try_from(after).unwrap_or(usize::MAX)) {
            if add(disk.number(), place, &disk.name().to_string()) {
                break;
            }
        }
        Ok(())
    }

    /// Counts a new handle of the clone. It must be released or reported open.
    pub(crate) fn open(&self, node: u64) -> Result<(), Refusal> {
        let used = self.cache.clones().enter(node).ok_or(Refusal::Stale)?;
        self.handles.opened(node, used)
    }

    /// The bytes from `offset` on: `len` of them, fewer only at the end.
    pub(crate) async fn read(&self, node: u64, offset: u64, len: usize) -> Result<Data, Refusal> {
        let disk = self.disk(node)?;
        let mut out = Vec::new();
        match disk.read_now(offset, len, &mut out) {
            ReadNow::Done => Ok(Data::Own(out)),
            ReadNow::Cold | ReadNow::Missing => {
                disk.read(offset, len).await.map(Data::Shared).map_err(|error| refuse(&disk, &error))
            }
        }
    }

    /// Writes at once if that can be; else gives the disk, to be waited for with [`ClonesService::write`].
    pub(crate) fn write_now(&self, node: u64, offset: u64, bytes: &[u8]) -> Result<Option<Arc<CloneDisk>>, Refusal> {
        let disk = self.disk(node)?;
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > disk.size()) {
            // As past the end of any disk.
            return Err(Refusal::NoSpace);
        }
        match disk.write_now(offset, bytes) {
            Some(Ok(())) => Ok(None),
            Some(Err(error)) => Err(refuse(&disk, &error)),
            None => Ok(Some(disk)),
        }
    }

    pub(crate) async fn write(disk: Arc<CloneDisk>, offset: u64, bytes: Bytes) -> Result<(), Refusal> {
        disk.write(offset, bytes).await.map_err(|error| refuse(&disk, &error))
    }

    pub(crate) async fn flush(&self, node: u64) -> Result<(), Refusal> {
        let disk = self.disk(node)?;
        disk.flush().await.map_err(|error| refuse(&disk, &error))
    }

    pub(crate) async fn discard(&self, node: u64, offset: u64, len: u64) -> Result<(), Refusal> {
        let disk = self.disk(node)?;
        disk.discard(offset..offset.saturating_add(len)).await.map_err(|error| refuse(&disk, &error))
    }

    /// One that is open, or may be.
    fn disk(&self, node: u64) -> Result<Arc<CloneDisk>, Refusal> {
        let disk = self.handles.disk(node).or_else(|| self.cache.clones().by_number(node));
        disk.ok_or(if node == ROOT { Refusal::Invalid } else { Refusal::Stale })
    }
}

impl CloneAttributes {
    fn of(disk: &CloneDisk) -> CloneAttributes {
        CloneAttributes {
            number: disk.number(),
            size: disk.size(),
            allocated: disk.allocated().unwrap_or(0),
            made: SystemTime::UNIX_EPOCH + Duration::from_secs(disk.made()),
        }
    }
}

/// Logs what a workstation is told only by a number.
fn refuse(disk: &CloneDisk, failed: &CacheError) -> Refusal {
    let refusal = Refusal::from(failed);
    // A full disk was told already, once.
    if refusal != Refusal::NoSpace && !matches!(failed, CacheError::Closed) {
        error!(clone = %disk.name(), error = %failed, "a workstation gets an error from its disk");
    }
    refusal
}
