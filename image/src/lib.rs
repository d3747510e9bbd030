//! What a version of an image *is*: its name, its blocks and their hashes, its manifest, the
//! statement its publisher signs, the ids by which a mount shows it, and what boots read of it.
//!
//! Everything here is a pure value: no I/O, no clock, no async, no randomness. Bytes that come from
//! a disk or a network become values of this crate through one checking function each
//! ([`Head::parse`], [`Page::verify`], [`VerifiedBlock::check`], [`SignedStatement::decode`]);
//! past that edge nothing is checked again. FORMAT.md describes every byte.

mod block;
mod client;
mod key;
mod lifecycle;
mod listing;
mod manifest;
mod name;
mod node;
mod node_id;
mod profile;
mod state;
mod statement;
mod time;

pub use block::{
    BLOCK_BYTES, Hash, HashMismatch, HashTextError, Root, Run, VerifiedBlock, block_count, block_len, is_zero,
};
pub use client::{ClientName, ClientNameError};
pub use key::{KeyError, KeyId, PublicKey, SecretKey};
pub use lifecycle::{Editing, Force, Lifecycle, Move, Refusal, Stage};
pub use listing::{ImageRecord, Listing, RepositoryId, VersionRecord};
pub use manifest::{
    Entry, FileHashes, FileIndex, Head, HeadBuilder, HeadError, INLINE_BLOCKS_MAX, Kind, Metadata, Node, PAGE_BLOCKS,
    Page, PageError, PagesBuilder, Xattr,
};
pub use name::{ImageName, ImageRef, NameError, VersionId, VersionNumber};
pub use node::NodeUuid;
pub use node_id::{NodeId, Serial};
pub use profile::{BootRun, Observation, Origin, Profile, ProfileError, SiteId, Touch};
pub use state::VersionState;
pub use statement::{SignedStatement, Statement, StatementError, Trust};
pub use time::Timestamp;
