//! `preadv2` with RWF_NOWAIT: a read that fails instead of waiting for the disk.
#![allow(unsafe_code)]
// JUSTIFICATION: no safe wrapper that takes the flag is among our dependencies.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// Reads what the page cache holds at `offset`; EAGAIN when that is nothing.
pub(super) fn read(file: BorrowedFd<'_>, offset: u64, out: &mut [u8]) -> nix::Result<usize> {
    let vector = libc::iovec { iov_base: out.as_mut_ptr().cast(), iov_len: out.len() };
    // SAFETY: the vector names exactly `out`, which is ours alone until the call returns.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &vector, 1, offset as i64, libc::RWF_NOWAIT) };
    Errno::result(read).map(|read| read as usize)
}
