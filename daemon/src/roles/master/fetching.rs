//! Having all blocks of a version here: those that no version here has come from other nodes.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use icbd_fetch::{FetchError, HttpSource, RunRequest, Sources, TimeOuts, Urgency};
use icbd_image::{BLOCK_BYTES, FileIndex, Hash, Head, Node, PAGE_BLOCKS, Run, block_count};
use icbd_master::Receiving;
use tokio::sync::Semaphore;

use super::state::Master;
use crate::control::{Event, events::Teller};
use crate::failure::{Exit, Failure};
use crate::output::Progress;
use crate::replicas::Via;

/// Blocks asked for at once; longer runs gain nothing on any line.
const RUN_BLOCKS: u64 = 64;
/// Blocks that are under way at first: 16 MiB fill any line, and few have left before it is known how they travel best …
const BLOCKS_AT_FIRST: usize = 256;
const FIRST_BLOCKS: u64 = 1024;
/// … and then: while the line is full, the source packs ahead of it what takes longer to pack than to send.
const RUNS_AT_ONCE: usize = 12;
/// Files of so many blocks are fetched several at once.
const SMALL_BLOCKS: u64 = 16;
const FILES_AT_ONCE: usize = 16;
/// A source that is away for longer ends it; it goes on where it stopped when it is asked for again.
const PATIENCE: Duration = Duration::from_secs(60);
/// One that says so often that it cannot read what is asked for will not be able to soon.
const DAMAGED_ROUNDS: u32 = 3;

/// A version whose blocks are fetched as far as they are not here.
pub(super) struct Fetching<'a> {
    sources: Arc<Sources>,
    head: &'a Head,
    receiving: &'a Arc<Receiving>,
    cancel: &'a AtomicBool,
    teller: &'a Teller,
    /// Blocks of all files.
    total: u64,
    done: AtomicU64,
    fetched: AtomicU64,
    /// Leave for blocks to be under way.
    under_way: Semaphore,
}

/// Why the source gives something not at all, or not now.
pub(super) fn refused(error: FetchError) -> Failure {
    match error {
        error if error.is_absent() => Failure::new(
            Exit::Absent,
            format!("{error}; a cache server gives only what it holds, and a master what is not removed"),
        ),
        error if error.is_damaged_there() || error.is_permanent() => {
            Failure::new(Exit::Verification, format!("{error}; `icbd image verify` there says what is wrong"))
        }
        error => Failure::new(Exit::Unreachable, error.to_string()),
    }
}

