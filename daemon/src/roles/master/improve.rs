//! `image save --client`: what a workstation wrote to its clone on a cache server becomes a version.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use icbd_fetch::{HttpSource, Source, SourceError};
use icbd_master::{ImproveRequest, Improving, MasterError};
use icbd_wire::{Codec, WrittenError, WrittenReader};
use tokio::runtime::Handle;

use super::fetching::reach;
use super::publish::{self, PublishResult};
use super::state::Master;
use crate::control::{Event, Peer, events::Teller};
use crate::failure::{Exit, Failure};
use crate::images::find_image;
use crate::improvements::{ImproveResult, ImproveSpec};
use crate::output::Progress;

pub(super) async fn improve(
    master: &Arc<Master>,
    peer: &Peer,
    spec: ImproveSpec,
    teller: &Teller,
) -> anyhow::Result<ImproveResult> {
    let what = spec.to_string();
    let (owned, told, runtime) = (master.clone(), teller.clone(), Handle::current());
    let work = move |cancel: &AtomicBool| save(&owned, spec, &runtime, &told, cancel);
    let outcome = match master.audit.begin(peer, &what) {
        Ok(()) => master.operations.run(peer, &what, teller.cancelled(), work).await,
        Err(error) => Err(error),
    };
    let what = outcome.as_ref().map_or(what.clone(), |done| format!("{what} as {}", done.saved.version));
    master.audit.record(peer, &what, &outcome);
    outcome
}

/// Blocks.
fn save(
    master: &Arc<Master>,
    spec: ImproveSpec,
    runtime: &Handle,
    teller: &Teller,
    cancel: &AtomicBool,
) -> anyhow::Result<ImproveResult> {
    let ImproveSpec { image, client, from, via, socket, force, note, sign } = spec;
    find_image(&master.images(), &image)?;
    let sign = sign.or_else(|| master.believed().sign_key);
    let sign = sign.as_deref().map(publish::read_secret_key).transpose()?.map(Arc::new);
    let source = reach(master, &from, socket.as_deref(), via.as_ref())?;
    let failed = |error: SourceError| failed(&source, &error);
    let malformed = |error: WrittenError| failed(SourceError::Malformed(error.to_string()));
    let asked = source.written(image.clone(), client.clone(), Codec::Zstd);
    let mut stream = runtime.block_on(asked).map_err(failed)?;
    let mut next = || runtime.block_on(stream.next()).map_err(failed);
    let mut reader = WrittenReader::begin(&next()?.unwrap_or_default()).map_err(malformed)?;
    let head = reader.head().clone();
    if (&head.version.image, &head.client) != (&image, &client) {
        return Err(failed(SourceError::Malformed(format!("it is of {} for {}", head.version, head.client))).into());
    }
    let (version, root) = (head.version.clone(), head.root);
    let request = ImproveRequest { version, root, file: head.file, file_bytes: head.file_bytes, force };
    let improving = master.repository.improve(request).map_err(Failure::from)?;
    while let Some(frame) = next()? {
        if cancel.load(Ordering::Relaxed) {
            return Err(Failure::from(MasterError::Cancelled).into());
        }
        for run in reader.runs(&frame).map_err(malformed)? {
            put(&improving, &run).map_err(Failure::from)?;
        }
        let (done_bytes, total_bytes) = (reader.found_bytes(), head.written_bytes);
        teller.tell(Event::Progress(Progress { what: "receiving".to_owned(), done_bytes, total_bytes }));
    }
    reader.finish().map_err(malformed)?;
    let warnings: Vec<String> = improving.left().iter().map(ToString::to_string).collect();
    let tell = |now| teller.tell(Event::Progress(publish::progress(now)));
    let published = improving.finish(note, sign, &tell, cancel).map_err(Failure::from)?;
    for warning in &warnings {
        tracing::warn!(version = %published.version, warning, "saved nevertheless");
    }
    Ok(ImproveResult {
        saved: PublishResult::new(published, false),
        of: head.version,
        client,
        written_bytes: head.written_bytes,
        received_bytes: source.received_bytes(),
        warnings,
    })
}

fn put(improving: &Improving, run: &icbd_wire::WrittenRun<'_>) -> Result<(), MasterError> {
    match run.bytes {
        Some(bytes) => improving.write(run.offset, bytes),
        None => improving.clear(run.offset..run.offset + run.length),
    }
}

fn failed(source: &HttpSource, error: &SourceError) -> Failure {
    let name = source.name();
    match error {
        // What the cache server says is for people.
        SourceError::Refused { status: 404, says } => Failure::new(Exit::Absent, format!("{name}: {says}")),
        SourceError::Refused { status: 409, says } => Failure::new(Exit::Refused, format!("{name}: {says}")),
        SourceError::Refused { .. } => Failure::new(Exit::Refused, format!("{name}: {error}")),
        SourceError::Malformed(_) => Failure::new(Exit::Verification, format!("{name}: {error}; nothing was saved")),
        _ => {
            let message = format!("{name}: {error}; nothing was saved, and the same command begins anew");
            Failure::new(Exit::Unreachable, message)
        }
    }
}
