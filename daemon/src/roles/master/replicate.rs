//! `image replicate`: a version that another master has becomes one of this master's, fetched block by block or as a stream.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use icbd_fetch::{FetchError, HttpSource, RunRequest, Source, Sources, TimeOuts, Urgency};
use icbd_image::{
    BLOCK_BYTES, FileIndex, Hash, Head, ImageRecord, Node, PAGE_BLOCKS, Run, VersionId, VersionRecord, block_count,
};
use icbd_master::{Published, Receiving};
use icbd_wire::Codec;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::state::Master;
use super::streamed;
use crate::audit::Change;
use crate::control::{Event, Peer, events::Teller};
use crate::failure::{Exit, Failure};
use crate::near;
use crate::output::Progress;
use crate::replicas::{Compress, ReplicateResult, ReplicateSpec, StreamKind};

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

pub(super) async fn replicate(
    master: &Arc<Master>,
    peer: &Peer,
    spec: ReplicateSpec,
    teller: &Teller,
) -> anyhow::Result<ReplicateResult> {
    let (what, owned, told, runtime) = (spec.to_string(), master.clone(), teller.clone(), Handle::current());
    let work = move |cancel: &AtomicBool| {
        let announced = runtime.block_on(Announced::ask(&owned, &spec))?;
        if announced.is_here(&owned) {
            return Ok(announced.result(None, 0));
        }
        match spec.stream {
            StreamKind::Blocks => {
                let done = runtime.block_on(Replication::fetch(&owned, announced, &told, cancel))?;
                done.finish(&told, cancel)
            }
            StreamKind::Btrfs => by_stream(&runtime, &owned, &announced, spec.compress, &told, cancel),
        }
    };
    let change = Change { what: &what, why: "" };
    master.audit.both_ends(peer, change, master.operations.run(peer, &what, teller.cancelled(), work)).await
}

/// What is known of a version before any of it comes.
struct Announced {
    started: Instant,
    source: Arc<HttpSource>,
    image: ImageRecord,
    record: VersionRecord,
    head: Head,
}

impl Announced {
    async fn ask(master: &Arc<Master>, spec: &ReplicateSpec) -> anyhow::Result<Announced> {
        let started = Instant::now();
        let source = HttpSource::new(&spec.from, TimeOuts::default());
        let source = source.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        let source = Arc::new(match (spec.stream, spec.compress) {
            (StreamKind::Blocks, Some(Compress::By(codec))) => source.with_codec(codec),
            _ => source,
        });
        let asked = sources(&source);
        let (image, record) = find(&asked, spec).await?;
        trusted(master, &record)?;
        let head = asked.head(record.root()).await.map_err(refused)?;
        Ok(Announced { started, source, image, record, head })
    }

    /// Whether the same version is here already.
    fn is_here(&self, master: &Master) -> bool {
        let version = self.record.statement.statement().version();
        let listing = master.repository.listing();
        let here = listing.image(&version.image).and_then(|image| image.version(version.number));
        here.is_some_and(|here| here.statement.statement() == self.record.statement.statement())
    }

    /// `published`: what it is here now, if it was not here before.
    fn result(&self, published: Option<Published>, fetched_bytes: u64) -> ReplicateResult {
        let data_bytes = self.record.data_bytes;
        ReplicateResult {
            version: self.record.statement.statement().version(),
            root: self.record.root(),
            is_new: published.is_some(),
            data_bytes,
            fetched_bytes: fetched_bytes.min(data_bytes),
            received_bytes: self.source.received_bytes(),
            seconds: self.started.elapsed().as_secs_f64(),
        }
    }
}

fn sources(source: &Arc<HttpSource>) -> Sources {
    Sources::new(vec![source.clone() as Arc<dyn Source>], icbd_fetch::Settings::default())
}

/// Blocks.
fn by_stream(
    runtime: &Handle,
    master: &Arc<Master>,
    announced: &Announced,
    compress: Option<Compress>,
    teller: &Teller,
    cancel: &AtomicBool,
) -> anyhow::Result<ReplicateResult> {
    let incoming = master.repository.receive_stream(&announced.image, &announced.record).map_err(Failure::from)?;
    let codec = match compress {
        None => Some(Codec::Zstd),
        Some(Compress::By(codec)) => Some(codec),
        Some(Compress::Stored) => None,
    };
    let came = streamed::receive(runtime, &announced.source, &incoming, &announced.head, codec, teller, cancel)?;
    let published = incoming.finish(came.tree, &storing(teller), cancel).map_err(Failure::from)?;
    Ok(announced.result(Some(published), came.bytes))
}

