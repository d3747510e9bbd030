//! Trees as subvolumes of btrfs: cloning and sealing are one request each, atomic and durable.
//!
//! A sealed subvolume is never renamed and never made writable again: the first the kernel refuses, and after the
//! second a file that somebody opened long ago could still be written.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use crate::backend::{Backend, Kind};
use crate::beneath::{Beneath, Stat, join, names};
use crate::extents::{Extent, Held, by_search, held_by_search};
use crate::ioctl::subvolume;
use crate::slot::Slot;
use crate::stream::{Encoding, Programs};
use crate::{Access, SnapshotError, Tree};

/// `BTRFS_SUPER_MAGIC`.
const MAGIC: u64 = 0x9123_683e;
const PROGRAM: &str = "btrfs";

/// The kernel frees what was deleted when it is asked to, in its own thread; what is sent or open stays for longer.
const CLEANINGS_MAX: u32 = 100;
const CLEANINGS_MIN: u32 = 6;
const CLEANING_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct Btrfs;

impl Btrfs {
    pub(crate) fn open(base: &Beneath) -> std::result::Result<Btrfs, SnapshotError> {
        let path = base.shown(b"");
        match is_btrfs(base.root()).map_err(SnapshotError::io("look at", &path))? {
            true => Ok(Btrfs),
            false => {
                let why = "the file system is no btrfs".to_owned();
                Err(SnapshotError::Unsupported { what: "a btrfs subvolume", path, why })
            }
        }
    }
}

impl Backend for Btrfs {
    fn kind(&self) -> Kind {
        Kind::Btrfs
    }

    fn create(&self, at: &Slot<'_>) -> std::result::Result<(), SnapshotError> {
        subvolume::create(at.parent(), at.name()).map_err(SnapshotError::io("create the subvolume", at.path()))
    }

    fn copy(&self, from: &dyn Tree, at: &Slot<'_>, access: Access) -> std::result::Result<(), SnapshotError> {
        refuse_nested(from.directory(), from.path())?;
        let made = subvolume::snapshot(at.parent(), at.name(), from.directory(), access == Access::Sealed);
        made.map_err(|errno| match errno {
            // Made by somebody else since it was looked for.
            Errno::EXIST => SnapshotError::Occupied(at.path()),
            errno => SnapshotError::io("create the snapshot", at.path())(errno),
        })
    }

    fn access(&self, directory: BorrowedFd<'_>) -> Result<Option<Access>> {
        if !is_subvolume(directory)? {
            return Ok(None);
        }
        Ok(Some(if subvolume::is_read_only(directory)? { Access::Sealed } else { Access::Writable }))
    }

    fn delete(&self, at: &Slot<'_>) -> std::result::Result<(), SnapshotError> {
        refuse_nested(at.open()?.as_fd(), &at.path())?;
        match subvolume::destroy(at.parent(), at.name()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::PERM | Errno::BUSY) => Err(SnapshotError::Kept(at.path())),
            Err(error) => Err(SnapshotError::io("delete the subvolume", at.path())(error)),
        }
    }

    fn check_whole(&self, tree: BorrowedFd<'_>, path: &Path) -> std::result::Result<(), SnapshotError> {
        refuse_nested(tree, path)
    }

    fn extents(&self, file: BorrowedFd<'_>, each: &mut dyn FnMut(Extent) -> ControlFlow<()>) -> Result<()> {
        by_search(file, each)
    }

    fn held(&self, file: BorrowedFd<'_>) -> Result<Option<Vec<Held>>> {
        held_by_search(file)
    }

    fn wait_for_deleted(&self, base: BorrowedFd<'_>) -> Result<()> {
        // Once does not do: the first time it finds files whose inodes are still known.
        for round in 0..CLEANINGS_MAX {
            subvolume::clean_deleted(base)?;
            std::thread::sleep(CLEANING_PAUSE);
            match subvolume::count_deleted(base) {
                // What was deleted just now is counted once its inodes are forgotten; before Linux 6.13 nobody tells.
                Ok(0) | Err(Errno::NOTTY) if round >= CLEANINGS_MIN => break,
                Ok(0) | Err(Errno::NOTTY) => {}
                count => drop(count?),
            }
        }
        Ok(())
    }

    fn streams(&self) -> Option<Programs> {
        Some(Programs { name: PROGRAM, send, receive, was_received, lineage })
    }
}

fn send(tree: &Path, parent: Option<&Path>, encoding: Encoding) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["--quiet", "send"]);
    match encoding {
        Encoding::Protocol1 => {}
        Encoding::Protocol2 => drop(command.args(["--proto", "2"])),
        Encoding::AsStored => drop(command.args(["--proto", "2", "--compressed-data"])),
    }
    if let Some(parent) = parent {
        command.arg("-p").arg(parent);
    }
    command.arg("--").arg(tree);
    command
}

fn receive(into: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["--quiet", "receive", "--max-errors", "1", "--"]).arg(into);
    command
}

/// Whether a stream was received to its end: only then is the id of what was sent noted, by which the next difference
/// finds its parent. A sealed snapshot of a received one keeps that id, a writable one loses it.
fn was_received(directory: BorrowedFd<'_>) -> Result<bool> {
    Ok(is_subvolume(directory)? && subvolume::is_read_only(directory)? && subvolume::uuids(directory)?.1.is_some())
}

/// By what a difference finds its parent: the id of the first of all that were received from each other.
fn lineage(directory: BorrowedFd<'_>) -> Result<[u8; 16]> {
    let (own, received) = subvolume::uuids(directory)?;
    Ok(received.unwrap_or(own))
}

fn is_btrfs(directory: BorrowedFd<'_>) -> Result<bool> {
    Ok(rustix::fs::fstatfs(directory)?.f_type as u64 == MAGIC)
}

fn is_subvolume(directory: BorrowedFd<'_>) -> Result<bool> {
    let (_, inode) = Stat::at(directory, b"")?.identity();
    Ok(inode == subvolume::ROOT_INODE && is_btrfs(directory)?)
}

/// A snapshot shows an empty directory where a subvolume was: what is in there would be lost without a word.
fn refuse_nested(tree: BorrowedFd<'_>, path: &Path) -> std::result::Result<(), SnapshotError> {
    match subvolume::nested(tree).map_err(SnapshotError::io("look for subvolumes in", path))? {
        Some(inside) => Err(SnapshotError::Nested { path: path.to_owned(), inside: path.join(inside) }),
        None => Ok(()),
    }
}

/// Deletes the subvolumes in a directory and in those below it; what is none is left.
pub(crate) fn destroy_subvolumes(directory: &Beneath) -> Result<()> {
    if !is_btrfs(directory.root())? {
        return Ok(());
    }
    let mut pending = vec![Vec::new()];
    while let Some(inside) = pending.pop() {
        let parent = directory.directory(&inside)?;
        for name in names(parent.as_fd())? {
            let stat = Stat::at(parent.as_fd(), &name)?;
            match stat.identity() {
                (_, subvolume::ROOT_INODE) => match subvolume::destroy(parent.as_fd(), &name) {
                    // Who may not do so may still remove an empty one like a directory.
                    Ok(()) | Err(Errno::PERM) => {}
                    Err(error) => return Err(error),
                },
                _ if stat.kind() == FileType::Directory => pending.push(join(&inside, &name)),
                _ => {}
            }
        }
    }
    Ok(())
}
