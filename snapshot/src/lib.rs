//! Copy-on-write trees on a local disk: made, cloned, sealed, deleted, listed, compared, counted, sent and received.
//!
//! A *tree* is a directory that exists whole or not at all. A [`Writable`] one changes; a [`Sealed`] one never does,
//! and no function here turns one into the other: [`Trees::seal`] and [`Trees::clone_tree`] make another tree that
//! shares what it can with the first. How, is the [`Kind`]: subvolumes of btrfs, directories of reflinked files, or
//! plain copies. Each kind is one file that implements `Backend`, and one suite of tests runs on all of them.
//!
//! This crate knows nothing of images or versions but what a manifest says of a tree ([`furnish`]), decides nothing about what is kept, and does not look into what it
//! is given to receive: who calls it verifies a received tree before anybody uses it. Its calls block.

mod error;

mod slot;
mod tree;
mod trees;

mod backend;
mod btrfs;
mod copy;
mod directories;
mod plain;
mod reflink;
mod staging;

mod flusher;
mod furnish;

mod difference;
mod extents;
mod usage;

mod child;
mod stream;

mod probe;

pub mod attributes;
pub mod beneath;
mod ioctl;

pub use backend::Kind;
pub use difference::FileDifference;
pub use error::SnapshotError;
pub use furnish::{furnish, lay_out};
pub use probe::{Finding, Probe, Reflinks, Subvolumes, Transfers};
pub use stream::{Came, Encoding, Received, Receiving, Sending, Streams};
pub use tree::{Access, Sealed, Tree, Writable};
pub use trees::{Listed, Trees};
pub use usage::Usage;
