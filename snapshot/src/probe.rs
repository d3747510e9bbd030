//! What trees can be made of in a directory: tried there, measured, and left without a trace.
//!
//! Nothing is believed because a kernel or a program says so: clones are read back, blocks are looked for on the disk,
//! and what should be refused is tried.

mod mount;
mod reflink;
mod subvolume;

pub(crate) use mount::below as mounted_below;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::StatVfs;

use crate::beneath::Beneath;
use crate::staging::{self, Staging};
use crate::{Kind, SnapshotError};

/// Large enough to tell sharing from copying by time and space, small enough for any disk.
const TRIED_BYTES: usize = 8 << 20;

/// What was found out about a directory.
#[derive(Debug, Clone)]
pub struct Probe {
    pub path: PathBuf,
    /// The file system's name as the kernel has it: `btrfs`, `xfs`, `ext4` …
    pub file_system: String,
    /// Where it is mounted, and how.
    pub mounted_at: PathBuf,
    pub mount_options: String,
    pub size_bytes: u64,
    pub free_bytes: u64,
    /// How fast data was written and synced, in bytes a second.
    pub write_bytes_per_second: u64,
    pub reflinks: Finding<Reflinks>,
    pub subvolumes: Finding<Subvolumes>,
    /// Whether trees can be sent and received as streams.
    pub transfers: Finding<Transfers>,
}

/// The outcome of one trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding<T> {
    Works(T),
    /// It is not to be had, and why.
    Refused(String),
    /// It was said to work and did not: what went wrong. Such a system is not to be trusted with data.
    Wrong(String),
}

/// A file that shares another's blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reflinks {
    pub cloned_bytes: u64,
    /// Of these, found at the same place on the disk; `None` where the file system does not tell places.
    pub shared_bytes: Option<u64>,
    pub took: Duration,
}

/// A subvolume, and snapshots of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subvolumes {
    pub snapshot_took: Duration,
    pub delete_took: Duration,
}

/// A snapshot that was sent and received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfers {
    pub took: Duration,
}

impl Probe {
    /// Tries everything in `directory`, which exists. Takes about a second on a slow disk.
    pub fn run(directory: &Path) -> Result<Probe, SnapshotError> {
        let path = std::path::absolute(directory).map_err(SnapshotError::io("find", directory))?;
        let base = Beneath::open(&path).map_err(SnapshotError::io("open", &path))?;
        let space = rustix::fs::fstatvfs(base.root()).map_err(SnapshotError::io("look at", &path))?;
        let mount = mount::of(&base)?;
        let is_store = staging::is_store(&base);
        let staging = Staging::create(&base)?;
        let tried = reflink::run(&staging.beneath()?, TRIED_BYTES).and_then(|reflinks| {
            let subvolumes = subvolume::run(staging.path())?;
            Ok((reflinks, subvolumes))
        });
        drop(staging);
        if !is_store {
            staging::leave(&base);
        }
        let ((reflinks, written), (subvolumes, transfers)) = tried?;
        Ok(Probe {
            path,
            file_system: mount.file_system,
            mounted_at: mount.at,
            mount_options: mount.options,
            size_bytes: units(&space, space.f_blocks),
            free_bytes: units(&space, space.f_bavail),
            write_bytes_per_second: (TRIED_BYTES as f64 / written.as_secs_f64().max(1e-6)) as u64,
            reflinks,
            subvolumes,
            transfers,
        })
    }

    /// The best kind of trees that works here.
    pub fn best(&self) -> Kind {
        match (&self.subvolumes, &self.reflinks) {
            (Finding::Works(_), _) => Kind::Btrfs,
            (_, Finding::Works(_)) => Kind::Reflink,
            _ => Kind::Plain,
        }
    }

    /// What claims to work and does not.
    pub fn faults(&self) -> impl Iterator<Item = &str> {
        [self.reflinks.fault(), self.subvolumes.fault(), self.transfers.fault()].into_iter().flatten()
    }
}

impl<T> Finding<T> {
    fn fault(&self) -> Option<&str> {
        match self {
            Finding::Wrong(what) => Some(what),
            Finding::Works(_) | Finding::Refused(_) => None,
        }
    }
}

fn units(space: &StatVfs, count: u64) -> u64 {
    count.saturating_mul(space.f_frsize)
}

/// Tries a reflink of so many bytes in a store, quickly.
pub(crate) fn try_reflink(base: &Beneath, bytes: usize) -> Result<Finding<Reflinks>, SnapshotError> {
    let staging = Staging::create(base)?;
    reflink::run(&staging.beneath()?, bytes).map(|(finding, _)| finding)
}
