//! Where a tree is, or will be: a name in an open directory somewhere below the store's own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::SnapshotError;
use crate::beneath::{Beneath, Stat, split};
use crate::staging::MAKING;

/// The kernel's limits, less the terminating zero.
const PATH_BYTES_MAX: usize = 4095;
const NAME_BYTES_MAX: usize = 255;

/// A name in a directory of the store.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    pub(crate) base: &'a Beneath,
    /// Below the store's directory.
    at: PathBuf,
    parent: OwnedFd,
}

impl<'a> Slot<'a> {
    /// The place `at` for a tree that is not there yet; the directories above are made.
    pub(crate) fn vacant(base: &'a Beneath, at: &Path) -> Result<Slot<'a>, SnapshotError> {
        check(at)?;
        let slot = Slot { base, at: at.to_owned(), parent: make_parents(base, at)? };
        match Stat::at(slot.parent(), slot.name()) {
            Err(Errno::NOENT) => Ok(slot),
            Ok(_) => Err(SnapshotError::Occupied(slot.path())),
            Err(error) => Err(SnapshotError::io("look for", slot.path())(error)),
        }
    }

    /// The place `at` of a tree that should be there.
    pub(crate) fn taken(base: &'a Beneath, at: &Path) -> Result<Slot<'a>, SnapshotError> {
        check(at)?;
        let (above, _) = split(at.as_os_str().as_bytes());
        match base.directory(above) {
            Ok(parent) => Ok(Slot { base, at: at.to_owned(), parent }),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(SnapshotError::Absent(shown(base, at))),
            Err(error) => Err(SnapshotError::io("look for", shown(base, at))(error)),
        }
    }

    pub(crate) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    pub(crate) fn name(&self) -> &[u8] {
        split(self.at.as_os_str().as_bytes()).1
    }

    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// The whole path.
    pub(crate) fn path(&self) -> PathBuf {
        shown(self.base, &self.at)
    }

    /// Opens the directory that is here, which must be one itself and no link to one.
    pub(crate) fn open(&self) -> Result<OwnedFd, SnapshotError> {
        match self.base.directory(self.at.as_os_str().as_bytes()) {
            Ok(directory) => Ok(directory),
            Err(Errno::NOENT) => Err(SnapshotError::Absent(self.path())),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(self.not_a("a directory")),
            Err(error) => Err(SnapshotError::io("open", self.path())(error)),
        }
    }

    pub(crate) fn not_a(&self, kind: &'static str) -> SnapshotError {
        SnapshotError::NotATree { path: self.path(), kind }
    }
}

fn shown(base: &Beneath, at: &Path) -> PathBuf {
    base.shown(at.as_os_str().as_bytes())
}

fn check(at: &Path) -> Result<(), SnapshotError> {
    let why = |why| Err(SnapshotError::Place { at: at.to_owned(), why });
    let is_name = |part: Component<'_>| matches!(part, Component::Normal(_));
    // What the iterator of components would leave out counts, too: one place has one spelling.
    let spelled: PathBuf = at.components().collect();
    if at.as_os_str().is_empty() || !at.components().all(is_name) || spelled.as_os_str() != at.as_os_str() {
        return why("write a path of names below the store's directory, without `.` and `..`");
    }
    if at.starts_with(MAKING) {
        return why("this directory is for trees that are being made");
    }
    let is_long = |part: Component<'_>| part.as_os_str().len() > NAME_BYTES_MAX;
    if at.as_os_str().len() > PATH_BYTES_MAX || at.components().any(is_long) {
        return why("a name has at most 255 bytes and a path 4095");
    }
    Ok(())
}

/// Makes the directories above `at` that are not there, private and durable, and opens the last.
fn make_parents(base: &Beneath, at: &Path) -> Result<OwnedFd, SnapshotError> {
    let (above, _) = split(at.as_os_str().as_bytes());
    let error = |doing| SnapshotError::io(doing, base.shown(above));
    match base.directory(above) {
        Err(Errno::NOENT) => {}
        other => return other.map_err(error("open")),
    }
    let (parent, name) = (make_parents(base, &base_relative(above))?, split(above).1);
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) => rustix::fs::fsync(&parent).map_err(error("sync the directory of"))?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(error("create")(errno)),
    }
    base.directory(above).map_err(error("open"))
}

fn base_relative(inside: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_path_of_names_below_the_store() {
        for good in ["a", "versions/win11-lab/8", "ä/..."] {
            assert!(check(Path::new(good)).is_ok(), "{good}");
        }
        let long = "x".repeat(256);
        for bad in ["", ".", "..", "/", "/etc", "a/../b", "a//b", "a/", "./a", "making/x", &long] {
            assert!(matches!(check(Path::new(bad)), Err(SnapshotError::Place { .. })), "{bad}");
        }
    }
}
