//! Letting go of what is held of a file.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use icbd_image::BLOCK_BYTES;

use super::{File, is_lost};
use crate::disk::{DiskFile, Wait};
use crate::ledger;

/// What is let go of a file that is needed begins and ends at a multiple of this. On btrfs an extent stays as a whole
/// as long as one block of it is held, so none is written across such a border: 16 MiB. Less
/// in tests on a disk in memory, which keeps what every sector ever was.
pub(crate) const SEGMENT_BLOCKS: u64 = if cfg!(test) { 16 } else { 256 };

impl File {
    /// Takes note that somebody reads these blocks now.
    pub(super) fn note_read(self: &Arc<Self>, blocks: Range<u64>) {
        let now = ledger::now_seconds();
        for segment in blocks.start / SEGMENT_BLOCKS..blocks.end.div_ceil(SEGMENT_BLOCKS) {
            self.reads[segment as usize].store(now, Ordering::Relaxed);
        }
        self.version.note_read(self.index, blocks);
    }

    /// When somebody read something last in the segment of a block, in seconds since 1970; 0 if nobody knows.
    pub(crate) fn read_last(&self, block: u64) -> u32 {
        self.reads[(block / SEGMENT_BLOCKS) as usize].load(Ordering::Relaxed)
    }

    /// Forgets some blocks, durably, and frees their bytes; not while programs read the file past the daemon. What
    /// `stays` beside them is written anew, the same bytes, for an extent of btrfs that is held in part takes all its room.
    /// Blocks.
    pub(crate) fn let_runs_go(&self, goes: &[Range<u64>], stays: &[Range<u64>]) -> io::Result<()> {
        let Some(filling) = self.version.filling() else { return Ok(()) };
        let _guard = self.guard.write().expect("no panic under this lock");
        if self.passthrough_count() > 0 || filling.is_sealed() {
            return Ok(());
        }
        let backing = match self.whole_backing() {
            // What somebody took away takes no room.
            Err(error) if is_lost(&error) => return Ok(()),
            backing => backing?,
        };
        for run in stays {
            self.rewrite(&*backing, run)?;
        }
        filling.resident.clear_runs(self.index, goes)?;
        goes.iter().try_for_each(|run| {
            let range = self.bytes(run);
            backing.punch(range.start, range.end - range.start)
        })
    }

    fn rewrite(&self, backing: &dyn DiskFile, run: &Range<u64>) -> io::Result<()> {
        let range = self.bytes(run);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        match backing.read(range.start, &mut bytes, Wait::Yes)? {
            read if read == bytes.len() => backing.write(range.start, &[&bytes]),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn bytes(&self, run: &Range<u64>) -> Range<u64> {
        run.start * BLOCK_BYTES..self.size.min(run.end * BLOCK_BYTES)
    }

    /// Forgets all blocks, durably, and frees their bytes; not while programs read the file past the daemon. Blocks.
    pub(crate) fn let_go(self: &Arc<Self>) -> io::Result<()> {
        let Some(filling) = self.version.filling() else { return Ok(()) };
        let all = 0..self.blocks();
        let _guard = self.guard.write().expect("no panic under this lock");
        if self.passthrough_count() > 0 {
            return Ok(());
        }
        filling.resident.clear(self.index, all.clone())?;
        self.unmark_zeros(&all);
        match self.backing().and_then(|backing| backing.punch(0, self.size)) {
            // What somebody took away takes no room.
            Err(error) if is_lost(&error) => Ok(()),
            result => result,
        }
    }
}
