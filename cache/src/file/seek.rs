//! Where data and holes are, by the manifest: what is zero there is a hole.

use std::sync::Arc;

use icbd_image::{BLOCK_BYTES, Hash, PAGE_BLOCKS};

use super::File;
use crate::CacheError;
use crate::waiting::Patience;

impl File {
    /// The first byte at or after `offset` that is in a block with data; `None` if there is none.
    pub async fn seek_data(self: &Arc<Self>, offset: u64) -> Result<Option<u64>, CacheError> {
        self.seek(offset, |hash| !hash.is_zero()).await
    }

    /// The first byte at or after `offset` that is in a block of zeros, or the file's end; `None` past the end.
    pub async fn seek_hole(self: &Arc<Self>, offset: u64) -> Result<Option<u64>, CacheError> {
        let found = self.seek(offset, |hash| hash.is_zero()).await?;
        Ok(found.or_else(|| (offset < self.size).then_some(self.size)))
    }

    async fn seek(self: &Arc<Self>, offset: u64, is_it: impl Fn(&Hash) -> bool) -> Result<Option<u64>, CacheError> {
        let mut block = offset / BLOCK_BYTES;
        while offset < self.size && block < self.blocks() {
            let page = block / PAGE_BLOCKS;
            // A page of zeros is one step, so that a hole of 1 TiB takes 8192 and no fetch.
            let end = ((page + 1) * PAGE_BLOCKS).min(self.blocks());
            let known = self.version.head().node(self.index).and_then(|node| node.page_hash(page));
            if known.is_some_and(|hash| hash.is_zero()) {
                if is_it(&Hash::ZERO) {
                    return Ok(Some(offset.max(block * BLOCK_BYTES)));
                }
                block = end;
                continue;
            }
            let hashes = self.patient_hashes(block..end).await?;
            if let Some(at) = hashes.iter().position(&is_it) {
                return Ok(Some(offset.max((block + at as u64) * BLOCK_BYTES)));
            }
            block = end;
        }
        Ok(None)
    }

    /// Hashes, waiting for a source as a read does.
    pub(crate) async fn patient_hashes(
        self: &Arc<Self>,
        blocks: std::ops::Range<u64>,
    ) -> Result<Vec<Hash>, CacheError> {
        let core = self.version.core().clone();
        let mut patience = Patience::new(&core, self.want(blocks.start));
        loop {
            match self.hashes(blocks.clone()).await {
                Err(CacheError::Fetch(error)) => patience.failed(error).await?,
                result => return result,
            }
        }
    }
}
