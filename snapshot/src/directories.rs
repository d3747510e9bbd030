//! Trees as ordinary directories, for file systems that have nothing better: made aside, synced, then moved into place.
//!
//! The kernel does not keep a sealed one from changing; that it is sealed says an extended attribute of its directory,
//! which nothing here ever takes back. What does not belong to a store's owner cannot enter it, and what the owner
//! alters by hand is found by whoever verifies.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, RenameFlags, XattrFlags};
use rustix::io::{Errno, Result};

use crate::backend::{Backend, Kind};
use crate::copy::copy_tree;
use crate::extents::{Extent, Held, by_map, held_by_map};
use crate::slot::Slot;
use crate::staging::{MADE, Staging};
use crate::stream::Programs;
use crate::{Access, SnapshotError, Tree};

/// On the directory of every tree; [`crate::copy`] leaves it out.
pub(crate) const MARK: &str = "user.icbd.tree";
const WRITABLE: &[u8] = b"writable";
const SEALED: &[u8] = b"sealed";

/// Makes the second file, empty as it is, a copy of the first, which has so many bytes.
pub(crate) type CopyFile = fn(BorrowedFd<'_>, BorrowedFd<'_>, u64) -> io::Result<()>;

#[derive(Debug)]
pub(crate) struct Directories {
    pub(crate) kind: Kind,
    pub(crate) copy_file: CopyFile,
}

impl Backend for Directories {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn create(&self, at: &Slot<'_>) -> std::result::Result<(), SnapshotError> {
        // Nothing is in it: itself is all there is to sync.
        make(at, Access::Writable, |_| Ok(()), |tree| rustix::fs::fsync(tree))
    }

    fn copy(&self, from: &dyn Tree, at: &Slot<'_>, access: Access) -> std::result::Result<(), SnapshotError> {
        // One sync for all of it; a sync for each file takes twenty times as long.
        make(at, access, |tree| copy_tree(from, tree, &at.path(), self.copy_file), |tree| rustix::fs::syncfs(tree))
    }

    fn access(&self, directory: BorrowedFd<'_>) -> Result<Option<Access>> {
        let mut value = [0; 16];
        match rustix::fs::fgetxattr(directory, MARK, &mut value) {
            Ok(len) if value[..len] == *SEALED => Ok(Some(Access::Sealed)),
            Ok(len) if value[..len] == *WRITABLE => Ok(Some(Access::Writable)),
            Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn delete(&self, at: &Slot<'_>) -> std::result::Result<(), SnapshotError> {
        // Out of sight at once: nobody ever sees half of it.
        Staging::take(at).map(drop)
    }

    fn extents(&self, file: BorrowedFd<'_>, each: &mut dyn FnMut(Extent) -> ControlFlow<()>) -> Result<()> {
        by_map(file, each)
    }

    fn held(&self, file: BorrowedFd<'_>) -> Result<Option<Vec<Held>>> {
        held_by_map(file)
    }

    fn wait_for_deleted(&self, base: BorrowedFd<'_>) -> Result<()> {
        rustix::fs::syncfs(base)
    }

    fn streams(&self) -> Option<Programs> {
        None
    }
}

/// Seals the tree at `from`, in which everything is durable already, and moves it to `at`.
pub(crate) fn finish(made: &dyn Tree, from: &Slot<'_>, at: &Slot<'_>) -> std::result::Result<(), SnapshotError> {
    let error = |errno: Errno| SnapshotError::io("create", at.path())(errno);
    rustix::fs::fsetxattr(made.directory(), MARK, SEALED, XattrFlags::empty()).map_err(error)?;
    rustix::fs::fsync(made.directory()).map_err(SnapshotError::io("sync", from.path()))?;
    match rustix::fs::renameat_with(from.parent(), from.name(), at.parent(), at.name(), RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(SnapshotError::Occupied(at.path())),
        Err(errno) => return Err(error(errno)),
    }
    rustix::fs::fsync(at.parent()).map_err(SnapshotError::io("sync the directory of", at.path()))
}

/// Makes a tree that `fill` fills.
fn make(
    at: &Slot<'_>,
    access: Access,
    fill: impl FnOnce(BorrowedFd<'_>) -> std::result::Result<(), SnapshotError>,
    sync: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
) -> std::result::Result<(), SnapshotError> {
    let error = |errno: Errno| SnapshotError::io("create", at.path())(errno);
    let staging = Staging::create(at.base)?;
    rustix::fs::mkdirat(staging.directory(), MADE, Mode::RWXU).map_err(error)?;
    let tree = staging.open(MADE).map_err(error)?;
    fill(tree.as_fd())?;
    let mark = if access == Access::Sealed { SEALED } else { WRITABLE };
    rustix::fs::fsetxattr(&tree, MARK, mark, XattrFlags::empty()).map_err(|source| match source {
        Errno::OPNOTSUPP => {
            let why = "its file system keeps no extended attributes".to_owned();
            SnapshotError::Unsupported { what: "a tree", path: at.path(), why }
        }
        source => error(source),
    })?;
    sync(tree.as_fd()).map_err(SnapshotError::io("sync", at.path()))?;
    staging.publish(MADE, at)
}
