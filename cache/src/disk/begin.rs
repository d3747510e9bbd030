//! `sync_file_range`: the kernel decides at once where on the disk what was written goes.
#![allow(unsafe_code)]
// JUSTIFICATION: no safe wrapper of this call is among our dependencies.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// Begins to write out a range of a file, and waits for none of it.
pub(super) fn begin_writeback(file: BorrowedFd<'_>, offset: u64, len: u64) -> nix::Result<()> {
    let (offset, len) = (offset as libc::off64_t, len as libc::off64_t);
    // SAFETY: the descriptor is open for the time of the call, and the kernel touches no memory of ours.
    let began = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    Errno::result(began).map(drop)
}
