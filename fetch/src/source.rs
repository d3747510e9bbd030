//! The seam to the network: what one source can be asked.
//!
//! A source gives bytes and checks their form only; [`Sources`](crate::Sources) compares them with
//! the manifest. It answers, or fails with [`SourceError::Timeout`], within its own time-outs.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use icbd_image::{FileIndex, Hash, Listing, Root, Run};
use icbd_wire::{Check, Codec};

use crate::error::SourceError;

/// Decoded blocks of a run with their numbers, in order, not yet verified. An error ends it.
pub type BlockStream = BoxStream<'static, Result<(u64, Bytes), SourceError>>;

/// Something blocks can be fetched from.
///
/// Every future and stream may be dropped at any time: that cancels the request and leaks nothing.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug + 'static {
    /// For logs and status.
    fn name(&self) -> &str;

    /// Bytes taken from the network or disk so far, as they travel: encoded, with frame headers.
    fn received_bytes(&self) -> u64;

    /// What the source offers; `None` when that is still what `known` stands for.
    async fn listing(&self, known: Option<&ListingTag>) -> Result<Option<(Listing, ListingTag)>, SourceError>;

    /// The head with this root, at most [`Head::BYTES_MAX`](icbd_image::Head::BYTES_MAX) bytes.
    async fn head(&self, root: Root) -> Result<Bytes, SourceError>;

    /// One hash page of a file, at most 64 KiB.
    async fn page(&self, root: Root, file: FileIndex, page: u64) -> Result<Bytes, SourceError>;

    /// What the source knows of boots of the version with this root. A source need not keep profiles.
    async fn profile(&self, _root: Root, _known: Option<Hash>) -> Result<ProfileAnswer, SourceError> {
        Ok(ProfileAnswer::Unknown)
    }

    /// Whether blocks can travel as what differs from a version that is here.
    fn has_base(&self) -> bool {
        false
    }

    /// The blocks of a run, each of the length that it has in its file.
    ///
    /// The stream is to be polled to its end, after the last block too: only then can an HTTP
    /// connection be used again.
    async fn blocks(&self, request: &BlockRequest) -> Result<BlockStream, SourceError>;
}

/// What a source knows of boots of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProfileAnswer {
    /// Nothing.
    Unknown,
    /// Still the bytes whose hash was named.
    Unchanged,
    /// A profile, encoded and unchecked: at most [`Profile::BYTES_MAX`](icbd_image::Profile::BYTES_MAX) bytes.
    Bytes(Bytes),
}

/// Which blocks to fetch, and how they shall travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRequest {
    pub run: Run,
    /// Size of the whole file: it tells the length of the last block.
    pub file_bytes: u64,
    pub way: Way,
    pub urgency: Urgency,
    /// Whether the source is to compare them with their hashes before it answers.
    pub check: Check,
}

/// How blocks travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    By(Codec),
    /// As what differs from a version that is here, where the source was told of one: else by Zstandard.
    Matched,
}

/// A run to be had from whichever source can give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunRequest {
    pub run: Run,
    /// Size of the whole file: it tells the length of the last block.
    pub file_bytes: u64,
    pub urgency: Urgency,
}

/// Who is waiting: the more urgent goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nobody, for now.
    Prefetch,
    /// A boot that has begun will most likely read it.
    Profile,
    /// It lies beside what a boot read, and may be read.
    Guess,
    /// Who reads from front to back comes to it soon.
    Readahead,
    /// Somebody who reads on end while others wait, and seems to read everything.
    Scan,
    /// Somebody who has read on end for a while.
    Stream,
    /// Somebody else.
    Demand,
}

impl Urgency {
    pub(crate) const COUNT: usize = Urgency::Demand as usize + 1;

    /// Whether a reader waits for it.
    pub fn is_awaited(self) -> bool {
        self >= Urgency::Scan
    }

    /// Whether nobody waits for a single block of it: it is one of many. Prefetch is not: its window is reckoned by how soon
    /// answers begin, and whole frames begin later (a line of 100 Mbit/s and 10 ms was filled to 0.76, and not to 0.94).
    pub fn is_bulk(self) -> bool {
        self == Urgency::Stream
    }
}

/// A source's mark of one state of its listing (HTTP's ETag). Means nothing to another source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingTag(pub(crate) String);
