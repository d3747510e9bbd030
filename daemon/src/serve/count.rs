//! What was sent since the start.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of the TCP plane.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    requests: AtomicU64,
    blocks: AtomicU64,
    bytes: AtomicU64,
}

impl Sent {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Blocks of an answer to a block request; bytes of files are not counted in blocks.
    pub(super) fn blocks(&self, count: u64) {
        self.blocks.fetch_add(count, Ordering::Relaxed);
    }

    /// Bytes of bodies, as they travel.
    pub(super) fn bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Requests, blocks and bytes so far.
    pub(crate) fn totals(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.requests), read(&self.blocks), read(&self.bytes))
    }
}
