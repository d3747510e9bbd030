//! One regular file of a version, as its readers see it.
//!
//! Lock order: the residency guard, then the lock of `backing` or the bitmap's; the slots' lock is taken alone. A reader of
//! the backing file holds the guard shared from the check of the bits to the end of its `pread`; who
//! punches holds it alone. Nothing is punched while a [`Passthrough`] lives.

mod ahead;
mod backing;
mod check;
mod let_go;
mod now;
mod passthrough;
mod read;
mod repair;
mod seek;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use icbd_fetch::Leave;
use icbd_image::{BLOCK_BYTES, FileIndex, Hash, Node, PAGE_BLOCKS, block_count};

use crate::CacheError;
use crate::bits::Bits;
use crate::budget::RUN_BLOCKS_MAX;
use crate::disk::Wait;
use crate::flight::Flight;
use crate::slots::Slots;
use crate::version::Version;
use crate::waiting::Want;
use ahead::Ahead;
use backing::Backing;
pub(crate) use backing::is_lost;
pub(crate) use check::compare;
pub(crate) use let_go::SEGMENT_BLOCKS;
pub use now::ReadNow;
pub use passthrough::Passthrough;

/// A regular file of a version.
pub struct File {
    version: Arc<Version>,
    index: FileIndex,
    size: u64,
    is_paged: bool,
    backing: RwLock<Option<Backing>>,
    guard: RwLock<()>,
    slots: Slots,
    ahead: Ahead,
    /// What was given up last, and when.
    given_up: Mutex<Option<(Range<u64>, Instant)>>,
    passthroughs: AtomicU32,
    /// When each segment was read last, in seconds since 1970.
    reads: Box<[AtomicU32]>,
    /// Hash pages whose zero blocks were handed to the writer, or needed not to be.
    zeros_marked: Bits,
}

impl File {
    pub(crate) fn new(version: Arc<Version>, node: &Node<'_>) -> File {
        File {
            version,
            index: node.index(),
            size: node.size(),
            is_paged: node.is_paged(),
            backing: RwLock::default(),
            guard: RwLock::new(()),
            slots: Slots::default(),
            ahead: Ahead::default(),
            given_up: Mutex::default(),
            passthroughs: AtomicU32::new(0),
            reads: (0..block_count(node.size()).div_ceil(SEGMENT_BLOCKS)).map(|_| AtomicU32::new(0)).collect(),
            zeros_marked: Bits::zeros(block_count(node.size()).div_ceil(PAGE_BLOCKS).div_ceil(64) as usize),
        }
    }

    pub fn index(&self) -> FileIndex {
        self.index
    }

    /// Bytes, as the manifest says.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// Whether every block is durable. Only known once the version is prepared.
    pub fn is_complete(&self) -> bool {
        let filling = self.version.filling();
        filling.is_some_and(|filling| filling.resident.is_durable(self.index, 0..self.blocks()))
    }

    /// Bytes of whole blocks that can be read without a source.
    pub fn resident_bytes(&self) -> u64 {
        let filling = self.version.filling();
        filling.map_or(0, |filling| filling.resident.readable_count(self.index, 0..self.blocks())) * BLOCK_BYTES
    }

    /// The hash of a block; its page is fetched if need be, in one round over the sources.
    ///
    /// # Errors
    /// Also when the file has no such block.
    pub async fn block_hash(self: &Arc<Self>, block: u64) -> Result<Hash, CacheError> {
        let hashes = self.hashes(block..block + 1).await?;
        hashes.first().copied().ok_or_else(|| self.no_such_block())
    }

    fn no_such_block(&self) -> CacheError {
        CacheError::NotAFile { version: self.version.id().clone(), file: self.index }
    }

    pub(crate) fn is_paged(&self) -> bool {
        self.is_paged
    }

