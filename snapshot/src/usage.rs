//! What trees cost on the disk, and what deleting some of them would give back.
//!
//! What deleting several trees frees is more than the sum over each: what two of them share goes with both. What a
//! third one shares, inside of the store or outside of it, stays. Names and attributes are not counted.

use std::collections::HashSet;
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::backend::Backend;
use crate::beneath::{Beneath, Stat, join, names};
use crate::trees::beneath;
use crate::{Access, SnapshotError, Tree, Trees};

/// A unit of [`Stat::allocated_units`].
const UNIT_BYTES: u64 = 512;

/// What some trees hold together, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// On the disk, each byte counted once.
    pub held_bytes: u64,
    /// Of these, what deleting all of the trees would free.
    pub exclusive_bytes: u64,
}

pub(crate) fn of(trees: &Trees, of: &[&dyn Tree]) -> Result<Usage, SnapshotError> {
    let mut own = Holdings::default();
    for tree in of {
        let Holdings { alone, shared, unmapped_bytes } = Holdings::of_tree(trees, *tree)?;
        own.alone.extend(alone);
        own.shared.extend(shared);
        own.unmapped_bytes += unmapped_bytes;
    }
    let alone_bytes = total(&merge(own.alone)) + own.unmapped_bytes;
    let held_bytes = alone_bytes + total(&merge(own.shared.clone()));
    let mut usage = Usage { held_bytes, exclusive_bytes: alone_bytes };
    // What is shared and only one of these trees holds stays, whoever else has it.
    let twice = covered_twice(own.shared);
    if !twice.is_empty() {
        usage.exclusive_bytes += total(&subtract(&twice, &held_by_others(trees, of)?));
    }
    Ok(usage)
}

/// What the other trees of the store hold and share with somebody.
fn held_by_others(trees: &Trees, except: &[&dyn Tree]) -> Result<Vec<Range<u64>>, SnapshotError> {
    let identity = |tree: &dyn Tree| {
        let stat = Stat::at(tree.directory(), b"").map_err(SnapshotError::io("look at", tree.path()));
        stat.map(|stat| stat.identity())
    };
    let except = except.iter().map(|tree| identity(*tree)).collect::<Result<HashSet<_>, _>>()?;
    let mut all = Vec::new();
    for listed in trees.list("".as_ref())? {
        let tree: Box<dyn Tree> = match listed.access {
            Access::Writable => Box::new(trees.writable(&listed.at)?),
            Access::Sealed => Box::new(trees.sealed(&listed.at)?),
        };
        if !except.contains(&identity(&*tree)?) {
            // One tree at a time: most of them hold much the same.
            all.extend(Holdings::of_tree(trees, &*tree)?.shared);
            all = merge(all);
        }
    }
    Ok(all)
}

/// The stretches of the disk that a tree's files hold, in order and apart.
#[derive(Debug, Default)]
struct Holdings {
    alone: Vec<Range<u64>>,
    shared: Vec<Range<u64>>,
    /// Bytes of files of which the file system does not tell where they are; nobody shares them.
    unmapped_bytes: u64,
}

impl Holdings {
    fn of_tree(trees: &Trees, tree: &dyn Tree) -> Result<Holdings, SnapshotError> {
        let root = beneath(tree).map_err(SnapshotError::io("open", tree.path()))?;
        let mut holdings = Holdings::default();
        let mut linked = HashSet::new();
        let mut pending = vec![Vec::new()];
        while let Some(inside) = pending.pop() {
            let error = |errno| SnapshotError::io("measure", root.shown(&inside))(errno);
            let directory = root.directory(&inside).map_err(error)?;
            for name in names(directory.as_fd()).map_err(error)? {
                let inside = join(&inside, &name);
                let stat = match Stat::at(directory.as_fd(), &name) {
                    // A writable tree may lose a name while it is measured.
                    Err(Errno::NOENT) => continue,
                    stat => stat.map_err(SnapshotError::io("measure", root.shown(&inside)))?,
                };
                match stat.kind() {
                    FileType::Directory if !stat.is_mount() => pending.push(inside),
                    FileType::RegularFile if stat.links() == 1 || linked.insert(stat.identity()) => {
                        holdings.add_file(&*trees.backend, &root, &inside, &stat)?;
                    }
                    _ => {}
                }
            }
        }
        let Holdings { alone, shared, unmapped_bytes } = holdings;
        Ok(Holdings { alone: merge(alone), shared: merge(shared), unmapped_bytes })
    }

    fn add_file(
        &mut self,
        backend: &dyn Backend,
        root: &Beneath,
        inside: &[u8],
        stat: &Stat,
    ) -> Result<(), SnapshotError> {
        let error = |errno| SnapshotError::io("measure", root.shown(inside))(errno);
        let file = match root.open_at(inside, OFlags::RDONLY, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            file => file.map_err(error)?,
        };
        match backend.held(file.as_fd()).map_err(error)? {
            None => self.unmapped_bytes += stat.allocated_units() * UNIT_BYTES,
            Some(held) => {
                for held in held {
                    let list = if held.is_shared { &mut self.shared } else { &mut self.alone };
                    list.push(held.start..held.end);
                }
            }
        }
        Ok(())
    }
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// The same bytes as ranges in order and apart from each other.
fn merge(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let joins = next.start <= last.end;
        if joins {
            last.end = last.end.max(next.end);
        }
        joins
    });
    ranges
}

/// The bytes that are in at least two of the ranges.
fn covered_twice(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut borders: Vec<(u64, i64)> = Vec::with_capacity(2 * ranges.len());
    for range in ranges {
        borders.extend([(range.start, 1), (range.end, -1)]);
    }
    borders.sort_unstable();
    let (mut twice, mut depth, mut since) = (Vec::new(), 0, 0);
    for (at, step) in borders {
        if depth >= 2 && at > since {
            twice.push(since..at);
        }
        depth += step;
        since = at;
    }
    merge(twice)
}

/// What is in `from` and in none of `others`; both in order and apart.
fn subtract(from: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    let mut others = others;
    for range in from {
        let mut start = range.start;
        while let Some((first, rest)) = others.split_first()
            && first.end <= range.start
        {
            others = rest;
        }
        for other in others.iter().take_while(|other| other.start < range.end) {
            if other.start > start {
                left.push(start..other.start);
            }
            start = start.max(other.end);
        }
        if start < range.end {
            left.push(start..range.end);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        prop::collection::vec((0u64..60, 1u64..12).prop_map(|(start, len)| start..start + len), 0..12)
    }

    fn count(ranges: &[Range<u64>], byte: u64) -> usize {
        ranges.iter().filter(|range| range.contains(&byte)).count()
    }

    proptest! {
        #[test]
        fn sets_of_bytes_are_sets_of_bytes(one in ranges(), other in ranges()) {
            let merged = merge(one.clone());
            let twice = covered_twice(one.clone());
            let left = subtract(&merged, &merge(other.clone()));
            for byte in 0..80 {
                prop_assert_eq!(count(&merged, byte), usize::from(count(&one, byte) > 0));
                prop_assert_eq!(count(&twice, byte), usize::from(count(&one, byte) > 1));
                prop_assert_eq!(count(&left, byte), usize::from(count(&one, byte) > 0 && count(&other, byte) == 0));
            }
        }
    }
}
