//! Frames: 1 to 16 consecutive blocks of one file, packed together.
//!
//! A frame is a header of 8 bytes (number of blocks, packing, two zero bytes, length as a
//! little-endian `u32`) and that many bytes. What is packed is the blocks one behind the other; their
//! lengths are not written, both sides know the file's size. Zero blocks have frames of their own,
//! without bytes; what a codec does not shrink is sent as it is.
//!
//! What travels to somebody who has a version that looks alike may refer to blocks of that one ([`Matcher`]).
//!
//! A frame is the smallest thing that can be unpacked, so it bounds memory on both sides to 1 MiB;
//! larger frames would save 1 to 4 % of the bytes and cost latency.

mod decode;
mod encode;
mod matched;
mod pack;

use crate::Codec;

pub use decode::{FrameDecoder, FrameError};
pub use encode::{FrameEncoder, frame_header};
pub use matched::{Base, Likeness, Matcher};
pub(crate) use pack::{Packer, Unpacker};

/// Blocks in a full frame: 1 MiB.
pub const FRAME_BLOCKS_MAX: usize = 16;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 8;

/// How the bytes of one frame are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// All zeros, and no bytes.
    Zero = 0,
    /// As they are.
    Raw = 1,
    Lz4 = 2,
    Zstd = 3,
    Zlib = 4,
    Snappy = 5,
    /// Zstandard, against blocks of a version that the receiver has.
    Matched = 6,
}

impl Packing {
    /// Each at the place of its number.
    const ALL: [Packing; 7] =
        [Packing::Zero, Packing::Raw, Packing::Lz4, Packing::Zstd, Packing::Zlib, Packing::Snappy, Packing::Matched];

    /// How a frame is packed for who asked for `codec`, if that makes it smaller.
    pub(crate) fn of(codec: Codec) -> Packing {
        match codec {
            Codec::None => Packing::Raw,
            Codec::Lz4 => Packing::Lz4,
            Codec::Zstd | Codec::Zstd6 => Packing::Zstd,
            Codec::Zlib => Packing::Zlib,
            Codec::Snappy => Packing::Snappy,
        }
    }

    fn to_u8(self) -> u8 {
        self as u8
    }

    fn from_u8(number: u8) -> Option<Packing> {
        Packing::ALL.get(usize::from(number)).copied()
    }
}

#[cfg(test)]
mod tests;
