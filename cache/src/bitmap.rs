//! The bitmap as a file: a header of one page, then the words. Plain writes, never a mapping: a page
//! of it is written only where a commit or a clearing says so.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use icbd_image::Root;

use crate::bits::{self, Bits};
use crate::disk::{DiskFile, Wait};

/// The name of what a bitmap is of, besides its root: bits of another one mean nothing.
pub(crate) type Incarnation = [u8; 16];

const MAGIC: &[u8; 8] = b"icbdbits";
const FORMAT: u32 = 1;
/// The unit in which the bitmap is written; the header has one for itself.
const PAGE_BYTES: usize = 4096;
pub(crate) const PAGE_WORDS: usize = PAGE_BYTES / 8;

fn header(root: Root, incarnation: &Incarnation, words: usize) -> [u8; PAGE_BYTES] {
    let mut header = [0; PAGE_BYTES];
    let mut at = 0;
    let mut put = |field: &[u8]| {
        header[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    };
    put(MAGIC);
    put(&FORMAT.to_le_bytes());
    put(&[0; 4]);
    put(root.as_bytes());
    put(incarnation);
    put(&(words as u64).to_le_bytes());
    header
}

/// Writes header and words and syncs them. Pages without a bit stay holes.
pub(crate) fn write_new(file: &dyn DiskFile, root: Root, incarnation: &Incarnation, bits: &Bits) -> io::Result<()> {
    file.set_size(0)?;
    file.set_size(file_bytes(bits.words()))?;
    file.write(0, &[&header(root, incarnation, bits.words())])?;
    for page in 0..bits.words().div_ceil(PAGE_WORDS) {
        let bytes = page_bytes(bits, page, &BTreeMap::new());
        if bytes.iter().any(|byte| *byte != 0) {
            file.write(page_offset(page), &[&bytes])?;
        }
    }
    file.sync()
}

/// Reads a bitmap with exactly this header.
pub(crate) fn read(
    file: &dyn DiskFile,
    root: Root,
    incarnation: &Incarnation,
    words: usize,
) -> io::Result<Option<Bits>> {
    if file.state()?.bytes != file_bytes(words) {
        return Ok(None);
    }
    let mut page = [0; PAGE_BYTES];
    if file.read(0, &mut page, Wait::Yes)? < PAGE_BYTES || page != header(root, incarnation, words) {
        return Ok(None);
    }
    let bits = Bits::zeros(words);
    for at in 0..words.div_ceil(PAGE_WORDS) {
        let read = file.read(page_offset(at), &mut page, Wait::Yes)?;
        for (word, bytes) in (at * PAGE_WORDS..words).zip(page[..read].as_chunks::<8>().0) {
            bits.or_word(word, u64::from_le_bytes(*bytes));
        }
    }
    Ok(Some(bits))
}

/// Of which root a bitmap is, and how many bits are set in it; `None` if it is none.
pub(crate) fn count(file: &dyn DiskFile) -> io::Result<Option<(Root, u64)>> {
    let mut page = [0; PAGE_BYTES];
    let root_at = MAGIC.len() + 8;
    let is_ours = file.read(0, &mut page, Wait::Yes)? == PAGE_BYTES && page.starts_with(MAGIC);
    let Some(root) = page[root_at..].first_chunk().filter(|_| is_ours).copied().map(Root::from_bytes) else {
        return Ok(None);
    };
    let (mut ones, mut offset) = (0, PAGE_BYTES as u64);
    loop {
        match file.read(offset, &mut page, Wait::Yes)? {
            0 => return Ok(Some((root, ones))),
            read => {
                ones += page[..read].iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
                offset += read as u64;
            }
        }
    }
}

/// Writes the pages that hold the words of `more`, with those bits added to `bits`, and syncs them.
pub(crate) fn write_words(file: &dyn DiskFile, bits: &Bits, more: &BTreeMap<usize, u64>) -> io::Result<()> {
    if more.is_empty() {
        return Ok(());
    }
    let mut last = None;
    for page in more.keys().map(|word| word / PAGE_WORDS) {
        if last != Some(page) {
            last = Some(page);
            file.write(page_offset(page), &[&page_bytes(bits, page, more)])?;
        }
    }
    file.sync()
}

/// Writes the words that hold some more bits, with these added to `bits`, and syncs nothing.
pub(crate) fn write_unsynced(file: &dyn DiskFile, bits: &Bits, more: Range<u64>) -> io::Result<()> {
    let mut words = bits::masks(more).peekable();
    let first = words.peek().map_or(0, |(at, _)| *at);
    let bytes: Vec<u8> = words.flat_map(|(at, mask)| (bits.word(at) | mask).to_le_bytes()).collect();
    file.write((PAGE_BYTES + first * 8) as u64, &[&bytes])
}

/// Writes whole pages, as they were when they were copied.
pub(crate) fn write_pages(file: &dyn DiskFile, pages: &[(usize, Vec<u8>)]) -> io::Result<()> {
    pages.iter().try_for_each(|(page, bytes)| file.write(page_offset(*page), &[bytes]))
}

/// A page as it is in `bits` now.
pub(crate) fn copy_page(bits: &Bits, page: usize) -> Vec<u8> {
    page_bytes(bits, page, &BTreeMap::new())
}

/// The size of a bitmap of so many words.
pub(crate) fn file_bytes(words: usize) -> u64 {
    (PAGE_BYTES + words * 8) as u64
}

fn page_offset(page: usize) -> u64 {
    ((page + 1) * PAGE_BYTES) as u64
}

fn page_bytes(bits: &Bits, page: usize, more: &BTreeMap<usize, u64>) -> Vec<u8> {
    let words = page * PAGE_WORDS..bits.words().min((page + 1) * PAGE_WORDS);
    words.flat_map(|at| (bits.word(at) | more.get(&at).copied().unwrap_or(0)).to_le_bytes()).collect()
}
