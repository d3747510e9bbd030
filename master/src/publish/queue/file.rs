//! One regular file on its way into the repository.
//!
//! Several threads may be at its pieces. What is hashed is read back from the stored copy, or from a
//! file that lies on the same places of the disk, so the manifest always says what is stored; whether
//! that is what the source has, its times tell at the end. Block hashes are put in order as the pieces come, so no more of them are held than pieces
//! are in work.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use icbd_image::{BLOCK_BYTES, FileHashes, FileIndex, Hash, HeadError, PAGE_BLOCKS, PagesBuilder, block_count};
use icbd_snapshot::beneath::Stat;
use rustix::fs::{Advice, Mode, OFlags};

use super::super::before::Common;
use super::super::piece::{PIECE_BYTES, next_piece, segments, touched_blocks};
use super::super::store::Shared;
use super::FileJob;
use crate::MasterError;
use crate::repository::guard;

/// What is read or copied at once; a whole number of blocks.
pub(super) const BUFFER_BYTES: usize = 16 * BLOCK_BYTES as usize;

/// A file that is being stored.
pub(super) struct StoredFile {
    job: FileJob,
    source: File,
    stored: File,
    /// Whether the copy shares the source's extents and needs no copying.
    reflinked: bool,
    /// The same bytes, where the kernel has them in memory.
    came: Option<File>,
    /// What of it need not be hashed.
    common: Option<Common>,
    assembly: Mutex<Assembly>,
}

/// Hashes of pieces, coming in any order, going out in order.
struct Assembly {
    /// Where the next piece is looked for, in bytes.
    offset: u64,
    /// First blocks of the pieces that were handed out and not yet put in order.
    handed: VecDeque<u64>,
    /// Hashes of pieces before which another one is missing.
    early: BTreeMap<u64, Vec<Hash>>,
    /// Gone when the file is finished.
    builder: Option<PagesBuilder>,
}

impl StoredFile {
    /// Opens both files, and reflinks if that is possible.
    pub(super) fn begin(mut job: FileJob, shared: &Shared<'_>) -> Result<StoredFile, MasterError> {
        let source = match job.converted.take() {
            Some(converted) => OwnedFd::from(converted),
            None => {
                let source = shared.source.open_at(&job.inside, OFlags::RDONLY, Mode::empty());
                source.map_err(shared.source_error("read", &job.inside))?
            }
        };
        let create = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let stored = shared.stage.open_at(&job.inside, create, Mode::RUSR | Mode::WUSR);
        let stored = File::from(stored.map_err(shared.stage_error("create", &job.inside))?);
        let stamp = Stat::at(source.as_fd(), b"").map_err(shared.source_error("read", &job.inside))?.stamp();
        if stamp != job.stamp {
            return Err(MasterError::Changed(shared.source.shown(&job.inside)));
        }
        let reflinked = job.size > 0 && rustix::fs::ioctl_ficlone(&stored, &source).is_ok();
        if !reflinked {
            stored.set_len(job.size).map_err(MasterError::io("write", shared.stage.shown(&job.inside)))?;
        }
        let before = shared.earlier.before.filter(|_| reflinked);
        let came = shared.earlier.came.filter(|_| reflinked);
        let came = came.and_then(|came| came.same_file(&job.inside, &stored, job.size));
        let common = before.and_then(|before| before.compare(&job.inside, &stored, job.size));
        let unfit =
            |source: HeadError| MasterError::Unfit { path: shared.source.shown(&job.inside), source: source.into() };
        let builder = Some(PagesBuilder::new(job.size).map_err(unfit)?);
        let assembly = Assembly { offset: 0, handed: VecDeque::new(), early: BTreeMap::new(), builder };
        Ok(StoredFile { job, source: source.into(), stored, reflinked, came, common, assembly: Mutex::new(assembly) })
    }

    /// Whether other workers can help with it.
    pub(super) fn is_large(&self) -> bool {
        self.job.size > PIECE_BYTES
    }

