//! A checked head and the ways to look things up in it.

use std::fmt;

use bytes::Bytes;

use super::check::{HeadError, Sections};
use super::layout::{
    ENTRY_BYTES, EntryRecord, FileIndex, INLINE_BLOCKS_MAX, Kind, Metadata, NODE_BYTES, NodeRecord, PAGE_BLOCKS,
    XATTR_BYTES, XattrRecord,
};
use crate::block::{Hash, Root, block_count};
use crate::time::Timestamp;

/// The tree of one version: what it contains, and by which hashes.
///
/// Holds the bytes as they are on disk and reads records in place. Cheap to clone.
#[derive(Clone)]
pub struct Head {
    bytes: Bytes,
    sections: Sections,
    root: Root,
    /// Files whose hashes are in pages, by index, with the number of paged blocks before them.
    paged: std::sync::Arc<[(FileIndex, u64)]>,
}

/// One node of the tree: a file, directory, symbolic link or device.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    head: &'a Head,
    index: FileIndex,
    record: NodeRecord,
    kind: Kind,
}

/// One name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name's place in the version's name table: unique, and the same for ever.
    pub position: u32,
    pub name: &'a [u8],
    pub node: FileIndex,
}

/// One extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xattr<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
}

impl Head {
    /// The longest head that is read: about two million files, or a few PiB of disk images.
    pub const BYTES_MAX: usize = 256 << 20;

    /// Checks `bytes` and takes them as a head. Nothing of its size is allocated before its lengths are proved.
    pub fn parse(bytes: Bytes) -> Result<Head, HeadError> {
        let sections = Sections::locate(&bytes)?;
        let paged = super::check::check(&bytes, &sections)?;
        let root = Root::of(&bytes);
        Ok(Head { bytes, sections, root, paged: paged.into() })
    }

    /// Like [`Head::parse`], for bytes that claim to be the head with this root.
    pub fn parse_expecting(bytes: Bytes, root: &Root) -> Result<Head, HeadError> {
        let found = Root::of(&bytes);
        if found != *root {
            return Err(HeadError::OtherRoot { expected: *root, found });
        }
        Head::parse(bytes)
    }

    pub fn root(&self) -> Root {
        self.root
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Nodes of the tree; indices run from 0 to this, exclusive.
    pub fn node_count(&self) -> u32 {
        self.sections.node_count
    }

    pub fn node(&self, index: FileIndex) -> Option<Node<'_>> {
        if index.get() >= self.sections.node_count {
            return None;
        }
        let record = self.record(index);
        let kind = Kind::from_u8(record.kind)?;
        Some(Node { head: self, index, record, kind })
    }

    /// All nodes in the order of their indices.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        (0..self.sections.node_count).filter_map(|index| self.node(FileIndex::new(index)?))
    }

    /// The regular files.
    pub fn files(&self) -> impl Iterator<Item = Node<'_>> {
        self.nodes().filter(|node| node.kind == Kind::File)
    }

    /// Sum of the sizes of all regular files, in bytes.
    pub fn data_bytes(&self) -> u64 {
        self.files().map(|file| file.size()).sum()
    }

    /// Number of blocks whose hashes are in pages: the `.pages` file holds 32 bytes for each.
    pub fn paged_blocks(&self) -> u64 {
        self.paged.last().map_or(0, |(file, before)| before + block_count(self.record(*file).size))
    }

    /// The node that `name` means in directory `directory`.
    pub fn lookup(&self, directory: FileIndex, name: &[u8]) -> Option<FileIndex> {
        let record = self.directory(directory)?;
        let (mut low, mut high) = (record.first, record.first + record.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entry(middle);
            match entry.name.cmp(name) {
                std::cmp::Ordering::Equal => return Some(entry.node),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The names in `directory` in byte order, from name-table place `from` on; empty for what is no directory.
    pub fn entries(&self, directory: FileIndex, from: u32) -> impl Iterator<Item = Entry<'_>> {
        let (first, end) = self.directory(directory).map_or((0, 0), |r| (r.first, r.first + r.count));
        (first.max(from)..end).map(|position| self.entry(position))
    }

    /// The node at a path of `/`-separated names below the root; symbolic links are not followed.
    pub fn resolve(&self, path: &[u8]) -> Option<FileIndex> {
        path.split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            .try_fold(FileIndex::ROOT, |directory, name| self.lookup(directory, name))
    }

    fn record(&self, index: FileIndex) -> NodeRecord {
        let start = self.sections.nodes + index.usize() * NODE_BYTES;
        NodeRecord::read(self.chunk(start))
    }

    fn directory(&self, index: FileIndex) -> Option<NodeRecord> {
        self.node(index).filter(|node| node.kind == Kind::Directory).map(|node| node.record)
    }

    fn entry(&self, position: u32) -> Entry<'_> {
        let record = EntryRecord::read(self.chunk(self.sections.entries + position as usize * ENTRY_BYTES));
        Entry {
            position,
            name: self.text(record.name_at, record.name_len),
            node: FileIndex::new(record.node).expect("checked when parsed"),
        }
    }

    fn text(&self, at: u32, len: u32) -> &[u8] {
        let start = self.sections.text + at as usize;
        &self.bytes[start..start + len as usize]
    }

    fn hash(&self, position: u64) -> Hash {
        Hash::from_bytes(*self.chunk(self.sections.hashes + position as usize * Hash::BYTES))
    }

    fn chunk<const N: usize>(&self, at: usize) -> &[u8; N] {
        self.bytes[at..].first_chunk().expect("checked when parsed")
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({}, {} nodes)", self.root.short(), self.node_count())
    }
}

