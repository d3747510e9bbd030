//! Which blocks of a version are here: one bitmap in memory for readers, one on disk for power cuts.
//!
//! A bit of *readable* says that the block's verified bytes are in the backing file; a bit of *durable*
//! says that they, and the bit itself, are on the disk. A bit of *checked* says that this daemon has seen that
//! they are what they should be: it wrote them, or read them back. What another left here is checked at its first read. Bits reach the disk after the data they vouch
//! for ([`Resident::commit`]); clearing is the reverse ([`Resident::clear`], and only then may the data
//! go). So a bit that a power cut lost or kept costs a refetch at most. FORMAT.md describes the file.
//!
//! Lock order: a file's residency guard, then the bitmap's lock in here.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use icbd_image::{FileIndex, Head, Root};

use crate::bitmap::{self, Incarnation};
use crate::bits::Bits;
use crate::disk::{Barrier, Disk, DiskFile, Missing};

/// Where each file's bits are in a version's bitmap.
#[derive(Debug)]
pub(crate) struct Layout {
    /// For each node of the head its first word, and one more for the end.
    first_word: Box<[u64]>,
}

/// A version's two bitmaps.
#[derive(Debug)]
pub(crate) struct Resident {
    layout: Layout,
    readable: Bits,
    durable: Bits,
    checked: Bits,
    place: Place,
    /// The bitmap file. Locked for as long as its words change.
    file: Mutex<Arc<dyn DiskFile>>,
    /// Counts calls of `clear`, so that a sync that went on meanwhile is done again.
    clearings: AtomicU64,
}

/// Where a bitmap is on the disk, and whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    pub(crate) root: Root,
    pub(crate) incarnation: Incarnation,
}

/// Of which root the bitmap at `path` is, and how many blocks it calls resident, without the version's head.
pub(crate) fn count(disk: &dyn Disk, path: &Path) -> io::Result<Option<(Root, u64)>> {
    bitmap::count(&*disk.open(path, Missing::Fail)?)
}

/// A moment in the history of clearings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(u64);

/// What came of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Committed {
    Durable,
    /// Bits were cleared since the moment given: the data must be synced again first.
    Outdated,
}

impl Layout {
    pub(crate) fn new(head: &Head) -> Layout {
        let mut next = 0;
        let mut first_word: Vec<u64> = Vec::with_capacity(head.node_count() as usize + 1);
        for node in head.nodes() {
            first_word.push(next);
            next += node.blocks().div_ceil(64);
        }
        first_word.push(next);
        Layout { first_word: first_word.into() }
    }

    pub(crate) fn words(&self) -> usize {
        self.first_word.last().map_or(0, |words| *words as usize)
    }

    /// The bits of some blocks of a file.
    pub(crate) fn bits(&self, file: FileIndex, blocks: Range<u64>) -> Range<u64> {
        let first = self.first_word[file.get() as usize] * 64;
        first + blocks.start..first + blocks.end
    }
}

impl Resident {
    /// Writes a new bitmap and makes it durable; the data that `bits` vouch for already are.
    pub(crate) fn create(place: Place, layout: Layout, bits: Bits) -> io::Result<Resident> {
        let file = place.write(Missing::Create, &bits)?;
        Ok(Resident::from_durable(place, layout, bits, file))
    }

    /// Reads a bitmap; `None` when it is not one of this root and incarnation.
    pub(crate) fn load(place: Place, head: &Head) -> io::Result<Option<Resident>> {
        let file = match place.disk.open(&place.path, Missing::Fail) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let layout = Layout::new(head);
        let Some(bits) = bitmap::read(&*file, place.root, &place.incarnation, layout.words())? else { return Ok(None) };
        for node in head.files() {
            // A bit past a file's end vouches for nothing.
            let words = node.blocks().div_ceil(64) * 64;
            bits.clear(layout.bits(node.index(), node.blocks()..words));
        }
        Ok(Some(Resident::from_durable(place, layout, bits, file)))
    }

    fn from_durable(place: Place, layout: Layout, durable: Bits, file: Arc<dyn DiskFile>) -> Resident {
        let readable = Bits::zeros(durable.words());
        (0..durable.words()).for_each(|at| readable.or_word(at, durable.word(at)));
        let checked = Bits::zeros(durable.words());
        Resident { layout, readable, durable, checked, place, file: Mutex::new(file), clearings: AtomicU64::new(0) }
    }

    pub(crate) fn is_readable(&self, file: FileIndex, blocks: Range<u64>) -> bool {
        self.readable.all(self.layout.bits(file, blocks))
    }

    /// Whether all of them can be read, and none has to be compared with its hash before.
    pub(crate) fn is_checked(&self, file: FileIndex, blocks: Range<u64>) -> bool {
        let bits = self.layout.bits(file, blocks);
        self.checked.all(bits.clone()) && self.readable.all(bits)
    }

    pub(crate) fn is_durable(&self, file: FileIndex, blocks: Range<u64>) -> bool {
        self.durable.all(self.layout.bits(file, blocks))
    }

