//! Blocks that wait for the writer and lie side by side, to be written at once.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use icbd_image::VerifiedBlock;
use tokio::sync::OwnedSemaphorePermit;

use super::Job;
use crate::file::{File, SEGMENT_BLOCKS};

/// What is taken out of the queue at once: four runs that come at the same time, mixed with each other.
const BLOCKS_MAX: usize = 64;

/// A block on its way, and its share of the memory for such.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) file: Arc<File>,
    pub(super) block: VerifiedBlock,
    #[expect(dead_code, reason = "held until the block is written, not read")]
    pub(super) share: OwnedSemaphorePermit,
}

/// Adds to `first` what waits behind it, up to the next job of another kind, which is returned as well.
pub(super) fn gather(first: Landed, queue: &Receiver<Job>) -> (Vec<Landed>, Option<Job>) {
    let (mut landed, mut other) = (vec![first], None);
    while landed.len() < BLOCKS_MAX {
        match queue.try_recv() {
            Ok(Job::Write(next)) => landed.push(next),
            Ok(job) => {
                other = Some(job);
                break;
            }
            Err(_) => break,
        }
    }
    landed.sort_by_key(|it| (it.file.version().serial(), it.file.index(), it.block.index()));
    (landed, other)
}

/// The parts of what was gathered that lie side by side in one segment of one file.
pub(super) fn runs(landed: &[Landed]) -> impl Iterator<Item = &[Landed]> {
    landed.chunk_by(|a, b| {
        let is_next = Arc::ptr_eq(&a.file, &b.file) && b.block.index() == a.block.index() + 1;
        is_next && !b.block.index().is_multiple_of(SEGMENT_BLOCKS)
    })
}