    /// The next piece with data in it, in bytes.
    pub(super) fn take_piece(&self, shared: &Shared<'_>) -> Result<Option<Range<u64>>, MasterError> {
        let mut assembly = guard(&self.assembly);
        let file = if self.reflinked { &self.stored } else { &self.source };
        let piece = next_piece(file.as_fd(), assembly.offset, self.job.size);
        let piece = piece.map_err(shared.source_error("read", &self.job.inside))?;
        let end = piece.as_ref().map_or(self.job.size, |piece| piece.end);
        shared.tally.done(end - assembly.offset);
        assembly.offset = end;
        assembly.handed.extend(piece.as_ref().map(|piece| piece.start / BLOCK_BYTES));
        Ok(piece)
    }

    /// Copies a piece, if it has to be, and hashes what is stored of it.
    pub(super) fn store_piece(
        &self,
        piece: Range<u64>,
        shared: &Shared<'_>,
        buffer: &mut [u8],
    ) -> Result<(), MasterError> {
        let file = if self.reflinked { &self.stored } else { &self.source };
        let segments = segments(file.as_fd(), piece.clone());
        let segments = segments.map_err(shared.source_error("read", &self.job.inside))?;
        if !self.reflinked {
            for segment in &segments {
                self.copy(segment.clone(), shared, buffer)?;
            }
        }
        // Outside of its segments the copy is a hole: nothing was ever written there.
        let mut hashes = vec![Hash::ZERO; block_count(piece.end - piece.start) as usize];
        for run in touched_blocks(piece.start, &segments) {
            self.hash_run(piece.start / BLOCK_BYTES, run, &mut hashes, shared, buffer)?;
        }
        let mut assembly = guard(&self.assembly);
        assembly.early.insert(piece.start / BLOCK_BYTES, hashes);
        assembly
            .put_in_order(shared.pages, self.job.pages_at)
            .map_err(MasterError::io("write the hash pages of", shared.stage.shown(&self.job.inside)))
    }

    /// When nothing of the file is left to do: checks that the source stood still, completes the copy and
    /// returns its hashes. Once.
    pub(super) fn finish(&self, shared: &Shared<'_>) -> Result<Option<(FileIndex, FileHashes)>, MasterError> {
        let mut assembly = guard(&self.assembly);
        if assembly.offset < self.job.size || !assembly.handed.is_empty() {
            return Ok(None);
        }
        let Some(mut builder) = assembly.builder.take() else { return Ok(None) };
        drop(assembly);
        let inside = &self.job.inside;
        let rest = block_count(self.job.size) - builder.next_block();
        write_pages(shared.pages, self.job.pages_at, |mut page| builder.push_zeros(rest, &mut page))
            .map_err(MasterError::io("write the hash pages of", shared.stage.shown(inside)))?;
        let stamp = Stat::at(self.source.as_fd(), b"").map_err(shared.source_error("read", inside))?.stamp();
        // A clone is as long as the source was when it was made.
        let length = self.stored.metadata().map_err(MasterError::io("read", shared.stage.shown(inside)))?.len();
        if stamp != self.job.stamp || length != self.job.size {
            return Err(MasterError::Changed(shared.source.shown(inside)));
        }
        let (parent, name) = shared.stage.parent(inside).map_err(shared.stage_error("open", inside))?;
        self.job.attributes.apply(parent.as_fd(), name, false).map_err(shared.refused(inside))?;
        Ok(Some((self.job.index, builder.finish())))
    }

    fn copy(&self, mut segment: Range<u64>, shared: &Shared<'_>, buffer: &mut [u8]) -> Result<(), MasterError> {
        while !segment.is_empty() {
            let len = (segment.end - segment.start).min(BUFFER_BYTES as u64) as usize;
            let read = self.source.read_at(&mut buffer[..len], segment.start);
            let read = read.map_err(MasterError::io("read", shared.source.shown(&self.job.inside)))?;
            if read == 0 {
                return Err(MasterError::Changed(shared.source.shown(&self.job.inside)));
            }
            self.stored
                .write_all_at(&buffer[..read], segment.start)
                .map_err(MasterError::io("write", shared.stage.shown(&self.job.inside)))?;
            segment.start += read as u64;
        }
        Ok(())
    }

