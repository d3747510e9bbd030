//! What can go wrong with trees, in words for the person who must mend it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why a tree could not be made, kept, compared, sent or received.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{at:?} is no place for a tree: {why}")]
    Place { at: PathBuf, why: &'static str },
    #[error("there is no tree at {}; it was deleted, or never made", .0.display())]
    Absent(PathBuf),
    #[error("{} exists already and is left as it is; choose another place, or delete it first", .0.display())]
    Occupied(PathBuf),
    #[error("{} is not {kind}, so it is no tree of this store; move it away, or restore what was there", path.display())]
    NotATree { path: PathBuf, kind: &'static str },
    #[error(
        "{} is not sealed: it can be written, so nobody knows what is in it now; verify it, and seal it anew from a good \
         copy if it was altered", .0.display()
    )]
    NotSealed(PathBuf),
    #[error("{} is sealed and never changes again; clone it and change the clone", .0.display())]
    NotWritable(PathBuf),
    #[error("something else lies at {} than the tree that was opened there; nothing was deleted: see what it is", .0.display())]
    Replaced(PathBuf),
    /// The kernel has one answer for all of these.
    #[error(
        "cannot delete the subvolume {}: it is being sent or mounted somewhere (try again when that has ended), or this \
         process lacks the right to (run it as root)", .0.display()
    )]
    Kept(PathBuf),
    #[error(
        "the subvolume {} lies inside the tree {}, and snapshots leave it out; move what is in it into the tree itself and \
         delete it (`btrfs subvolume delete`)", inside.display(), path.display()
    )]
    Nested { path: PathBuf, inside: PathBuf },
    #[error("something is mounted at {}, inside a tree that is to be copied or deleted; unmount it first", .0.display())]
    Mounted(PathBuf),
    #[error(
        "{} was changed while it was copied, and this file system cannot copy a whole tree at one moment; stop what writes \
         to it and try again", .0.display()
    )]
    Changed(PathBuf),
    #[error("cannot keep {what} of {}: {source}; work as root, on a file system that can store it", path.display())]
    Attribute { path: PathBuf, what: String, source: io::Error },
    #[error("cannot {doing} {}: the file system is full; free some space and try again", path.display())]
    Full { doing: &'static str, path: PathBuf },
    #[error("cannot {doing} {}: the file system is read-only; mount it writable, and see in the kernel's log why it is not", path.display())]
    ReadOnlyFileSystem { doing: &'static str, path: PathBuf },
    #[error("cannot {doing} {}: this needs rights that this process lacks; run it as root", path.display())]
    Rights { doing: &'static str, path: PathBuf },
    #[error("{what} is not to be had in {}: {why}; `icbd store probe {}` tells what is", path.display(), path.display())]
    Unsupported { what: &'static str, path: PathBuf, why: String },
    #[error("cannot run `{0}`: it is not installed; install the package btrfs-progs")]
    NoProgram(&'static str),
    #[error("`{program}` failed on {} ({status}): {said}", path.display())]
    Program { program: &'static str, path: PathBuf, status: String, said: String },
    #[error("the stream for {} is not whole: {what}; nothing of it was kept, send it again", path.display())]
    Stream { path: PathBuf, what: &'static str },
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl SnapshotError {
    /// Whether the same call would fail again although nobody mends anything.
    pub fn is_permanent(&self) -> bool {
        match self {
            SnapshotError::Place { .. }
            | SnapshotError::Absent(_)
            | SnapshotError::Occupied(_)
            | SnapshotError::NotATree { .. }
            | SnapshotError::NotSealed(_)
            | SnapshotError::NotWritable(_)
            | SnapshotError::Replaced(_)
            | SnapshotError::Nested { .. }
            | SnapshotError::Mounted(_)
            | SnapshotError::Attribute { .. }
            | SnapshotError::ReadOnlyFileSystem { .. }
            | SnapshotError::Rights { .. }
            | SnapshotError::Unsupported { .. }
            | SnapshotError::NoProgram(_) => true,
            SnapshotError::Changed(_)
            | SnapshotError::Kept(_)
            | SnapshotError::Full { .. }
            | SnapshotError::Program { .. }
            | SnapshotError::Stream { .. }
            | SnapshotError::Io { .. } => false,
        }
    }

    /// For `map_err`: what was being done, on which path.
    pub(crate) fn io<E: Into<io::Error>>(
        doing: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> SnapshotError {
        move |source| {
            let (path, source) = (path.as_ref().to_owned(), source.into());
            match Errno::from_io_error(&source) {
                Some(Errno::NOSPC | Errno::DQUOT) => SnapshotError::Full { doing, path },
                Some(Errno::ROFS) => SnapshotError::ReadOnlyFileSystem { doing, path },
                Some(Errno::PERM | Errno::ACCESS) => SnapshotError::Rights { doing, path },
                _ => SnapshotError::Io { doing, path, source },
            }
        }
    }
}
