//! Trees of files that share their blocks until one of them is written: FICLONE, on xfs, btrfs and others.

use std::io;
use std::os::fd::BorrowedFd;

use crate::backend::Kind;
use crate::beneath::Beneath;
use crate::directories::Directories;
use crate::{Finding, SnapshotError, probe};

pub(crate) fn open(base: &Beneath) -> Result<Directories, SnapshotError> {
    // Tried, not looked up: there was a kernel that offered it and failed.
    match probe::try_reflink(base, TRIED_BYTES)? {
        Finding::Works(_) => Ok(Directories { kind: Kind::Reflink, copy_file: clone_file }),
        Finding::Refused(why) | Finding::Wrong(why) => {
            Err(SnapshotError::Unsupported { what: "a reflink", path: base.shown(b""), why })
        }
    }
}

/// Enough blocks of any file system to see whether they are shared.
const TRIED_BYTES: usize = 256 << 10;

/// Whatever its size: of the file, nothing is read or written.
pub(crate) fn clone_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    if bytes > 0 {
        rustix::fs::ioctl_ficlone(to, from)?;
    }
    Ok(())
}
