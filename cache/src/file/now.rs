//! Reads that never wait: answered from the page cache or from memory, or not at all.

use std::ops::Range;
use std::sync::Arc;

use icbd_image::{BLOCK_BYTES, block_len};

use super::File;
use crate::disk::Wait;

/// What came of a read that may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadNow {
    Done,
    /// It is here, but reading it takes the disk, or it has to be checked first: use [`File::read`].
    Cold,
    /// Some of it is not here: use [`File::read`].
    Missing,
}

impl File {
    /// Reads at most `len` bytes, fewer only at the end of the file. Never blocks.
    ///
    /// On [`ReadNow::Done`] `out` is exactly what was read; else its content means nothing.
    pub fn read_now(self: &Arc<Self>, offset: u64, len: usize, out: &mut Vec<u8>) -> ReadNow {
        let range = self.clamp(offset, len);
        if range.is_empty() {
            out.clear();
            return ReadNow::Done;
        }
        let blocks = blocks_of(&range);
        let read = match self.is_readable(blocks.clone()) {
            true => self.read_cached(&range, blocks.clone(), out),
            false => self.read_mixed(&range, blocks.clone(), out),
        };
        if read != ReadNow::Missing {
            self.note_read(blocks);
            self.read_ahead(self.note_stream(&range));
        }
        read
    }

    /// The part of the range that is in the file.
    pub(super) fn clamp(&self, offset: u64, len: usize) -> Range<u64> {
        let start = offset.min(self.size);
        start..offset.saturating_add(len as u64).min(self.size)
    }

    /// Everything is in the backing file.
    fn read_cached(&self, range: &Range<u64>, blocks: Range<u64>, out: &mut Vec<u8>) -> ReadNow {
        let len = (range.end - range.start) as usize;
        if let Ok(_guard) = self.guard.try_read()
            && let Some(backing) = self.backing_at_hand()
            && self.is_checked(blocks.clone())
        {
            // What was in it is overwritten: no need to make it zero first.
            out.resize(len, 0);
            if backing.read(range.start, out, Wait::No).is_ok_and(|read| read == len)
                && self.check_size(&*backing).is_ok()
            {
                return ReadNow::Done;
            }
        }
        // A hole is in no page cache.
        if blocks.into_iter().all(|block| self.is_zero(block)) {
            out.clear();
            out.resize(len, 0);
            return ReadNow::Done;
        }
        ReadNow::Cold
    }

    /// Some of it may be in memory, on its way to the backing file.
    fn read_mixed(self: &Arc<Self>, range: &Range<u64>, blocks: Range<u64>, out: &mut Vec<u8>) -> ReadNow {
        if self.slots.is_empty() && !self.is_zero(blocks.start) {
            return ReadNow::Missing;
        }
        // What was in it is overwritten, as above.
        out.resize((range.end - range.start) as usize, 0);
        for block in blocks.clone() {
            let part = part_of(range, block, self.size);
            let target = &mut out[(part.start - range.start) as usize..(part.end - range.start) as usize];
            if let Some(bytes) = self.slots.pending(block) {
                let start = (part.start - block * BLOCK_BYTES) as usize;
                target.copy_from_slice(&bytes[start..start + target.len()]);
            } else if self.is_zero(block) {
                target.fill(0);
            } else if self.is_readable(block..block + 1) {
                let Ok(_guard) = self.guard.try_read() else { return ReadNow::Cold };
                let Some(backing) = self.backing_at_hand() else { return ReadNow::Cold };
                let whole = target.len();
                let read = self.is_checked(block..block + 1).then(|| backing.read(part.start, target, Wait::No));
                if !matches!(read, Some(Ok(read)) if read == whole) || self.check_size(&*backing).is_err() {
                    return ReadNow::Cold;
                }
            } else {
                return ReadNow::Missing;
            }
        }
        // A file whose rest is zero would never be complete else.
        self.mark_zeros_at_hand(&blocks);
        ReadNow::Done
    }

    /// Whether the block is known to be zero, from memory.
    pub(super) fn is_zero(&self, block: u64) -> bool {
        self.version.hash_at_hand(self.index, block).is_some_and(|hash| hash.is_zero())
    }
}

/// The blocks that a range of bytes touches.
pub(super) fn blocks_of(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)
}

/// The bytes of a range that are in one block, as offsets in the file.
pub(super) fn part_of(range: &Range<u64>, block: u64, size: u64) -> Range<u64> {
    let start = block * BLOCK_BYTES;
    range.start.max(start)..range.end.min(start + block_len(size, block) as u64)
}
