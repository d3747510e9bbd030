//! Blocks that the disk does not give back as they were: forgotten, and fetched again when wanted.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use icbd_image::BLOCK_BYTES;

use super::File;

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
        let _guard = self.guard.write().expect("no panic under this lock");
        let cleared = filling.resident.clear(self.index, blocks.clone());
        self.unmark_zeros(&blocks);
        if let Err(error) = cleared {
            // Their bits may still be on the disk: the bytes stay, to be written over.
            core.health.failed(&format!("forgetting blocks of {}", self.shown()), &error);
            return;
        }
        if self.passthrough_count() == 0 {
            let (offset, len) = (blocks.start * BLOCK_BYTES, (blocks.end - blocks.start) * BLOCK_BYTES);
            if let Err(error) = self.backing().and_then(|backing| backing.punch(offset, len)) {
                core.health.failed(&format!("punching {}", self.shown()), &error);
            }
        }
    }
}
