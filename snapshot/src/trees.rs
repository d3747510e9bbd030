//! A store's trees: what is done with them, whatever they are made of.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::backend::{self, Backend};
use crate::beneath::{Beneath, Stat, join, names};
use crate::copy::copy_tree;
use crate::ioctl::subvolume;
use crate::slot::Slot;
use crate::staging::Staging;
use crate::stream::Streams;
use crate::tree::Open;
use crate::usage::{self, Usage};
use crate::{
    Access, FileDifference, Kind, Sealed, SnapshotError, Tree, Writable, difference, directories, reflink, staging,
};

/// Trees lie at most so many directories deep below a store's own: `filling/<image>/<version>` needs three.
const LIST_DEPTH_MAX: usize = 4;

/// The trees below one directory, all of one kind. Places are paths relative to it.
#[derive(Debug)]
pub struct Trees {
    pub(crate) base: Beneath,
    pub(crate) backend: Box<dyn Backend>,
}

/// A tree that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Below the store's directory.
    pub at: PathBuf,
    pub access: Access,
}

impl Trees {
    /// Opens the store in the directory `base`, and removes what calls that were killed left half done in it.
    ///
    /// Which kind a directory can have, [`crate::Probe`] finds out. Two processes may have the same store open; what
    /// one of them is making, the other leaves alone.
    pub fn open(base: &Path, kind: Kind) -> Result<Trees, SnapshotError> {
        let absolute = std::path::absolute(base).map_err(SnapshotError::io("find", base))?;
        let base = Beneath::open(&absolute).map_err(SnapshotError::io("open", &absolute))?;
        let trees = Trees { backend: backend::open(kind, &base)?, base };
        staging::clean(&trees.base)?;
        Ok(trees)
    }

    pub fn kind(&self) -> Kind {
        self.backend.kind()
    }

    /// The store's directory.
    pub fn path(&self) -> PathBuf {
        self.base.shown(b"")
    }

    /// Makes an empty tree.
    pub fn create(&self, at: &Path) -> Result<Writable, SnapshotError> {
        self.backend.create(&Slot::vacant(&self.base, at)?)?;
        self.writable(at)
    }

    /// Makes a tree that begins as `from` is now.
    ///
    /// At one moment on btrfs; else file by file, and [`SnapshotError::Changed`] if somebody wrote meanwhile.
    pub fn clone_tree(&self, from: &dyn Tree, at: &Path) -> Result<Writable, SnapshotError> {
        self.backend.copy(from, &Slot::vacant(&self.base, at)?, Access::Writable)?;
        self.writable(at)
    }

    /// Makes a tree that begins as a directory is now that is no tree, on the same disk. Costs what its names cost.
    pub fn import(&self, from: &Path, at: &Path) -> Result<Writable, SnapshotError> {
        let opened = Beneath::open(from).and_then(|from| from.directory(b""));
        let opened = opened.map_err(SnapshotError::io("open", from))?;
        let from = Writable::new(Open::new(from.to_owned(), PathBuf::new(), opened));
        let slot = Slot::vacant(&self.base, at)?;
        if self.kind() != Kind::Btrfs {
            self.backend.copy(&from, &slot, Access::Writable)?;
            return self.writable(at);
        }
        // Aside, so that all of it is there at once.
        let staging = Staging::create(&self.base)?;
        let error = |errno| SnapshotError::io("create the subvolume", slot.path())(errno);
        subvolume::create(staging.directory(), staging::MADE.as_bytes()).map_err(error)?;
        let tree = staging.open(staging::MADE).map_err(error)?;
        copy_tree(&from, tree.as_fd(), &slot.path(), reflink::clone_file)?;
        let tree = Writable::new(Open::new(staging.path().join(staging::MADE), PathBuf::new(), tree));
        self.backend.copy(&tree, &slot, Access::Writable)?;
        self.writable(at)
    }

