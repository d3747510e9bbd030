//! The open table: what must outlive the daemon, in a memfd that the keeper holds too.
//!
//! A header says how the connection was set up (so that a successor can take it over) and where it
//! is mounted; behind it one slot for each large file that is open: its node id and, in one atomic
//! word, the mode, the number of handles and the backing id. Invariant: whatever instruction the
//! daemon is killed at, a slot says at least as many handles as the kernel holds.
//!
//! JUSTIFICATION for unsafe: the words are shared with another process and must be read and written
//! as atomics in mapped memory; memmap2 hands out only a pointer.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Slots: distinct files of at least 1 MiB that can be open and counted at once (1 MiB of table).
pub(crate) const SLOTS: usize = 1 << 16;
/// Groups of slots with a lock (and an overflow counter) of their own.
pub(crate) const SHARDS: usize = 16;

const HEADER_BYTES: usize = 8192;
const SLOT_BYTES: usize = 16;
const TABLE_BYTES: usize = HEADER_BYTES + SLOTS * SLOT_BYTES;
/// "icbdopn" and the layout's number.
const MAGIC: u64 = u64::from_le_bytes(*b"icbdopn\x01");

// Words of the header, by their place in 8-byte steps.
const WORD_MAGIC: usize = 0;
const WORD_STAGE: usize = 1;
const WORD_DEVICE: usize = 2;
const WORD_PROTOCOL: usize = 3;
const WORD_CAPABILITIES: usize = 4;
const WORD_READAHEAD: usize = 5;
const WORD_PASSTHROUGH: usize = 6;
const WORD_UNCOUNTED: usize = 7;
const WORD_PATH_LEN: usize = 8;
const WORD_OVERFLOW: usize = 16;
const PATH_AT: usize = 512;
/// Linux's PATH_MAX.
const PATH_BYTES_MAX: usize = 4096;

/// How far a mount has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing is mounted on this connection yet.
    Fresh,
    /// mount(2) was or is about to be called; the kernel's INIT may be unanswered.
    Mounting,
    /// Mounted and set up: a successor can adopt it.
    Live,
    /// Unmounted on purpose.
    Gone,
}

/// What the kernel offered in INIT and which of it was taken: what a successor forges its INIT from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    /// The kernel's 64 INIT flags.
    pub(crate) capabilities: u64,
    /// The kernel's limit, in bytes.
    pub(crate) readahead_bytes_max: u32,
    /// Whether passthrough was asked for and granted.
    pub(crate) passthrough: bool,
}

/// How the handles of one file read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Cached,
    /// Through the kernel to the file registered under this backing id.
    Passthrough {
        backing: u32,
    },
}

/// What a slot says about its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) mode: Mode,
    /// Open handles. 0 with a backing id: the id is about to be closed.
    pub(crate) count: u32,
}

const PASSTHROUGH_BIT: u64 = 1 << 31;
const COUNT_MASK: u64 = PASSTHROUGH_BIT - 1;

impl Held {
    /// The word for a slot; never 0, which means free, for a valid value.
    fn to_word(self) -> u64 {
        let count = u64::from(self.count) & COUNT_MASK;
        match self.mode {
            Mode::Cached => count,
            Mode::Passthrough { backing } => u64::from(backing) << 32 | PASSTHROUGH_BIT | count,
        }
    }

    fn from_word(word: u64) -> Option<Held> {
        let count = (word & COUNT_MASK) as u32;
        let passthrough = word & PASSTHROUGH_BIT != 0;
        let mode = if passthrough { Mode::Passthrough { backing: (word >> 32) as u32 } } else { Mode::Cached };
        (word != 0).then_some(Held { mode, count })
    }
}

/// The mapped table.
#[derive(Debug)]
pub(crate) struct Table {
    map: MmapRaw,
}

