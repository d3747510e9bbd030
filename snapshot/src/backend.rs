//! How trees are kept on one file system: the seam behind which btrfs, reflinks and copies are alike.

use std::fmt;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::beneath::Beneath;
use crate::extents::{Extent, Held};
use crate::slot::Slot;
use crate::stream::Programs;
use crate::tree::{Access, Tree};
use crate::{SnapshotError, btrfs, plain, reflink};

/// How trees are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Subvolumes of btrfs: any tree is cloned or sealed at once, the kernel keeps what is sealed from changing, and
    /// differences travel as streams. Needs root.
    Btrfs,
    /// Directories of files that share their blocks (xfs, btrfs and others): cloned and sealed at once however large
    /// the files are, in time that grows with their number.
    Reflink,
    /// Directories of copied files: every tree costs all of its bytes, in time and on the disk.
    Plain,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Btrfs => "btrfs subvolumes",
            Kind::Reflink => "reflinked directories",
            Kind::Plain => "plain copies",
        })
    }
}

/// One way to keep trees. Everything it makes is whole and durable when the call returns, or not there at all.
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    fn kind(&self) -> Kind;

    /// Makes an empty writable tree.
    fn create(&self, at: &Slot<'_>) -> Result<(), SnapshotError>;

    /// Makes a tree with what `from` holds now.
    fn copy(&self, from: &dyn Tree, at: &Slot<'_>, access: Access) -> Result<(), SnapshotError>;

    /// What kind of tree a directory is; `None` when it is none.
    fn access(&self, directory: BorrowedFd<'_>) -> rustix::io::Result<Option<Access>>;

    /// Deletes the tree that is here.
    fn delete(&self, at: &Slot<'_>) -> Result<(), SnapshotError>;

    /// That nothing inside of a tree keeps it from being deleted.
    fn check_whole(&self, _tree: BorrowedFd<'_>, _path: &Path) -> Result<(), SnapshotError> {
        Ok(())
    }

    /// Hands where the bytes of a file lie to `each` in order, until it breaks.
    fn extents(&self, file: BorrowedFd<'_>, each: &mut dyn FnMut(Extent) -> ControlFlow<()>) -> rustix::io::Result<()>;

    /// The stretches of the disk that a file holds; `None` where nobody tells.
    fn held(&self, file: BorrowedFd<'_>) -> rustix::io::Result<Option<Vec<Held>>>;

    /// Waits until the space of what is deleted by now is free.
    fn wait_for_deleted(&self, base: BorrowedFd<'_>) -> rustix::io::Result<()>;

    /// The programs that send and receive trees, where there are any.
    fn streams(&self) -> Option<Programs>;
}

/// The backend of `kind` for the store in `base`, if that is on a file system that can.
pub(crate) fn open(kind: Kind, base: &Beneath) -> Result<Box<dyn Backend>, SnapshotError> {
    Ok(match kind {
        Kind::Btrfs => Box::new(btrfs::Btrfs::open(base)?),
        Kind::Reflink => Box::new(reflink::open(base)?),
        Kind::Plain => Box::new(plain::open()),
    })
}
