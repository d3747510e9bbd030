//! Long writes past the page cache.
//!
//! What a stream or a prefetch brings is read by nobody for a while, and the mount keeps pages of its own for
//! whoever read it. Put into the page cache it costs a page for each 4 KiB, their writeback, and their dropping:
//! [1 MiB at a time and synced, 2 GiB take 0.3 s of a processor past the page cache and 1.6 s through it]. So
//! long writes are gathered in one aligned buffer and handed to the disk. Where the file system does not want
//! that (tmpfs, odd block sizes), all goes through the page cache.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, OnceLock};

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// Shorter writes gain nothing: a disk's own cost is by the request.
const BYTES_MIN: usize = 256 << 10;
/// What is staged at once.
const STAGED_BYTES: usize = 1 << 20;
/// Suits the sectors of all disks and the blocks of all file systems met so far; others refuse, and are left alone.
const ALIGNMENT: usize = 4096;

/// The one buffer of a store.
#[derive(Debug, Default)]
pub(super) struct Staging(Mutex<Vec<u8>>);

/// A file's way past the page cache.
#[derive(Debug)]
pub(super) struct Direct {
    staging: Arc<Staging>,
    /// The same file, opened for this; `None` once its file system refused.
    file: OnceLock<Option<fs::File>>,
}

impl Direct {
    pub(super) fn new(staging: Arc<Staging>) -> Direct {
        Direct { staging, file: OnceLock::new() }
    }

    /// Writes `parts`, which lie side by side, to `file` from `offset` on; whether it did, or left all to the page cache.
    pub(super) fn write(&self, file: &fs::File, offset: u64, parts: &[&[u8]]) -> io::Result<bool> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let is_aligned = len.is_multiple_of(ALIGNMENT) && offset.is_multiple_of(ALIGNMENT as u64);
        if len < BYTES_MIN || !is_aligned {
            return Ok(false);
        }
        let Some(direct) = self.file.get_or_init(|| reopen(file)) else { return Ok(false) };
        let mut memory = self.staging.0.lock().expect("no panic under this lock");
        let staged = aligned(&mut memory);
        let (mut at, mut filled) = (offset, 0);
        for part in parts {
            let mut part = *part;
            while !part.is_empty() {
                let (now, later) = part.split_at(part.len().min(staged.len() - filled));
                staged[filled..filled + now.len()].copy_from_slice(now);
                (filled, part) = (filled + now.len(), later);
                if filled == staged.len() {
                    if !put(direct, at, staged)? {
                        return Ok(false);
                    }
                    (at, filled) = (at + filled as u64, 0);
                }
            }
        }
        put(direct, at, &staged[..filled])
    }
}

/// Whether the disk took it; an error is the disk's own.
fn put(direct: &fs::File, offset: u64, bytes: &[u8]) -> io::Result<bool> {
    match direct.write_all_at(bytes, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(false),
        Err(error) => Err(error),
    }
}

/// By its descriptor: its name may mean another file by now.
fn reopen(file: &fs::File) -> Option<fs::File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().write(true).custom_flags(OFlag::O_DIRECT.bits()).open(path).ok()
}

/// The aligned part of the buffer, which is made when first needed.
fn aligned(memory: &mut Vec<u8>) -> &mut [u8] {
    memory.resize(STAGED_BYTES + ALIGNMENT, 0);
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    &mut memory[start..start + STAGED_BYTES]
}