/// Tells how far a version is that is here and becomes one.
fn storing(teller: &Teller) -> impl Fn(icbd_master::Progress) + Sync {
    |now: icbd_master::Progress| {
        let what = "storing".to_owned();
        teller.tell(Event::Progress(Progress { what, done_bytes: now.done_bytes, total_bytes: now.found_bytes }));
    }
}

/// A version that is here to its last block, and not yet published.
struct Replication {
    announced: Announced,
    receiving: Receiving,
    fetched_blocks: u64,
}

/// What those who fetch share.
struct Fetching<'a> {
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

impl Replication {
    async fn fetch(
        master: &Arc<Master>,
        announced: Announced,
        teller: &Teller,
        cancel: &AtomicBool,
    ) -> anyhow::Result<Replication> {
        let Announced { source, head, .. } = &announced;
        let (repository, of) = (master.repository.clone(), head.clone());
        let (image, record) = (announced.image.clone(), announced.record.clone());
        let begun = tokio::task::spawn_blocking(move || repository.receive(&image, &record, of)).await?;
        let receiving = Arc::new(begun.map_err(Failure::from)?);
        if receiving.goes_on() {
            tracing::info!(version = %receiving.version(), "goes on with what was received before");
        }
        if let Some(base) = receiving.base() {
            source.set_base(base);
        }
        let fetching = Fetching {
            sources: Arc::new(sources(source)),
            head,
            receiving: &receiving,
            cancel,
            teller,
            total: head.files().map(|node| block_count(node.size())).sum(),
            done: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            under_way: Semaphore::new(BLOCKS_AT_FIRST),
        };
        let (small, large): (Vec<Node<'_>>, Vec<Node<'_>>) =
            head.files().filter(|node| node.size() > 0).partition(|node| node.blocks() <= SMALL_BLOCKS);
        // A tree has many of these, and each would cost a round trip.
        let files = small.iter().map(|node| fetching.file(node));
        stream::iter(files).buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
        for node in &large {
            fetching.file(node).await?;
        }
        let fetched_blocks = fetching.fetched.load(Ordering::Relaxed);
        let receiving = Arc::into_inner(receiving).context("somebody still writes to what was received")?;
        Ok(Replication { announced, receiving, fetched_blocks })
    }

    /// Publishes it. Blocks.
    fn finish(self, teller: &Teller, cancel: &AtomicBool) -> anyhow::Result<ReplicateResult> {
        let published = self.receiving.finish(&storing(teller), cancel).map_err(Failure::from)?;
        Ok(self.announced.result(Some(published), self.fetched_blocks * BLOCK_BYTES))
    }
}

/// The version that is meant, as its source lists it.
async fn find(sources: &Sources, spec: &ReplicateSpec) -> anyhow::Result<(ImageRecord, VersionRecord)> {
    let listed = sources.listing().await.map_err(refused)?.context("the source gives no list of versions")?;
    let (wanted, images) = (&spec.version, listed.listing.images);
    let Some(image) = images.iter().find(|image| image.name == wanted.image) else {
        let hint = near::hint(wanted.image.as_str(), images.iter().map(|image| image.name.as_str()));
        let message = format!("{} has no image {}{hint}", spec.from, wanted.image);
        return Err(Failure::new(Exit::Absent, message).into());
    };
    let absent = |what: String| Failure::new(Exit::Absent, format!("{} has {what}", spec.from));
    let number =
        wanted.number.or(image.deployed).ok_or_else(|| absent(format!("no deployed version of {}", image.name)))?;
    let record = image.version(number).cloned();
    let id = VersionId { image: image.name.clone(), number };
    Ok((image.clone(), record.ok_or_else(|| absent(format!("no version {id}")))?))
}

fn trusted(master: &Master, record: &VersionRecord) -> Result<(), Failure> {
    let believed = master.believed();
    let signer = believed.trust.signer(&record.statement);
    signer.map(drop).map_err(|error| Failure::new(Exit::Verification, error.to_string()))
}

/// Why the source gives something not at all, or not now.
fn refused(error: FetchError) -> Failure {
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

impl Fetching<'_> {
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
