//! What another node may have of what is here: heads, hash pages and blocks. No source is asked for it, and what is read
//! for others is no boot.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use icbd_image::{BLOCK_BYTES, FileIndex, Hash, Listing, PAGE_BLOCKS, Root, Run};

use crate::file::File;
use crate::version::Version;
use crate::{Cache, CacheError};

/// A version whose head is here, and whatever else of it.
#[derive(Debug, Clone)]
pub struct Served(Arc<Version>);

/// Consecutive blocks of a file that are all here.
#[derive(Debug, Clone)]
pub struct ServedRun {
    file: Arc<File>,
    blocks: Range<u64>,
}

impl Cache {
    /// All that is known, as the master listed it; `None` before the first list. Who gets it decides what it believes.
    pub fn listing(&self) -> Option<Listing> {
        self.view().listing()
    }

    /// The version with this root, if its head is here.
    pub async fn served(&self, root: Root) -> Result<Option<Served>, CacheError> {
        let view = self.view();
        let Some(record) = view.with_root(root) else { return Ok(None) };
        let core = self.core().clone();
        if core.versions.get(record.serial()).is_none()
            && self.core().blocking(move || core.head_on_disk(root)).await?.is_none()
        {
            return Ok(None);
        }
        let version = self.core().version_once(record.serial()).await?;
        version.open_existing().await;
        Ok(Some(Served(version)))
    }
}

impl Served {
    pub fn head_bytes(&self) -> Bytes {
        self.0.head().bytes().clone()
    }

    /// A hash page, if it is here. Blocks.
    pub fn page_bytes(&self, file: FileIndex, page: u64) -> Option<Bytes> {
        let found = self.0.page_here(file, page)?;
        let hashes = (0..found.blocks()).filter_map(|at| found.hash(at));
        Some(hashes.flat_map(|hash| *hash.as_bytes()).collect::<Vec<u8>>().into())
    }

    /// The blocks of a run, if all of them and their hashes are here. Blocks.
    pub fn run(&self, run: Run) -> Option<ServedRun> {
        let file = self.0.file(run.file).ok()?;
        let blocks = run.first..run.first.checked_add(run.count.into())?;
        if run.count == 0 || blocks.end > file.blocks() {
            return None;
        }
        let pages = blocks.start / PAGE_BLOCKS..blocks.end.div_ceil(PAGE_BLOCKS);
        if file.is_paged() && pages.into_iter().any(|page| self.0.page_here(run.file, page).is_none()) {
            return None;
        }
        // It is in use as long as somebody fetches it.
        self.0.note_used();
        let held = ServedRun { file, blocks: blocks.clone() };
        let is_here = |block| held.file.is_readable(block..block + 1) || held.is_zero(block);
        blocks.into_iter().all(is_here).then_some(held)
    }
}

impl ServedRun {
    pub fn file_bytes(&self) -> u64 {
        self.file.size()
    }

    /// Whether a block is known to be all zeros.
    pub fn is_zero(&self, block: u64) -> bool {
        self.hash(block).is_some_and(|hash| hash.is_zero())
    }

    /// Fills `bytes` with whole blocks from `first` on, as they lie here; compared with their hashes if this daemon never
    /// did, or if told to. Blocks.
    ///
    /// # Errors
    /// Also when one went meanwhile, or is not what it should be: it is fetched anew by its next reader here.
    pub fn read_into(&self, first: u64, bytes: &mut [u8], is_compared: bool) -> io::Result<()> {
        let blocks = first..first + (bytes.len() as u64).div_ceil(BLOCK_BYTES);
        debug_assert!(self.blocks.start <= blocks.start && blocks.end <= self.blocks.end, "others were looked at");
        self.file.read_held(blocks.clone(), bytes)?;
        if !is_compared {
            return Ok(());
        }
        let wrong = blocks.zip(bytes.chunks(BLOCK_BYTES as usize)).find(|(block, content)| {
            // What nobody can compare is left to who gets it.
            self.hash(*block).is_some_and(|hash| hash != Hash::of(content))
        });
        let Some((block, _)) = wrong else { return Ok(()) };
        let error = io::Error::other(format!("block {block} does not match its hash"));
        self.file.damaged(block..block + 1, &error);
        Err(error)
    }

    fn hash(&self, block: u64) -> Option<Hash> {
        self.file.version().hash_at_hand(self.file.index(), block)
    }
}
