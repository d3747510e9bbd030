//! What of a file differs from the file at the same path in an older tree, told without reading either.
//!
//! Files that share blocks are compared by where their blocks lie. Tried on a 20 GiB disk of 70,000 extents against
//! a snapshot with 3,000 of them rewritten: btrfs's own items 35 ms, FIEMAP 330 ms, `btrfs send --no-data` 300 ms
//! (and that one names files by paths they no longer have). What this says has changed may be the same; what it
//! leaves out is the same.

use std::ops::{ControlFlow, Range};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

use crate::backend::Backend;
use crate::beneath::{Beneath, Stat};
use crate::extents::{Extent, Origin};

/// A file in more pieces counts as changed as a whole: 32 bytes of memory each, and it has to be read piecemeal anyway.
const EXTENTS_MAX: usize = 2 << 20;

/// How a regular file relates to the one at the same path in the older tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDifference {
    /// The size of the older one; `None` when there is no regular file.
    pub old_bytes: Option<u64>,
    pub new_bytes: u64,
    /// In the newer file, in bytes, in order and apart from each other: everything outside is byte for byte the older
    /// file's. What a shorter file lost is in no range.
    pub changed: Vec<Range<u64>>,
}

/// Compares the file at `inside` in two trees that stay as they are; `None` when the newer one has no regular file there.
pub(crate) fn of_file(
    backend: &dyn Backend,
    old: &Beneath,
    new: &Beneath,
    inside: &[u8],
) -> Result<Option<FileDifference>> {
    let Some((new, new_bytes)) = open_file(new, inside)? else { return Ok(None) };
    let Some((old, old_bytes)) = open_file(old, inside)? else {
        return Ok(Some(FileDifference { old_bytes: None, new_bytes, changed: whole(new_bytes) }));
    };
    let changed = of_open(backend, (old.as_fd(), old_bytes), (new.as_fd(), new_bytes))?;
    Ok(Some(FileDifference { old_bytes: Some(old_bytes), new_bytes, changed }))
}

/// The ranges of a newer file, of so many bytes, outside of which it is the older one.
pub(crate) fn of_open(
    backend: &dyn Backend,
    (old, old_bytes): (BorrowedFd<'_>, u64),
    (new, new_bytes): (BorrowedFd<'_>, u64),
) -> Result<Vec<Range<u64>>> {
    Ok(match lists(backend, old, new)? {
        Some((old, new)) => compare(&old, &new, old_bytes, new_bytes),
        None => whole(new_bytes),
    })
}

fn open_file(tree: &Beneath, inside: &[u8]) -> Result<Option<(OwnedFd, u64)>> {
    let file = match tree.open_at(inside, OFlags::RDONLY, Mode::empty()) {
        // Neither a device without a driver nor a socket is a regular file.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Ok(None),
        file => file?,
    };
    let stat = Stat::at(file.as_fd(), b"")?;
    Ok((stat.kind() == FileType::RegularFile).then(|| (file, stat.size())))
}

/// A range of all of a file.
fn whole(bytes: u64) -> Vec<Range<u64>> {
    (bytes > 0).then_some(0..bytes).into_iter().collect()
}

/// The extents of both; `None` where they say nothing.
///
/// An address means the same in both lists only if what the older file holds there was not moved meanwhile (by a
/// balance or a defragmentation) and the room given to the newer one. So the older one is listed again afterwards.
fn lists(
    backend: &dyn Backend,
    old: BorrowedFd<'_>,
    new: BorrowedFd<'_>,
) -> Result<Option<(Vec<Extent>, Vec<Extent>)>> {
    let Some(old_list) = list(backend, old)? else { return Ok(None) };
    let Some(new_list) = list(backend, new)? else { return Ok(None) };
    let (mut again, mut is_same) = (0, true);
    backend.extents(old, &mut |extent| {
        is_same &= old_list.get(again) == Some(&extent);
        again += 1;
        if is_same { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok((is_same && again == old_list.len()).then_some((old_list, new_list)))
}

fn list(backend: &dyn Backend, file: BorrowedFd<'_>) -> Result<Option<Vec<Extent>>> {
    let mut list = Vec::new();
    let listed = backend.extents(file, &mut |extent| {
        list.push(extent);
        if list.len() > EXTENTS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match listed {
        Ok(()) => Ok((list.len() <= EXTENTS_MAX).then_some(list)),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The ranges of the newer file in which the lists differ, and all that is beyond the end of the older one.
fn compare(old: &[Extent], new: &[Extent], old_bytes: u64, new_bytes: u64) -> Vec<Range<u64>> {
    let mut changed: Vec<Range<u64>> = Vec::new();
    let mut add = |range: Range<u64>| match changed.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.end == range.start => last.end = range.end,
        _ => changed.push(range),
    };
    let both = old_bytes.min(new_bytes);
    let (mut old, mut new, mut at) = (Cursor::new(old), Cursor::new(new), 0);
    while at < both {
        let ((was, was_until), (is, is_until)) = (old.at(at), new.at(at));
        let until = was_until.min(is_until).min(both);
        let is_same = match (was, is) {
            (None, None) => true,
            (Some(was), Some(is)) => was.is_same(is),
            _ => false,
        };
        if !is_same {
            add(at..until);
        }
        at = until;
    }
    add(both..new_bytes);
    changed
}

/// Walks a list of extents.
struct Cursor<'a> {
    rest: &'a [Extent],
}

impl<'a> Cursor<'a> {
    fn new(rest: &'a [Extent]) -> Cursor<'a> {
        Cursor { rest }
    }

    /// Where the byte at `offset` comes from (`None`: it is zero), and up to where that holds; offsets only grow.
    fn at(&mut self, offset: u64) -> (Option<Origin>, u64) {
        while let Some((first, rest)) = self.rest.split_first()
            && first.end <= offset
        {
            self.rest = rest;
        }
        match self.rest.first() {
            Some(first) if first.start <= offset => (Some(first.origin), first.end),
            Some(first) => (None, first.start),
            None => (None, u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file of `origins`, a byte each: 0 is a hole, and of 9 nobody can tell.
    fn extents(origins: &[u8]) -> Vec<Extent> {
        let origin = |origin: u8| match origin {
            9 => Origin::Opaque,
            _ => Origin::Disk { anchor: u64::from(origin / 2), shift: u64::from(origin % 2) },
        };
        let one = |(at, &byte): (u64, &u8)| Extent { start: at, end: at + 1, origin: origin(byte) };
        (0..).zip(origins).filter(|(_, origin)| **origin != 0).map(one).collect()
    }

    proptest! {
        #[test]
        fn ranges_are_exactly_where_origins_differ(old in prop::collection::vec(0u8..10, 0..40), new in prop::collection::vec(0u8..10, 0..40)) {
            let changed = compare(&extents(&old), &extents(&new), old.len() as u64, new.len() as u64);
            prop_assert!(changed.windows(2).all(|pair| pair[0].end < pair[1].start), "{changed:?}");
            for (at, origin) in new.iter().enumerate() {
                let is_same = old.get(at) == Some(origin) && *origin != 9;
                prop_assert_eq!(changed.iter().any(|range| range.contains(&(at as u64))), !is_same, "at {}: {:?}", at, changed);
            }
        }
    }
}
