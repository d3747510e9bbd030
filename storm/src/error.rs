//! What can keep a storm from being measured.

use std::io;

use crate::{TargetError, TraceError};

#[derive(Debug, thiserror::Error)]
pub enum StormError {
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The target could not be opened, or broke while it was read.
    #[error("{target}: {what}: {source}")]
    Io { target: String, what: String, source: io::Error },
    /// The trace reads beyond the target's end.
    #[error(
        "the trace reads up to byte {trace_bytes}, {target} ends at {disk_bytes}: it is another disk than the trace's; \
         record one of this disk, or name a larger disk"
    )]
    TooSmall { target: String, trace_bytes: u64, disk_bytes: u64 },
    /// More clients, or more reads in all, than one process should hold.
    #[error("{0}")]
    TooMuch(String),
    /// Two clients were given different bytes for the same reads.
    #[error("{target}: client {client} was given other bytes than client 1")]
    Differs { target: String, client: u32 },
}

impl StormError {
    /// Whether trying again as it is cannot help.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, StormError::Io { .. })
    }
}
