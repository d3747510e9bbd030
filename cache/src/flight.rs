//! Fetching one run: from another local version, else from the sources; each block handed on as it comes.
//!
//! A flight belongs to the cache, not to the reader who caused it. However it ends, every block that it
//! owes is answered: landed, or failed with the reason.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::StreamExt;
use icbd_fetch::{FetchError, Leave, RunRequest, Urgency, Wanted};
use icbd_image::{Hash, Run, VerifiedBlock};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use crate::budget::RUN_BLOCKS_MAX;
use crate::file::File;
use crate::writeback::ASIDE;

/// A run with more damaged blocks than this is given up: each of them is asked for by itself.
const DAMAGED_MAX: usize = 4;

/// Claimed blocks of one file, at most [`RUN_BLOCKS_MAX`], and their hashes.
pub(crate) struct Flight {
    file: Arc<File>,
    blocks: Range<u64>,
    hashes: Vec<Hash>,
    urgency: Urgency,
    /// For the first request.
    leave: Option<Leave>,
    /// Of each block, whether it came or was given up: it is answered then, and may be another flight's already.
    landed: Vec<bool>,
    /// The first of those that no source could give.
    damage: Option<Arc<FetchError>>,
    error: Option<Arc<FetchError>>,
}

/// A flight under way; it ends with whether all came, or nothing when the cache stops.
pub(crate) type Landing = JoinHandle<Option<Result<(), Arc<FetchError>>>>;

impl Flight {
    /// For blocks that were just claimed in the file's slots because somebody waits for them.
    pub(crate) fn awaited(file: &Arc<File>, blocks: Range<u64>, hashes: Vec<Hash>, urgency: Urgency) -> Flight {
        Flight::new(file, blocks, hashes, urgency, None)
    }

    /// For blocks that were just claimed in the file's slots with leave to fetch them.
    pub(crate) fn allowed(file: &Arc<File>, blocks: Range<u64>, hashes: Vec<Hash>, leave: Leave) -> Flight {
        Flight::new(file, blocks, hashes, leave.urgency(), Some(leave))
    }

    fn new(file: &Arc<File>, blocks: Range<u64>, hashes: Vec<Hash>, urgency: Urgency, leave: Option<Leave>) -> Flight {
        assert!(
            blocks.end - blocks.start <= u64::from(RUN_BLOCKS_MAX) && hashes.len() as u64 == blocks.end - blocks.start
        );
        let landed = vec![false; hashes.len()];
        Flight { file: file.clone(), blocks, hashes, urgency, leave, landed, damage: None, error: None }
    }

    /// The blocks that it owes.
    pub(crate) fn blocks(&self) -> Range<u64> {
        self.blocks.clone()
    }

    /// Fetches in a task of the cache's own; the task says whether all came.
    pub(crate) fn start(self) -> Landing {
        let core = self.file.version().core().clone();
        core.spawn_for(self.urgency, self.fly())
    }

    async fn fly(mut self) -> Result<(), Arc<FetchError>> {
        let core = self.file.version().core().clone();
        let count = (self.blocks.end - self.blocks.start) as u32;
        let mut share = core.budget.take(count, self.urgency).await;
        let copied = self.reuse(&mut share).await;
        let mut damaged = 0;
        for mut run in self.missing(&copied) {
            while !run.is_empty() {
                let Err(error) = self.fetch(run.clone(), &mut share).await else { break };
                // A block that nobody can give stands in the way of none behind it.
                let behind = behind_damage(&error).filter(|_| damaged < DAMAGED_MAX);
                let Some(behind) = behind else {
                    self.error = Some(error.clone());
                    return Err(error);
                };
                damaged += 1;
                self.give_up(behind - 1, error);
                run.start = behind;
            }
        }
        self.damage.take().map_or(Ok(()), Err)
    }