    /// Makes a tree that stays as `from` is now. It is at its place, whole and durable, or not at all.
    ///
    /// Who has a file of `from` open for writing goes on writing to `from`, and not to this.
    pub fn seal(&self, from: &dyn Tree, at: &Path) -> Result<Sealed, SnapshotError> {
        self.backend.copy(from, &Slot::vacant(&self.base, at)?, Access::Sealed)?;
        self.sealed(at)
    }

    /// Makes a sealed tree of one that nobody but the caller ever had open, and that is no more from then on.
    ///
    /// For trees that were put together to become one, and whose content is durable: nothing is copied, whatever they
    /// are made of. A kill leaves the one, or both.
    pub fn finish(&self, made: Writable, at: &Path) -> Result<Sealed, SnapshotError> {
        let place = Slot::vacant(&self.base, at)?;
        if self.kind() == Kind::Btrfs {
            self.backend.copy(&made, &place, Access::Sealed)?;
            // It is sealed, whatever becomes of what it was made of.
            if let Err(error) = self.delete(made) {
                tracing::warn!(%error, "what a sealed tree was made of stays until it is removed");
            }
        } else {
            directories::finish(&made, &Slot::taken(&self.base, made.at())?, &place)?;
        }
        self.sealed(at)
    }

    /// Opens a tree that may change.
    pub fn writable(&self, at: &Path) -> Result<Writable, SnapshotError> {
        match self.find(at)? {
            (open, Access::Writable) => Ok(Writable::new(open)),
            (open, Access::Sealed) => Err(SnapshotError::NotWritable(Writable::new(open).path().to_owned())),
        }
    }

    /// Opens a tree that does not change.
    pub fn sealed(&self, at: &Path) -> Result<Sealed, SnapshotError> {
        match self.find(at)? {
            (open, Access::Sealed) => Ok(Sealed::new(open)),
            (open, Access::Writable) => Err(SnapshotError::NotSealed(Sealed::new(open).path().to_owned())),
        }
    }

    fn find(&self, at: &Path) -> Result<(Open, Access), SnapshotError> {
        let slot = Slot::taken(&self.base, at)?;
        let directory = slot.open()?;
        let access = self.backend.access(directory.as_fd());
        match access.map_err(SnapshotError::io("look at", slot.path()))? {
            Some(access) => Ok((Open::new(slot.path(), at.to_owned(), directory), access)),
            None => Err(slot.not_a(match self.kind() {
                Kind::Btrfs => "a subvolume",
                Kind::Reflink | Kind::Plain => "a directory that icbd made as a tree",
            })),
        }
    }

    /// Deletes a tree, unless it is gone already. Who has it open goes on reading; its space comes back later.
    ///
    /// A power cut soon afterwards may bring it back, whole.
    pub fn delete<T: Tree>(&self, tree: T) -> Result<(), SnapshotError> {
        let slot = match Slot::taken(&self.base, tree.at()) {
            Err(SnapshotError::Absent(_)) => return Ok(()),
            slot => slot?,
        };
        let error = |error| SnapshotError::io("look at", slot.path())(error);
        let opened = Stat::at(tree.directory(), b"").map_err(error)?.identity();
        match Stat::at(slot.parent(), slot.name()) {
            Err(Errno::NOENT) => Ok(()),
            Ok(found) if found.identity() == opened => self.backend.delete(&slot),
            Ok(_) => Err(SnapshotError::Replaced(slot.path())),
            Err(errno) => Err(error(errno)),
        }
    }

    /// That a tree can be deleted as a whole: nothing is mounted in it, and no other tree lies inside.
    pub fn check_whole(&self, tree: &dyn Tree) -> Result<(), SnapshotError> {
        let path = tree.path().canonicalize().map_err(SnapshotError::io("look at", tree.path()))?;
        if let Some(mounted) = crate::probe::mounted_below(&path)? {
            return Err(SnapshotError::Mounted(mounted));
        }
        self.backend.check_whole(tree.directory(), tree.path())
    }

