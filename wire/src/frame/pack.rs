//! The codecs' libraries behind two calls: pack a frame's bytes, unpack them to a known length.

use std::fmt;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::Packing;
use crate::Codec;

/// Zstandard's level. Level 3 packs machine images to 53 % where level 1 reaches 55 %; both pack faster
/// than the links they are for (0.5 GB/s a core), and what is packed is kept for the next who asks.
const ZSTD_LEVEL: i32 = 3;
/// What a slow link has time for: of the blocks of a boot it leaves 97.7 %, levels 7 and 9 leave 97.4 and 97.2 % at 1.3 and 1.7 times the time.
const ZSTD_SLOW_LEVEL: i32 = 6;

/// zlib's level. Level 1 packs at twice the speed of level 6, which saves 2 % more of a machine image;
/// whoever wants fewer bytes than that asks for Zstandard.
const ZLIB_LEVEL: u32 = 1;

/// Of each so many bytes, [`SAMPLE_BYTES`] are tried before zlib is. The other codecs notice noise themselves: on it
/// LZ4, Snappy and Zstandard are 5 to 10 times as fast as on a machine image, zlib is 3 times as slow (0.03 GB/s).
const SAMPLED_BYTES: usize = 64 << 10;
const SAMPLE_BYTES: usize = 4 << 10;

/// Packs; keeps compressors and the buffer from one frame to the next.
#[derive(Default)]
pub(crate) struct Packer {
    /// Made when first needed, and kept: it costs about 15 µs, a block of 64 KiB about 200 µs.
    zstd: Option<zstd::bulk::Compressor<'static>>,
    zstd_slow: Option<zstd::bulk::Compressor<'static>>,
    zlib: Option<Compress>,
    snappy: Option<snap::raw::Encoder>,
    packed: Vec<u8>,
}

impl Packer {
    /// The packed bytes; `None` when they could not be packed to fewer than they are.
    pub(crate) fn pack(&mut self, codec: Codec, plain: &[u8]) -> Option<&[u8]> {
        let packed_bytes = match codec {
            Codec::None => None,
            Codec::Lz4 => self.lz4(plain),
            Codec::Zstd => self.zstd(ZSTD_LEVEL, plain),
            Codec::Zstd6 => self.zstd(ZSTD_SLOW_LEVEL, plain),
            Codec::Zlib => self.zlib(plain),
            Codec::Snappy => self.snappy(plain),
        };
        packed_bytes.filter(|packed| *packed < plain.len()).map(|packed| &self.packed[..packed])
    }

    fn lz4(&mut self, plain: &[u8]) -> Option<usize> {
        self.grow(lz4_flex::block::get_maximum_output_size(plain.len()));
        lz4_flex::block::compress_into(plain, &mut self.packed).ok()
    }

    fn zstd(&mut self, level: i32, plain: &[u8]) -> Option<usize> {
        self.grow(zstd::zstd_safe::compress_bound(plain.len()));
        let compressor = if level == ZSTD_LEVEL { &mut self.zstd } else { &mut self.zstd_slow };
        if compressor.is_none() {
            *compressor = zstd::bulk::Compressor::new(level).ok();
        }
        compressor.as_mut()?.compress_to_buffer(plain, self.packed.as_mut_slice()).ok()
    }

    /// What does not fit in fewer bytes than it has is given up when they are full.
    fn zlib(&mut self, plain: &[u8]) -> Option<usize> {
        if self.is_noise(plain) {
            return None;
        }
        self.grow(plain.len());
        let zlib = self.zlib.get_or_insert_with(|| Compress::new(Compression::new(ZLIB_LEVEL), true));
        zlib.reset();
        let status = zlib.compress(plain, &mut self.packed[..plain.len()], FlushCompress::Finish).ok()?;
        if status != Status::StreamEnd {
            // One that is reset half-way begins with bits that it had left.
            self.zlib = None;
            return None;
        }
        Some(zlib.total_out() as usize)
    }

    fn snappy(&mut self, plain: &[u8]) -> Option<usize> {
        self.grow(snap::raw::max_compress_len(plain.len()));
        self.snappy.get_or_insert_with(snap::raw::Encoder::new).compress(plain, &mut self.packed).ok()
    }

    /// Whether samples out of the middle of each block are nothing that Zstandard, which knows all that zlib does, shrinks.
    fn is_noise(&mut self, plain: &[u8]) -> bool {
        let middles = plain.chunks(SAMPLED_BYTES).map(|part| &part[part.len() / 2..]);
        let sample: Vec<u8> = middles.flat_map(|half| &half[..half.len().min(SAMPLE_BYTES)]).copied().collect();
        self.zstd(ZSTD_LEVEL, &sample).is_some_and(|packed| packed >= sample.len())
    }

    fn grow(&mut self, len: usize) {
        if self.packed.len() < len {
            self.packed.resize(len, 0);
        }
    }
}

/// Unpacks; keeps decompressors from one frame to the next.
#[derive(Default)]
pub(crate) struct Unpacker {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    zlib: Option<Decompress>,
}

impl Unpacker {
    /// Fills `plain`; `false` when `packed` is not exactly that many bytes, packed.
    ///
    /// Never writes, or allocates for, more than `plain`.
    pub(crate) fn unpack(&mut self, packing: Packing, packed: &[u8], plain: &mut [u8]) -> bool {
        let found = match packing {
            Packing::Zero | Packing::Raw | Packing::Matched => None,
            Packing::Lz4 => lz4_flex::block::decompress_into(packed, plain).ok(),
            Packing::Zstd => self.zstd(packed, plain),
            Packing::Zlib => self.zlib(packed, plain),
            Packing::Snappy => snap::raw::Decoder::new().decompress(packed, plain).ok(),
        };
        found == Some(plain.len())
    }

    fn zstd(&mut self, packed: &[u8], plain: &mut [u8]) -> Option<usize> {
        if self.zstd.is_none() {
            self.zstd = zstd::bulk::Decompressor::new().ok();
        }
        self.zstd.as_mut()?.decompress_to_buffer(packed, plain).ok()
    }

    fn zlib(&mut self, packed: &[u8], plain: &mut [u8]) -> Option<usize> {
        let zlib = self.zlib.get_or_insert_with(|| Decompress::new(true));
        zlib.reset(true);
        let status = zlib.decompress(packed, plain, FlushDecompress::Finish).ok()?;
        let all = status == Status::StreamEnd && zlib.total_in() == packed.len() as u64;
        all.then_some(zlib.total_out() as usize)
    }
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unpacker")
    }
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer")
    }
}
