//! The disk of a real store: Linux system calls below one directory descriptor.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use icbd_image::Head;
use icbd_snapshot::{Kind, SnapshotError, Trees};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, OpenHow, ResolveFlag, fallocate, openat2, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, fdatasync, fsync, syncfs, unlinkat};

use super::{Barrier, Disk, DiskFile, FileState, Missing, NotRegular, Space, Tree, Wait};

/// A store's directory on a Linux file system.
#[derive(Debug)]
pub(crate) struct RealDisk {
    path: PathBuf,
    directory: OwnedFd,
    /// What shares content between trees; `None` where nothing does. Tried when first needed.
    trees: OnceLock<Option<Trees>>,
}

#[derive(Debug)]
struct RealFile(fs::File);

impl RealDisk {
    /// The store at `path`, which is there.
    pub(crate) fn open(path: &Path) -> io::Result<RealDisk> {
        let directory = fs::OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(path)?;
        Ok(RealDisk { path: path.to_owned(), directory: directory.into(), trees: OnceLock::new() })
    }

    /// Opens a path that may not leave the store, nor go through a symbolic link: the names in it come
    /// from a manifest, and somebody may have changed the tree meanwhile.
    fn beneath(&self, directory: impl AsFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(if flags.contains(OFlag::O_CREAT) { Mode::from_bits_truncate(0o600) } else { Mode::empty() })
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(openat2(directory, path, how)?)
    }

    /// The trees of this store. What did not work out for lack of room, say, is tried again the next time.
    fn trees(&self) -> io::Result<Option<&Trees>> {
        if let Some(trees) = self.trees.get() {
            return Ok(trees.as_ref());
        }
        let mut found = None;
        for kind in [Kind::Btrfs, Kind::Reflink] {
            match Trees::open(&self.path, kind) {
                Ok(trees) => {
                    found = Some(trees);
                    break;
                }
                Err(SnapshotError::Unsupported { .. }) => {}
                Err(error) => return Err(of_tree(error)),
            }
        }
        Ok(self.trees.get_or_init(|| found).as_ref())
    }

    /// Where trees are subvolumes.
    fn is_btrfs(&self) -> bool {
        fstatfs(&self.directory).is_ok_and(|stat| stat.filesystem_type() == BTRFS_SUPER_MAGIC)
    }

