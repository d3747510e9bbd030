//! What was written over a disk: a sparse file of the disk's size, and which 4 KiB pieces of it count.
//!
//! Two bitmaps say which. One is for power cuts: a bit reaches it, and it the disk, only after the data that the bit
//! vouches for ([`Layer::flush`]). The other is for kills of the daemon: it is written at once and synced never, and counts
//! as long as the machine has not been started anew, for so long the kernel has what was written to files. So what was
//! flushed outlives a power cut, what was answered outlives the daemon, and no bit ever vouches for data that is not there.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use icbd_image::Root;

use crate::bitmap::{self, Incarnation, PAGE_WORDS};
use crate::bits::Bits;
use crate::disk::{Barrier, Disk, DiskFile, Missing, Wait};

/// What disks and file systems write at once; smaller writes to a piece begin with a copy of what it was.
pub(super) const PIECE_BYTES: u64 = 4096;
const PAGE_PIECES: u64 = PAGE_WORDS as u64 * 64;
/// What the names of the bitmaps end in: the one for power cuts, and the one for kills.
const DURABLE: &str = ".written";
const LIVE: &str = ".live";
/// There once a sync failed: what the kernel says later of the data is not to be believed.
const SUSPECT: &str = ".suspect";

/// Where a layer is, and whose.
#[derive(Debug, Clone)]
pub(super) struct LayerPlace {
    pub(super) disk: Arc<dyn Disk>,
    /// The sparse file; the bitmaps lie beside it.
    pub(super) path: PathBuf,
    /// Of the version that it lies over.
    pub(super) root: Root,
    pub(super) incarnation: Incarnation,
    /// This start of the machine.
    pub(super) boot: Incarnation,
    pub(super) size: u64,
}

/// A layer that can be read and written. All of it blocks.
#[derive(Debug)]
pub(super) struct Layer {
    data: Arc<dyn DiskFile>,
    durable: Arc<dyn DiskFile>,
    live: Arc<dyn DiskFile>,
    written: Bits,
    /// Pages of `written` that may have bits which are not durable.
    unsynced: Bits,
    /// Held while bits are set: whoever writes a word of `live` writes all that is set in it.
    setting: Mutex<()>,
    flushing: Mutex<()>,
    place: LayerPlace,
    /// Counts what was written or cleared since it was opened.
    changes: AtomicU64,
    /// A sync failed: what was written since the one before may be lost, whatever a later one says.
    is_suspect: AtomicBool,
}

impl LayerPlace {
    fn beside(&self, end: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(end);
        path.into()
    }

    /// Of the sparse file.
    pub(super) fn name(&self) -> Option<&str> {
        self.path.file_name().and_then(|name| name.to_str())
    }

    fn pieces(&self) -> u64 {
        self.size.div_ceil(PIECE_BYTES)
    }

    fn words(&self) -> usize {
        self.pieces().div_ceil(64) as usize
    }

    /// Makes an empty layer, durably but for its names.
    pub(super) fn create(&self) -> io::Result<()> {
        let open = |path: &Path| self.disk.open(path, Missing::Replace);
        let data = open(&self.path)?;
        data.set_size(self.size)?;
        data.sync()?;
        let empty = Bits::zeros(self.words());
        bitmap::write_new(&*open(&self.beside(DURABLE))?, self.root, &self.incarnation, &empty)
    }

    /// Opens one. An error of the kind `InvalidData`: it is damaged, or of something else.
    pub(super) fn open(&self) -> io::Result<Layer> {
        let data = self.disk.open(&self.path, Missing::Fail)?;
        let durable = self.disk.open(&self.beside(DURABLE), Missing::Fail)?;
        let written = bitmap::read(&*durable, self.root, &self.incarnation, self.words())?;
        let written =
            written.filter(|_| data.state().is_ok_and(|state| state.bytes == self.size)).ok_or_else(|| {
                let why = "its bitmap or its size is not what it was: somebody changed or replaced it";
                io::Error::new(io::ErrorKind::InvalidData, why)
            })?;
        let unsynced = Bits::zeros(self.words().div_ceil(PAGE_WORDS).div_ceil(64));
        let live = self.open_live(&written, &unsynced)?;
        written.clear(self.pieces()..written.words() as u64 * 64);
        Ok(Layer {
            data,
            durable,
            live,
            written,
            unsynced,
            setting: Mutex::default(),
            flushing: Mutex::default(),
            changes: AtomicU64::new(0),
            is_suspect: AtomicBool::new(self.disk.open(&self.beside(SUSPECT), Missing::Fail).is_ok()),
            place: self.clone(),
        })
    }

    /// Adds what was written since the last flush, if that was within this start of the machine.
    fn open_live(&self, written: &Bits, unsynced: &Bits) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.beside(LIVE);
        // After a kill in the middle of writing it there is none with this header.
        if let Ok(file) = self.disk.open(&path, Missing::Fail)
            && let Some(more) = bitmap::read(&*file, self.root, &self.boot, self.words())?
        {
            for word in (0..self.words()).filter(|word| more.word(*word) & !written.word(*word) != 0) {
                written.or_word(word, more.word(word));
                unsynced.set((word / PAGE_WORDS) as u64..(word / PAGE_WORDS) as u64 + 1);
            }
            return Ok(file);
        }
        let file = self.disk.open(&path, Missing::Replace)?;
        bitmap::write_new(&*file, self.root, &self.boot, written)?;
        Ok(file)
    }

    /// Bytes of the disk that it takes.
    pub(super) fn allocated(&self) -> io::Result<u64> {
        self.disk.open(&self.path, Missing::Fail)?.allocated()
    }

    /// Whether nothing was written or discarded, as the disk has it.
    pub(super) fn is_untouched(&self) -> io::Result<bool> {
        let is_empty = |end: &str| match self.disk.open(&self.beside(end), Missing::Fail) {
            Ok(file) => Ok(bitmap::count(&*file)?.is_some_and(|(_, count)| count == 0)),
            // It is made when the layer is first opened.
            Err(error) if error.kind() == io::ErrorKind::NotFound && end == LIVE => Ok(true),
            Err(error) => Err(error),
        };
        Ok(is_empty(DURABLE)? && is_empty(LIVE)?)
    }

    /// Removes what there is of it.
    pub(super) fn remove(&self) -> io::Result<()> {
        [self.beside(LIVE), self.beside(DURABLE), self.beside(SUSPECT), self.path.clone()]
            .iter()
            .try_for_each(|path| self.disk.remove(path))
    }

    /// Makes the names beside it durable.
    pub(super) fn sync_names(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |folder| self.disk.sync(Barrier::Names(folder)))
    }
}

