//! Whether files really share blocks here: a clone has all bytes, takes no room, and changes without its original.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, Mode, OFlags};
use rustix::io::Errno;

use super::{Finding, Reflinks};
use crate::SnapshotError;
use crate::beneath::Beneath;
use crate::extents::held_by_map;
use crate::reflink::clone_file;

/// What is rewritten in the clone: a block of any file system.
const REWRITTEN_BYTES: usize = 64 << 10;

/// Tries it with `bytes` bytes in an empty directory, and tells how long it took to write them.
pub(super) fn run(directory: &Beneath, bytes: usize) -> Result<(Finding<Reflinks>, Duration), SnapshotError> {
    let error = || SnapshotError::io("write to", directory.shown(b""));
    let content = noise(bytes).map_err(error())?;
    let original = create(directory, b"original").map_err(error())?;
    let begun = Instant::now();
    original.write_all_at(&content, 0).and_then(|()| original.sync_all()).map_err(error())?;
    let written = begun.elapsed();
    let clone = create(directory, b"clone").map_err(error())?;
    let begun = Instant::now();
    let cloned = clone_file(original.as_fd(), clone.as_fd(), bytes as u64);
    let took = begun.elapsed();
    let finding = match cloned {
        Err(refused) => refusal(&refused),
        Ok(()) => {
            judge(&original, &clone, &content, took).map_err(SnapshotError::io("read from", directory.shown(b"")))?
        }
    };
    Ok((finding, written))
}

/// A refusal is a fact about the system; a full or failing disk says nothing about reflinks but is one, too.
fn refusal(error: &std::io::Error) -> Finding<Reflinks> {
    Finding::Refused(match Errno::from_io_error(error) {
        Some(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => {
            format!("the file system shares no blocks between files: {error}")
        }
        _ => error.to_string(),
    })
}

/// Looks at what the clone is.
fn judge(original: &File, clone: &File, content: &[u8], took: Duration) -> std::io::Result<Finding<Reflinks>> {
    clone.sync_all()?;
    if read_from_disk(clone, content.len())? != content {
        return Ok(Finding::Wrong("a reflink was made without an error and has other bytes than its original".into()));
    }
    let shared_bytes = shared(original, clone)?;
    if shared_bytes == Some(0) {
        return Ok(Finding::Wrong("a reflink was made without an error and shares nothing: it is a copy".into()));
    }
    let middle = (content.len() / 2) as u64;
    clone.write_all_at(&vec![0xa5; REWRITTEN_BYTES], middle)?;
    clone.sync_all()?;
    if read_from_disk(original, content.len())? != content {
        return Ok(Finding::Wrong("writing to a reflink changed its original".into()));
    }
    Ok(Finding::Works(Reflinks { cloned_bytes: content.len() as u64, shared_bytes, took }))
}

/// How many bytes of the disk both hold; `None` where the file system does not tell.
fn shared(one: &File, other: &File) -> std::io::Result<Option<u64>> {
    let (Some(one), Some(other)) = (held_by_map(one.as_fd())?, held_by_map(other.as_fd())?) else { return Ok(None) };
    let common = |from: u64, to: u64| {
        let meets = other.iter().map(|other| to.min(other.end).saturating_sub(from.max(other.start)));
        meets.sum::<u64>()
    };
    Ok(Some(one.iter().map(|one| common(one.start, one.end)).sum()))
}

/// All bytes, from the disk rather than from memory.
fn read_from_disk(file: &File, bytes: usize) -> std::io::Result<Vec<u8>> {
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
    // One more than there should be: a file that is too long is as wrong as one that is too short.
    let mut read = vec![0; bytes + 1];
    let mut len = 0;
    loop {
        match file.read_at(&mut read[len..], len as u64)? {
            0 => break,
            more => len += more,
        }
    }
    read.truncate(len);
    Ok(read)
}

fn create(directory: &Beneath, name: &[u8]) -> std::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    Ok(directory.open_at(name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Bytes that neither packing nor deduplication makes fewer.
fn noise(bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut noise = vec![0; bytes];
    getrandom::fill(&mut noise).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(noise)
}
