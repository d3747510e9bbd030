//! Sizes and offsets of a head's records, and the little reader that both formats share.

use std::fmt;

use crate::Timestamp;

/// Block hashes in a full page: 64 KiB of hashes for 128 MiB of data.
pub const PAGE_BLOCKS: u64 = 2048;

/// Files of at most so many blocks (1 MiB) carry their block hashes in the head.
///
/// Most files of an operating system's tree are smaller, and need no page of their own then; at 16
/// hashes the head grows by at most 512 bytes a file.
pub const INLINE_BLOCKS_MAX: u64 = 16;

pub(super) const MAGIC: &[u8; 8] = b"icbdhead";
pub(super) const FORMAT: u32 = 1;
pub(super) const HEADER_BYTES: usize = 40;
pub(super) const NODE_BYTES: usize = 64;
pub(super) const ENTRY_BYTES: usize = 16;
pub(super) const XATTR_BYTES: usize = 16;

/// The number of a file within its version: its place in the head's node table; 0 is the root folder.
///
/// At most 2²⁴ − 1, which with a 40-bit serial makes a node id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FileIndex(u32);

impl FileIndex {
    pub const MAX: u32 = (1 << 24) - 1;
    pub const ROOT: FileIndex = FileIndex(0);

    pub fn new(index: u32) -> Option<FileIndex> {
        (index <= FileIndex::MAX).then_some(FileIndex(index))
    }

    pub fn get(self) -> u32 {
        self.0
    }

    pub(super) fn usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for FileIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a node of the tree is. Sockets and FIFOs are not part of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
}

impl Kind {
    pub(super) fn to_u8(self) -> u8 {
        match self {
            Kind::File => 1,
            Kind::Directory => 2,
            Kind::Symlink => 3,
            Kind::CharDevice => 4,
            Kind::BlockDevice => 5,
        }
    }

    pub(super) fn from_u8(number: u8) -> Option<Kind> {
        [Kind::File, Kind::Directory, Kind::Symlink, Kind::CharDevice, Kind::BlockDevice]
            .into_iter()
            .find(|kind| kind.to_u8() == number)
    }
}

/// Owner, permissions and time of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Metadata {
    /// Permission bits with set-uid, set-gid and sticky: 0 to 0o7777.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
}

/// Reads little-endian fields one after the other; `None` past the end.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One 64-byte record of the node table, unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeRecord {
    pub(super) kind: u8,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Names that mean this node; of a directory 2 and one for each subdirectory.
    pub(super) links: u32,
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
    pub(super) xattr_first: u32,
    pub(super) xattr_count: u32,
    pub(super) rdev: u32,
    /// Of a file its bytes, of a symbolic link its target's length, else 0.
    pub(super) size: u64,
    /// Of a file its first hash, of a directory its first entry, of a symbolic link its target's place in the text.
    pub(super) first: u32,
    /// How many hashes or entries.
    pub(super) count: u32,
    /// Of a directory, the directory it is in; the root's is the root. Else 0.
    pub(super) parent: u32,
}

impl NodeRecord {
    pub(super) fn read(bytes: &[u8; NODE_BYTES]) -> NodeRecord {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        NodeRecord {
            kind: bytes[0],
            mode: u16_at(2),
            uid: u32_at(4),
            gid: u32_at(8),
            links: u32_at(12),
            seconds: u64_at(16) as i64,
            nanoseconds: u32_at(24),
            xattr_first: u32_at(28),
            xattr_count: u32_at(32),
            rdev: u32_at(36),
            size: u64_at(40),
            first: u32_at(48),
            count: u32_at(52),
            parent: u32_at(56),
        }
    }

    /// The record's bytes; those that no field uses are zero.
    pub(super) fn write(&self) -> [u8; NODE_BYTES] {
        let mut bytes = [0; NODE_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &[self.kind]);
        put(2, &self.mode.to_le_bytes());
        put(4, &self.uid.to_le_bytes());
        put(8, &self.gid.to_le_bytes());
        put(12, &self.links.to_le_bytes());
        put(16, &self.seconds.to_le_bytes());
        put(24, &self.nanoseconds.to_le_bytes());
        put(28, &self.xattr_first.to_le_bytes());
        put(32, &self.xattr_count.to_le_bytes());
        put(36, &self.rdev.to_le_bytes());
        put(40, &self.size.to_le_bytes());
        put(48, &self.first.to_le_bytes());
        put(52, &self.count.to_le_bytes());
        put(56, &self.parent.to_le_bytes());
        bytes
    }
}

/// One 16-byte record of the name table, unpacked.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryRecord {
    pub(super) node: u32,
    pub(super) name_at: u32,
    pub(super) name_len: u32,
    pub(super) reserved: u32,
}

impl EntryRecord {
    pub(super) fn read(bytes: &[u8; ENTRY_BYTES]) -> EntryRecord {
        let [node, name_at, name_len, reserved] = words(bytes);
        EntryRecord { node, name_at, name_len, reserved }
    }

    pub(super) fn write(&self) -> [u8; ENTRY_BYTES] {
        unwords([self.node, self.name_at, self.name_len, self.reserved])
    }
}

/// One 16-byte record of the table of extended attributes: the name is followed by the value.
#[derive(Debug, Clone, Copy)]
pub(super) struct XattrRecord {
    pub(super) node: u32,
    pub(super) text_at: u32,
    pub(super) name_len: u32,
    pub(super) value_len: u32,
}

impl XattrRecord {
    pub(super) fn read(bytes: &[u8; XATTR_BYTES]) -> XattrRecord {
        let [node, text_at, name_len, value_len] = words(bytes);
        XattrRecord { node, text_at, name_len, value_len }
    }

    pub(super) fn write(&self) -> [u8; XATTR_BYTES] {
        unwords([self.node, self.text_at, self.name_len, self.value_len])
    }
}

fn words(bytes: &[u8; 16]) -> [u32; 4] {
    std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|j| bytes[i * 4 + j])))
}

fn unwords(words: [u32; 4]) -> [u8; 16] {
    std::array::from_fn(|i| words[i / 4].to_le_bytes()[i % 4])
}
