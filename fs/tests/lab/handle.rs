//! File handles, as knfsd keeps them for its clients.

use std::fs::File;
use std::io;
use std::path::Path;

pub(crate) type Handle = Vec<u8>;

const HANDLE_HEADER: usize = 8;

pub(crate) fn handle_of(path: &Path) -> Handle {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut handle = vec![0u8; HANDLE_HEADER + 128];
    handle[..4].copy_from_slice(&128u32.to_ne_bytes());
    let mut mount_id = 0;
    // SAFETY: `handle` is a struct file_handle with room for the 128 bytes that its header claims.
    #[allow(unsafe_code)]
    let got = unsafe {
        nix::libc::name_to_handle_at(nix::libc::AT_FDCWD, path.as_ptr(), handle.as_mut_ptr().cast(), &mut mount_id, 0)
    };
    nix::errno::Errno::result(got).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    handle
}

pub(crate) fn open_handle(mount: &Path, handle: &Handle) -> io::Result<File> {
    let mount = File::open(mount)?;
    let mut handle = handle.clone();
    let raw = std::os::fd::AsRawFd::as_raw_fd(&mount);
    let flags = nix::libc::O_PATH;
    // SAFETY: the handle came from name_to_handle_at; a descriptor that is returned is ours alone.
    #[allow(unsafe_code)]
    unsafe {
        let fd = nix::libc::open_by_handle_at(raw, handle.as_mut_ptr().cast(), flags);
        nix::errno::Errno::result(fd)?;
        Ok(<File as std::os::fd::FromRawFd>::from_raw_fd(fd))
    }
}
