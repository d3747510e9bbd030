//! The read-only tree as FUSE shows it.
//!
//! `tree` says what is where, from the cache's view and the versions' heads; `edge` is the only part
//! that speaks FUSE; `modes` decides how a file is opened; `mountpoint` mounts. A mount outlives its
//! daemon: its descriptors and the open table form a [`Handover`] that a [`keeper`] (or systemd)
//! holds, and [`mount`] adopts a mount that is live already.
//!
//! The daemon never opens a path under its own mount: it would wait for itself.

mod clones;
mod connection;
mod edge;
mod errno;
mod error;
mod handover;
mod invalidate;
pub mod keeper;
mod modes;
mod mounted;
mod mountinfo;
mod mountpoint;
mod service;
mod settings;
mod table;
mod tree;

pub use clones::{ClonesMounted, mount_clones};
pub use error::FsError;
pub use handover::{Handover, Handovers};
pub use modes::OpenHandles;
pub use mounted::{MountStatus, Mounted, mount};
pub use mountpoint::Unmounted;
pub use settings::MountSettings;
