//! A tree as it came, whose bytes the kernel still holds in memory; those of its snapshot it would read from the disk.

use std::fs::File;
use std::os::fd::AsFd;

use icbd_image::BLOCK_BYTES;
use icbd_snapshot::Trees;
use icbd_snapshot::beneath::Beneath;
use rustix::fs::{Mode, OFlags};

/// Smaller files are read before their places are looked for.
const COMPARED_BYTES_MIN: u64 = 16 * BLOCK_BYTES;

/// What a tree that is published was received as.
pub(super) struct AsItCame<'a> {
    pub(super) tree: Beneath,
    pub(super) trees: &'a Trees,
}

impl AsItCame<'_> {
    /// The file at the path `inside`, if it and `stored`, of `bytes` bytes, lie on the very same places of the disk.
    pub(super) fn same_file(&self, inside: &[u8], stored: &File, bytes: u64) -> Option<File> {
        if bytes < COMPARED_BYTES_MIN {
            return None;
        }
        let file = File::from(self.tree.open_at(inside, OFlags::RDONLY, Mode::empty()).ok()?);
        // Of what did not reach the disk the memory is no proof.
        rustix::fs::fsync(&file).ok()?;
        let came_bytes = file.metadata().ok()?.len();
        let differs = self.trees.compare_open((file.as_fd(), came_bytes), (stored.as_fd(), bytes)).ok()?;
        (differs.is_empty() && came_bytes == bytes).then_some(file)
    }
}