    /// Finds the hashes of the blocks `run` of the piece that begins with block `first`: what may differ from the
    /// parent's is read, of all else it is known.
    fn hash_run(
        &self,
        first: u64,
        run: Range<u64>,
        hashes: &mut [Hash],
        shared: &Shared<'_>,
        buffer: &mut [u8],
    ) -> Result<(), MasterError> {
        let blocks = first + run.start..first + run.end;
        let parts = match &self.common {
            Some(common) => common.parts(blocks),
            None => vec![(blocks, true)],
        };
        parts.iter().filter(|(_, may_differ)| *may_differ).for_each(|(part, _)| self.ask_ahead(part));
        for (part, may_differ) in parts {
            let run = part.start - first..part.end - first;
            match (&self.common, shared.earlier.before) {
                (Some(common), Some(before)) if !may_differ => {
                    let known = before.hashes(common, part)?;
                    hashes[run.start as usize..run.end as usize].copy_from_slice(&known);
                }
                _ => {
                    shared.tally.hashed((run.end - run.start) * BLOCK_BYTES);
                    self.hash(first * BLOCK_BYTES, run, hashes, buffer)
                        .map_err(MasterError::io("read", shared.stage.shown(&self.job.inside)))?;
                }
            }
        }
        Ok(())
    }

    /// Has the kernel begin to read blocks that are hashed next. What differs from the parent lies scattered in pieces too short
    /// for its own readahead to become long: the disk would have little to do at a time.
    fn ask_ahead(&self, blocks: &Range<u64>) {
        // What was copied, or came just now, is in memory.
        if self.reflinked && self.came.is_none() {
            let len = NonZeroU64::new((blocks.end - blocks.start) * BLOCK_BYTES);
            // Whatever comes of it, it is read then.
            let _ = rustix::fs::fadvise(&self.stored, blocks.start * BLOCK_BYTES, len, Advice::WillNeed);
        }
    }

    /// Hashes the blocks `run` of the piece at byte `start` as they are stored.
    fn hash(&self, start: u64, run: Range<u64>, hashes: &mut [Hash], buffer: &mut [u8]) -> io::Result<()> {
        let buffer_blocks = BUFFER_BYTES as u64 / BLOCK_BYTES;
        for first in run.clone().step_by(buffer_blocks as usize) {
            let offset = start + first * BLOCK_BYTES;
            let end = start + (first + buffer_blocks).min(run.end) * BLOCK_BYTES;
            let buffer = &mut buffer[..(end.min(self.job.size) - offset) as usize];
            self.came.as_ref().unwrap_or(&self.stored).read_exact_at(buffer, offset)?;
            for (block, hash) in buffer.chunks(BLOCK_BYTES as usize).zip(&mut hashes[first as usize..]) {
                *hash = Hash::of(block);
            }
        }
        Ok(())
    }
}

impl Assembly {
    /// Gives the builder all hashes that no missing piece precedes.
    fn put_in_order(&mut self, pages: &File, pages_at: u64) -> io::Result<()> {
        let Assembly { handed, early, builder, .. } = self;
        let Some(builder) = builder else { return Ok(()) };
        write_pages(pages, pages_at, |mut page| {
            while let Some(hashes) = handed.front().and_then(|first| early.remove(first)) {
                let first = handed.pop_front().unwrap_or_default();
                builder.push_zeros(first - builder.next_block(), &mut page);
                hashes.into_iter().for_each(|hash| builder.push(hash, &mut page));
            }
        })
    }
}

/// Writes the pages that `build` completes to their places; pages of zeros stay holes.
fn write_pages(pages: &File, pages_at: u64, build: impl FnOnce(&mut dyn FnMut(u64, &[u8]))) -> io::Result<()> {
    let mut written = Ok(());
    build(&mut |page, bytes| {
        let offset = pages_at + page * PAGE_BLOCKS * Hash::BYTES as u64;
        if written.is_ok() {
            written = pages.write_all_at(bytes, offset);
        }
    });
    written
}