impl Table {
    /// A new, empty table, sealed against changes of its size.
    pub(crate) fn create() -> io::Result<OwnedFd> {
        let fd = memfd_create(c"icbd-open-table", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        nix::unistd::ftruncate(&fd, TABLE_BYTES as i64)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        File::from(fd.try_clone()?).write_all_at(&MAGIC.to_ne_bytes(), 0)?;
        Ok(fd)
    }

    /// Maps a table that [`Table::create`] made, here or in an earlier daemon.
    pub(crate) fn map(fd: &OwnedFd) -> io::Result<Table> {
        let seals = SealFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS)?);
        let length = nix::sys::stat::fstat(fd.as_fd())?.st_size;
        // Without the seal somebody could shrink it, and the next access would be a SIGBUS.
        if length != TABLE_BYTES as i64 || !seals.contains(SealFlag::F_SEAL_SHRINK) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this descriptor is no open table of icbd"));
        }
        let map = MmapOptions::new().len(TABLE_BYTES).map_raw(fd.as_raw_fd())?;
        let table = Table { map };
        if table.header(WORD_MAGIC).load(Ordering::Acquire) != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the open table has another layout"));
        }
        Ok(table)
    }

    /// The stage, read without mapping: all that the keeper needs to know.
    pub(crate) fn peek_stage(fd: &OwnedFd) -> io::Result<Stage> {
        let mut word = [0; 8];
        File::from(fd.try_clone()?).read_exact_at(&mut word, (WORD_STAGE * 8) as u64)?;
        Ok(stage_of(u64::from_ne_bytes(word)))
    }

    pub(crate) fn stage(&self) -> Stage {
        stage_of(self.header(WORD_STAGE).load(Ordering::Acquire))
    }

    pub(crate) fn set_stage(&self, stage: Stage) {
        self.header(WORD_STAGE).store(stage as u64, Ordering::Release);
    }

    /// The minor number of the mount's device; 0 until it is known.
    pub(crate) fn device(&self) -> u32 {
        self.header(WORD_DEVICE).load(Ordering::Acquire) as u32
    }

    pub(crate) fn set_device(&self, minor: u32) {
        self.header(WORD_DEVICE).store(u64::from(minor), Ordering::Release);
    }

    pub(crate) fn negotiated(&self) -> Negotiated {
        let load = |word| self.header(word).load(Ordering::Acquire);
        let protocol = load(WORD_PROTOCOL);
        Negotiated {
            major: (protocol >> 32) as u32,
            minor: protocol as u32,
            capabilities: load(WORD_CAPABILITIES),
            readahead_bytes_max: load(WORD_READAHEAD) as u32,
            passthrough: load(WORD_PASSTHROUGH) != 0,
        }
    }

    pub(crate) fn set_negotiated(&self, it: &Negotiated) {
        let store = |word, value| self.header(word).store(value, Ordering::Release);
        store(WORD_PROTOCOL, u64::from(it.major) << 32 | u64::from(it.minor));
        store(WORD_CAPABILITIES, it.capabilities);
        store(WORD_READAHEAD, u64::from(it.readahead_bytes_max));
        store(WORD_PASSTHROUGH, u64::from(it.passthrough));
    }

    /// Where it is mounted.
    pub(crate) fn mount_path(&self) -> PathBuf {
        let len = (self.header(WORD_PATH_LEN).load(Ordering::Acquire) as usize).min(PATH_BYTES_MAX);
        let words = (0..len.div_ceil(8)).flat_map(|i| self.path_word(i).load(Ordering::Acquire).to_ne_bytes());
        PathBuf::from(std::ffi::OsString::from_vec(words.take(len).collect()))
    }

    pub(crate) fn set_mount_path(&self, path: &Path) {
        let bytes = path.as_os_str().as_bytes();
        let bytes = &bytes[..bytes.len().min(PATH_BYTES_MAX)];
        for (i, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.path_word(i).store(u64::from_ne_bytes(word), Ordering::Release);
        }
        self.header(WORD_PATH_LEN).store(bytes.len() as u64, Ordering::Release);
    }

    /// Open handles of files too small to be counted by file.
    pub(crate) fn uncounted(&self) -> &AtomicU64 {
        self.header(WORD_UNCOUNTED)
    }

    /// Open handles of large files for which the shard had no slot.
    pub(crate) fn overflow(&self, shard: usize) -> &AtomicU64 {
        self.header(WORD_OVERFLOW + shard % SHARDS)
    }

    pub(crate) fn slot(&self, slot: u32) -> Option<(u64, Held)> {
        let held = Held::from_word(self.slot_word(slot, 1).load(Ordering::Acquire))?;
        Some((self.slot_word(slot, 0).load(Ordering::Acquire), held))
    }

    /// Takes a free slot for `node`: the id first, so that a kill in between leaves the slot free.
    pub(crate) fn claim(&self, slot: u32, node: u64, held: Held) {
        self.slot_word(slot, 0).store(node, Ordering::Release);
        self.set(slot, Some(held));
    }

    pub(crate) fn set(&self, slot: u32, held: Option<Held>) {
        self.slot_word(slot, 1).store(held.map_or(0, Held::to_word), Ordering::Release);
    }

    fn header(&self, word: usize) -> &AtomicU64 {
        self.word(word * 8)
    }

    fn path_word(&self, i: usize) -> &AtomicU64 {
        self.word(PATH_AT + i * 8)
    }

    fn slot_word(&self, slot: u32, half: usize) -> &AtomicU64 {
        self.word(HEADER_BYTES + slot as usize * SLOT_BYTES + half * 8)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= TABLE_BYTES, "a word outside the open table");
        // SAFETY: the map is TABLE_BYTES long and page-aligned, so the pointer is valid and aligned
        // while `self` lives; the memfd is sealed against shrinking; all access is atomic.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(at).cast()) }
    }
}

fn stage_of(word: u64) -> Stage {
    match word {
        1 => Stage::Mounting,
        2 => Stage::Live,
        3 => Stage::Gone,
        _ => Stage::Fresh,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_daemon_writes_the_next_reads() {
        let fd = Table::create().unwrap();
        let negotiated =
            Negotiated { major: 7, minor: 45, capabilities: !0, readahead_bytes_max: 131_072, passthrough: true };
        let held = Held { mode: Mode::Passthrough { backing: 77 }, count: 3 };
        {
            let table = Table::map(&fd).unwrap();
            assert_eq!((table.stage(), table.slot(9)), (Stage::Fresh, None));
            table.set_negotiated(&negotiated);
            table.set_device(53);
            table.set_mount_path(Path::new("/srv/a mount with spaces"));
            table.claim(9, 1 << 40, held);
            table.claim(10, 5, Held { mode: Mode::Cached, count: 1 });
            table.set(10, None);
            table.set_stage(Stage::Live);
        }
        assert_eq!(Table::peek_stage(&fd).unwrap(), Stage::Live);
        let table = Table::map(&fd).unwrap();
        assert_eq!(table.negotiated(), negotiated);
        assert_eq!((table.device(), table.mount_path()), (53, PathBuf::from("/srv/a mount with spaces")));
        assert_eq!((table.slot(9), table.slot(10)), (Some((1 << 40, held)), None));
    }

    #[test]
    fn other_descriptors_are_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(TABLE_BYTES as u64).unwrap();
        assert!(Table::map(&OwnedFd::from(file)).is_err());
    }
}
