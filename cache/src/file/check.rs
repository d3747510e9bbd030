//! Blocks compared with the manifest: a disk may give other bytes than were written to it, and say nothing.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use icbd_image::{BLOCK_BYTES, Hash, PAGE_BLOCKS, block_len};

use super::File;
use crate::disk::{DiskFile, Wait};

/// Reads a block of a file of so many bytes, and compares it with its hash. Blocks.
pub(crate) fn compare(file: &dyn DiskFile, size: u64, block: u64, hash: &Hash) -> io::Result<()> {
    let mut bytes = vec![0; block_len(size, block)];
    let read = file.read(block * BLOCK_BYTES, &mut bytes, Wait::Yes)?;
    match read == bytes.len() && Hash::of(&bytes) == *hash {
        true => Ok(()),
        false => Err(io::Error::other("it does not match its hash")),
    }
}

impl File {
    /// Compares those blocks that this daemon neither wrote nor compared before; once, for a page cache is not the disk.
    /// Blocks.
    ///
    /// # Errors
    /// The first block that could not be read or is not what its hash says.
    pub(super) fn check_unchecked(self: &Arc<Self>, blocks: Range<u64>) -> Result<(), (u64, io::Error)> {
        if self.is_checked(blocks.clone()) {
            return Ok(());
        }
        for block in blocks.filter(|block| !self.is_checked(*block..*block + 1)) {
            // A page of hashes that is not here tells nothing: what is resident is read while sources are away.
            let Some(hash) = self.hash_here(block) else { continue };
            self.check_block(block, &hash).map_err(|error| (block, error))?;
        }
        Ok(())
    }

    /// Whether a resident block is what its hash says. Blocks.
    pub(crate) fn check_block(&self, block: u64, hash: &Hash) -> io::Result<()> {
        let _guard = self.guard.read().expect("no panic under this lock");
        let Some(filling) = self.version.filling().filter(|_| self.is_readable(block..block + 1)) else {
            return Ok(());
        };
        compare(&*self.backing()?, self.size, block, hash)?;
        filling.resident.set_checked(self.index, block);
        Ok(())
    }

    /// The hash of a block, from memory or from the disk. Blocks.
    fn hash_here(&self, block: u64) -> Option<Hash> {
        match self.is_paged {
            false => self.version.hash_at_hand(self.index, block),
            true => self.version.page_here(self.index, block / PAGE_BLOCKS)?.hash(block % PAGE_BLOCKS),
        }
    }
}