/// A node at a URL, or at the end of a way that a command holds open.
pub(super) fn reach(
    master: &Master,
    url: &str,
    socket: Option<&Path>,
    via: Option<&Via>,
) -> Result<HttpSource, Failure> {
    let (time_outs, authorities) = (TimeOuts::default(), master.believed().authorities);
    let source = match (socket, via) {
        (Some(socket), Some(via)) => HttpSource::through(url, time_outs, &authorities, (socket, &via.to_string())),
        _ => HttpSource::known_by(url, time_outs, &authorities),
    };
    source.map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

impl<'a> Fetching<'a> {
    pub(super) fn new(
        sources: Arc<Sources>,
        head: &'a Head,
        receiving: &'a Arc<Receiving>,
        teller: &'a Teller,
        cancel: &'a AtomicBool,
    ) -> Fetching<'a> {
        Fetching {
            sources,
            head,
            receiving,
            cancel,
            teller,
            total: head.files().map(|node| block_count(node.size())).sum(),
            done: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            under_way: Semaphore::new(BLOCKS_AT_FIRST),
        }
    }

    /// Has all blocks of all files here; how many were fetched.
    pub(super) async fn all(&self) -> anyhow::Result<u64> {
        let (small, large): (Vec<Node<'_>>, Vec<Node<'_>>) =
            self.head.files().filter(|node| node.size() > 0).partition(|node| node.blocks() <= SMALL_BLOCKS);
        // A tree has many of these, and each would cost a round trip.
        let files = small.iter().map(|node| self.file(node));
        stream::iter(files).buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
        for node in &large {
            self.file(node).await?;
        }
        Ok(self.fetched.load(Ordering::Relaxed))
    }

    async fn file(&self, node: &Node<'_>) -> anyhow::Result<()> {
        let blocks = block_count(node.size());
        let pages = (0..blocks).step_by(PAGE_BLOCKS as usize).map(|first| first..blocks.min(first + PAGE_BLOCKS));
        // What is lacking next is found out while the line is busy.
        stream::iter(pages)
            .map(|range| self.lacking(node, range))
            .buffered(2)
            .map_ok(|runs| stream::iter(runs.into_iter().map(Ok)))
            .try_flatten()
            .map_ok(|(run, hashes)| self.run(node.index(), node.size(), run, hashes))
            .try_buffer_unordered(RUNS_AT_ONCE)
            .try_collect::<()>()
            .await
    }

    /// The runs of some blocks that are not here, and their hashes.
    async fn lacking(&self, node: &Node<'_>, range: Range<u64>) -> anyhow::Result<Vec<(Range<u64>, Vec<Hash>)>> {
        let hashes = self.hashes(node, range.clone()).await?;
        let (receiving, index, known, of) = (self.receiving.clone(), node.index(), hashes.clone(), range.clone());
        let lacking = tokio::task::spawn_blocking(move || receiving.lacking(index, of, &known)).await?;
        let lacking = lacking.map_err(Failure::from)?;
        let missing: u64 = lacking.iter().map(|run| run.end - run.start).sum();
        self.tell(range.end - range.start - missing);
        let of =
            |run: &Range<u64>| hashes[(run.start - range.start) as usize..(run.end - range.start) as usize].to_vec();
        Ok(lacking.into_iter().flat_map(pieces).map(|run| (run.clone(), of(&run))).collect())
    }

    async fn hashes(&self, node: &Node<'_>, blocks: Range<u64>) -> anyhow::Result<Vec<Hash>> {
        if !node.is_paged() {
            return Ok(blocks.filter_map(|block| node.inline_hash(block)).collect());
        }
        let number = blocks.start / PAGE_BLOCKS;
        let page = self.patiently(|| self.sources.page(self.head, node.index(), number)).await?;
        Ok((0..blocks.end - blocks.start).filter_map(|at| page.hash(at)).collect())
    }

    /// Fetches and keeps a run.
    async fn run(&self, file: FileIndex, file_bytes: u64, blocks: Range<u64>, hashes: Vec<Hash>) -> anyhow::Result<()> {
        let (root, count) = (self.head.root(), (blocks.end - blocks.start) as u32);
        let _leave = self.under_way.acquire_many(count).await?;
        let run = Run { root, file, first: blocks.start, count };
        // Nobody else waits for this source: it is asked for whole runs, of which whole frames are made.
        let request = RunRequest { run, file_bytes, urgency: Urgency::Stream };
        let all = self
            .patiently(async || {
                let fetched = self.sources.blocks(request, hashes.clone(), None);
                fetched.try_collect::<Vec<_>>().await
            })
            .await?;
        let receiving = self.receiving.clone();
        let written = tokio::task::spawn_blocking(move || receiving.write(file, &all)).await?;
        written.map_err(Failure::from)?;
        let before = self.fetched.fetch_add(count.into(), Ordering::Relaxed);
        if (before..before + u64::from(count)).contains(&FIRST_BLOCKS) {
            self.under_way.add_permits(RUNS_AT_ONCE * RUN_BLOCKS as usize - BLOCKS_AT_FIRST);
        }
        self.tell(count.into());
        Ok(())
    }

    /// Asks again while the source is away, for a while.
    async fn patiently<T>(&self, ask: impl AsyncFn() -> Result<T, FetchError>) -> anyhow::Result<T> {
        let (mut first_failure, mut rounds) = (None, 0);
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Failure::from(icbd_master::MasterError::Cancelled).into());
            }
            match ask().await {
                Ok(done) => return Ok(done),
                Err(error) if error.is_permanent() => return Err(refused(error).into()),
                Err(error) => {
                    let since = *first_failure.get_or_insert_with(Instant::now);
                    rounds += 1;
                    if error.is_damaged_there() && rounds == DAMAGED_ROUNDS {
                        return Err(refused(error).into());
                    }
                    let left = PATIENCE.saturating_sub(since.elapsed());
                    let waited = tokio::time::timeout(left, self.sources.pause(rounds)).await;
                    if waited.is_err() {
                        let message =
                            format!("{error}; run the same command again, which goes on where this one stopped");
                        return Err(Failure::new(Exit::Unreachable, message).into());
                    }
                }
            }
        }
    }

    fn tell(&self, blocks: u64) {
        let done = self.done.fetch_add(blocks, Ordering::Relaxed) + blocks;
        let (what, done_bytes, total_bytes) = ("receiving".to_owned(), done * BLOCK_BYTES, self.total * BLOCK_BYTES);
        self.teller.tell(Event::Progress(Progress { what, done_bytes, total_bytes }));
    }
}

fn pieces(run: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    // On the grid that caches ask on, so that the source encodes nothing twice.
    let starts = std::iter::successors(Some(run.start), |at| Some((at / RUN_BLOCKS + 1) * RUN_BLOCKS));
    starts
        .take_while(move |start| *start < run.end)
        .map(move |start| start..run.end.min((start / RUN_BLOCKS + 1) * RUN_BLOCKS))
}