    pub(crate) fn readable_count(&self, file: FileIndex, blocks: Range<u64>) -> u64 {
        self.readable.count(self.layout.bits(file, blocks))
    }

    pub(crate) fn durable_count(&self, file: FileIndex, blocks: Range<u64>) -> u64 {
        self.durable.count(self.layout.bits(file, blocks))
    }

    /// Of the whole version: readable and durable blocks.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let all = 0..self.durable.words() as u64 * 64;
        (self.readable.count(all.clone()), self.durable.count(all))
    }

    /// Bytes of memory that the bits take.
    pub(crate) fn weight(&self) -> usize {
        self.durable.words() * 24 + self.layout.first_word.len() * 8
    }

    /// To be called after the block's bytes were written, under the file's residency guard.
    pub(crate) fn set_readable(&self, file: FileIndex, blocks: Range<u64>) {
        let bits = self.layout.bits(file, blocks);
        self.checked.set(bits.clone());
        self.readable.set(bits);
    }

    /// To be called when a block was read back and matched its hash, under the same guard as the reading.
    pub(crate) fn set_checked(&self, file: FileIndex, block: u64) {
        self.checked.set(self.layout.bits(file, block..block + 1));
    }

    /// The moment to give to `commit`: taken before the data is synced.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.clearings.load(Ordering::Acquire))
    }

    /// Makes blocks durable whose data was synced after `since`. Blocks that were cleared are left out.
    pub(crate) fn commit(&self, blocks: &[(FileIndex, Vec<u64>)], since: Moment) -> io::Result<Committed> {
        let mut file = self.file.lock().expect("no panic under this lock");
        if self.moment() != since {
            return Ok(Committed::Outdated);
        }
        self.see_to(&mut file)?;
        let mut more: BTreeMap<usize, u64> = BTreeMap::new();
        for (index, blocks) in blocks {
            for block in blocks {
                let bit = self.layout.bits(*index, *block..*block + 1).start;
                if self.readable.get(bit) {
                    *more.entry((bit / 64) as usize).or_default() |= 1 << (bit % 64);
                }
            }
        }
        bitmap::write_words(&**file, &self.durable, &more)?;
        more.iter().for_each(|(word, bits)| self.durable.or_word(*word, *bits));
        Ok(Committed::Durable)
    }

    /// Forgets blocks in memory: until the next start they are not here.
    pub(crate) fn forget(&self, file: FileIndex, blocks: Range<u64>) {
        let _file = self.file.lock().expect("no panic under this lock");
        self.clearings.fetch_add(1, Ordering::AcqRel);
        let bits = self.layout.bits(file, blocks);
        self.readable.clear(bits.clone());
        self.checked.clear(bits.clone());
        self.durable.clear(bits);
    }

    /// Forgets blocks, in memory and durably on disk. Only after this may their data be punched.
    pub(crate) fn clear(&self, index: FileIndex, blocks: Range<u64>) -> io::Result<()> {
        self.clear_bits(std::iter::once(self.layout.bits(index, blocks)))
    }

    /// Forgets several runs of a file in the same way, with one sync.
    pub(crate) fn clear_runs(&self, index: FileIndex, runs: &[Range<u64>]) -> io::Result<()> {
        self.clear_bits(runs.iter().map(|run| self.layout.bits(index, run.clone())))
    }

    /// Forgets all blocks of all files in the same way.
    pub(crate) fn clear_all(&self) -> io::Result<()> {
        self.clear_bits(std::iter::once(0..self.durable.words() as u64 * 64))
    }

    fn clear_bits(&self, runs: impl Iterator<Item = Range<u64>>) -> io::Result<()> {
        let mut file = self.file.lock().expect("no panic under this lock");
        self.clearings.fetch_add(1, Ordering::AcqRel);
        let mut words = BTreeMap::new();
        for bits in runs {
            self.readable.clear(bits.clone());
            self.checked.clear(bits.clone());
            self.durable.clear(bits.clone());
            words.extend(((bits.start / 64) as usize..bits.end.div_ceil(64) as usize).map(|word| (word, 0)));
        }
        self.see_to(&mut file)?;
        bitmap::write_words(&**file, &self.durable, &words)
    }

    /// Writes the bitmap anew if somebody took it away or cut it short: bits in a file without a name are lost.
    fn see_to(&self, file: &mut Arc<dyn DiskFile>) -> io::Result<()> {
        let state = file.state()?;
        if state.is_named && state.bytes == bitmap::file_bytes(self.durable.words()) {
            return Ok(());
        }
        tracing::warn!(path = %self.place.path.display(), "a bitmap of the store was deleted or cut short: it is written anew");
        *file = self.place.write(Missing::Replace, &self.durable)?;
        Ok(())
    }
}

impl Place {
    fn write(&self, missing: Missing, bits: &Bits) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(&self.path, missing)?;
        bitmap::write_new(&*file, self.root, &self.incarnation, bits)?;
        if let Some(directory) = self.path.parent() {
            self.disk.sync(Barrier::Names(directory))?;
        }
        Ok(file)
    }
}
