//! `making/`: where trees are that nobody may see yet, or no longer.
//!
//! Each call that makes or removes a tree in more than one step has a directory of its own in there, and holds a lock
//! on it. What a killed process left has no lock, and the next [`clean`] removes it.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::SnapshotError;
use crate::beneath::{Beneath, names, proc_path};
use crate::btrfs;
use crate::slot::Slot;

/// Below the store's directory.
pub(crate) const MAKING: &str = "making";
/// What is made in a private directory is called so until it is moved to its place.
pub(crate) const MADE: &str = "tree";

/// A private directory, removed with all that is in it when it is dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    making: OwnedFd,
    name: String,
    directory: OwnedFd,
    path: PathBuf,
}

impl Staging {
    /// Makes an empty one.
    pub(crate) fn create(base: &Beneath) -> Result<Staging, SnapshotError> {
        let (making, name) = (making(base)?, random_name(base)?);
        let path = base.shown(format!("{MAKING}/{name}").as_bytes());
        let error = |errno: Errno| SnapshotError::io("create", &path)(errno);
        let cleaning = lock_making(base)?;
        rustix::fs::mkdirat(&making, &*name, Mode::RWXU).map_err(error)?;
        let directory = base.directory(format!("{MAKING}/{name}").as_bytes()).map_err(error)?;
        rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).map_err(error)?;
        drop(cleaning);
        Ok(Staging { making, name, directory, path })
    }

    /// Moves the directory that is at `slot` in here as a whole.
    pub(crate) fn take(slot: &Slot<'_>) -> Result<Staging, SnapshotError> {
        let (making, name) = (making(slot.base)?, random_name(slot.base)?);
        let path = slot.base.shown(format!("{MAKING}/{name}").as_bytes());
        let directory = slot.open()?;
        let error = |errno: Errno| SnapshotError::io("delete", slot.path())(errno);
        let cleaning = lock_making(slot.base)?;
        rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).map_err(error)?;
        rustix::fs::renameat_with(slot.parent(), slot.name(), &making, &*name, RenameFlags::NOREPLACE)
            .map_err(error)?;
        drop(cleaning);
        Ok(Staging { making, name, directory, path })
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Opens a directory in here.
    pub(crate) fn open(&self, name: impl AsRef<std::path::Path>) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, name.as_ref(), flags, Mode::empty())
    }

    pub(crate) fn beneath(&self) -> Result<Beneath, SnapshotError> {
        let directory = rustix::io::fcntl_dupfd_cloexec(&self.directory, 0);
        Ok(Beneath::from_open(directory.map_err(SnapshotError::io("open", &self.path))?, self.path.clone()))
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Moves what was made here under `name` to its place, durably. Its own content is durable already.
    pub(crate) fn publish(&self, name: &str, at: &Slot<'_>) -> Result<(), SnapshotError> {
        let moved = rustix::fs::renameat_with(&self.directory, name, at.parent(), at.name(), RenameFlags::NOREPLACE);
        match moved {
            Ok(()) => rustix::fs::fsync(at.parent()).map_err(SnapshotError::io("sync the directory of", at.path())),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Err(SnapshotError::Occupied(at.path())),
            Err(error) => Err(SnapshotError::io("create", at.path())(error)),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let removed = self
            .beneath()
            .map_err(std::io::Error::other)
            .and_then(|directory| remove(self.making.as_fd(), self.name.as_bytes(), &directory));
        if let Err(error) = removed {
            // Nothing depends on its being gone, and it is gone from where it was.
            tracing::warn!(path = %self.path.display(), %error, "what was being made could not be removed; the next start will try again");
        }
        // Closing alone would leave the lock to a child process that was forked and has not called exec yet.
        let _ = rustix::fs::flock(&self.directory, FlockOperation::Unlock);
    }
}

/// Whether trees are, or were, made in a directory.
pub(crate) fn is_store(base: &Beneath) -> bool {
    base.directory(MAKING.as_bytes()).is_ok()
}

/// Removes `making/` from a directory that is no store, and was used as one for a while.
pub(crate) fn leave(base: &Beneath) {
    // Somebody may use it by now, and then it stays.
    let _ = rustix::fs::unlinkat(base.root(), MAKING, AtFlags::REMOVEDIR);
}

/// Makes a directory a store, and removes what nobody is making in it any more.
pub(crate) fn clean(base: &Beneath) -> Result<(), SnapshotError> {
    let making = making(base)?;
    let _cleaning = lock_making(base)?;
    for name in names(making.as_fd()).map_err(SnapshotError::io("list", base.shown(MAKING.as_bytes())))? {
        let inside = [MAKING.as_bytes(), b"/", &name].concat();
        let Ok(directory) = base.directory(&inside) else { continue };
        if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let path = base.shown(&inside);
        match remove(making.as_fd(), &name, &Beneath::from_open(directory, path.clone())) {
            Ok(()) => tracing::info!(path = %path.display(), "removed what was left half made"),
            // Nothing depends on its being gone.
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove what was left half made"),
        }
    }
    Ok(())
}

/// Opens `making/`; makes it if it is not there.
fn making(base: &Beneath) -> Result<OwnedFd, SnapshotError> {
    let error = |errno: Errno| SnapshotError::io("create", base.shown(MAKING.as_bytes()))(errno);
    match rustix::fs::mkdirat(base.root(), MAKING, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => base.directory(MAKING.as_bytes()).map_err(error),
        Err(errno) => Err(error(errno)),
    }
}

/// Keeps [`clean`] out between the making of a directory and the taking of its lock.
fn lock_making(base: &Beneath) -> Result<OwnedFd, SnapshotError> {
    let error = |errno: Errno| SnapshotError::io("lock", base.shown(MAKING.as_bytes()))(errno);
    // A lock belongs to one opening of a file; several threads have to wait for each other, too.
    let lock = base.directory(MAKING.as_bytes()).map_err(error)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(error)?;
    Ok(lock)
}

fn random_name(base: &Beneath) -> Result<String, SnapshotError> {
    let mut bytes = [0; 8];
    let filled = getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()));
    filled.map_err(SnapshotError::io("get random numbers for", base.shown(b"")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Removes a directory and what is in it, read-only subvolumes included.
fn remove(parent: BorrowedFd<'_>, name: &[u8], directory: &Beneath) -> std::io::Result<()> {
    btrfs::destroy_subvolumes(directory)?;
    match fs::remove_dir_all(std::ffi::OsStr::from_bytes(&proc_path(parent, name))) {
        // Published, or removed by hand.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
