//! `image replicate`: a version that another master has becomes one of this master's, fetched block by block or as a stream.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use icbd_fetch::{Habits, HttpSource, Source, Sources};
use icbd_image::{BLOCK_BYTES, Head, ImageRecord, VersionId, VersionRecord};
use icbd_master::{Published, Receiving};
use icbd_wire::Codec;
use tokio::runtime::Handle;

use super::fetching::{Fetching, reach, refused};
use super::state::Master;
use super::streamed;
use crate::audit::Change;
use crate::control::{Event, Peer, events::Teller};
use crate::failure::{Exit, Failure};
use crate::near;
use crate::output::Progress;
use crate::replicas::{Compress, ReplicateResult, ReplicateSpec, StreamKind};

pub(super) async fn replicate(
    master: &Arc<Master>,
    peer: &Peer,
    spec: ReplicateSpec,
    teller: &Teller,
) -> anyhow::Result<ReplicateResult> {
    let (what, owned, told, runtime) = (spec.to_string(), master.clone(), teller.clone(), Handle::current());
    let work = move |cancel: &AtomicBool| {
        let announced = runtime.block_on(Announced::ask(&owned, &spec))?;
        if announced.is_here(&owned)? {
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
    /// Whether it was said how blocks shall travel: then nothing is found out.
    is_told: bool,
    image: ImageRecord,
    record: VersionRecord,
    head: Head,
}

impl Announced {
    async fn ask(master: &Arc<Master>, spec: &ReplicateSpec) -> anyhow::Result<Announced> {
        let started = Instant::now();
        let source = reach(master, &spec.from, spec.socket.as_deref(), spec.via.as_ref())?;
        let source = Arc::new(match (spec.stream, spec.compress) {
            (StreamKind::Blocks, Some(Compress::By(codec))) => source.with_codec(codec),
            _ => source,
        });
        let is_told = spec.compress.is_some();
        let asked = sources(&source, &Habits::default());
        let (image, record) = find(&asked, spec).await?;
        trusted(master, &record)?;
        let head = asked.head(record.root()).await.map_err(refused)?;
        Ok(Announced { started, source, is_told, image, record, head })
    }

    /// Whether the same version is here already; one that is damaged is not to be taken for it.
    fn is_here(&self, master: &Master) -> Result<bool, Failure> {
        let version = self.record.statement.statement().version();
        let listing = master.repository.listing();
        let here = listing.image(&version.image).and_then(|image| image.version(version.number));
        if here.is_none_or(|here| here.statement.statement() != self.record.statement.statement()) {
            return Ok(false);
        }
        master.repository.check_soundness(&version)?;
        Ok(true)
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

fn sources(source: &Arc<HttpSource>, habits: &Habits) -> Sources {
    Sources::with_habits(vec![source.clone() as Arc<dyn Source>], icbd_fetch::Settings::default(), habits)
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
    let published = incoming.finish(came.received, &storing(teller), cancel).map_err(Failure::from)?;
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
        let sources = Arc::new(sources(source, &master.habits()));
        let fetched_blocks = Fetching::new(sources.clone(), head, &receiving, teller, cancel).all().await?;
        if !announced.is_told {
            master.learn(sources.habits());
        }
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
