//! A version that comes as a stream of its source's file system.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use icbd_fetch::{HttpSource, Source, SourceError};
use icbd_image::Head;
use icbd_master::{Incoming, MasterError};
use icbd_snapshot::Received;
use icbd_wire::Codec;
use tokio::runtime::Handle;

use crate::control::{Event, events::Teller};
use crate::failure::{Exit, Failure};
use crate::output::Progress;

/// A tree that came to its end, and the plain bytes of the stream that made it.
pub(super) struct Streamed {
    pub(super) received: Received,
    pub(super) bytes: u64,
}

/// Has a version come by a stream: from what both have, if the source knows it, else all of it.
///
/// Blocks: what makes the tree is a program that reads a pipe.
pub(super) fn receive(
    runtime: &Handle,
    source: &HttpSource,
    incoming: &Incoming,
    head: &Head,
    codec: Option<Codec>,
    teller: &Teller,
    cancel: &AtomicBool,
) -> anyhow::Result<Streamed> {
    let begin = |base| runtime.block_on(source.version_stream(head.root(), base, codec));
    let begun = match begin(incoming.base()) {
        Err(SourceError::Absent) if incoming.base().is_some() => {
            tracing::info!(version = %incoming.version(), "comes as a whole: the source has no tree in common");
            begin(None)
        }
        begun => begun,
    };
    let mut stream = begun.map_err(|error| failed(source, &error))?;
    let total_bytes = head.data_bytes();
    let tell = |done_bytes: u64| {
        let what = "receiving".to_owned();
        teller.tell(Event::Progress(Progress { what, done_bytes, total_bytes: total_bytes.max(done_bytes) }));
    };
    let mut receiving = incoming.begin().map_err(Failure::from)?;
    let mut bytes = 0;
    while let Some(plain) = runtime.block_on(stream.next()).map_err(|error| failed(source, &error))? {
        if cancel.load(Ordering::Relaxed) {
            return Err(Failure::from(MasterError::Cancelled).into());
        }
        if let Err(error) = receiving.write_all(&plain) {
            // What made the tree ended, and says why.
            return Err(receiving.finish().map_or_else(refused, |_| error.into()));
        }
        bytes += plain.len() as u64;
        tell(bytes);
    }
    Ok(Streamed { received: receiving.finish().map_err(refused)?, bytes })
}

fn refused(error: icbd_snapshot::SnapshotError) -> anyhow::Error {
    Failure::from(MasterError::from(error)).into()
}

fn failed(source: &HttpSource, error: &SourceError) -> Failure {
    let exit = match error {
        SourceError::Malformed(_) => Exit::Verification,
        error if error.is_damaged_there() => Exit::Verification,
        SourceError::Refused { .. } => Exit::Refused,
        SourceError::Absent => Exit::Absent,
        _ => Exit::Unreachable,
    };
    let hint = match exit {
        Exit::Verification if error.is_damaged_there() => "; `icbd image verify` there says what is wrong",
        Exit::Absent => "; a cache server gives no streams: leave --stream out",
        Exit::Unreachable => {
            "; run the same command again, which begins anew; without --stream it goes on where it stopped"
        }
        _ => "",
    };
    Failure::new(exit, format!("{}: {error}{hint}", source.name()))
}
