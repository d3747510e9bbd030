//! File contents that are made from a seed, so that any range of them can be checked without a copy.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::Random;

pub const MIB: u64 = 1024 * 1024;
const BLOCK_BYTES: u64 = 64 * 1024;

/// Block `index` of the content made from `seed`. Every fifth block is zero, half of each other one compresses.
pub fn block_of(seed: u64, index: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES as usize];
    let mut random = Random::new(seed ^ index.wrapping_mul(0x1_0000_01b3));
    if random.below(5) != 0 {
        for word in block[..BLOCK_BYTES as usize / 2].as_chunks_mut::<8>().0 {
            *word = random.word().to_le_bytes();
        }
        block[BLOCK_BYTES as usize / 2..].fill(random.word() as u8 | 1);
    }
    block
}

/// `count` bytes at `offset` of the content made from `seed`.
pub fn pattern(seed: u64, offset: u64, count: usize) -> Vec<u8> {
    let end = offset + count as u64;
    let first = offset / BLOCK_BYTES;
    let mut bytes: Vec<u8> = (first..end.div_ceil(BLOCK_BYTES)).flat_map(|index| block_of(seed, index)).collect();
    bytes.drain(..(offset - first * BLOCK_BYTES) as usize);
    bytes.truncate(count);
    bytes
}

/// The first `bytes` bytes of that content, but without a block of zeros: those are here without being fetched.
pub fn solid(seed: u64, bytes: u64) -> Vec<u8> {
    let mut content = pattern(seed, 0, bytes as usize);
    content.chunks_mut(BLOCK_BYTES as usize).for_each(|block| block[0] |= 1);
    content
}

/// Writes a file of `bytes` bytes made from `seed`.
pub fn fill(path: &Path, seed: u64, bytes: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    let mut offset = 0;
    while offset < bytes {
        let count = (bytes - offset).min(MIB);
        file.write_all_at(&pattern(seed, offset, count as usize), offset)?;
        offset += count;
    }
    file.set_len(bytes)?;
    Ok(())
}

/// Writes a file of `bytes` bytes that is a hole but for `pieces` at their offsets.
pub fn write_sparse(path: &Path, bytes: u64, pieces: &[(u64, &[u8])]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    file.set_len(bytes)?;
    pieces.iter().try_for_each(|(offset, piece)| file.write_all_at(piece, *offset))?;
    Ok(())
}
