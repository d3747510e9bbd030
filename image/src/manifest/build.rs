//! Building a head from a tree, and hash pages from a file's block hashes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::check::{FILE_BYTES_MAX, HeadError};
use super::head::Head;
use super::layout::{
    EntryRecord, FORMAT, FileIndex, HEADER_BYTES, INLINE_BLOCKS_MAX, Kind, MAGIC, Metadata, NodeRecord, PAGE_BLOCKS,
    XattrRecord,
};
use crate::block::{Hash, block_count};

/// The hashes that a head keeps of one file: of its blocks if they are few, else of its pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileHashes {
    size: u64,
    hashes: Vec<Hash>,
}

impl FileHashes {
    /// The file's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Gathers a file's block hashes in order and cuts them into pages.
///
/// Small files (at most 16 blocks) get no page. A page of zero hashes has the zero hash itself and
/// is never stored or sent.
#[derive(Debug)]
pub struct PagesBuilder {
    size: u64,
    /// Hashes of the page (or, of a small file, of all its blocks) being filled.
    page: Vec<u8>,
    hashes: Vec<Hash>,
    blocks: u64,
}

impl PagesBuilder {
    /// For a file of `size` bytes.
    pub fn new(size: u64) -> Result<PagesBuilder, HeadError> {
        if size > FILE_BYTES_MAX {
            return Err(HeadError::FileSize(size));
        }
        Ok(PagesBuilder { size, page: Vec::new(), hashes: Vec::new(), blocks: 0 })
    }

    /// The number of the block whose hash comes next.
    pub fn next_block(&self) -> u64 {
        self.blocks
    }

    /// Takes the next block's hash; calls `page` with the number and bytes of each page that is full and not zero.
    ///
    /// # Panics
    /// When the file has no such block.
    pub fn push(&mut self, hash: Hash, page: &mut impl FnMut(u64, &[u8])) {
        self.blocks += 1;
        assert!(self.blocks <= block_count(self.size), "more block hashes than blocks");
        if self.is_inline() {
            return self.hashes.push(hash);
        }
        self.page.extend_from_slice(hash.as_bytes());
        if self.blocks.is_multiple_of(PAGE_BLOCKS) || self.blocks == block_count(self.size) {
            let page_hash = Hash::of(&self.page);
            if !page_hash.is_zero() {
                page(self.hashes.len() as u64, &self.page);
            }
            self.hashes.push(page_hash);
            self.page.clear();
        }
    }

    /// Takes `count` blocks of zeros; a hole of 1 TiB costs 8192 steps.
    pub fn push_zeros(&mut self, mut count: u64, page: &mut impl FnMut(u64, &[u8])) {
        while count > 0 {
            let whole = !self.is_inline() && self.page.is_empty() && count >= PAGE_BLOCKS;
            if whole {
                self.blocks += PAGE_BLOCKS;
                assert!(self.blocks <= block_count(self.size), "more block hashes than blocks");
                self.hashes.push(Hash::ZERO);
                count -= PAGE_BLOCKS;
            } else {
                self.push(Hash::ZERO, page);
                count -= 1;
            }
        }
    }

    /// The hashes for the head.
    ///
    /// # Panics
    /// When blocks are missing.
    pub fn finish(self) -> FileHashes {
        assert_eq!(self.blocks, block_count(self.size), "block hashes are missing");
        FileHashes { size: self.size, hashes: self.hashes }
    }