    /// Takes what another local version holds; which blocks those were.
    async fn reuse(&mut self, share: &mut OwnedSemaphorePermit) -> Vec<u64> {
        let version = self.file.version().clone();
        let Some(base) = version.base().await else { return Vec::new() };
        if !crate::reuse::is_likely(&base, &self.file, self.blocks.clone()) {
            return Vec::new();
        }
        let (file, blocks, hashes) = (self.file.clone(), self.blocks.clone(), self.hashes.clone());
        let Ok(copied) = version.core().disk_read(move || crate::reuse::copy(&base, &file, blocks, &hashes)).await
        else {
            return Vec::new();
        };
        let reused = copied.iter().map(VerifiedBlock::index).collect();
        for block in copied {
            version.core().reused_bytes.fetch_add(block.bytes().len() as u64, Ordering::Relaxed);
            self.land(block, share);
        }
        reused
    }

    /// The runs that are left without `copied`, which is in order.
    fn missing(&self, copied: &[u64]) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for block in self.blocks.clone().filter(|block| copied.binary_search(block).is_err()) {
            match runs.last_mut() {
                Some(run) if run.end == block => run.end += 1,
                _ => runs.push(block..block + 1),
            }
        }
        runs
    }

    async fn fetch(&mut self, run: Range<u64>, share: &mut OwnedSemaphorePermit) -> Result<(), Arc<FetchError>> {
        let (version, started) = (self.file.version().clone(), Instant::now());
        let core = version.core();
        let first = (run.start - self.blocks.start) as usize;
        let hashes = self.hashes[first..first + (run.end - run.start) as usize].to_vec();
        let count = hashes.len() as u32;
        let request = RunRequest {
            run: Run { root: version.root(), file: self.file.index(), first: run.start, count },
            file_bytes: self.file.size(),
            urgency: self.urgency,
        };
        let mut blocks = core.sources.blocks(request, hashes, self.leave.take());
        while let Some(block) = blocks.next().await {
            match block {
                Ok(block) => {
                    let bytes = block.bytes().len() as u64;
                    core.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
                    core.ledger.fetched(version.serial(), bytes);
                    self.land(block, share);
                    if self.urgency.is_awaited() {
                        // Who waited goes on first, then this.
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) => return Err(Arc::new(error)),
            }
        }
        let (ms, urgency) = (started.elapsed().as_millis() as u64, self.urgency);
        tracing::debug!(version = %version.id(), file = self.file.shown(), first = run.start, count, ms, ?urgency, "fetched a run");
        Ok(())
    }

    /// Answers who waits for the block that it cannot be had.
    fn give_up(&mut self, block: u64, error: Arc<FetchError>) {
        self.landed[(block - self.blocks.start) as usize] = true;
        self.file.slots().fail(std::iter::once(block), Some(&error));
        self.damage.get_or_insert(error);
    }

    /// Answers who waits for the block, and has it written. Its share of memory goes with it.
    fn land(&mut self, block: VerifiedBlock, share: &mut OwnedSemaphorePermit) {
        self.landed[(block.index() - self.blocks.start) as usize] = true;
        let (slots, share) = (self.file.slots(), share.split(1));
        let (index, bytes) = (block.index(), block.bytes().clone());
        slots.land(index, &bytes, || match (self.file.version().filling(), share) {
            (Some(_), Some(share)) => self.have_written(block, share),
            // There is no tree to write to: the disk refused it.
            _ => slots.settle(index),
        });
    }

    fn have_written(&self, block: VerifiedBlock, share: OwnedSemaphorePermit) {
        let core = self.file.version().core();
        if !self.urgency.is_awaited() {
            core.writeback.write(self.file.clone(), block, share);
        } else if core.writeback.put_aside(self.file.clone(), block, share) {
            let core = core.clone();
            drop(core.clone().spawn_for(self.urgency, async move {
                tokio::time::sleep(ASIDE).await;
                core.writeback.take_up();
            }));
        }
    }
}

/// The first block behind one that every source has and none can give.
fn behind_damage(error: &FetchError) -> Option<u64> {
    match error {
        FetchError::Failed { wanted: Wanted::Blocks(run), .. } if error.is_damaged_there() => Some(run.first + 1),
        _ => None,
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let owed = self.blocks.clone().zip(&self.landed).filter(|(_, landed)| !**landed).map(|(block, _)| block);
        self.file.slots().fail(owed, self.error.as_ref());
    }
}
