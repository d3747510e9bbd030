//! One file of packed runs. FORMAT.md, "Packed runs".

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use icbd_image::{Hash, Root};

use super::Key;

const MAGIC: &[u8; 8] = b"icbdpack";
const FORMAT: u32 = 1;
const HEADER_BYTES: u64 = 16;
const ENTRY_BYTES: usize = 40;
const FOOTER_BYTES: u64 = 48;
/// A run of 16 blocks that does not shrink, with its headers, is longer than any.
const RUN_BYTES_MAX: u32 = (1 << 20) + 4096;
/// A file that is being written.
const UNFINISHED: &str = "new";

/// Where a run's frames lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    offset: u64,
    /// 0: the run does not shrink.
    bytes: u32,
    check: [u8; 8],
}

/// A file that is whole.
#[derive(Debug)]
pub(super) struct PackedFile {
    path: PathBuf,
    number: u64,
    root: Root,
    file: File,
    bytes: u64,
}

/// A file, and what is in it.
type Opened = (PackedFile, Vec<(Key, Entry)>);

/// A file on its way; when it is dropped before its end, nothing is left of it.
#[derive(Debug)]
pub(super) struct Writing {
    unfinished: PathBuf,
    path: PathBuf,
    file: BufWriter<File>,
    offset: u64,
    entries: Vec<(Key, Entry)>,
    keys: HashSet<Key>,
}

fn check(frames: &[u8]) -> [u8; 8] {
    *Hash::of(frames).as_bytes().first_chunk().expect("a hash is longer")
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Entry {
    pub(super) fn does_not_shrink(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.into()
    }
}

/// Little-endian numbers, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("as long as it was said to be");
        self.0 = rest;
        *field
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}

impl PackedFile {
    /// Opens a file and reads what is in it.
    pub(super) fn open(path: &Path) -> io::Result<Opened> {
        let (number, root) = named(path).ok_or_else(|| wrong("its name says of no version"))?;
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let index_end = bytes.checked_sub(FOOTER_BYTES).ok_or_else(|| wrong("it is cut short"))?;
        let (mut header, mut footer) = ([0; HEADER_BYTES as usize], [0; FOOTER_BYTES as usize]);
        file.read_exact_at(&mut header, 0)?;
        file.read_exact_at(&mut footer, index_end)?;
        let mut fields = Fields(&header);
        if fields.take() != *MAGIC || fields.u32() != FORMAT {
            return Err(wrong("it is of another format"));
        }
        let mut fields = Fields(&footer);
        let (index_at, count, hash) = (fields.u64(), fields.u64(), fields.take::<{ Hash::BYTES }>());
        let index_bytes =
            count.checked_mul(ENTRY_BYTES as u64).filter(|bytes| index_at.checked_add(*bytes) == Some(index_end));
        let index_bytes = index_bytes.ok_or_else(|| wrong("it is cut short"))?;
        let mut index = vec![0; index_bytes as usize];
        file.read_exact_at(&mut index, index_at)?;
        if *Hash::of(&index).as_bytes() != hash {
            return Err(wrong("its index is damaged"));
        }
        let entry = |bytes: &[u8]| {
            let mut fields = Fields(bytes);
            let (key, offset, bytes, _) = (fields.take(), fields.u64(), fields.u32(), fields.u32());
            (key, Entry { offset, bytes, check: fields.take() })
        };
        let entries: Vec<(Key, Entry)> = index.chunks_exact(ENTRY_BYTES).map(entry).collect();
        let is_within = |entry: &Entry| {
            entry.bytes <= RUN_BYTES_MAX
                && entry.offset.checked_add(entry.bytes.into()).is_some_and(|end| end <= index_at)
        };
        if !entries.iter().all(|(_, entry)| is_within(entry)) {
            return Err(wrong("its index makes no sense"));
        }
        Ok((PackedFile { path: path.to_owned(), number, root, file, bytes }, entries))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Later ones have higher ones.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The version it was packed for.
    pub(super) fn root(&self) -> Root {
        self.root
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A run's frames, as they were written.
    pub(super) fn read(&self, entry: &Entry) -> io::Result<Bytes> {
        let mut frames = vec![0; entry.bytes as usize];
        self.file.read_exact_at(&mut frames, entry.offset)?;
        if check(&frames) != entry.check {
            return Err(wrong("a run in it is damaged"));
        }
        Ok(frames.into())
    }
}

impl Writing {
    /// Begins a file for a version.
    pub(super) fn begin(folder: &Path, number: u64, root: &Root) -> io::Result<Writing> {
        let path = folder.join(format!("{number}.{root}"));
        let unfinished = path.with_extension(UNFINISHED);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let mut writing = Writing {
            unfinished,
            path,
            file: BufWriter::with_capacity(1 << 20, file),
            offset: HEADER_BYTES,
            entries: Vec::new(),
            keys: HashSet::new(),
        };
        writing.file.write_all(MAGIC)?;
        writing.file.write_all(&FORMAT.to_le_bytes())?;
        writing.file.write_all(&[0; 4])?;
        Ok(writing)
    }

    /// Adds a run's frames; none if it does not shrink.
    pub(super) fn add(&mut self, key: Key, frames: &[u8]) -> io::Result<()> {
        self.file.write_all(frames)?;
        let entry = Entry { offset: self.offset, bytes: frames.len() as u32, check: check(frames) };
        self.entries.push((key, entry));
        self.keys.insert(key);
        self.offset += frames.len() as u64;
        Ok(())
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.keys.contains(key)
    }

    /// With its index, so far.
    pub(super) fn bytes(&self) -> u64 {
        self.offset + (self.entries.len() * ENTRY_BYTES) as u64 + FOOTER_BYTES
    }

    /// Ends the file, and makes it one; `None` if there is nothing in it.
    pub(super) fn finish(mut self) -> io::Result<Option<Opened>> {
        if self.entries.is_empty() {
            return Ok(None);
        }
        let mut index = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        for (key, entry) in &self.entries {
            index.extend_from_slice(key);
            index.extend_from_slice(&entry.offset.to_le_bytes());
            index.extend_from_slice(&entry.bytes.to_le_bytes());
            index.extend_from_slice(&[0; 4]);
            index.extend_from_slice(&entry.check);
        }
        self.file.write_all(&index)?;
        self.file.write_all(&self.offset.to_le_bytes())?;
        self.file.write_all(&(self.entries.len() as u64).to_le_bytes())?;
        self.file.write_all(Hash::of(&index).as_bytes())?;
        self.file.flush()?;
        // What a power cut leaves of it is found out when it is opened.
        std::fs::rename(&self.unfinished, &self.path)?;
        PackedFile::open(&self.path).map(Some).inspect_err(|_| drop(std::fs::remove_file(&self.path)))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // Not there any more if it became one.
        let _ = std::fs::remove_file(&self.unfinished);
    }
}

/// The number and the version in a file's name.
fn named(path: &Path) -> Option<(u64, Root)> {
    let (number, root) = path.file_name()?.to_str()?.split_once('.')?;
    Some((number.parse().ok()?, root.parse().ok()?))
}