    fn is_inline(&self) -> bool {
        block_count(self.size) <= INLINE_BLOCKS_MAX
    }
}

#[derive(Debug)]
struct PendingNode {
    kind: Kind,
    metadata: Metadata,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    links: u32,
    content: Content,
}

#[derive(Debug)]
enum Content {
    File(FileHashes),
    Directory { parent: FileIndex, entries: BTreeMap<Vec<u8>, FileIndex> },
    Symlink(Vec<u8>),
    Device(u32),
}

/// Puts a tree together, node by node, and writes its head.
#[derive(Debug)]
pub struct HeadBuilder {
    nodes: Vec<PendingNode>,
}

impl HeadBuilder {
    /// A tree that has its root directory only.
    pub fn new(root: Metadata) -> HeadBuilder {
        let content = Content::Directory { parent: FileIndex::ROOT, entries: BTreeMap::new() };
        let root = PendingNode { kind: Kind::Directory, metadata: root, xattrs: BTreeMap::new(), links: 2, content };
        HeadBuilder { nodes: vec![root] }
    }

    /// Adds a directory named `name` to the directory `parent`.
    pub fn directory(&mut self, parent: FileIndex, name: &[u8], metadata: Metadata) -> Result<FileIndex, HeadError> {
        let content = Content::Directory { parent, entries: BTreeMap::new() };
        let index = self.add(parent, name, Kind::Directory, metadata, content)?;
        self.nodes[parent.usize()].links += 1;
        self.nodes[index.usize()].links += 1;
        Ok(index)
    }

    /// Adds an empty file; [`HeadBuilder::set_hashes`] fills it.
    pub fn file(&mut self, parent: FileIndex, name: &[u8], metadata: Metadata) -> Result<FileIndex, HeadError> {
        self.add(parent, name, Kind::File, metadata, Content::File(FileHashes::default()))
    }

    /// Adds a symbolic link to `target`.
    pub fn symlink(
        &mut self,
        parent: FileIndex,
        name: &[u8],
        metadata: Metadata,
        target: &[u8],
    ) -> Result<FileIndex, HeadError> {
        self.add(parent, name, Kind::Symlink, metadata, Content::Symlink(target.to_owned()))
    }

    /// Adds a character or block device with number `rdev`, as Linux encodes a 32-bit `dev_t`.
    pub fn device(
        &mut self,
        parent: FileIndex,
        name: &[u8],
        kind: Kind,
        metadata: Metadata,
        rdev: u32,
    ) -> Result<FileIndex, HeadError> {
        self.add(parent, name, kind, metadata, Content::Device(rdev))
    }

    /// Adds another name for `node`, which is no directory: a hard link.
    pub fn link(&mut self, parent: FileIndex, name: &[u8], node: FileIndex) -> Result<(), HeadError> {
        self.insert(parent, name, node)?;
        self.nodes[node.usize()].links += 1;
        Ok(())
    }

    pub fn set_xattr(&mut self, node: FileIndex, name: &[u8], value: &[u8]) {
        self.nodes[node.usize()].xattrs.insert(name.to_owned(), value.to_owned());
    }

    /// Gives a file its size and hashes.
    ///
    /// # Panics
    /// When `node` is no file.
    pub fn set_hashes(&mut self, node: FileIndex, hashes: FileHashes) {
        match &mut self.nodes[node.usize()].content {
            Content::File(content) => *content = hashes,
            other => panic!("hashes for {other:?}"),
        }
    }

    /// Writes the head and checks it as a reader will, so that nothing is published that cannot be read.
    pub fn finish(self) -> Result<Head, HeadError> {
        let mut tables = Tables::default();
        for (index, node) in (0..).zip(&self.nodes) {
            tables.push(index, node)?;
        }
        Head::parse(tables.into_bytes()?)
    }

    fn add(
        &mut self,
        parent: FileIndex,
        name: &[u8],
        kind: Kind,
        metadata: Metadata,
        content: Content,
    ) -> Result<FileIndex, HeadError> {
        let index = u32::try_from(self.nodes.len()).ok().and_then(FileIndex::new).ok_or(HeadError::Nodes)?;
        self.insert(parent, name, index)?;
        self.nodes.push(PendingNode { kind, metadata, xattrs: BTreeMap::new(), links: 1, content });
        Ok(index)
    }