impl Layer {
    pub(super) fn has(&self, piece: u64) -> bool {
        self.written.get(piece)
    }

    pub(super) fn has_all(&self, pieces: Range<u64>) -> bool {
        self.written.all(pieces)
    }

    /// How often something was written or cleared since it was opened.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The pieces that were written, those from `from` on that lie side by side first; at most `count_max` of them.
    pub(super) fn next_written(&self, from: u64, count_max: u64) -> Option<Range<u64>> {
        let all = self.place.pieces();
        let word = |piece: u64| self.written.word((piece / 64) as usize) >> (piece % 64);
        let mut first = from;
        while first < all && word(first) & 1 == 0 {
            // What is left of this word has no bit, or so many zeros before it.
            first += u64::from(word(first).trailing_zeros()).min(64 - first % 64);
        }
        let mut end = first;
        while end < all.min(first + count_max) && self.has(end) {
            end += 1;
        }
        (first < end).then_some(first..end)
    }

    /// How many bytes of the disk were written.
    pub(super) fn written_bytes(&self) -> u64 {
        let (all, size) = (self.place.pieces(), self.place.size);
        let cut = if all > 0 && self.has(all - 1) { all * PIECE_BYTES - size } else { 0 };
        self.written.count(0..all) * PIECE_BYTES - cut
    }

    /// Bytes of the disk that it takes.
    pub(super) fn allocated(&self) -> io::Result<u64> {
        self.data.allocated()
    }

    /// How many bytes of these pieces were not written yet.
    pub(super) fn lacks_bytes(&self, pieces: Range<u64>) -> u64 {
        (pieces.end - pieces.start - self.written.count(pieces)) * PIECE_BYTES
    }

    /// Reads what was written; of pieces that were not it gives zeros.
    pub(super) fn read(&self, offset: u64, out: &mut [u8], wait: Wait) -> io::Result<()> {
        match self.data.read(offset, out, wait)? {
            read if read == out.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Writes to pieces that were written already, and to whole ones.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.data.write(offset, &[bytes])?;
        self.set(pieces_of(&(offset..offset + bytes.len() as u64)))
    }

    /// Has whole pieces read as zeros.
    pub(super) fn clear(&self, pieces: Range<u64>) -> io::Result<()> {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.data.punch(pieces.start * PIECE_BYTES, (pieces.end - pieces.start) * PIECE_BYTES)?;
        self.set(pieces)
    }

    fn set(&self, pieces: Range<u64>) -> io::Result<()> {
        if self.written.all(pieces.clone()) {
            return Ok(());
        }
        let _setting = lock(&self.setting);
        // First there: whoever finds a bit set in memory relies on it.
        bitmap::write_unsynced(&*self.live, &self.written, pieces.clone())?;
        self.written.set(pieces.clone());
        // Marked after the bits are set: a flush that takes the mark away has seen them.
        self.unsynced.set(pieces.start / PAGE_PIECES..pieces.end.div_ceil(PAGE_PIECES));
        Ok(())
    }

    /// Makes all durable that was written before.
    pub(super) fn flush(&self) -> io::Result<()> {
        let _flushing = lock(&self.flushing);
        if self.is_suspect() {
            return Err(io::Error::other("an earlier sync failed: what was written before it may be lost"));
        }
        let pages: Vec<u64> = (0..self.unsynced.words() as u64 * 64).filter(|page| self.unsynced.get(*page)).collect();
        pages.iter().for_each(|page| self.unsynced.clear(*page..*page + 1));
        // Copied before the sync: of what is written meanwhile nobody knows whether it is covered.
        let copies: Vec<_> =
            pages.iter().map(|page| (*page as usize, bitmap::copy_page(&self.written, *page as usize))).collect();
        let lost = |_: &io::Error| self.suspect();
        self.data.sync().inspect_err(lost)?;
        let written = bitmap::write_pages(&*self.durable, &copies);
        // For lack of room, say: nothing is lost by that.
        written.inspect_err(|_| pages.iter().for_each(|page| self.unsynced.set(*page..*page + 1)))?;
        if copies.is_empty() { Ok(()) } else { self.durable.sync().inspect_err(lost) }
    }

    /// For good, as far as the disk still takes a note of it.
    fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Release);
        let noted = self.place.disk.open(&self.place.beside(SUSPECT), Missing::Create).and_then(|note| note.sync());
        if let Err(error) = noted.and_then(|()| self.place.sync_names()) {
            tracing::error!(path = %self.place.path.display(), %error, "that a sync failed cannot be noted for the next start");
        }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.is_suspect.load(Ordering::Acquire)
    }
}

/// The pieces that a range of bytes touches.
pub(super) fn pieces_of(range: &Range<u64>) -> Range<u64> {
    range.start / PIECE_BYTES..range.end.div_ceil(PIECE_BYTES)
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
