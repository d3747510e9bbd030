//! A file system's own stream of a version, as it travels: cut into frames, packed, and guarded.
//!
//! A frame is a header of 16 bytes (the plain length and the packed one as little-endian `u32`, and 8 bytes of a check)
//! and what is packed; where both lengths are equal it is not packed. The check is a hash of all plain bytes so far: it
//! tells a bit that flipped, a frame that is missing, and frames in another order. A frame without bytes ends the
//! stream; without it, it broke off. Nothing is promised of what the stream says: who receives it compares the version that
//! it makes with its manifest.

use bytes::{Buf, BytesMut};
use icbd_image::Hash;

use crate::Codec;
use crate::frame::{Packer, Packing, Unpacker};

/// Plain bytes in a full frame; smaller ones would take more of a slow line, larger ones hardly less.
pub const STREAM_FRAME_BYTES: usize = 2 << 20;

const HEADER_BYTES: usize = 16;
const CHECK_BYTES: usize = 8;

/// Makes the frames of one stream.
#[derive(Debug)]
pub struct StreamEncoder {
    codec: Codec,
    packer: Packer,
    chain: Chain,
}

/// Takes the frames of one stream apart.
#[derive(Debug)]
pub struct StreamDecoder {
    codec: Codec,
    unpacker: Unpacker,
    chain: Chain,
    came: BytesMut,
    is_ended: bool,
}

/// Why bytes are not the next of a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("a frame claims {0} bytes; {STREAM_FRAME_BYTES} at most")]
    Long(u32),
    #[error("a frame does not unpack")]
    Packed,
    #[error("a frame is not the one that was sent next")]
    Check,
    #[error("it ended before its last frame")]
    Short,
    #[error("bytes follow its last frame")]
    Trailing,
}

/// A hash of everything so far.
#[derive(Debug, Default)]
struct Chain([u8; 32]);

impl Chain {
    /// What guards these bytes, which come next.
    fn next(&mut self, plain: &[u8]) -> [u8; CHECK_BYTES] {
        let both = [self.0, *Hash::of(plain).as_bytes()];
        self.0 = *Hash::of(both.as_flattened()).as_bytes();
        *self.0.first_chunk().expect("a hash is longer")
    }
}

impl StreamEncoder {
    pub fn new(codec: Codec) -> StreamEncoder {
        StreamEncoder { codec, packer: Packer::default(), chain: Chain::default() }
    }

    /// Appends the frame of the next bytes to `out`; `has_time`: the line is slower than packing, and Zstandard may pack harder.
    ///
    /// # Panics
    /// When there are none, or more than a frame takes.
    pub fn encode(&mut self, plain: &[u8], has_time: bool, out: &mut Vec<u8>) {
        assert!((1..=STREAM_FRAME_BYTES).contains(&plain.len()), "{} bytes in a frame", plain.len());
        let check = self.chain.next(plain);
        let codec = if has_time && self.codec == Codec::Zstd { Codec::Zstd6 } else { self.codec };
        let packed = self.packer.pack(codec, plain).unwrap_or(plain);
        append(out, plain.len(), packed, check);
    }

    /// Appends what ends the stream.
    pub fn end(mut self, out: &mut Vec<u8>) {
        append(out, 0, &[], self.chain.next(&[]));
    }
}

fn append(out: &mut Vec<u8>, plain_bytes: usize, packed: &[u8], check: [u8; CHECK_BYTES]) {
    out.extend_from_slice(&(plain_bytes as u32).to_le_bytes());
    out.extend_from_slice(&(packed.len() as u32).to_le_bytes());
    out.extend_from_slice(&check);
    out.extend_from_slice(packed);
}

impl StreamDecoder {
    pub fn new(codec: Codec) -> StreamDecoder {
        let (unpacker, chain) = (Unpacker::default(), Chain::default());
        StreamDecoder { codec, unpacker, chain, came: BytesMut::new(), is_ended: false }
    }

    /// More bytes came, in pieces of any size.
    pub fn push(&mut self, bytes: &[u8]) {
        self.came.extend_from_slice(bytes);
    }