    fn sharing_trees(&self) -> io::Result<&Trees> {
        self.trees()?.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        self.beneath(&self.directory, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        match mkdirat(self.directory(parent)?, Path::new(name), Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes a directory and those above it.
    fn make_directories(&self, path: &Path) -> io::Result<()> {
        let mut above: Vec<_> = path.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        above.reverse();
        above.into_iter().try_for_each(|path| self.make_directory(path))
    }

    /// The same where something else may be in the place of one of them.
    fn clear_way(&self, path: &Path) -> io::Result<()> {
        let mut above: Vec<_> = path.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        above.reverse();
        for path in above {
            self.make_directory(path)?;
            if self.directory(path).is_err_and(|error| super::is_gone(&error)) {
                self.unlink(path)?;
                self.make_directory(path)?;
            }
        }
        Ok(())
    }

    /// Takes a name away. What is in a directory is not ours to delete: it is moved aside. No such name is fine.
    fn unlink(&self, path: &Path) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let (parent, name) = (self.directory(parent)?, Path::new(name));
        let unlinked = match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => match unlinkat(&parent, name, UnlinkatFlags::RemoveDir) {
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => return self.move_aside(&parent, path),
                result => result,
            },
            result => result,
        };
        match unlinked {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn move_aside(&self, parent: &OwnedFd, path: &Path) -> io::Result<()> {
        let Some(name) = path.file_name() else { return Ok(()) };
        let number = getrandom::u32().map_err(|error| io::Error::other(error.to_string()))?;
        let aside = format!("{}{number:08x}", crate::layout::FOUND);
        renameat(parent, Path::new(name), &self.directory, Path::new(&aside))?;
        tracing::warn!(path = %path.display(), aside, "a directory was in the place of a file of the store: it is moved aside");
        Ok(())
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, missing: Missing) -> io::Result<Arc<dyn DiskFile>> {
        let flags = match missing {
            Missing::Fail => OFlag::O_RDWR | OFlag::O_NOFOLLOW,
            Missing::Create => OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CREAT,
            Missing::Replace => OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CREAT | OFlag::O_EXCL,
        };
        match (missing, path.parent()) {
            (Missing::Create, Some(parent)) => self.make_directories(parent)?,
            (Missing::Replace, Some(parent)) => {
                self.clear_way(parent)?;
                self.unlink(path)?;
            }
            _ => {}
        }
        let file = match self.beneath(&self.directory, path, flags) {
            // Sealed: nobody writes to it.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && missing == Missing::Fail => {
                self.beneath(&self.directory, path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW)?
            }
            opened => opened?,
        };
        let file = fs::File::from(file);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(NotRegular));
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn make_tree(&self, path: &Path, tree: &Tree) -> io::Result<()> {
        if self.is_btrfs()
            && let Ok(Some(trees)) = self.trees()
            && !self.path.join(path).exists()
        {
            match trees.create(path) {
                // It is one of directories then, and sealed with some more work.
                Ok(_) | Err(SnapshotError::Rights { .. }) => {}
                Err(error) => return Err(of_tree(error)),
            }
        }
        self.make_directories(path)?;
        for index in tree.directories() {
            self.make_directory(&path.join(tree.path(index)))?;
        }
        // One directory is held open for all the files in it.
        let mut open: Option<(PathBuf, OwnedFd)> = None;
        for (index, size) in tree.files() {
            let place = path.join(tree.path(index));
            let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else { continue };
            let directory = match open {
                Some((ref at, ref directory)) if at == parent => directory,
                _ => &open.insert((parent.to_owned(), self.directory(parent)?)).1,
            };
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW;
            fs::File::from(self.beneath(directory, Path::new(name), flags)?).set_len(size)?;
        }
        Ok(())
    }

    fn reflink(&self, from: &Path, to: &Path) -> io::Result<()> {
        let from = self.beneath(&self.directory, from, OFlag::O_RDONLY | OFlag::O_NOFOLLOW)?;
        let to = self.beneath(&self.directory, to, OFlag::O_WRONLY | OFlag::O_NOFOLLOW)?;
        match super::clone::clone_file(to.as_fd(), from.as_fd()) {
            // Other file systems, other ways to say no.
            Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EINVAL | Errno::EXDEV | Errno::ENOSYS) => {
                Err(io::ErrorKind::Unsupported.into())
            }
            result => Ok(result?),
        }
    }

    fn clone_tree(&self, from: &Path, to: &Path) -> io::Result<()> {
        let trees = self.sharing_trees()?;
        let cloned = match trees.writable(from) {
            Ok(tree) => trees.clone_tree(&tree, to),
            Err(SnapshotError::NotWritable(_)) => trees.sealed(from).and_then(|tree| trees.clone_tree(&tree, to)),
            Err(SnapshotError::NotATree { .. }) => trees.import(&self.path.join(from), to),
            Err(error) => Err(error),
        };
        cloned.map(drop).map_err(of_tree)
    }

    fn furnish(&self, path: &Path, head: &Head) -> io::Result<()> {
        let tree = self.sharing_trees()?.writable(path);
        tree.and_then(|tree| icbd_snapshot::furnish(&tree, head)).map_err(of_tree)
    }

    fn seal_tree(&self, from: &Path, to: &Path) -> io::Result<()> {
        let trees = self.sharing_trees()?;
        trees.writable(from).and_then(|tree| trees.finish(tree, to)).map(drop).map_err(of_tree)
    }

    fn settle(&self) -> io::Result<()> {
        // Nothing is tried out for it: a disk may be full.
        match self.trees.get() {
            Some(Some(trees)) => trees.wait_for_deleted().map_err(of_tree),
            _ => self.sync(Barrier::Everything),
        }
    }

    fn space(&self) -> io::Result<Space> {
        let stat = fstatvfs(&self.directory)?;
        let unit = stat.fragment_size();
        Ok(Space { free_bytes: stat.blocks_available() * unit, size_bytes: stat.blocks() * unit })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let name = |path: &Path| path.file_name().map(PathBuf::from).ok_or(io::ErrorKind::InvalidInput);
        let directory = |path: &Path| self.directory(path.parent().unwrap_or(Path::new("")));
        Ok(renameat(directory(from)?, &name(from)?, directory(to)?, &name(to)?)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        // Removing by name follows no symbolic link; only the last part may be of the store's making.
        let full = self.path.join(path);
        let removed = match fs::symlink_metadata(&full) {
            // A sealed tree goes whole: half of one would be taken for all of it at the next start.
            Ok(metadata) if metadata.is_dir() && (self.is_btrfs() || crate::layout::is_sealed(path)) => {
                match self.trees() {
                    Ok(Some(trees)) => return trees.remove(path).map_err(of_tree),
                    Err(error) if crate::layout::is_sealed(path) => return Err(error),
                    // Also where there is no room to find out: what can be removed makes some.
                    Ok(None) | Err(_) => fs::remove_dir_all(&full),
                }
            }
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&full),
            Ok(_) => fs::remove_file(&full),
            Err(error) => Err(error),
        };
        removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        match fs::read_dir(self.path.join(path)) {
            Ok(entries) => entries
                .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
                .collect(),
            Err(error) if super::is_gone(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn xattr(&self, path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = fs::File::from(self.beneath(&self.directory, path, OFlag::O_RDONLY)?);
        xattr::FileExt::get_xattr(&file, name)
    }

    fn set_xattr(&self, path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
        let file = fs::File::from(self.beneath(&self.directory, path, OFlag::O_RDONLY)?);
        xattr::FileExt::set_xattr(&file, name, value)
    }

    fn sync(&self, what: Barrier<'_>) -> io::Result<()> {
        match what {
            Barrier::Names(path) => Ok(fsync(self.directory(path)?)?),
            Barrier::Everything => Ok(syncfs(&self.directory)?),
        }
    }
}

/// What a tree's error means to a store.
fn of_tree(error: SnapshotError) -> io::Error {
    let kind = match &error {
        SnapshotError::Unsupported { .. } => io::ErrorKind::Unsupported,
        SnapshotError::Absent(_) => io::ErrorKind::NotFound,
        SnapshotError::Full { .. } => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl DiskFile for RealFile {
    fn read(&self, offset: u64, out: &mut [u8], wait: Wait) -> io::Result<usize> {
        let mut done = 0;
        while done < out.len() {
            let (at, rest) = (offset + done as u64, &mut out[done..]);
            let read = match wait {
                Wait::Yes => self.0.read_at(rest, at),
                Wait::No => super::nowait::read(self.0.as_fd(), at, rest).map_err(io::Error::from),
            };
            match read {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write(&self, mut offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        for part in parts {
            self.0.write_all_at(part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn begin_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(super::begin::begin_writeback(self.0.as_fd(), offset, len)?)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.0, flags, offset as i64, len as i64)?)
    }

    fn state(&self) -> io::Result<FileState> {
        let metadata = self.0.metadata()?;
        Ok(FileState { bytes: metadata.len(), is_named: metadata.nlink() > 0 })
    }

    fn allocated(&self) -> io::Result<u64> {
        /// Of `st_blocks`, whatever the file system's are.
        const UNIT: u64 = 512;
        Ok(self.0.metadata()?.blocks() * UNIT)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(&self.0)?)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}
