//! A boot storm without the machines: light clients replay what a real machine read while it booted, all at once.
//!
//! A [`Trace`] is the recorded boot. A [`Target`] is a disk by path or URL; every client has a connection (or an open
//! file) of its own and one read in flight, as a BIOS and a booting kernel mostly have. [`replay`] says when the first,
//! the middle and the last client were done and how long single reads took.
//!
//! It knows nothing of icbd: what it measures may be anybody's. It writes nothing, and it caches nothing.

mod error;
mod trace;

mod target;

mod file;
mod iscsi;
mod nbd;
mod nfs;

mod replay;

pub use error::StormError;
pub use replay::{CLIENTS_MAX, Outcome, Storm, replay};
pub use target::{Target, TargetError};
pub use trace::{Read, Trace, TraceError};
