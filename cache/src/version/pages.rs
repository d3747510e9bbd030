//! Hash pages: from memory, from disk (verified again), or from a source.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use icbd_image::{FileIndex, Hash, Page};

use super::Version;
use crate::disk::{DiskFile, Missing, Wait};
use crate::flights::Landing;
use crate::{CacheError, layout};

impl Version {
    /// A hash page of a paged file. One round over the sources; it is kept on disk from then on.
    pub async fn page(self: &Arc<Self>, file: FileIndex, page: u64) -> Result<Page, CacheError> {
        if let Some(found) = self.page_at_hand(file, page) {
            return Ok(found);
        }
        let start = |landing: Landing<(FileIndex, u64), Page>| {
            let version = self.clone();
            self.core.spawn(async move {
                let result = version.load_page(file, page).await;
                landing.land(result);
            });
        };
        self.page_flights.join((file, page), start).await
    }

    /// A page that is in memory, or needs no bytes. Never blocks.
    pub(crate) fn page_at_hand(&self, file: FileIndex, page: u64) -> Option<Page> {
        let zero = self.head.node(file).and_then(|node| Page::zero(&node, page));
        zero.or_else(|| self.core.pages.get(&(self.serial(), file, page)))
    }

    /// The hash of a block, if that is known without disk or source.
    pub(crate) fn hash_at_hand(&self, file: FileIndex, block: u64) -> Option<Hash> {
        let node = self.head.node(file)?;
        match node.is_paged() {
            false => node.inline_hash(block),
            true => self.page_at_hand(file, block / icbd_image::PAGE_BLOCKS)?.hash(block % icbd_image::PAGE_BLOCKS),
        }
    }

    /// A page that is in memory or on disk, verified. Blocks.
    pub(crate) fn page_here(&self, file: FileIndex, page: u64) -> Option<Page> {
        if let Some(found) = self.page_at_hand(file, page) {
            return Some(found);
        }
        let node = self.head.node(file)?;
        let offset = node.page_offset(page)?;
        let mut bytes = vec![0; node.page_blocks(page) as usize * Hash::BYTES];
        let read = self.pages_file().and_then(|pages| pages.read(offset, &mut bytes, Wait::Yes)).ok()?;
        bytes.truncate(read);
        let found = Page::verify(&node, page, bytes.into()).ok()?;
        self.core.pages.insert((self.serial(), file, page), found.clone());
        Some(found)
    }

    async fn load_page(self: &Arc<Self>, file: FileIndex, page: u64) -> Result<Page, CacheError> {
        if let Some(found) = self.page_at_hand(file, page) {
            return Ok(found);
        }
        if self.head.node(file).is_none_or(|node| page >= node.pages()) {
            return Err(CacheError::NotAFile { version: self.id.clone(), file });
        }
        let version = self.clone();
        if let Some(found) = self.core.blocking(move || version.page_here(file, page)).await? {
            return Ok(found);
        }
        let found = self.core.sources.page(&self.head, file, page).await?;
        self.core.pages.insert((self.serial(), file, page), found.clone());
        let (version, copy) = (self.clone(), found.clone());
        self.core.blocking(move || version.keep_page(file, page, &copy)).await?;
        Ok(found)
    }

    /// Keeps a page on disk; synced with the next blocks. A page that is lost or torn is fetched again.
    fn keep_page(&self, file: FileIndex, page: u64, content: &Page) {
        let Some(offset) = self.head.node(file).and_then(|node| node.page_offset(page)) else { return };
        let hashes = (0..content.blocks()).filter_map(|at| content.hash(at));
        let bytes: Vec<u8> = hashes.flat_map(|hash| *hash.as_bytes()).collect();
        match self.pages_file().and_then(|pages| pages.write(offset, &[&bytes])) {
            Ok(()) => self.pages_unsynced.store(true, Ordering::Release),
            Err(error) => self.core.health.failed(&format!("writing hash pages of {}", self.id), &error),
        }
    }

    /// Keeps a page that a file of another version has, too, if it is here. Blocks.
    pub(crate) fn take_page(&self, (file, page): (FileIndex, u64), other: &Version, of: FileIndex) {
        if let Some(content) = other.page_here(of, page) {
            self.keep_page(file, page, &content);
        }
    }

    pub(crate) fn sync_pages(&self) -> std::io::Result<()> {
        if self.pages_unsynced.swap(false, Ordering::AcqRel) {
            self.pages_file()?.sync()?;
        }
        Ok(())
    }

    fn pages_file(&self) -> std::io::Result<&Arc<dyn DiskFile>> {
        if let Some(file) = self.pages_file.get() {
            return Ok(file);
        }
        let file = self.core.disk.open(&layout::pages(self.root()), Missing::Create)?;
        Ok(self.pages_file.get_or_init(|| file))
    }
}
