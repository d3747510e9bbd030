//! The manifest: the immutable description of a version.
//!
//! It has two parts. The *head* is the version's whole tree (names, attributes, sizes) with, for
//! each file, either the hashes of its blocks (files of at most 16 blocks) or the hashes of its *hash
//! pages*. A page is 2048 block hashes, for 128 MiB of data, fetched when somebody first reads there,
//! so that opening a 1 TiB disk needs a head of 256 KiB and not 512 MiB of hashes.
//!
//! A head is used in the form it has on disk and wire: [`Head::parse`] checks it once and reads its
//! records in place, 64 bytes a file and 16 a name. FORMAT.md describes the bytes.

mod build;
mod check;
mod follow;
mod head;
mod layout;
mod page;

pub use build::{FileHashes, HeadBuilder, PagesBuilder};
pub use check::HeadError;
pub use head::{Entry, Head, Node, Xattr};
pub(crate) use layout::Fields;
pub use layout::{FileIndex, INLINE_BLOCKS_MAX, Kind, Metadata, PAGE_BLOCKS};
pub use page::{Page, PageError};

#[cfg(test)]
mod tests;