impl<'a> Node<'a> {
    pub fn index(&self) -> FileIndex {
        self.index
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn metadata(&self) -> Metadata {
        Metadata {
            mode: self.record.mode,
            uid: self.record.uid,
            gid: self.record.gid,
            mtime: Timestamp { seconds: self.record.seconds, nanoseconds: self.record.nanoseconds },
        }
    }

    /// Names that mean this node; of a directory 2 and one for each subdirectory.
    pub fn links(&self) -> u32 {
        self.record.links
    }

    /// Bytes of a file, length of a symbolic link's target, else 0.
    pub fn size(&self) -> u64 {
        self.record.size
    }

    /// A device's number, encoded as Linux encodes a 32-bit `dev_t`; else 0.
    pub fn rdev(&self) -> u32 {
        self.record.rdev
    }

    /// The directory this directory is in; the root's is the root. `None` for what is no directory.
    pub fn parent(&self) -> Option<FileIndex> {
        (self.kind == Kind::Directory).then(|| FileIndex::new(self.record.parent)).flatten()
    }

    /// A symbolic link's target.
    pub fn target(&self) -> Option<&'a [u8]> {
        (self.kind == Kind::Symlink).then(|| self.head.text(self.record.first, self.record.size as u32))
    }

    pub fn xattrs(&self) -> impl Iterator<Item = Xattr<'a>> + use<'a> {
        let head = self.head;
        (self.record.xattr_first..self.record.xattr_first + self.record.xattr_count).map(move |position| {
            let start = head.sections.xattrs + position as usize * XATTR_BYTES;
            let record = XattrRecord::read(head.chunk(start));
            Xattr {
                name: head.text(record.text_at, record.name_len),
                value: head.text(record.text_at + record.name_len, record.value_len),
            }
        })
    }

    /// Number of blocks of a file; 0 of anything else.
    pub fn blocks(&self) -> u64 {
        if self.kind == Kind::File { block_count(self.record.size) } else { 0 }
    }

    /// Whether this file's block hashes are in pages instead of the head.
    pub fn is_paged(&self) -> bool {
        self.blocks() > INLINE_BLOCKS_MAX
    }

    /// Number of pages; 0 for a file that is not paged.
    pub fn pages(&self) -> u64 {
        if self.is_paged() { self.blocks().div_ceil(PAGE_BLOCKS) } else { 0 }
    }

    /// The hash of page `page`; [`Hash::ZERO`] says that all its blocks are zero.
    pub fn page_hash(&self, page: u64) -> Option<Hash> {
        (page < self.pages()).then(|| self.head.hash(u64::from(self.record.first) + page))
    }

    /// How many block hashes page `page` holds; the last page may be short.
    pub fn page_blocks(&self, page: u64) -> u64 {
        if self.is_paged() { self.blocks().saturating_sub(page * PAGE_BLOCKS).min(PAGE_BLOCKS) } else { 0 }
    }

    /// Where page `page` begins in the version's `.pages` file, in bytes.
    pub fn page_offset(&self, page: u64) -> Option<u64> {
        let at = self.head.paged.binary_search_by_key(&self.index, |(file, _)| *file).ok()?;
        (page < self.pages()).then(|| (self.head.paged[at].1 + page * PAGE_BLOCKS) * Hash::BYTES as u64)
    }

    /// The hash of block `block` if the head itself holds it.
    pub fn inline_hash(&self, block: u64) -> Option<Hash> {
        (!self.is_paged() && block < self.blocks()).then(|| self.head.hash(u64::from(self.record.first) + block))
    }
}
