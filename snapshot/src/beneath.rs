//! A directory tree that is never left: every path is opened below its root, through no symbolic link.
//!
//! Paths are bytes relative to the root; the empty path is the root itself.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use icbd_image::Timestamp;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

/// An open directory and the path by which people know it.
#[derive(Debug)]
pub struct Beneath {
    root: OwnedFd,
    path: PathBuf,
}

impl Beneath {
    pub fn open(path: &Path) -> rustix::io::Result<Beneath> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Beneath { root: rustix::fs::openat(CWD, path, flags, Mode::empty())?, path: path.to_owned() })
    }

    /// A directory that is open already, and the path by which people know it.
    pub fn from_open(root: OwnedFd, path: PathBuf) -> Beneath {
        Beneath { root, path }
    }

    /// Has messages name another path than the one it was opened at.
    pub fn show_as(&mut self, path: &Path) {
        self.path = path.to_owned();
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The path of `inside`, for messages.
    pub fn shown(&self, inside: &[u8]) -> PathBuf {
        if inside.is_empty() { self.path.clone() } else { self.path.join(OsStr::from_bytes(inside)) }
    }

    /// Opens what is at `inside`; `mode` is for `OFlags::CREATE`.
    pub fn open_at(&self, inside: &[u8], flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let inside = if inside.is_empty() { b"." } else { inside };
        loop {
            match rustix::fs::openat2(&self.root, inside, flags, mode, resolve) {
                // The kernel could not prove that no rename raced with the look-up; asking again is the documented answer.
                Err(Errno::AGAIN | Errno::INTR) => continue,
                other => return other,
            }
        }
    }

    pub fn directory(&self, inside: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.open_at(inside, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// The open parent directory of `inside`, and its last name.
    pub fn parent<'p>(&self, inside: &'p [u8]) -> rustix::io::Result<(OwnedFd, &'p [u8])> {
        let (parent, name) = split(inside);
        Ok((self.directory(parent)?, name))
    }
}

/// The part before the last `/` (empty when there is none) and the name after it.
pub fn split(inside: &[u8]) -> (&[u8], &[u8]) {
    match inside.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&inside[..at], &inside[at + 1..]),
        None => (&[], inside),
    }
}

/// `directory/name`.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !directory.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// A path for the system calls that know no `*at` form: `name` in the open `directory`, or itself when empty.
///
/// Nothing above `directory` is looked up by name again, so nobody can move it away underneath.
pub fn proc_path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(if name.is_empty() { b"." } else { name });
    path
}

/// The names in a directory in byte order, without `.` and `..`.
pub fn names(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Device (major and minor number) and inode: what two names of one file share.
pub type Identity = ((u32, u32), u64);

/// What `statx` says of something, links not followed.
#[derive(Clone, Copy)]
pub struct Stat(Statx);

/// What must stay the same of a file or directory while it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: (u32, u32),
    inode: u64,
    kind: FileType,
    size: u64,
    changed: Timestamp,
    modified: Timestamp,
}

impl Stat {
    /// Of `name` in `directory`; of the directory itself when `name` is empty.
    pub fn at(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Stat> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
        rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS).map(Stat)
    }

    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(u32::from(self.0.stx_mode))
    }

    pub fn mode(&self) -> u16 {
        self.0.stx_mode & 0o7777
    }

    pub fn owner(&self) -> (u32, u32) {
        (self.0.stx_uid, self.0.stx_gid)
    }

    pub fn size(&self) -> u64 {
        self.0.stx_size
    }

    /// What it takes on the disk, in units of 512 bytes.
    pub fn allocated_units(&self) -> u64 {
        self.0.stx_blocks
    }

    pub fn links(&self) -> u32 {
        self.0.stx_nlink
    }

    pub fn mtime(&self) -> Timestamp {
        Timestamp { seconds: self.0.stx_mtime.tv_sec, nanoseconds: self.0.stx_mtime.tv_nsec }
    }

    pub fn identity(&self) -> Identity {
        ((self.0.stx_dev_major, self.0.stx_dev_minor), self.0.stx_ino)
    }

    /// Whether something is mounted here.
    pub fn is_mount(&self) -> bool {
        self.0.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT)
    }

    /// The device's number as Linux encodes a 32-bit `dev_t`.
    pub fn rdev(&self) -> u32 {
        let (major, minor) = (self.0.stx_rdev_major, self.0.stx_rdev_minor);
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
    }

    pub fn stamp(&self) -> Stamp {
        let (device, inode) = self.identity();
        Stamp {
            device,
            inode,
            kind: self.kind(),
            // A directory's size is the file system's own affair; its times tell all there is.
            size: if self.kind() == FileType::Directory { 0 } else { self.size() },
            changed: Timestamp { seconds: self.0.stx_ctime.tv_sec, nanoseconds: self.0.stx_ctime.tv_nsec },
            modified: self.mtime(),
        }
    }
}

/// Major and minor number of a 32-bit `dev_t`.
pub fn device_number(rdev: u32) -> rustix::fs::Dev {
    rustix::fs::makedev((rdev & 0xfff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0xfff00))
}
