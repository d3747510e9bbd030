//! A complete file lent to the kernel: it reads the backing file without asking.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{File, is_lost};
use crate::disk::DiskFile;

/// Files smaller than this gain nothing.
const BYTES_MIN: u64 = 1 << 20;

/// The backing file of a complete file. While one lives, nothing of the file is punched.
#[derive(Debug)]
pub struct Passthrough {
    file: Arc<File>,
    backing: Arc<dyn DiskFile>,
}

impl File {
    /// Lends the backing file, if every block is durable, the store is not suspect and the file is at least
    /// 1 MiB. Opens it: may wait for the disk a little.
    pub fn passthrough(self: &Arc<Self>) -> Option<Passthrough> {
        if self.size < BYTES_MIN || self.version.core().health.is_suspect() {
            return None;
        }
        let backing = self.whole_backing();
        if let Err(error) = &backing
            && is_lost(error)
        {
            // What was complete is not; it is read through the daemon until it is again.
            self.remake(error);
        }
        let backing = backing.ok()?;
        backing.fd()?;
        // Under the guard: who forgets blocks sees either this handle or clears them before the check.
        let _guard = self.guard.read().expect("no panic under this lock");
        if !self.is_complete() {
            return None;
        }
        self.passthroughs.fetch_add(1, Ordering::AcqRel);
        Some(Passthrough { file: self.clone(), backing })
    }
}

impl File {
    /// A guard for handles that an earlier daemon opened: whatever became of the file since, while they
    /// are open nothing of it may be punched.
    pub fn passthrough_again(self: &Arc<Self>) -> Option<Passthrough> {
        let backing = self.backing().ok()?;
        backing.fd()?;
        let _guard = self.guard.read().expect("no panic under this lock");
        self.passthroughs.fetch_add(1, Ordering::AcqRel);
        Some(Passthrough { file: self.clone(), backing })
    }
}

impl AsFd for Passthrough {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.backing.fd().expect("it was there when this was made")
    }
}

impl Drop for Passthrough {
    fn drop(&mut self) {
        // Those who read it were seen by nobody.
        self.file.version.note_used();
        self.file.passthroughs.fetch_sub(1, Ordering::AcqRel);
    }
}
