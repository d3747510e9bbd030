//! A disk that is a file or a block device of this machine.
//!
//! Workstations do not share a page cache, so by default the reads bypass this machine's (`O_DIRECT`): each of them
//! reaches whoever serves the file. Direct reads are of whole pages; the first and the last are rounded outwards.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What every file system accepts as the unit of a direct read.
const PAGE_BYTES: u64 = 4096;
/// The flag is the same on every architecture that icbd runs on but arm and powerpc; there the fallback is taken.
const O_DIRECT: i32 = if cfg!(any(target_arch = "aarch64", target_arch = "arm")) { 0o200_000 } else { 0o40_000 };
/// Linux: invalid argument, which is how a file system refuses `O_DIRECT`.
const EINVAL: i32 = 22;

#[derive(Debug)]
pub(crate) struct FileDisk {
    file: File,
    bytes: u64,
    buffer: Vec<u8>,
    cache: Cache,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cache {
    Bypassed,
    Shared,
    /// It was to be bypassed, but the file system cannot.
    Unavoidable,
}

impl FileDisk {
    pub(crate) fn open(path: &Path, page_cache: bool) -> io::Result<FileDisk> {
        let options = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
        let (mut file, cache) = if page_cache {
            (options(0)?, Cache::Shared)
        } else {
            match options(O_DIRECT) {
                Err(error) if error.raw_os_error() == Some(EINVAL) => (options(0)?, Cache::Unavoidable),
                opened => (opened?, Cache::Bypassed),
            }
        };
        let kind = file.metadata()?.file_type();
        if kind.is_dir() {
            return Err(io::Error::other("it is a directory; name the disk image in it"));
        }
        // A block device has no length in its metadata.
        let bytes = file.seek(SeekFrom::End(0))?;
        Ok(FileDisk { file, bytes, buffer: Vec::new(), cache })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn read(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        let start = offset - offset % PAGE_BYTES;
        let end = (offset + bytes as u64).next_multiple_of(PAGE_BYTES);
        let wanted = (end - start) as usize;
        // A page more, so that the part used can begin at a page.
        let room = wanted + PAGE_BYTES as usize;
        if self.buffer.len() < room {
            self.buffer.resize(room, 0);
        }
        let skip = self.buffer.as_ptr().align_offset(PAGE_BYTES as usize);
        let part = &mut self.buffer[skip..skip + wanted];
        let needed = (offset + bytes as u64 - start) as usize;
        let mut filled = 0;
        while filled < needed {
            match self.file.read_at(&mut part[filled..], start + filled as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&part[(offset - start) as usize..needed])
    }

    pub(crate) fn cache_note(&self) -> &'static str {
        match self.cache {
            Cache::Bypassed => "this machine's page cache was bypassed (O_DIRECT, whole 4 KiB pages)",
            Cache::Shared => "the clients shared this machine's page cache, as those of one NFS server do",
            Cache::Unavoidable => "nothing was bypassed: this file system refuses O_DIRECT, the page cache was shared",
        }
    }
}
