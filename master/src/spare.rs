//! A mebibyte that nobody uses, so that a full disk keeps nobody from making room on it: for that, too, the catalogue is written.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::FallocateFlags;

use crate::Repository;

const BYTES: u64 = 1 << 20;

/// The room of a repository that was spare, given to whoever makes more of it; kept again when this is dropped.
#[derive(Debug)]
pub struct SpareRoom(PathBuf);

impl Repository {
    /// Gives the room that is kept for it to whoever is about to throw something away.
    pub fn spare_room(&self) -> SpareRoom {
        let path = self.layout.spare();
        // Where there is none, there is none to give.
        let _ = std::fs::remove_file(&path);
        SpareRoom(path)
    }
}

impl Drop for SpareRoom {
    fn drop(&mut self) {
        keep(&self.0);
    }
}

/// Keeps it, as far as there is room.
pub(crate) fn keep(path: &PathBuf) {
    let kept = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).and_then(|file| {
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES)?;
        Ok(())
    });
    if let Err(error) = kept {
        tracing::debug!(path = %path.display(), %error, "no room is kept for making room");
        let _ = std::fs::remove_file(path);
    }
}
