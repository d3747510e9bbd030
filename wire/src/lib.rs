//! How a version *travels*: codecs and frames of blocks, the grammar of URLs, the listing as JSON, offers of profiles,
//! and the one handler that answers "give me these blocks".
//!
//! Everything here is a pure function of bytes: no socket, no file, no async, and nothing of HTTP but
//! its paths. What comes from a network is checked here for its *form* only; whether a block is the
//! right one, its hash says (`icbd_image::VerifiedBlock`). FORMAT.md describes every byte.

mod answer;
mod check;
mod codec;
pub mod coding;
mod frame;
pub mod listing;
mod node;
mod offer;
pub mod priority;
mod ready;
mod similar;
mod stream;
mod url;
mod written;

pub use answer::{encode_matched_run, encode_run, raw_frames};
pub use check::Check;
pub use codec::{Codec, CodecError};
pub use frame::{
    Base, FRAME_BLOCKS_MAX, FrameDecoder, FrameEncoder, FrameError, HEADER_BYTES, Likeness, Matcher, frame_header,
};
pub use listing::{LISTING_BYTES_MAX, ListingError};
pub use node::{NODE_HEADER, NodeReport, NodeReportError};
pub use offer::{OFFER_HEADER, Offer, OfferError};
pub use ready::{READY_HEADER, Readiness, ReadinessError, ReadyReport, ReadyReportError};
pub use similar::{BlockPlace, Similar, SimilarBuilder};
pub use stream::{STREAM_FRAME_BYTES, StreamDecoder, StreamEncoder, StreamError};
pub use url::{RUN_BLOCKS_MAX, Resource, StreamBase, UrlError};
pub use written::{
    WRITTEN_PIECE_BYTES, WRITTEN_RUN_BYTES_MAX, WrittenError, WrittenFrame, WrittenHead, WrittenReader, WrittenRun,
};
