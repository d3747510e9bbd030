//! Where a file's bytes lie on the disk: FIEMAP for any file system, a tree search for btrfs.
//!
//! FIEMAP cannot tell one compressed extent from another, and on btrfs it looks up for each extent who else holds it;
//! the search gives btrfs's own items, ten times as fast, and needs CAP_SYS_ADMIN.
#![allow(unsafe_code)]
// JUSTIFICATION: no dependency of ours has safe wrappers of these ioctls.

use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use rustix::io::Result;
use rustix::ioctl::{Updater, ioctl, opcode};

/// Extents that one FIEMAP call returns: 28 KiB of them.
const FIEMAP_EXTENTS: usize = 512;
/// `FIEMAP_FLAG_SYNC`: what is not written yet is written first.
const FIEMAP_SYNC: u32 = 1;
/// `BTRFS_EXTENT_DATA_KEY`.
const EXTENT_DATA: u32 = 108;
/// What one search returns at most, in bytes: some 700 items.
const SEARCH_BYTES: usize = 64 << 10;
/// `struct btrfs_ioctl_search_header`.
const HEADER_BYTES: usize = 32;

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Mapped {
    pub(crate) logical: u64,
    pub(crate) physical: u64,
    pub(crate) length: u64,
    reserved64: [u64; 2],
    pub(crate) flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` without its extents.
#[repr(C)]
struct FiemapHeader {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
}

#[repr(C)]
struct Fiemap {
    header: FiemapHeader,
    extents: [Mapped; FIEMAP_EXTENTS],
}

/// `struct btrfs_ioctl_search_args_v2` without its buffer.
#[repr(C)]
struct SearchHeader {
    tree_id: u64,
    min_objectid: u64,
    max_objectid: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    nr_items: u32,
    unused: u32,
    unused64: [u64; 4],
    buf_size: u64,
}

#[repr(C)]
struct Search {
    header: SearchHeader,
    buffer: [u8; SEARCH_BYTES],
}

/// One extent of a file as btrfs keeps it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    /// Where in the file, in bytes.
    pub(crate) start: u64,
    pub(crate) kind: ItemKind,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum ItemKind {
    /// The bytes are in the item itself.
    Inline,
    /// A hole.
    Zeros,
    /// Room that was set aside, and reads as zeros.
    Reserved { address: u64, disk_bytes: u64 },
    /// `bytes` bytes from byte `skip` of what is (perhaps packed) in the `disk_bytes` at `address` on the disk.
    Data { address: u64, disk_bytes: u64, skip: u64, bytes: u64 },
}

const _: () = {
    assert!(size_of::<FiemapHeader>() == 32 && size_of::<Mapped>() == 56);
    assert!(size_of::<SearchHeader>() == 112);
};

/// Hands every extent of `file` to `each` in order, until it breaks.
pub(crate) fn fiemap(file: BorrowedFd<'_>, mut each: impl FnMut(&Mapped) -> ControlFlow<()>) -> Result<()> {
    let none = Mapped { logical: 0, physical: 0, length: 0, reserved64: [0; 2], flags: 0, reserved: [0; 3] };
    let header = |start| FiemapHeader {
        start,
        length: u64::MAX - start,
        flags: FIEMAP_SYNC,
        mapped: 0,
        count: FIEMAP_EXTENTS as u32,
        reserved: 0,
    };
    let mut map = Box::new(Fiemap { header: header(0), extents: [none; FIEMAP_EXTENTS] });
    loop {
        // SAFETY: `count` extents follow the header, which is what the kernel fills at most.
        unsafe { ioctl(file, Updater::<{ opcode::read_write::<FiemapHeader>(b'f', 11) }, Fiemap>::new(&mut map)) }?;
        let found = &map.extents[..map.header.mapped as usize];
        let Some(last) = found.last() else { return Ok(()) };
        let next = last.logical.saturating_add(last.length);
        if found.iter().any(|extent| each(extent).is_break()) || next <= map.header.start {
            return Ok(());
        }
        map.header = header(next);
    }
}

/// Hands every extent of the file with this inode number, in the subvolume that `file` is open in, to `each` in order,
/// until it breaks. What is not written to the disk yet is not among them.
pub(crate) fn search(file: BorrowedFd<'_>, inode: u64, mut each: impl FnMut(Item) -> ControlFlow<()>) -> Result<()> {
    let header = |min_offset| SearchHeader {
        tree_id: 0,
        min_objectid: inode,
        max_objectid: inode,
        min_offset,
        max_offset: u64::MAX,
        min_transid: 0,
        max_transid: u64::MAX,
        min_type: EXTENT_DATA,
        max_type: EXTENT_DATA,
        nr_items: u32::MAX,
        unused: 0,
        unused64: [0; 4],
        buf_size: SEARCH_BYTES as u64,
    };
    let mut search = Box::new(Search { header: header(0), buffer: [0; SEARCH_BYTES] });
    loop {
        // SAFETY: `buf_size` bytes follow the header, which is what the kernel fills at most.
        unsafe { ioctl(file, Updater::<{ opcode::read_write::<SearchHeader>(0x94, 17) }, Search>::new(&mut search)) }?;
        let mut rest = &search.buffer[..];
        let mut last = None;
        for _ in 0..search.header.nr_items {
            let Some((start, data, after)) = next_item(rest) else { break };
            (last, rest) = (Some(start), after);
            if each(Item { start, kind: kind_of(data) }).is_break() {
                return Ok(());
            }
        }
        match last.and_then(|start| start.checked_add(1)) {
            Some(next) => search.header = header(next),
            None => return Ok(()),
        }
    }
}

/// The first item in `buffer`: its offset in the file, its data, and what comes after.
fn next_item(buffer: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (header, rest) = buffer.split_at_checked(HEADER_BYTES)?;
    let start = u64::from_ne_bytes(header[16..24].try_into().ok()?);
    let bytes = u32::from_ne_bytes(header[28..32].try_into().ok()?);
    let (data, rest) = rest.split_at_checked(bytes as usize)?;
    Some((start, data, rest))
}

/// What a `btrfs_file_extent_item` says.
fn kind_of(data: &[u8]) -> ItemKind {
    let number = |at: usize| data.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let (Some(&kind), Some(address)) = (data.get(20), number(21)) else { return ItemKind::Inline };
    match (kind, address, number(29), number(37), number(45)) {
        (1, 0, ..) => ItemKind::Zeros,
        (1, address, Some(disk_bytes), Some(skip), Some(bytes)) => ItemKind::Data { address, disk_bytes, skip, bytes },
        (2, address, Some(disk_bytes), ..) => ItemKind::Reserved { address, disk_bytes },
        _ => ItemKind::Inline,
    }
}