    /// Reads resident blocks as they lie on the disk, `bytes` being as many as they are; those that this daemon never
    /// compared are compared first. Blocks.
    pub(crate) fn read_held(self: &Arc<Self>, blocks: Range<u64>, bytes: &mut [u8]) -> io::Result<()> {
        if let Err((block, error)) = self.check_unchecked(blocks.clone()) {
            self.damaged(block..block + 1, &error);
            return Err(error);
        }
        let _guard = self.guard.read().expect("no panic under this lock");
        if !self.is_readable(blocks.clone()) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it was let go of"));
        }
        let read = self.backing()?.read(blocks.start * BLOCK_BYTES, bytes, Wait::Yes)?;
        if read == bytes.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    pub(crate) fn blocks(&self) -> u64 {
        block_count(self.size)
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    pub(crate) fn guard(&self) -> &RwLock<()> {
        &self.guard
    }

    /// `image@number:path`, for people.
    pub(crate) fn shown(&self) -> String {
        format!("{}:{}", self.version.id(), self.version.tree().path(self.index).display())
    }

    pub(crate) fn want(self: &Arc<Self>, block: u64) -> Want {
        let file = self.clone();
        let path = Arc::new(move || file.version.tree().path(file.index).display().to_string());
        Want { version: self.version.id().clone(), path, block: Some(block) }
    }

    /// How many of these blocks can be read from the backing file.
    pub(crate) fn here_count(&self, blocks: Range<u64>) -> u64 {
        self.version.filling().map_or(0, |filling| filling.resident.readable_count(self.index, blocks))
    }

    /// Whether all these blocks can be read from the backing file.
    pub(crate) fn is_readable(&self, blocks: Range<u64>) -> bool {
        self.version.filling().is_some_and(|filling| filling.resident.is_readable(self.index, blocks))
    }

    /// Whether all these blocks can be read from the backing file, and are known to be right.
    fn is_checked(&self, blocks: Range<u64>) -> bool {
        self.version.filling().is_some_and(|filling| filling.resident.is_checked(self.index, blocks))
    }

    /// The hashes of some blocks, as many as there are; in one round over the sources.
    pub(crate) async fn hashes(self: &Arc<Self>, blocks: Range<u64>) -> Result<Vec<Hash>, CacheError> {
        let blocks = blocks.start..blocks.end.min(self.blocks());
        let mut hashes = Vec::with_capacity(blocks.end.saturating_sub(blocks.start) as usize);
        if !self.is_paged {
            self.mark_zeros_at_hand(&blocks);
            hashes.extend(blocks.filter_map(|block| self.version.hash_at_hand(self.index, block)));
            return Ok(hashes);
        }
        let mut block = blocks.start;
        while block < blocks.end {
            let page = block / PAGE_BLOCKS;
            let content = self.version.page(self.index, page).await?;
            self.mark_zeros(page, |block| content.hash(block % PAGE_BLOCKS));
            let end = blocks.end.min((page + 1) * PAGE_BLOCKS);
            hashes.extend((block..end).filter_map(|block| content.hash(block % PAGE_BLOCKS)));
            block = end;
        }
        Ok(hashes)
    }

    /// Has the zero blocks of a hash page called resident: the holes that they are need no fetching. Once a page.
    pub(crate) fn mark_zeros(self: &Arc<Self>, page: u64, hash: impl Fn(u64) -> Option<Hash>) {
        if self.zeros_marked.get(page) || self.version.filling().is_none() {
            return;
        }
        self.zeros_marked.set(page..page + 1);
        let blocks = page * PAGE_BLOCKS..self.blocks().min((page + 1) * PAGE_BLOCKS);
        let is_zero = |block: &u64| hash(*block).is_some_and(|hash| hash.is_zero());
        let mut runs: Vec<Range<u64>> = Vec::new();
        for block in blocks.filter(is_zero).filter(|block| !self.is_readable(*block..*block + 1)) {
            match runs.last_mut() {
                Some(run) if run.end == block => run.end += 1,
                _ => runs.push(block..block + 1),
            }
        }
        if !runs.is_empty() {
            self.version.core().writeback.mark(self.clone(), page, runs);
        }
    }

    /// The same from what is in memory, for those pages of which it is. Never blocks.
    pub(crate) fn mark_zeros_at_hand(self: &Arc<Self>, blocks: &Range<u64>) {
        for page in blocks.start / PAGE_BLOCKS..blocks.end.div_ceil(PAGE_BLOCKS) {
            if self.zeros_marked.get(page) {
                continue;
            }
            match self.is_paged {
                false => self.mark_zeros(page, |block| self.version.hash_at_hand(self.index, block)),
                true => {
                    let Some(content) = self.version.page_at_hand(self.index, page) else { continue };
                    self.mark_zeros(page, |block| content.hash(block % PAGE_BLOCKS));
                }
            }
        }
    }

    /// Zero blocks among these may be resident no more: they are marked again when somebody comes by.
    pub(crate) fn unmark_zeros(&self, blocks: &Range<u64>) {
        self.zeros_marked.clear(blocks.start / PAGE_BLOCKS..blocks.end.div_ceil(PAGE_BLOCKS));
    }

    /// Claims the first run of `blocks` that is missing, no longer than the leave is for, if any is.
    pub(crate) fn fetch(self: &Arc<Self>, blocks: Range<u64>, hashes: &[Hash], leave: Leave) -> Option<Flight> {
        let hash = |block: u64| hashes.get((block - blocks.start) as usize).copied();
        let wanted =
            |block: u64| hash(block).is_some_and(|hash| !hash.is_zero()) && !self.is_readable(block..block + 1);
        let run = self.slots.claim(blocks.clone(), leave.blocks().min(RUN_BLOCKS_MAX), wanted)?;
        Some(Flight::allowed(self, run.clone(), run.filter_map(hash).collect(), leave))
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({}, {})", self.version.id(), self.index)
    }
}
