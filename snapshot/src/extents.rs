//! Where the bytes of a file come from, in a form in which two files can be compared.

use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, Result};

use crate::beneath::Stat;
use crate::ioctl::extents::{Item, ItemKind, fiemap, search};

/// FIEMAP's flags of extents whose address says nothing about their bytes: unknown, not yet placed, packed or
/// encrypted, or not in blocks of their own.
const OPAQUE: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400;
/// `FIEMAP_EXTENT_UNWRITTEN`: room that was set aside, and reads as zeros.
const UNWRITTEN: u32 = 0x800;
/// FIEMAP's flags of extents that are on no place of the disk of their own: unknown, not yet placed, among the names.
const HOMELESS: u32 = 0x2 | 0x4 | 0x200;
/// `FIEMAP_EXTENT_SHARED`: somebody else holds it, too.
const SHARED: u32 = 0x2000;

/// A stretch of a file. Between extents a file reads as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// In the file, in bytes.
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) origin: Origin,
}

/// Where bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Two files that have the same anchor and shift at one offset have the same byte there.
    Disk { anchor: u64, shift: u64 },
    /// Nothing can be said.
    Opaque,
}

impl Origin {
    /// Whether both certainly hold the same bytes.
    pub(crate) fn is_same(self, other: Origin) -> bool {
        self == other && self != Origin::Opaque
    }
}

/// The extents of a file on any file system that tells.
pub(crate) fn by_map(file: BorrowedFd<'_>, each: &mut dyn FnMut(Extent) -> ControlFlow<()>) -> Result<()> {
    fiemap(file, |mapped| {
        let (start, end) = (mapped.logical, mapped.logical.saturating_add(mapped.length));
        match mapped.flags {
            flags if flags & UNWRITTEN != 0 => ControlFlow::Continue(()),
            flags if flags & OPAQUE != 0 => each(Extent { start, end, origin: Origin::Opaque }),
            _ => {
                let shift = mapped.physical.wrapping_sub(start);
                each(Extent { start, end, origin: Origin::Disk { anchor: 0, shift } })
            }
        }
    })
}

/// The extents of a file on btrfs, packed ones included. Only of files that nobody has written to since the last sync.
pub(crate) fn by_search(file: BorrowedFd<'_>, each: &mut dyn FnMut(Extent) -> ControlFlow<()>) -> Result<()> {
    let (_, inode) = Stat::at(file, b"")?.identity();
    let found = search(file, inode, |Item { start, kind }| match kind {
        ItemKind::Zeros | ItemKind::Reserved { .. } => ControlFlow::Continue(()),
        ItemKind::Inline => each(Extent { start, end: u64::MAX, origin: Origin::Opaque }),
        ItemKind::Data { address, skip, bytes, .. } => {
            let origin = Origin::Disk { anchor: address, shift: skip.wrapping_sub(start) };
            each(Extent { start, end: start.saturating_add(bytes), origin })
        }
    });
    match found {
        // Without the right to search, what the map tells has to do; it tells so before the first extent.
        Err(Errno::PERM) => by_map(file, each),
        found => found,
    }
}

/// A stretch of the disk that a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// In the file, in bytes.
    at: u64,
    /// On the disk, in bytes.
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) is_shared: bool,
}

/// The stretches of the disk that a file holds, on any file system that tells; `None` where it does not.
pub(crate) fn held_by_map(file: BorrowedFd<'_>) -> Result<Option<Vec<Held>>> {
    let mut held = Vec::new();
    let found = fiemap(file, |mapped| {
        // What lies among the names, or nowhere yet, takes no room of its own.
        if mapped.flags & HOMELESS == 0 {
            let end = mapped.physical.saturating_add(mapped.length);
            let is_shared = mapped.flags & SHARED != 0;
            held.push(Held { at: mapped.logical, start: mapped.physical, end, is_shared });
        }
        ControlFlow::Continue(())
    });
    match found {
        Ok(()) => Ok(Some(held)),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same on btrfs, where the disk's extents are held as a whole: somebody who holds one block of an extent keeps all
/// of it, and packed ones take less than what is in them.
pub(crate) fn held_by_search(file: BorrowedFd<'_>) -> Result<Option<Vec<Held>>> {
    let Some(mapped) = held_by_map(file)? else { return Ok(None) };
    let (_, inode) = Stat::at(file, b"")?.identity();
    let mut held = Vec::with_capacity(mapped.len());
    let mut rest = &mapped[..];
    let found = search(file, inode, |item| {
        if let ItemKind::Data { address, disk_bytes, .. } | ItemKind::Reserved { address, disk_bytes } = item.kind {
            // Who shares it only the map tells; both are in the file's order.
            while let [_, next, ..] = rest
                && next.at <= item.start
            {
                rest = &rest[1..];
            }
            let is_shared = rest.first().is_some_and(|first| first.is_shared);
            held.push(Held { at: item.start, start: address, end: address.saturating_add(disk_bytes), is_shared });
        }
        ControlFlow::Continue(())
    });
    match found {
        Ok(()) => Ok(Some(held)),
        Err(Errno::PERM) => Ok(Some(mapped)),
        Err(error) => Err(error),
    }
}
