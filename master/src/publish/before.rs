//! What is known of a file's blocks before any is hashed.

use std::fs::File;
use std::ops::Range;

use icbd_image::{FileIndex, Hash};

use super::parent::Parent;
use crate::MasterError;
use crate::receive::Known;

/// Where hashes come from that need not be made.
pub(super) enum Before<'r> {
    /// The version before: of what lies where its blocks lie.
    Parent(Parent<'r>),
    /// Whoever received the tree: of what was verified on its way, or compared as it lies here.
    Received(&'r Known),
}

/// What is known of a file.
pub(super) struct Common {
    /// As whoever knows it counts files.
    pub(super) file: FileIndex,
    /// Blocks, in order, of which nothing is known.
    pub(super) changed: Vec<Range<u64>>,
}

impl Before<'_> {
    /// What is known of the file at the path `inside`, of `bytes` bytes; `None` if nothing is.
    pub(super) fn compare(&self, inside: &[u8], file: &File, bytes: u64) -> Option<Common> {
        match self {
            Before::Parent(parent) => parent.compare(inside, file, bytes),
            Before::Received(known) => {
                let (file, changed) = known.unknown(inside)?;
                Some(Common { file, changed })
            }
        }
    }

    /// The hashes of blocks that are known.
    pub(super) fn hashes(&self, common: &Common, blocks: Range<u64>) -> Result<Vec<Hash>, MasterError> {
        match self {
            Before::Parent(parent) => parent.hashes(common, blocks),
            Before::Received(known) => known.hashes(common.file, blocks).map_err(|source| MasterError::Io {
                doing: "read",
                path: "the hashes of what was received".into(),
                source,
            }),
        }
    }
}

impl Common {
    /// The parts of `blocks`, in order, and whether each has to be hashed.
    pub(super) fn parts(&self, blocks: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut parts = Vec::new();
        let mut at = blocks.start;
        let first = self.changed.partition_point(|range| range.end <= blocks.start);
        for range in self.changed[first..].iter().take_while(|range| range.start < blocks.end) {
            let (start, end) = (range.start.max(at), range.end.min(blocks.end));
            if start > at {
                parts.push((at..start, false));
            }
            parts.push((start..end, true));
            at = end;
        }
        if at < blocks.end {
            parts.push((at..blocks.end, false));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_changed_and_the_others_in_turn() {
        let common = Common { file: FileIndex::ROOT, changed: vec![2..4, 8..9] };
        assert_eq!(common.parts(0..10), [(0..2, false), (2..4, true), (4..8, false), (8..9, true), (9..10, false)]);
        assert_eq!(common.parts(3..8), [(3..4, true), (4..8, false)]);
        assert_eq!(common.parts(4..6), [(4..6, false)]);
    }
}
