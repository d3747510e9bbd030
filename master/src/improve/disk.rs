//! How the file systems of a disk were left: what is still to be repaired, or woken, had better not become everybody's.

use std::fs::File;
use std::ops::Range;

use super::{ntfs, partitions};

/// Something to be worried about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Where the file system begins on the disk, in bytes.
    pub at: u64,
    pub how: LeftHow,
}

/// How a file system was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftHow {
    /// Windows has marked it for a check.
    Dirty,
    /// A Windows that sleeps on it will go on with what it remembers of it.
    Hibernated,
    /// It says that it is NTFS, and cannot be read as such.
    Unreadable(String),
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.at;
        match &self.how {
            LeftHow::Dirty => write!(
                f,
                "the NTFS at byte {at} is marked dirty: it was not shut down cleanly; boot it again, let Windows check it (chkdsk), and \
                 shut it down"
            ),
            LeftHow::Hibernated => write!(
                f,
                "the NTFS at byte {at} holds a hibernated Windows: it would go on from there on every workstation; boot it again, switch \
                 hibernation and fast startup off (powercfg /h off), and shut it down"
            ),
            LeftHow::Unreadable(why) => write!(f, "the NTFS at byte {at} cannot be read: {why}"),
        }
    }
}

/// What is to be worried about on a disk.
pub(super) fn left(disk: &File, disk_bytes: u64) -> Vec<Left> {
    let each = |place: Range<u64>| {
        let at = place.start;
        ntfs::left(disk, place).into_iter().map(move |how| Left { at, how })
    };
    partitions::of(disk, disk_bytes).into_iter().flat_map(each).collect()
}
