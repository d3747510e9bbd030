//! The memory for blocks in flight: one budget for the daemon, counted in blocks.
//!
//! A block holds its share from before it is asked for until it is written or dropped. A quarter is
//! kept for demand, so that no amount of readahead or prefetch makes a waiting reader wait for memory.

use std::sync::Arc;

use icbd_fetch::Urgency;
use icbd_image::BLOCK_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Shares of memory for blocks.
#[derive(Debug)]
pub(crate) struct Budget {
    shared: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    shared_blocks: usize,
    reserve_blocks: usize,
}

/// The longest run anybody asks for at once: 4 MiB. Longer ones gain nothing on any link we measured.
pub(crate) const RUN_BLOCKS_MAX: u32 = 64;
/// Below this nothing could be in flight besides one run.
const BUDGET_BLOCKS_MIN: usize = 4 * RUN_BLOCKS_MAX as usize;

impl Budget {
    pub(crate) fn new(bytes: u64) -> Budget {
        let blocks = usize::try_from(bytes / BLOCK_BYTES).unwrap_or(usize::MAX);
        let blocks = blocks.clamp(BUDGET_BLOCKS_MIN, u32::MAX as usize);
        let (reserve_blocks, shared_blocks) = (blocks / 4, blocks - blocks / 4);
        Budget {
            shared: Arc::new(Semaphore::new(shared_blocks)),
            reserve: Arc::new(Semaphore::new(reserve_blocks)),
            shared_blocks,
            reserve_blocks,
        }
    }

    /// Waits for a share of `blocks`, at most [`RUN_BLOCKS_MAX`].
    pub(crate) async fn take(&self, blocks: u32, urgency: Urgency) -> OwnedSemaphorePermit {
        let never = "this semaphore is never closed";
        let shared = self.shared.clone();
        if urgency != Urgency::Demand {
            return shared.acquire_many_owned(blocks).await.expect(never);
        }
        // Queueing for both: whichever is free first.
        tokio::select! {
            biased;
            share = shared.acquire_many_owned(blocks) => share.expect(never),
            share = self.reserve.clone().acquire_many_owned(blocks) => share.expect(never),
        }
    }

    /// Bytes that are in flight now.
    pub(crate) fn used_bytes(&self) -> u64 {
        let free = self.shared.available_permits() + self.reserve.available_permits();
        (self.shared_blocks + self.reserve_blocks).saturating_sub(free) as u64 * BLOCK_BYTES
    }
}