    fn insert(&mut self, parent: FileIndex, name: &[u8], node: FileIndex) -> Result<(), HeadError> {
        match &mut self.nodes[parent.usize()].content {
            Content::Directory { entries, .. } => match entries.insert(name.to_owned(), node) {
                None => Ok(()),
                Some(_) => Err(HeadError::Damaged("a name is twice in one directory")),
            },
            other => panic!("a name in {other:?}"),
        }
    }
}

/// The tables of a head, each as its bytes.
#[derive(Default)]
struct Tables {
    nodes: Vec<u8>,
    entries: Vec<u8>,
    xattrs: Vec<u8>,
    hashes: Vec<u8>,
    text: Vec<u8>,
    counts: [u32; 4],
}

impl Tables {
    fn push(&mut self, index: u32, node: &PendingNode) -> Result<(), HeadError> {
        let [_, entry_count, xattr_count, hash_count] = self.counts;
        let mut record = NodeRecord {
            kind: node.kind.to_u8(),
            mode: node.metadata.mode,
            uid: node.metadata.uid,
            gid: node.metadata.gid,
            links: node.links,
            seconds: node.metadata.mtime.seconds,
            nanoseconds: node.metadata.mtime.nanoseconds,
            xattr_first: xattr_count,
            xattr_count: node.xattrs.len() as u32,
            rdev: 0,
            size: 0,
            first: 0,
            count: 0,
            parent: 0,
        };
        match &node.content {
            Content::File(file) => {
                (record.size, record.first, record.count) = (file.size, hash_count, file.hashes.len() as u32);
                file.hashes.iter().for_each(|hash| self.hashes.extend_from_slice(hash.as_bytes()));
            }
            Content::Directory { parent, entries } => {
                (record.first, record.count, record.parent) = (entry_count, entries.len() as u32, parent.get());
                for (name, child) in entries {
                    let name_at = self.text(name)?;
                    let entry = EntryRecord { node: child.get(), name_at, name_len: name.len() as u32, reserved: 0 };
                    self.entries.extend_from_slice(&entry.write());
                }
            }
            Content::Symlink(target) => (record.size, record.first) = (target.len() as u64, self.text(target)?),
            Content::Device(rdev) => record.rdev = *rdev,
        }
        for (name, value) in &node.xattrs {
            let text_at = self.text(name)?;
            self.text(value)?;
            let (name_len, value_len) = (name.len() as u32, value.len() as u32);
            self.xattrs.extend_from_slice(&XattrRecord { node: index, text_at, name_len, value_len }.write());
        }
        let entries = if node.kind == Kind::Directory { record.count } else { 0 };
        let hashes = if node.kind == Kind::File { record.count } else { 0 };
        for (count, more) in self.counts.iter_mut().zip([1, entries, record.xattr_count, hashes]) {
            *count = count.checked_add(more).ok_or(HeadError::Large)?;
        }
        self.nodes.extend_from_slice(&record.write());
        Ok(())
    }

    /// Appends to the text; where it stands there.
    fn text(&mut self, text: &[u8]) -> Result<u32, HeadError> {
        let at = u32::try_from(self.text.len()).map_err(|_| HeadError::Large)?;
        self.text.extend_from_slice(text);
        Ok(at)
    }

    fn into_bytes(self) -> Result<Bytes, HeadError> {
        let text_bytes = u32::try_from(self.text.len()).map_err(|_| HeadError::Large)?;
        let mut head = Vec::with_capacity(HEADER_BYTES);
        head.extend_from_slice(MAGIC);
        let [nodes, entries, xattrs, hashes] = self.counts;
        for field in [FORMAT, nodes, entries, xattrs, hashes, text_bytes, 0] {
            head.extend_from_slice(&field.to_le_bytes());
        }
        head.resize(HEADER_BYTES, 0);
        for table in [self.nodes, self.entries, self.xattrs, self.hashes, self.text] {
            head.extend_from_slice(&table);
        }
        Ok(head.into())
    }
}
