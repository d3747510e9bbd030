//! Blocks that the disk does not give back as they were: forgotten, and fetched again when wanted.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use icbd_fetch::Urgency;
use icbd_image::BLOCK_BYTES;

use super::{File, is_lost};
use crate::CacheError;

impl File {
    /// Forgets blocks that could not be read or were not what they should be. Blocks the caller.
    ///
    /// Who reads them next takes them from a source, and the same place is written anew. They are punched
    /// only if no passthrough handle could read the hole.
    pub(crate) fn damaged(self: &Arc<Self>, blocks: Range<u64>, error: &io::Error) {
        let core = self.version.core();
        core.health
            .failed(&format!("reading blocks {} to {} of {}", blocks.start, blocks.end - 1, self.shown()), error);
        let Some(filling) = self.version.filling() else { return };
        if let Err(error) = filling.thaw(&self.version) {
            // What is sealed still counts as whole on the disk: only who reads now takes it from a source.
            core.health.failed(&format!("making {} one that can be mended", self.version.id()), &error);
            filling.resident.forget(self.index, blocks);
            return;
        }
        let _guard = self.guard.write().expect("no panic under this lock");
        let cleared = filling.resident.clear(self.index, blocks.clone());
        self.unmark_zeros(&blocks);
        if let Err(error) = cleared {
            // Their bits may still be on the disk: the bytes stay, to be written over.
            core.health.failed(&format!("forgetting blocks of {}", self.shown()), &error);
            return;
        }
        let (offset, len) = (blocks.start * BLOCK_BYTES, (blocks.end - blocks.start) * BLOCK_BYTES);
        // What is read from here on is right; who got it before has to ask again.
        core.spoilt.add(self.version.serial(), self.index, offset..offset + len);
        if self.passthrough_count() == 0
            && let Err(error) = self.backing().and_then(|backing| backing.punch(offset, len))
            // Where there is no file nothing is to be punched.
            && !is_lost(&error)
        {
            core.health.failed(&format!("punching {}", self.shown()), &error);
        }
    }

    /// Has forgotten blocks fetched again if programs read the file past the daemon: nobody would come by for them.
    pub(crate) async fn mend_for_passthrough(self: &Arc<Self>, blocks: &[u64]) {
        if blocks.is_empty() || self.passthrough_count() == 0 {
            return;
        }
        let core = self.version.core();
        for block in blocks {
            if let Err(error) = self.mend(*block).await {
                let (file, version) = (self.shown(), self.version.id());
                tracing::error!(
                    file, block, %error,
                    "a spoilt block is read past icbd and could not be fetched again; run `icbd prefetch add {version} --all` \
                     once a source is back"
                );
            }
        }
        core.writeback.flush().await;
    }

    /// Fetches blocks again that were forgotten, and has them written. One that cannot be had keeps none of the others from coming;
    /// the error is the first one's.
    pub(crate) async fn fetch_again(self: &Arc<Self>, blocks: &[u64]) -> Result<(), CacheError> {
        let mut fetched = Ok(());
        for block in blocks {
            match self.mend(*block).await {
                Err(CacheError::Closed) => return Err(CacheError::Closed),
                mended => fetched = fetched.and(mended),
            }
        }
        self.version.core().writeback.flush().await;
        fetched
    }

    async fn mend(self: &Arc<Self>, block: u64) -> Result<(), CacheError> {
        // If it is one of zeros, asking for its hash has it punched.
        let hashes = self.hashes(block..block + 1).await?;
        let leave = self.version.core().sources.leave(Urgency::Demand, 1).await;
        let Some(flight) = self.fetch(block..block + 1, &hashes, leave) else { return Ok(()) };
        match flight.start().await {
            Ok(Some(fetched)) => fetched.map_err(CacheError::Fetch),
            Ok(None) | Err(_) => Err(CacheError::Closed),
        }
    }
}