    /// Waits until the space of trees that are deleted by now is free: btrfs frees it later, and older kernels do not
    /// tell when.
    pub fn wait_for_deleted(&self) -> Result<(), SnapshotError> {
        self.backend.wait_for_deleted(self.base.root()).map_err(SnapshotError::io("sync", self.path()))
    }

    /// Removes what is at a place with all that is in it, trees or not; nothing there is fine.
    pub fn remove(&self, at: &Path) -> Result<(), SnapshotError> {
        for listed in self.list(at)? {
            match listed.access {
                Access::Sealed => self.delete(self.sealed(&listed.at)?)?,
                Access::Writable => self.delete(self.writable(&listed.at)?)?,
            }
        }
        let path = self.base.shown(at.as_os_str().as_bytes());
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(SnapshotError::io("remove", path)),
        }
    }

    /// The trees at and below `at`, sorted; what is inside of a tree is not looked at.
    pub fn list(&self, at: &Path) -> Result<Vec<Listed>, SnapshotError> {
        let mut listed = Vec::new();
        self.list_below(at.as_os_str().as_bytes(), 0, &mut listed)?;
        listed.sort_by(|one, other| one.at.cmp(&other.at));
        Ok(listed)
    }

    fn list_below(&self, inside: &[u8], depth: usize, listed: &mut Vec<Listed>) -> Result<(), SnapshotError> {
        let error = |error| SnapshotError::io("list", self.base.shown(inside))(error);
        let directory = match self.base.directory(inside) {
            // A file, a link, or gone since it was listed.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => return Ok(()),
            directory => directory.map_err(error)?,
        };
        // The store's own directory may be a subvolume, and is no tree.
        if !inside.is_empty()
            && let Some(access) = self.backend.access(directory.as_fd()).map_err(error)?
        {
            listed.push(Listed { at: OsStr::from_bytes(inside).into(), access });
            return Ok(());
        }
        if depth >= LIST_DEPTH_MAX {
            return Ok(());
        }
        for name in names(directory.as_fd()).map_err(error)? {
            if !inside.is_empty() || name != staging::MAKING.as_bytes() {
                self.list_below(&join(inside, &name), depth + 1, listed)?;
            }
        }
        Ok(())
    }

    /// How the file at `inside` (a path in both trees) of `new` differs from that of `old`; `None` when `new` has no
    /// regular file there. Costs what it costs to list where their blocks lie, and reads none of them.
    pub fn compare_file(
        &self,
        old: &Sealed,
        new: &Sealed,
        inside: &Path,
    ) -> Result<Option<FileDifference>, SnapshotError> {
        let open = |tree: &Sealed| beneath(tree).map_err(SnapshotError::io("open", tree.path()));
        difference::of_file(&*self.backend, &open(old)?, &open(new)?, inside.as_os_str().as_bytes())
            .map_err(SnapshotError::io("compare", new.path().join(inside)))
    }

    /// The same of two open files that nobody changes meanwhile, of so many bytes: the ranges of the newer one outside
    /// of which it is byte for byte the older one.
    pub fn compare_open(
        &self,
        (old, old_bytes): (BorrowedFd<'_>, u64),
        (new, new_bytes): (BorrowedFd<'_>, u64),
    ) -> rustix::io::Result<Vec<Range<u64>>> {
        difference::of_open(&*self.backend, (old, old_bytes), (new, new_bytes))
    }

    /// What `trees` hold on the disk together, and what deleting all of them would free.
    pub fn usage(&self, trees: &[&dyn Tree]) -> Result<Usage, SnapshotError> {
        usage::of(self, trees)
    }

    /// Sending and receiving; `None` where trees of this kind have no streams and travel by blocks only.
    pub fn streams(&self) -> Option<Streams<'_>> {
        Some(Streams::new(self, self.backend.streams()?))
    }
}

/// An open tree as a directory that is never left.
pub(crate) fn beneath(tree: &dyn Tree) -> rustix::io::Result<Beneath> {
    Ok(Beneath::from_open(rustix::io::fcntl_dupfd_cloexec(tree.directory(), 0)?, tree.path().to_owned()))
}
