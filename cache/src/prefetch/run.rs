//! The one task that runs prefetch jobs, one after the other.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use icbd_fetch::{FetchError, Urgency};
use icbd_image::{FileIndex, PAGE_BLOCKS, Serial};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{JobId, JobState, Jobs};
use crate::CacheError;
use crate::budget::RUN_BLOCKS_MAX;
use crate::file::File;
use crate::health::StoreState;
use crate::version::Version;

/// Blocks asked for at once: 16 MiB keep a slow disk and a fast link busy, and leave the budget to others.
const BLOCKS_AT_ONCE: u64 = 256;
/// Requests at once; many small files reach this first.
const RUNS_AT_ONCE: usize = 16;
/// So long a run lets those go first who wait for theirs. One who is stuck must not stop everything.
const GIVE_WAY: Duration = Duration::from_millis(100);
const GIVE_WAY_STEP: Duration = Duration::from_millis(5);

/// How a job's turn ended.
enum Turn {
    Done,
    /// It goes on when something has changed.
    Stuck(String),
    /// Nothing that changes here lets it go on.
    Hopeless(String),
    Cancelled,
}

/// Runs under way.
type Flying = VecDeque<(u64, JoinHandle<Option<Result<(), Arc<FetchError>>>>)>;

impl Jobs {
    /// Runs jobs until the cache stops.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut changes = self.changes.subscribe();
        let mut stuck: u32 = 0;
        loop {
            changes.borrow_and_update();
            let queue: Vec<(JobId, Serial, CancellationToken)> = {
                let jobs = self.lock();
                let open = jobs.iter().filter(|(_, job)| !job.state.is_ended());
                open.map(|(id, job)| (*id, job.serial, job.cancelled.clone())).collect()
            };
            let mut ended = queue.is_empty();
            for (id, serial, cancelled) in queue {
                ended |= self.turn(id, serial, &cancelled).await;
            }
            stuck = if ended { 0 } else { stuck + 1 };
            tokio::select! {
                _ = changes.changed() => {}
                () = self.core.sources.pause(stuck), if stuck > 0 => {}
            }
        }
    }

    /// One job's turn; whether it has ended.
    async fn turn(&self, id: JobId, serial: Serial, cancelled: &CancellationToken) -> bool {
        let result = tokio::select! {
            biased;
            () = cancelled.cancelled() => Ok(Turn::Cancelled),
            result = self.fill(id, serial) => result,
        };
        let turn = result.unwrap_or_else(|error| match error {
            CacheError::Unusable { .. } => Turn::Hopeless(error.to_string()),
            error => Turn::Stuck(error.to_string()),
        });
        let (state, trouble) = match turn {
            Turn::Done => (JobState::Done, None),
            Turn::Cancelled => (JobState::Cancelled, None),
            Turn::Hopeless(why) => (JobState::Cancelled, Some(why)),
            Turn::Stuck(why) => (JobState::Queued, Some(why)),
        };
        if let Some(job) = self.lock().get_mut(&id) {
            if trouble.is_some() && job.trouble != trouble {
                tracing::warn!(job = id, why = trouble.as_deref(), "a prefetch job cannot go on for now");
            }
            (job.state, job.trouble) = (state, trouble);
        }
        if state.is_ended()
            && let Err(error) = self.set_state(id, state).await
        {
            tracing::warn!(job = id, %error, "the end of a prefetch job could not be noted");
        }
        state.is_ended()
    }

    async fn fill(&self, id: JobId, serial: Serial) -> Result<Turn, CacheError> {
        let version = self.core.version_once(serial).await?;
        version.prepare().await?;
        let before = version.residency().resident_bytes;
        if let Some(job) = self.lock().get_mut(&id) {
            (job.state, job.began) = (JobState::Running, Some((Instant::now(), before)));
        }
        // What another reader has under way is not waited for: another pass finds it, or has it fetched.
        let mut durable = 0;
        loop {
            self.pass(&version).await?;
            let residency = version.residency();
            if residency.is_complete() {
                return Ok(Turn::Done);
            }
            if let StoreState::Full { why } = self.core.health.state() {
                return Ok(Turn::Stuck(format!("the store is full: {why}")));
            }
            if residency.durable_bytes <= durable {
                return Ok(Turn::Stuck("some blocks could not be kept; they are tried again".to_owned()));
            }
            durable = residency.durable_bytes;
        }
    }

    /// Goes through the version once.
    async fn pass(&self, version: &Arc<Version>) -> Result<(), CacheError> {
        let mut flying = Flying::new();
        for index in (0..version.head().node_count()).filter_map(FileIndex::new) {
            let Ok(file) = version.file(index) else { continue };
            let mut block = 0;
            while block < file.blocks() {
                let end = (block + PAGE_BLOCKS).min(file.blocks());
                self.fill_page(&file, block..end, &mut flying).await?;
                block = end;
            }
        }
        land_all(&mut flying, 0, 0).await?;
        self.core.writeback.flush().await;
        Ok(())
    }

    /// Has the missing blocks of one page's range fetched.
    async fn fill_page(&self, file: &Arc<File>, blocks: Range<u64>, flying: &mut Flying) -> Result<(), CacheError> {
        if file.is_readable(blocks.clone()) {
            return Ok(());
        }
        let hashes = file.hashes(blocks.clone()).await?;
        for start in blocks.clone().step_by(RUN_BLOCKS_MAX as usize) {
            let run = start..blocks.end.min(start + u64::from(RUN_BLOCKS_MAX));
            if file.is_readable(run.clone()) {
                continue;
            }
            self.give_way().await;
            land_all(flying, RUNS_AT_ONCE - 1, BLOCKS_AT_ONCE - (run.end - run.start)).await?;
            let known = &hashes[(run.start - blocks.start) as usize..(run.end - blocks.start) as usize];
            for flight in file.fetch(run.clone(), known, RUN_BLOCKS_MAX, Urgency::Prefetch) {
                flying.push_back((flight.count(), flight.start()));
            }
        }
        Ok(())
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
        let Some((_, flight)) = flying.pop_front() else { break };
        match flight.await {
            Ok(Some(Ok(()))) => {}
            Ok(Some(Err(error))) => return Err(CacheError::Fetch(error)),
            Ok(None) | Err(_) => return Err(CacheError::Closed),
        }
    }
    Ok(())
}
