//! Hash pages: the block hashes of one file, 2048 at a time.

use bytes::Bytes;

use super::head::Node;
use crate::block::Hash;

/// The verified block hashes of one page of one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Empty for a page of which every block is zero.
    bytes: Bytes,
    blocks: u64,
}

/// Why bytes are not the page they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    #[error("file {file} has no hash page {page}")]
    Absent { file: u32, page: u64 },
    #[error("hash page {page} of file {file} has {found} bytes instead of {expected}")]
    Length { file: u32, page: u64, expected: u64, found: u64 },
    #[error("hash page {page} of file {file} has hash {found}, its head says {expected}")]
    Hash { file: u32, page: u64, expected: Hash, found: Hash },
}

impl Page {
    /// Takes `bytes` as page `page` of `file` if they are what the head says.
    pub fn verify(file: &Node<'_>, page: u64, bytes: Bytes) -> Result<Page, PageError> {
        let index = file.index().get();
        let expected = file.page_hash(page).ok_or(PageError::Absent { file: index, page })?;
        let blocks = file.page_blocks(page);
        if bytes.len() as u64 != blocks * Hash::BYTES as u64 {
            let expected = blocks * Hash::BYTES as u64;
            return Err(PageError::Length { file: index, page, expected, found: bytes.len() as u64 });
        }
        let found = Hash::of(&bytes);
        if found != expected {
            return Err(PageError::Hash { file: index, page, expected, found });
        }
        Ok(Page { bytes: if found.is_zero() { Bytes::new() } else { bytes }, blocks })
    }

    /// A page that needs no bytes, because all its blocks are zero; `None` if they are not.
    pub fn zero(file: &Node<'_>, page: u64) -> Option<Page> {
        file.page_hash(page)?.is_zero().then(|| Page { bytes: Bytes::new(), blocks: file.page_blocks(page) })
    }

    /// Number of block hashes in this page.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The hash of the page's block `at`, counted from the page's first.
    pub fn hash(&self, at: u64) -> Option<Hash> {
        if at >= self.blocks {
            return None;
        }
        if self.bytes.is_empty() {
            return Some(Hash::ZERO);
        }
        self.bytes.as_chunks::<{ Hash::BYTES }>().0.get(at as usize).map(|bytes| Hash::from_bytes(*bytes))
    }

    /// Bytes of memory this page holds on to.
    pub fn weight(&self) -> usize {
        self.bytes.len() + size_of::<Page>()
    }
}
