//! Backing ids: files that the kernel reads by itself for a passthrough handle.
//!
//! They belong to the connection, not to a daemon: the open table remembers them, so fuser's owning
//! type, which closes an id when its process drops it, is used only for the moment of a reply.
//!
//! JUSTIFICATION for unsafe: fuser has no safe call for an id that an earlier daemon registered, nor
//! one that closes a raw id.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};
use tracing::warn;

/// `FUSE_DEV_IOC_MAGIC` and the number of `FUSE_DEV_IOC_BACKING_CLOSE` in linux/fuse.h.
const IOCTL_MAGIC: u8 = 229;
const IOCTL_BACKING_CLOSE: u8 = 2;

nix::ioctl_write_ptr!(ioctl_backing_close, IOCTL_MAGIC, IOCTL_BACKING_CLOSE, u32);

/// Registers `file` on the connection.
pub(crate) fn register(fuse: &OwnedFd, file: &impl AsFd) -> io::Result<u32> {
    BackingId::create_raw(fuse, file)
}

/// Lets go of a file that no handle reads any more.
pub(crate) fn close(fuse: &OwnedFd, backing: u32) {
    // SAFETY: the ioctl reads a u32 through the pointer, which is valid for the call.
    if let Err(error) = unsafe { ioctl_backing_close(fuse.as_raw_fd(), &backing) } {
        warn!(backing, %error, "cannot close a backing file; its space stays in use until the mount ends");
    }
}

/// Answers an open with a registered file.
pub(super) fn say_opened(reply: ReplyOpen, handle: FileHandle, backing: u32) {
    // SAFETY: the open table says that the id is registered on this connection and counts this
    // handle, so it stays so; `into_raw` keeps fuser from closing it.
    let borrowed = unsafe { reply.wrap_backing(backing) };
    reply.opened_passthrough(handle, FopenFlags::empty(), &borrowed);
    let _ = borrowed.into_raw();
}
