//! Fetching the pieces of a plan: many runs at once, none in the way of who waits, none faster than allowed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use icbd_fetch::{FetchError, Urgency};
use icbd_image::{BLOCK_BYTES, PAGE_BLOCKS};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::bucket::Bucket;
use super::line::Line;
use super::plan::Piece;
use super::room;
use crate::CacheError;
use crate::budget::RUN_BLOCKS_MAX;
use crate::core::Core;
use crate::file::File;
use crate::version::Version;

/// Blocks asked for at once: 16 MiB keep a slow disk and a fast link busy, and leave the budget to others.
const BLOCKS_AT_ONCE: u64 = 256;
/// Requests at once; many small files reach this first.
const RUNS_AT_ONCE: usize = 16;
/// So long a run lets those go first who wait for theirs. One who is stuck must not stop everything.
const GIVE_WAY: Duration = Duration::from_millis(100);
const GIVE_WAY_STEP: Duration = Duration::from_millis(5);
/// After so much the disk's free space is looked at again.
const ROOM_BYTES: u64 = 64 << 20;

/// Runs under way. They go on when whoever started them is interrupted.
pub(crate) type Flying = VecDeque<(u64, JoinHandle<Option<Result<(), Arc<FetchError>>>>)>;

/// Fetches for one order.
pub(crate) struct Filler<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) line: &'a Line,
    /// Each gives leave.
    pub(crate) buckets: Vec<Arc<Bucket>>,
    pub(crate) flying: &'a Mutex<Flying>,
}

impl Filler<'_> {
    /// Has fetched what is missing of `pieces`, in their order, and waits until it is durable or was dropped.
    /// What another reader has under way is not waited for. Cancel-safe: runs under way still arrive.
    pub(crate) async fn fetch(
        &self,
        version: &Arc<Version>,
        pieces: impl Iterator<Item = Piece> + Send,
    ) -> Result<(), CacheError> {
        let mut flying = self.flying.lock().await;
        let mut unlooked_bytes = ROOM_BYTES;
        for piece in pieces {
            let file = version.file(piece.file)?;
            let mut block = piece.blocks.start;
            while block < piece.blocks.end {
                let end = ((block / PAGE_BLOCKS + 1) * PAGE_BLOCKS).min(piece.blocks.end);
                self.fill_page(&file, block..end, &mut flying, &mut unlooked_bytes).await?;
                block = end;
            }
        }
        land_all(&mut flying, 0, 0).await?;
        self.core.writeback.flush().await;
        Ok(())
    }

    /// Has the missing blocks of one page's range fetched.
    async fn fill_page(
        &self,
        file: &Arc<File>,
        blocks: Range<u64>,
        flying: &mut Flying,
        unlooked_bytes: &mut u64,
    ) -> Result<(), CacheError> {
        if file.is_readable(blocks.clone()) {
            return Ok(());
        }
        let hashes = file.hashes(blocks.clone()).await?;
        let mut start = blocks.start;
        while start < blocks.end {
            let most = self.buckets.iter().map(|bucket| bucket.run_blocks_max()).min().unwrap_or(RUN_BLOCKS_MAX);
            let run = start..blocks.end.min(start + u64::from(most));
            start = run.end;
            if file.is_readable(run.clone()) {
                continue;
            }
            if *unlooked_bytes >= ROOM_BYTES {
                room::check(self.core).await?;
                *unlooked_bytes = 0;
            }
            self.give_way().await;
            land_all(flying, RUNS_AT_ONCE - 1, BLOCKS_AT_ONCE - (run.end - run.start)).await?;
            let known = &hashes[(run.start - blocks.start) as usize..(run.end - blocks.start) as usize];
            for flight in file.fetch(run.clone(), known, most, Urgency::Prefetch) {
                let bytes = flight.count() * BLOCK_BYTES;
                *unlooked_bytes += bytes;
                flying.push_back((flight.count(), flight.start()));
                self.pay(bytes).await;
            }
        }
        Ok(())
    }

    /// Waits until as much as was just asked for may be fetched, and a little more.
    async fn pay(&self, bytes: u64) {
        for bucket in &self.buckets {
            if !bucket.take(self.line.wire_bytes(bytes)).await {
                self.line.held_back();
            }
        }
    }

    async fn give_way(&self) {
        let since = Instant::now();
        while self.core.demand_runs.load(Ordering::Acquire) > 0 && since.elapsed() < GIVE_WAY {
            tokio::time::sleep(GIVE_WAY_STEP).await;
        }
    }
}

/// Waits until at most so many runs and blocks are under way.
async fn land_all(flying: &mut Flying, runs: usize, blocks: u64) -> Result<(), CacheError> {
    while flying.len() > runs || flying.iter().map(|(count, _)| count).sum::<u64>() > blocks {
        let Some((_, flight)) = flying.front_mut() else { break };
        let landed = flight.await;
        flying.pop_front();
        match landed {
            Ok(Some(Ok(()))) => {}
            Ok(Some(Err(error))) => return Err(CacheError::Fetch(error)),
            Ok(None) | Err(_) => return Err(CacheError::Closed),
        }
    }
    Ok(())
}
