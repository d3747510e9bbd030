//! What was written since the last sync.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use icbd_image::{FileIndex, Serial};
use tokio::sync::oneshot;

use crate::file::File;
use crate::health::Health;

/// Blocks that are readable and not durable yet, by version and file.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) files: BTreeMap<(Serial, FileIndex), Written>,
    /// Blocks in it whose bytes were written, not only marked.
    pub(super) written_blocks: u64,
    /// How many syncs had failed when it began: one that fails later may have lost some of it, also if
    /// the batch's own sync succeeds. Linux tells of a lost page once.
    pub(super) failed_syncs: u64,
    /// How many writes had found no room by then.
    pub(super) refusals: u64,
    /// Told when the batch is settled.
    pub(super) waiters: Vec<oneshot::Sender<()>>,
}

/// One file's part.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) file: Arc<File>,
    pub(super) blocks: Vec<u64>,
}

impl Batch {
    /// To be called before something is written for it.
    pub(super) fn begin(&mut self, health: &Health) {
        if self.files.is_empty() {
            (self.failed_syncs, self.refusals) = (health.failed_syncs(), health.refusals());
        }
    }

    pub(super) fn add(&mut self, file: &Arc<File>, blocks: Range<u64>) {
        let key = (file.version().serial(), file.index());
        let written = self.files.entry(key).or_insert_with(|| Written { file: file.clone(), blocks: Vec::new() });
        written.blocks.extend(blocks);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.waiters.is_empty()
    }
}
