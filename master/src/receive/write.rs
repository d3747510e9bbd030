//! Writing many blocks by few system calls.

use std::fs::File;
use std::io::IoSlice;

use rustix::io::Errno;

/// What the kernel takes at once (`IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// Writes all parts, one behind the other; how many bytes that were.
pub(super) fn write_all_at<'a>(file: &File, parts: impl Iterator<Item = &'a [u8]>, start: u64) -> std::io::Result<u64> {
    let mut slices: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
    let (mut rest, mut offset) = (&mut slices[..], start);
    while !rest.is_empty() {
        match rustix::io::pwritev(file, &rest[..rest.len().min(SLICES_MAX)], offset) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(offset - start)
}