    /// What the next whole frame holds, if all of it came.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, StreamError> {
        if self.is_ended {
            return if self.came.is_empty() { Ok(None) } else { Err(StreamError::Trailing) };
        }
        let Some(header) = self.came.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [a, b, c, d, e, f, g, h, check @ ..] = *header;
        let [plain_bytes, packed_bytes] = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
        if let Some(long) = [plain_bytes, packed_bytes].into_iter().find(|bytes| *bytes as usize > STREAM_FRAME_BYTES) {
            return Err(StreamError::Long(long));
        }
        if self.came.len() < HEADER_BYTES + packed_bytes as usize {
            return Ok(None);
        }
        self.came.advance(HEADER_BYTES);
        let packed = self.came.split_to(packed_bytes as usize);
        let plain = if packed_bytes == plain_bytes {
            packed.to_vec()
        } else {
            let mut plain = vec![0; plain_bytes as usize];
            let unpacked = self.unpacker.unpack(Packing::of(self.codec), &packed, &mut plain);
            unpacked.then_some(plain).ok_or(StreamError::Packed)?
        };
        if self.chain.next(&plain) != check {
            return Err(StreamError::Check);
        }
        self.is_ended = plain.is_empty();
        if self.is_ended { self.take() } else { Ok(Some(plain)) }
    }

    /// An error unless the stream came to its end.
    pub fn finish(&self) -> Result<(), StreamError> {
        if self.is_ended { Ok(()) } else { Err(StreamError::Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(pieces: &[Vec<u8>], codec: Codec) -> Vec<u8> {
        let (mut encoder, mut out) = (StreamEncoder::new(codec), Vec::new());
        pieces.iter().enumerate().for_each(|(at, piece)| encoder.encode(piece, at % 2 > 0, &mut out));
        encoder.end(&mut out);
        out
    }

    fn decode(bytes: &[u8], codec: Codec, piece: usize) -> Result<Vec<Vec<u8>>, StreamError> {
        let (mut decoder, mut found) = (StreamDecoder::new(codec), Vec::new());
        for chunk in bytes.chunks(piece) {
            decoder.push(chunk);
            while let Some(plain) = decoder.take()? {
                found.push(plain);
            }
        }
        decoder.finish()?;
        Ok(found)
    }

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let noise = prop::collection::vec(any::<u8>(), 1..5000);
        let text = (any::<u8>(), 1..70_000usize).prop_map(|(byte, len)| vec![byte; len]);
        prop::collection::vec(prop_oneof![noise, text], 0..6)
    }

    proptest! {
        #[test]
        fn streams_round_trip_in_any_pieces(
            pieces in pieces(), codec in prop::sample::select(&Codec::ALL), piece in 1..3000usize,
        ) {
            prop_assert_eq!(decode(&encode(&pieces, codec), codec, piece), Ok(pieces));
        }

        /// A bit that flips is told, or was one that says nothing.
        #[test]
        fn damage_is_never_taken_for_the_stream(
            pieces in pieces(), codec in prop::sample::select(&Codec::ALL), at: prop::sample::Index, bit in 0..8u8,
        ) {
            let mut bytes = encode(&pieces, codec);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let decoded = decode(&bytes, codec, 4096);
            prop_assert!(decoded.is_err() || decoded == Ok(pieces));
        }
    }

    #[test]
    fn what_is_cut_reordered_or_repeated_is_told() {
        let frames = [b"first".to_vec(), b"other".to_vec()];
        let whole = encode(&frames, Codec::None);
        let frame = HEADER_BYTES + 5;
        assert_eq!(whole.len(), 2 * frame + HEADER_BYTES);
        for len in 0..whole.len() {
            assert_eq!(decode(&whole[..len], Codec::None, 7), Err(StreamError::Short), "{len} bytes");
        }
        let (first, second, end) = (&whole[..frame], &whole[frame..2 * frame], &whole[2 * frame..]);
        let check = |parts: &[&[u8]], error| assert_eq!(decode(&parts.concat(), Codec::None, 1000), Err(error));
        check(&[second, first, end], StreamError::Check);
        check(&[first, end], StreamError::Check);
        check(&[first, first, second, end], StreamError::Check);
        check(&[first, second, end, end], StreamError::Trailing);
        check(&[&u32::MAX.to_le_bytes(), &[0; 12]], StreamError::Long(u32::MAX));
        // Another codec than it was packed by.
        let text = encode(&[vec![7; 9000]], Codec::Zstd);
        assert_eq!(decode(&text, Codec::Lz4, 1000), Err(StreamError::Packed));
    }
}
