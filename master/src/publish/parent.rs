//! The version before: what a new one has in common with it is told by where the blocks lie, and is not hashed again.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use icbd_image::{BLOCK_BYTES, FileIndex, Hash, ImageName, Kind, Run, VersionId, VersionNumber};

use super::before::Common;
use crate::serve::OpenVersion;
use crate::{MasterError, Repository};

/// Smaller files are hashed before their blocks are looked for.
const COMPARED_BYTES_MIN: u64 = 16 * BLOCK_BYTES;

/// A version that another one is compared with.
pub(super) struct Parent<'r> {
    repository: &'r Repository,
    opened: Arc<OpenVersion>,
}

impl<'r> Parent<'r> {
    /// A version of an image, or the newest. `None` if there is none, or none that is surely what was published.
    pub(super) fn of(
        repository: &'r Repository,
        image: &ImageName,
        number: Option<VersionNumber>,
    ) -> Option<Parent<'r>> {
        let listing = repository.listing();
        let record = listing.image(image)?;
        let number = number.or_else(|| record.versions.last().map(|version| version.number()))?;
        let version = VersionId { image: image.clone(), number };
        let opened = repository.check_soundness(&version).and_then(|()| {
            let root = repository.version(&version)?.root();
            Ok(Arc::new(OpenVersion::open_as(repository, repository.head(root)?, version.clone())?))
        });
        match opened {
            Ok(opened) => Some(Parent { repository, opened }),
            Err(error) => {
                tracing::warn!(%version, %error, "nothing of this version is taken for granted; everything is hashed");
                None
            }
        }
    }

    /// What a file at the path `inside`, of `bytes` bytes, has in common with the parent's; `None` if nothing is known.
    pub(super) fn compare(&self, inside: &[u8], file: &File, bytes: u64) -> Option<Common> {
        if bytes < COMPARED_BYTES_MIN {
            return None;
        }
        let head = self.opened.head();
        let index = inside.split(|byte| *byte == b'/').try_fold(FileIndex::ROOT, |at, name| head.lookup(at, name))?;
        let node = head.node(index).filter(|node| node.kind() == Kind::File)?;
        let old_bytes = node.size();
        let old = self.opened.open_file(index).ok()?;
        let compared = self.repository.trees.compare_open((old.as_fd(), old_bytes), (file.as_fd(), bytes));
        let ranges = compared.inspect_err(|error| tracing::debug!(%error, "a file could not be compared")).ok()?;
        let mut changed: Vec<Range<u64>> = Vec::new();
        // The end of a shorter file cuts a block off.
        let cut = (bytes < old_bytes && !bytes.is_multiple_of(BLOCK_BYTES)).then(|| bytes - 1..bytes);
        for range in ranges.into_iter().chain(cut) {
            let blocks = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
            match changed.last_mut() {
                Some(last) if blocks.start <= last.end => last.end = last.end.max(blocks.end),
                _ => changed.push(blocks),
            }
        }
        Some(Common { file: index, changed })
    }

    /// The hashes of blocks that the parent has.
    pub(super) fn hashes(&self, common: &Common, blocks: Range<u64>) -> Result<Vec<Hash>, MasterError> {
        let root = self.opened.head().root();
        let run = Run { root, file: common.file, first: blocks.start, count: 1 };
        self.repository.own_blocks(run)?.hashes(blocks)
    }
}
