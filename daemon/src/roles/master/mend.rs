//! `store scrub` on a master: everything is read again, and with `--from` what is damaged is mended from nodes that hold it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Context;
use icbd_fetch::{Authorities, HttpSource, Source, SourceUrlError, Sources, TimeOuts};
use icbd_image::VersionId;
use icbd_master::MasterError;
use tokio::runtime::Handle;

use super::fetching::{Fetching, refused};
use super::state::Master;
use crate::audit::Change;
use crate::control::{Event, Peer, events::Teller};
use crate::failure::{Exit, Failure};
use crate::scrubs::{ScrubResult, ScrubSpec};
use crate::verify::paced;

pub(super) async fn scrub(
    master: &Arc<Master>,
    peer: &Peer,
    spec: ScrubSpec,
    teller: &Teller,
) -> anyhow::Result<ScrubResult> {
    let what = spec.to_string();
    let mender = if spec.from.is_empty() { None } else { Some(others(&spec.from, &master.believed().authorities)?) };
    let is_change = mender.is_some();
    let scrubbing =
        Scrubbing { master: master.clone(), spec, mender, teller: teller.clone(), runtime: Handle::current() };
    let work = move |cancel: &AtomicBool| scrubbing.all(cancel);
    let done = master.operations.run(peer, &what, teller.cancelled(), work);
    if is_change { master.audit.both_ends(peer, Change { what: &what, why: "" }, done).await } else { done.await }
}

/// The nodes that blocks are mended from, the first one first.
fn others(urls: &[String], authorities: &Authorities) -> anyhow::Result<Arc<Sources>> {
    let source = |url: &String| {
        let source = HttpSource::known_by(url, TimeOuts::default(), authorities)?;
        Ok(Arc::new(source) as Arc<dyn Source>)
    };
    let sources: Result<Vec<_>, SourceUrlError> = urls.iter().map(source).collect();
    let sources = sources.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    Ok(Arc::new(Sources::new(sources, icbd_fetch::Settings::default())))
}

/// One reading of everything.
struct Scrubbing {
    master: Arc<Master>,
    spec: ScrubSpec,
    mender: Option<Arc<Sources>>,
    teller: Teller,
    runtime: Handle,
}

/// What is wrong with one version.
struct Found {
    blocks: u64,
    count: u64,
    /// Whether it is the disk that has it wrong: a signature that nobody trusts is no better elsewhere.
    can_be_mended: bool,
    /// The first of it.
    faults: Vec<String>,
}

impl Scrubbing {
    /// Blocks; `cancel` ends it soon.
    fn all(&self, cancel: &AtomicBool) -> anyhow::Result<ScrubResult> {
        let (started, mut result) = (Instant::now(), ScrubResult::default());
        let images = self.master.images();
        for version in images.into_iter().flat_map(|image| image.versions).map(|version| version.version) {
            // Removed since the list was made?
            let Some(found) = self.look(&version, cancel)? else { continue };
            let (mut left, mut why) = (found.count, None);
            if let (Some(mender), true) = (&self.mender, found.can_be_mended) {
                match self.mend(&version, mender, cancel) {
                    Ok(()) => left = self.look(&version, cancel)?.map_or(0, |found| found.count),
                    Err(error) if cancel.load(Ordering::Relaxed) => return Err(error),
                    Err(error) => why = Some(format!("{version} could not be mended: {error:#}")),
                }
            }
            let mended = found.count.saturating_sub(left);
            result.add(found.blocks, found.count, mended, why.into_iter().chain(found.faults));
        }
        result.seconds = started.elapsed().as_secs_f64();
        Ok(result)
    }

    /// What is wrong with a version; `None`: it is no more. One that cannot be read at all keeps nobody from reading the others.
    fn look(&self, version: &VersionId, cancel: &AtomicBool) -> anyhow::Result<Option<Found>> {
        match self.read(version, cancel) {
            Err(MasterError::NoVersion(_)) => Ok(None),
            Err(error @ MasterError::Cancelled) => Err(Failure::from(error).into()),
            Err(error) => {
                let can_be_mended = matches!(
                    error,
                    MasterError::Manifest { .. }
                        | MasterError::Head { .. }
                        | MasterError::Page { .. }
                        | MasterError::Damaged { .. }
                );
                Ok(Some(Found { blocks: 0, count: 1, can_be_mended, faults: vec![format!("{version}: {error}")] }))
            }
            Ok(report) => {
                let faults = report.faults.iter().map(|fault| format!("{version}: {fault}")).collect();
                Ok(Some(Found {
                    blocks: report.blocks,
                    count: report.fault_count,
                    can_be_mended: !report.is_whole(),
                    faults,
                }))
            }
        }
    }

    fn read(&self, version: &VersionId, cancel: &AtomicBool) -> Result<icbd_master::VerifyReport, MasterError> {
        let tell = |now| self.teller.tell(Event::Progress(now));
        let progress = paced(version, self.spec.bytes_per_second, &tell, cancel);
        self.master.repository.verify(version, &self.master.believed().trust, &progress, cancel)
    }

    /// Puts a version together anew from what is right of it here and what others hold.
    fn mend(&self, version: &VersionId, sources: &Arc<Sources>, cancel: &AtomicBool) -> anyhow::Result<()> {
        let root = self.master.repository.version(version).map_err(Failure::from)?.root();
        let head = self.runtime.block_on(sources.head(root)).map_err(refused)?;
        let mending = Arc::new(self.master.repository.mend(version, head.clone()).map_err(Failure::from)?);
        let fetching = Fetching::new(sources.clone(), &head, &mending, &self.teller, cancel);
        self.runtime.block_on(fetching.all())?;
        drop(fetching);
        let mending = Arc::into_inner(mending).context("somebody still writes to what is being mended")?;
        Ok(mending.replace().map_err(Failure::from)?)
    }
}
