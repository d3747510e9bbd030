//! The master's repository: it publishes trees as versions, and it is the authority over which
//! versions there are and which of them is deployed.
//!
//! A [`Repository`] is a directory that one process owns. It stores every version as a plain tree
//! of files, byte for byte the publisher's, beside the manifest that describes it (FORMAT.md,
//! "Repository on disk"). A version is whole or absent: the commit to the catalogue is the one
//! moment at which it comes into being. What is read for somebody who
//! has not the hashes is checked against the manifest first; who has them, checks, and has the repository look.
//!
//! This crate knows nothing of sockets or async: its calls block, from any number of threads, and
//! the daemon composes serving from them. It removes only what an interrupted publish of its own
//! left behind, never a version.

mod catalog;
mod edit;
mod error;
mod improve;
mod layout;
mod manifests;
mod mend;
mod moves;
mod packed;
mod profiles;
mod prune;
mod publish;
mod receive;
mod recover;
mod repository;
mod serve;
mod spare;
mod stream;
mod trees;
mod users;
mod verify;

pub use catalog::Plan;
pub use edit::{SaveRequest, WorkingCopy};
pub use error::MasterError;
pub use improve::{ImproveRequest, Improving, Left, LeftHow};
pub use moves::Advance;
pub use prune::{Fate, Pruning, Retention, Verdict};
pub use publish::{Phase, Progress, PublishRequest, Published, Skipped, SkippedKind};
pub use receive::Receiving;
pub use repository::{Clock, Repository, Settings};
pub use serve::{BlockReader, FileRead};
pub use spare::SpareRoom;
pub use stream::{Incoming, Outgoing};
pub use users::{Hold, Lacking, NodeRecord};
pub use verify::{Fault, FaultKind, VerifyProgress, VerifyReport};
