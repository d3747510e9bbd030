//! Fetching the pieces of a plan: many runs at once, none in the way of who waits, none faster than allowed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use icbd_fetch::{FetchError, Urgency};
use icbd_image::{BLOCK_BYTES, PAGE_BLOCKS};
use tokio::sync::Mutex;

use super::bucket::Bucket;
use super::line::Line;
use super::plan::Piece;
use super::room;
use crate::CacheError;
use crate::budget::RUN_BLOCKS_MAX;
use crate::core::Core;
use crate::file::File;
use crate::flight::Landing;
use crate::version::Version;

/// Requests at once; many small files reach this first. How much they ask for is the sources' window.
const RUNS_AT_ONCE: usize = 16;
/// After so many runs with damage in them nothing more is asked for: each costs the source several reads in vain.
const DAMAGED_RUNS_MAX: u32 = 64;

/// Runs under way. They go on when whoever started them is interrupted, or gives up because one of them failed.
#[derive(Debug, Default)]
pub(crate) struct Flying {
    flights: VecDeque<Landing>,
    /// The first so many were started by an earlier [`Filler::fetch`]: they take their places on the line, but
    /// what became of them says nothing of how the sources are now. What they did not bring is missing still.
    earlier: usize,
    /// The first that could not bring all because of damage at the source, and how many those are.
    damage: Option<(Arc<FetchError>, u32)>,
}

/// Fetches what is on a list.
pub(crate) struct Filler<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) urgency: Urgency,
    /// What an order may take of the line; `None`: what there is.
    pub(crate) toll: Option<Toll<'a>>,
    pub(crate) flying: &'a Mutex<Flying>,
}

/// The limits of an order.
pub(crate) struct Toll<'a> {
    pub(crate) line: &'a Line,
    /// Each gives leave.
    pub(crate) buckets: Vec<Arc<Bucket>>,
}

impl Filler<'_> {
    /// Has fetched what is missing of `pieces`, in their order, and waits until it is durable or was dropped.
    /// What another reader has under way is not waited for. Cancel-safe: runs under way still arrive.
    ///
    /// # Errors
    /// At the first run that fails; but what is damaged at the source fails it only after the rest was fetched.
    pub(crate) async fn fetch(
        &self,
        version: &Arc<Version>,
        pieces: impl Iterator<Item = Piece> + Send,
    ) -> Result<(), CacheError> {
        let mut flying = self.flying.lock().await;
        (flying.earlier, flying.damage) = (flying.flights.len(), None);
        let mut allowed_bytes = 0;
        for piece in pieces {
            let file = version.file(piece.file)?;
            let mut block = piece.blocks.start;
            while block < piece.blocks.end {
                let end = ((block / PAGE_BLOCKS + 1) * PAGE_BLOCKS).min(piece.blocks.end);
                self.fill_page(&file, block..end, &mut flying, &mut allowed_bytes).await?;
                block = end;
            }
        }
        flying.land(0).await?;
        self.core.writeback.flush().await;
        flying.damage.take().map_or(Ok(()), |(error, _)| Err(CacheError::Fetch(error)))
    }

    /// Has the missing blocks of one page's range fetched.
    async fn fill_page(
        &self,
        file: &Arc<File>,
        blocks: Range<u64>,
        flying: &mut Flying,
        allowed_bytes: &mut u64,
    ) -> Result<(), CacheError> {
        if file.is_readable(blocks.clone()) {
            return Ok(());
        }
        let hashes = file.hashes(blocks.clone()).await?;
        let mut start = blocks.start;
        while start < blocks.end && !file.is_readable(start..blocks.end) {
            if *allowed_bytes == 0 {
                *allowed_bytes = match room::plenty(self.core).await? {
                    Some(bytes) => bytes,
                    None => {
                        flying.land(0).await?;
                        room::rest(self.core).await?
                    }
                };
            }
            flying.land(RUNS_AT_ONCE - 1).await?;
            let most = self.toll.as_ref().map_or(RUN_BLOCKS_MAX, Toll::run_blocks_max);
            let left = u32::try_from(blocks.end - start).unwrap_or(most);
            let leave = self.core.sources.leave(self.urgency, most.min(left)).await;
            let known = &hashes[(start - blocks.start) as usize..];
            let Some(flight) = file.fetch(start..blocks.end, known, leave) else { break };
            start = flight.blocks().end;
            let bytes = (flight.blocks().end - flight.blocks().start) * BLOCK_BYTES;
            *allowed_bytes = allowed_bytes.saturating_sub(bytes);
            flying.flights.push_back(flight.start());
            if let Some(toll) = &self.toll {
                toll.pay(bytes).await;
            }
        }
        Ok(())
    }
}

impl Toll<'_> {
    fn run_blocks_max(&self) -> u32 {
        self.buckets.iter().map(|bucket| bucket.run_blocks_max()).min().unwrap_or(RUN_BLOCKS_MAX)
    }

    /// Waits until as much as was just asked for may be fetched, and a little more.
    async fn pay(&self, bytes: u64) {
        for bucket in &self.buckets {
            bucket.ask(bytes);
            if !bucket.take(self.line.wire_bytes(bytes)).await {
                self.line.held_back();
            }
        }
    }
}

impl Flying {
    /// Waits until at most so many runs are under way. An error of one that this call has started ends it.
    async fn land(&mut self, runs: usize) -> Result<(), CacheError> {
        while self.flights.len() > runs {
            let Some(flight) = self.flights.front_mut() else { break };
            let landed = flight.await;
            self.flights.pop_front();
            let is_earlier = self.earlier > 0;
            self.earlier = self.earlier.saturating_sub(1);
            match landed {
                Ok(Some(Ok(()))) => {}
                Ok(Some(Err(_))) if is_earlier => {}
                Ok(Some(Err(error))) if error.is_damaged_there() => self.note_damage(error)?,
                Ok(Some(Err(error))) => return Err(CacheError::Fetch(error)),
                Ok(None) | Err(_) => return Err(CacheError::Closed),
            }
        }
        Ok(())
    }

    fn note_damage(&mut self, error: Arc<FetchError>) -> Result<(), CacheError> {
        let (first, runs) = self.damage.get_or_insert((error, 0));
        *runs += 1;
        if *runs > DAMAGED_RUNS_MAX { Err(CacheError::Fetch(first.clone())) } else { Ok(()) }
    }
}
