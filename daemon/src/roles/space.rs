//! How full the file system of a store or a repository is, looked at now and then: asking a failing disk may hang, and status must not.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::statfs::{self, FsType, statfs};
use nix::sys::statvfs::FsFlags;
use tokio_util::sync::CancellationToken;

use crate::report::DiskReport;
use crate::roles::every::Every;

/// A look costs nothing, and a small disk is full within seconds.
const INTERVAL: Duration = Duration::from_secs(2);

/// The last look at a file system.
#[derive(Debug, Clone)]
pub(super) struct Space {
    path: PathBuf,
    seen: Arc<Mutex<DiskReport>>,
}

impl Space {
    pub(super) fn new(path: &Path) -> Space {
        Space { path: path.to_owned(), seen: Arc::default() }
    }

    pub(super) fn last(&self) -> DiskReport {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks again and again until `stop`; one look at a time, however long it takes.
    pub(super) async fn watch(self, stop: CancellationToken) {
        let mut every = Every::new(INTERVAL, stop);
        let look = async || {
            let space = self.clone();
            tokio::task::spawn_blocking(move || space.look()).await
        };
        while every.turn(look()).await.is_some() {}
    }

    fn look(&self) {
        match statfs(&self.path) {
            Ok(stat) => {
                let unit = u64::try_from(stat.block_size()).unwrap_or(0);
                let seen = DiskReport {
                    file_system: name_of(stat.filesystem_type()),
                    used_bytes: stat.blocks().saturating_sub(stat.blocks_free()) * unit,
                    size_bytes: stat.blocks() * unit,
                    free_bytes: stat.blocks_available() * unit,
                    is_read_only: stat.flags().contains(FsFlags::ST_RDONLY),
                };
                *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
            }
            Err(error) => {
                tracing::debug!(path = %self.path.display(), %error, "cannot look at the file system")
            }
        }
    }
}

fn name_of(kind: FsType) -> String {
    let known = [
        (statfs::BTRFS_SUPER_MAGIC, "btrfs"),
        (statfs::EXT4_SUPER_MAGIC, "ext4"),
        (statfs::XFS_SUPER_MAGIC, "xfs"),
        (statfs::TMPFS_MAGIC, "tmpfs"),
        (statfs::OVERLAYFS_SUPER_MAGIC, "overlay"),
    ];
    known
        .iter()
        .find(|(number, _)| *number == kind)
        .map_or_else(|| format!("{:#x}", kind.0), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_a_file_system_and_space() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path());
        space.look();
        let seen = space.last();
        assert!(!seen.file_system.is_empty() && seen.size_bytes >= seen.used_bytes && seen.size_bytes > 0, "{seen:?}");
    }
}
