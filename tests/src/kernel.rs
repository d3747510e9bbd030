//! What the standard library does not offer: file handles as an NFS server uses them, and reads through a mapping.
//!
//! JUSTIFICATION of unsafe code: `name_to_handle_at` and `open_by_handle_at` have no safe binding, and a mapping is
//! unsafe by nature.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Result};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The kernel's limit on the opaque part of a handle (`MAX_HANDLE_SZ`).
const HANDLE_BYTES_MAX: usize = 128;

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    opaque: [u8; HANDLE_BYTES_MAX],
}

impl Handle {
    /// The handle of the file at `path`; a symbolic link is not followed.
    pub fn of(path: &Path) -> Result<Handle> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut handle = Handle { bytes: HANDLE_BYTES_MAX as libc::c_uint, kind: 0, opaque: [0; HANDLE_BYTES_MAX] };
        let mut mount: libc::c_int = 0;
        // SAFETY: the path ends with a zero; the handle is laid out as the call wants it and says how much room it has.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                libc::AT_FDCWD,
                path.as_ptr(),
                &raw mut handle,
                &raw mut mount,
                0,
            )
        };
        if result < 0 { Err(Error::last_os_error()) } else { Ok(handle) }
    }

    /// Opens the file again on the mount that `mount` is on.
    pub fn open(&self, mount: &Path) -> Result<File> {
        let mount = File::open(mount)?;
        // SAFETY: the handle is one that the kernel filled in; it is only read.
        let fd =
            unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw const *self, libc::O_RDONLY) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }))
    }
}

/// Reads `count` bytes at `offset` through a private mapping. The range lies within the file: beyond it is SIGBUS.
pub fn read_mapped(file: &File, offset: u64, count: usize) -> Result<Vec<u8>> {
    const PAGE_BYTES: u64 = 4096;
    let start = offset - offset % PAGE_BYTES;
    let skip = (offset - start) as usize;
    let length = NonZeroUsize::new(skip + count).ok_or_else(|| Error::other("an empty mapping"))?;
    // SAFETY: a new mapping at an address of the kernel's choice, unmapped below and seen by nobody else.
    unsafe {
        let at = mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, start.cast_signed())?;
        let bytes = std::slice::from_raw_parts(at.as_ptr().cast::<u8>(), length.get())[skip..].to_vec();
        munmap(at, length.get())?;
        Ok(bytes)
    }
}
