//! Copies a tree name by name: the way where the kernel has no way.
//!
//! Kept are names, kinds, contents, owners, modes, times, extended attributes and hard links. That nobody wrote to the
//! tree meanwhile, the times of its files and directories tell, or the copy fails.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::attributes::{Attributes, Keep};
use crate::beneath::{Beneath, Identity, Stamp, Stat, device_number, join, names};
use crate::directories::{CopyFile, MARK};
use crate::trees::beneath;
use crate::{SnapshotError, Tree};

/// Copies what is in `from` to the directory `to`, which is empty and will be at `shown`.
pub(crate) fn copy_tree(
    from: &dyn Tree,
    to: BorrowedFd<'_>,
    shown: &Path,
    copy_file: CopyFile,
) -> Result<(), SnapshotError> {
    let from = beneath(from).map_err(SnapshotError::io("open", from.path()))?;
    let to = rustix::io::fcntl_dupfd_cloexec(to, 0).map_err(SnapshotError::io("open", shown))?;
    let to = Beneath::from_open(to, shown.to_owned());
    let mut copying =
        Copying { from, to, copy_file, pending: vec![Vec::new()], finished: Vec::new(), linked: HashMap::new() };
    while let Some(inside) = copying.pending.pop() {
        copying.directory(inside)?;
    }
    copying.finish()
}

struct Copying {
    from: Beneath,
    to: Beneath,
    copy_file: CopyFile,
    /// Directories that are made and not yet filled.
    pending: Vec<Vec<u8>>,
    /// Directories that are filled, in the order they were begun.
    finished: Vec<(Vec<u8>, Stamp)>,
    /// The first names of files that have several.
    linked: HashMap<Identity, Vec<u8>>,
}

impl Copying {
    fn directory(&mut self, inside: Vec<u8>) -> Result<(), SnapshotError> {
        let from = self.from.directory(&inside).map_err(self.source("read", &inside))?;
        let to = self.to.directory(&inside).map_err(self.target("open", &inside))?;
        let stamp = Stat::at(from.as_fd(), b"").map_err(self.source("read", &inside))?.stamp();
        for name in names(from.as_fd()).map_err(self.source("list", &inside))? {
            self.entry(from.as_fd(), to.as_fd(), &name, join(&inside, &name))?;
        }
        self.finished.push((inside, stamp));
        Ok(())
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        inside: Vec<u8>,
    ) -> Result<(), SnapshotError> {
        let stat = Stat::at(from, name).map_err(self.source("read", &inside))?;
        if stat.is_mount() {
            return Err(SnapshotError::Mounted(self.from.shown(&inside)));
        }
        let kind = stat.kind();
        if kind != FileType::Directory && stat.links() > 1 {
            if let Some(first) = self.linked.get(&stat.identity()) {
                let linked = rustix::fs::linkat(self.to.root(), &**first, to, name, AtFlags::empty());
                return linked.map_err(self.target("create", &inside));
            }
            self.linked.insert(stat.identity(), inside.clone());
        }
        let made = match kind {
            FileType::RegularFile => return self.file(from, to, name, &inside, &stat),
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::RWXU).map_err(self.target("create", &inside))?;
                self.pending.push(inside);
                return Ok(());
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new()).map_err(self.source("read", &inside))?;
                rustix::fs::symlinkat(&*target, to, name)
            }
            kind => rustix::fs::mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, device_number(stat.rdev())),
        };
        made.map_err(self.target("create", &inside))?;
        let attributes = Attributes::read(from, name, &stat, Keep::All).map_err(self.source("read", &inside))?;
        self.apply(&attributes, to, name, kind, &inside)
    }

    fn file(
        &self,
        directory: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        inside: &[u8],
        found: &Stat,
    ) -> Result<(), SnapshotError> {
        let from = self.from.open_at(inside, OFlags::RDONLY, Mode::empty()).map_err(self.source("read", inside))?;
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let copy = rustix::fs::openat(to, name, create, Mode::RUSR | Mode::WUSR);
        let copy = copy.map_err(self.target("create", inside))?;
        let attributes = Attributes::read(directory, name, found, Keep::All).map_err(self.source("read", inside))?;
        let copied = (self.copy_file)(from.as_fd(), copy.as_fd(), found.size());
        let after = Stat::at(from.as_fd(), b"").map_err(self.source("read", inside))?;
        let size = Stat::at(copy.as_fd(), b"").map_err(self.target("copy to", inside))?.size();
        // Whatever else is wrong: who copies what moves gets all kinds of errors.
        let is_cut = matches!(&copied, Err(error) if error.kind() == ErrorKind::UnexpectedEof);
        if is_cut || after.stamp() != found.stamp() || (copied.is_ok() && size != found.size()) {
            return Err(SnapshotError::Changed(self.from.shown(inside)));
        }
        copied.map_err(self.target("copy to", inside))?;
        self.apply(&attributes, to, name, FileType::RegularFile, inside)
    }

    /// Gives the directories what they had, once nothing more is put into them.
    fn finish(&self) -> Result<(), SnapshotError> {
        for (inside, stamp) in self.finished.iter().rev() {
            let from = self.from.directory(inside).map_err(self.source("read", inside))?;
            let to = self.to.directory(inside).map_err(self.target("open", inside))?;
            let stat = Stat::at(from.as_fd(), b"").map_err(self.source("read", inside))?;
            if stat.stamp() != *stamp {
                return Err(SnapshotError::Changed(self.from.shown(inside)));
            }
            let read = Attributes::read(from.as_fd(), b"", &stat, Keep::All);
            let mut attributes = read.map_err(self.source("read", inside))?;
            if inside.is_empty() {
                attributes.xattrs.retain(|(name, _)| name != MARK.as_bytes());
            }
            self.apply(&attributes, to.as_fd(), b"", FileType::Directory, inside)?;
        }
        Ok(())
    }

    fn apply(
        &self,
        attributes: &Attributes,
        to: BorrowedFd<'_>,
        name: &[u8],
        kind: FileType,
        inside: &[u8],
    ) -> Result<(), SnapshotError> {
        attributes.apply(to, name, kind == FileType::Symlink).map_err(|refused| SnapshotError::Attribute {
            path: self.to.shown(inside),
            what: refused.what,
            source: refused.source.into(),
        })
    }

    /// The error of something that failed in the tree that is copied: gone means it changed.
    fn source(&self, doing: &'static str, inside: &[u8]) -> impl FnOnce(Errno) -> SnapshotError + use<> {
        let path = self.from.shown(inside);
        move |errno| match errno {
            Errno::NOENT | Errno::STALE | Errno::LOOP | Errno::NOTDIR => SnapshotError::Changed(path),
            errno => SnapshotError::io(doing, path)(errno),
        }
    }

    /// The error of something that failed in the copy.
    fn target<E: Into<std::io::Error>>(
        &self,
        doing: &'static str,
        inside: &[u8],
    ) -> impl FnOnce(E) -> SnapshotError + use<E> {
        SnapshotError::io(doing, self.to.shown(inside))
    }
}
