//! The seam to the disk: what a store does to files, so that tests can lose what was not synced.
//!
//! Paths are relative to the store. All of it blocks: nothing here is called on an async thread, but
//! for [`DiskFile::read`] with [`Wait::No`]. What is on the disk after a power cut is only what a
//! *sync* that succeeded covers; of everything else any part may be there or not.

mod begin;
mod clone;
#[cfg(test)]
pub(crate) mod memory;
mod nowait;
mod real;
mod tree;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use icbd_image::Head;
use nix::errno::Errno;

pub(crate) use real::RealDisk;
pub(crate) use tree::Tree;

/// Whether the system lacked something for a moment that has nothing to do with the disk.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM))
}

/// Whether there was no room for what was to be written.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What was found under a file's name is none.
#[derive(Debug, thiserror::Error)]
#[error("it is not a regular file")]
pub(crate) struct NotRegular;

/// Whether an open failed because there is no regular file of that name, rather than because the disk did.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    error.kind() == io::ErrorKind::NotFound
        || error.get_ref().is_some_and(|inner| inner.is::<NotRegular>())
        || matches!(errno, Some(Errno::ENOTDIR | Errno::EISDIR | Errno::ELOOP | Errno::ENXIO | Errno::ENODEV))
}

/// The room on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// That may still be written.
    pub(crate) free_bytes: u64,
    pub(crate) size_bytes: u64,
}

/// Names, and what is done to whole files.
pub(crate) trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Opens a regular file for reading and writing.
    fn open(&self, path: &Path, missing: Missing) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes the directories and files of `tree` below the directory `path`, each file a hole of its size.
    fn make_tree(&self, path: &Path, tree: &Tree) -> io::Result<()>;

    /// Makes `to`, which is there, share all content of `from`; `Unsupported` where the disk cannot.
    fn reflink(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes a tree that may change, and begins as `from` is now; `Unsupported` where that would copy all content.
    fn clone_tree(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a tree everything that its manifest says besides the content of its files.
    fn furnish(&self, path: &Path, head: &Head) -> io::Result<()>;

    /// Makes one that never changes of a tree that nobody else ever had open: whole and durable at its new place, or not
    /// there at all.
    fn seal_tree(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Waits until the room of what was removed is free, where that comes later.
    fn settle(&self) -> io::Result<()>;

    /// How much room there is.
    fn space(&self) -> io::Result<Space>;

    /// Gives a file another name, in the place of one that has it already: one or the other is there, at any moment.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file, or a directory with all that is in it; nothing there is fine.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, those that are no text left out; none where there is no directory.
    fn names(&self, path: &Path) -> io::Result<Vec<String>>;

    fn xattr(&self, path: &Path, name: &str) -> io::Result<Option<Vec<u8>>>;

    fn set_xattr(&self, path: &Path, name: &str, value: &[u8]) -> io::Result<()>;

    fn sync(&self, what: Barrier<'_>) -> io::Result<()>;
}

/// What an open file is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileState {
    pub(crate) bytes: u64,
    /// Whether it has a name still: without one it goes with its last descriptor.
    pub(crate) is_named: bool,
}

/// What to do about a file that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Fail,
    /// Make it and the directories above it.
    Create,
    /// Make a new one whatever is there: other files, links, empty directories and what stands in the way of a
    /// directory above go; a directory with something in it is moved aside. Who has the old one open keeps it.
    Replace,
}

/// What a sync covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Barrier<'a> {
    /// The names in one directory, not what they mean.
    Names(&'a Path),
    /// Everything done to the store before.
    Everything,
}

/// Whether a read may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Yes,
    /// Fail with `WouldBlock` instead.
    No,
}

/// An open file's content.
pub(crate) trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads until `out` is full or the file ends; the number of bytes read.
    fn read(&self, offset: u64, out: &mut [u8], wait: Wait) -> io::Result<usize>;

    /// Writes what lies side by side from `offset` on, whatever pieces of memory it is in.
    fn write(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()>;

    /// Begins to write out what was written to a range: what is written beside it later is no part of its extents.
    fn begin_writeback(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Turns a range into a hole; the size stays.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    fn state(&self) -> io::Result<FileState>;

    /// Bytes of the disk that its content takes: holes take none.
    fn allocated(&self) -> io::Result<u64>;

    fn set_size(&self, size: u64) -> io::Result<()>;

    /// Makes content and size durable.
    fn sync(&self) -> io::Result<()>;

    /// The descriptor, where there is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}
