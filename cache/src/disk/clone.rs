//! FICLONE: a file that shares another's blocks, copied only when written.
#![allow(unsafe_code)]
// JUSTIFICATION: no safe wrapper of this ioctl is among our dependencies.

use std::os::fd::{AsRawFd, BorrowedFd};

mod ioctl {
    nix::ioctl_write_int!(ficlone, 0x94, 9);
}

/// Makes `to` a copy of `from` that shares its blocks.
pub(super) fn clone_file(to: BorrowedFd<'_>, from: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: both descriptors are open for the time of the call, and the kernel touches no memory of ours.
    unsafe { ioctl::ficlone(to.as_raw_fd(), from.as_raw_fd() as nix::sys::ioctl::ioctl_param_type) }.map(drop)
}
