//! The one check that turns bytes into a [`Head`](super::Head). After it nothing else is checked.
//!
//! The format has one way to write each tree: records lie in the order of their indices, without
//! gaps, directories before what is in them. So the check is one pass over each table, and a tree
//! cannot contain a cycle, an orphan or a part that two directories claim.

use super::head::Head;
use super::layout::{
    ENTRY_BYTES, EntryRecord, FORMAT, Fields, FileIndex, HEADER_BYTES, INLINE_BLOCKS_MAX, Kind, MAGIC, NODE_BYTES,
    NodeRecord, PAGE_BLOCKS, XATTR_BYTES, XattrRecord,
};
use crate::block::{Hash, Root, block_count};

/// Why bytes are not a head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("this is not the head of a manifest")]
    Magic,
    #[error("the manifest has format {0}; this icbd reads format {FORMAT}")]
    Format(u32),
    #[error("the manifest's head is larger than {} MiB", Head::BYTES_MAX >> 20)]
    Large,
    #[error("the manifest's head has {found} bytes, its header says {expected}")]
    Length { expected: u64, found: u64 },
    #[error("the manifest's head has root {found} instead of {expected}")]
    OtherRoot { expected: Root, found: Root },
    #[error("the manifest's head is damaged: node {node}: {what}")]
    Node { node: u32, what: &'static str },
    #[error("the manifest's head is damaged: name {entry}: {what}")]
    Entry { entry: u32, what: &'static str },
    #[error("the manifest's head is damaged: {0}")]
    Damaged(&'static str),
    #[error("a version holds at most {} files", FileIndex::MAX)]
    Nodes,
    #[error("a file of {0} bytes is larger than icbd takes (1 PiB)")]
    FileSize(u64),
}

/// 1 PiB: far above any disk image, and small enough that no sum of offsets overflows.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 50;
const NAME_BYTES_MAX: u32 = 255;
const TARGET_BYTES_MAX: u64 = 4095;
const XATTR_NAME_BYTES_MAX: u32 = 255;
const XATTR_VALUE_BYTES_MAX: u32 = 64 * 1024;

/// Where each table begins, in bytes, and how many records it has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sections {
    pub(super) node_count: u32,
    pub(super) entry_count: u32,
    pub(super) xattr_count: u32,
    pub(super) hash_count: u32,
    pub(super) text_bytes: u32,
    pub(super) nodes: usize,
    pub(super) entries: usize,
    pub(super) xattrs: usize,
    pub(super) hashes: usize,
    pub(super) text: usize,
}

impl Sections {
    pub(super) fn locate(bytes: &[u8]) -> Result<Sections, HeadError> {
        if bytes.len() > Head::BYTES_MAX {
            return Err(HeadError::Large);
        }
        let mut fields = Fields::new(bytes);
        if fields.take(8) != Some(MAGIC.as_slice()) {
            return Err(HeadError::Magic);
        }
        let cut = HeadError::Length { expected: HEADER_BYTES as u64, found: bytes.len() as u64 };
        let mut next = || fields.u32().ok_or(cut.clone());
        let format = next()?;
        if format != FORMAT {
            return Err(HeadError::Format(format));
        }
        let [node_count, entry_count, xattr_count, hash_count, text_bytes, reserved, also_reserved] =
            [next()?, next()?, next()?, next()?, next()?, next()?, next()?];
        if (reserved, also_reserved) != (0, 0) {
            return Err(HeadError::Damaged("a reserved field is not zero"));
        }
        if node_count > FileIndex::MAX {
            return Err(HeadError::Nodes);
        }
        // In 64 bits no sum of 32-bit counts times record sizes overflows.
        let end = |start: u64, count: u32, record: usize| start + u64::from(count) * record as u64;
        let nodes = HEADER_BYTES as u64;
        let entries = end(nodes, node_count, NODE_BYTES);
        let xattrs = end(entries, entry_count, ENTRY_BYTES);
        let hashes = end(xattrs, xattr_count, XATTR_BYTES);
        let text = end(hashes, hash_count, Hash::BYTES);
        let expected = end(text, text_bytes, 1);
        if expected != bytes.len() as u64 {
            return Err(HeadError::Length { expected, found: bytes.len() as u64 });
        }
        let [nodes, entries, xattrs, hashes, text] = [nodes, entries, xattrs, hashes, text].map(|at| at as usize);
        Ok(Sections {
            node_count,
            entry_count,
            xattr_count,
            hash_count,
            text_bytes,
            nodes,
            entries,
            xattrs,
            hashes,
            text,
        })
    }
}

/// Checks every record; the files with pages and the paged blocks before each.
pub(super) fn check(bytes: &[u8], sections: &Sections) -> Result<Vec<(FileIndex, u64)>, HeadError> {
    // The length was proved when the sections were located, so this is smaller than the head itself.
    let links = vec![0; sections.node_count as usize];
    let mut check = Check { bytes, sections, entry: 0, xattr: 0, hash: 0, links };
    let mut paged = Vec::new();
    let mut paged_blocks = 0;
    let nodes = bytes[sections.nodes..sections.entries].as_chunks::<NODE_BYTES>().0;
    for (index, record_bytes) in (0..).zip(nodes) {
        let record = NodeRecord::read(record_bytes);
        let refuse = |what| HeadError::Node { node: index, what };
        let kind = check.node(index, &record).map_err(refuse)?;
        if record.write() != *record_bytes {
            return Err(refuse("unused bytes are not zero"));
        }
        match kind {
            Kind::File if block_count(record.size) > INLINE_BLOCKS_MAX => {
                paged.push((FileIndex::new(index).ok_or(HeadError::Nodes)?, paged_blocks));
                paged_blocks += block_count(record.size);
            }
            Kind::Directory => check.entries(index, &record)?,
            Kind::File | Kind::Symlink | Kind::CharDevice | Kind::BlockDevice => {}
        }
    }
    check.finish()?;
    Ok(paged)
}

struct Check<'a> {
    bytes: &'a [u8],
    sections: &'a Sections,
    /// The next record of each table that no node has claimed.
    entry: u32,
    xattr: u32,
    hash: u32,
    /// Names seen for each node; of a directory also its subdirectories.
    links: Vec<u32>,
}

impl<'a> Check<'a> {
    fn node(&mut self, index: u32, record: &NodeRecord) -> Result<Kind, &'static str> {
        let kind = Kind::from_u8(record.kind).ok_or("its kind is unknown")?;
        if index == 0 && (kind != Kind::Directory || record.parent != 0) {
            return Err("the root is not a directory");
        }
        if record.mode > 0o7777 {
            return Err("its mode has unknown bits");
        }
        if record.nanoseconds >= 1_000_000_000 {
            return Err("its time is not one");
        }
        if record.rdev != 0 && !matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            return Err("a device number on what is no device");
        }
        if record.parent != 0 && kind != Kind::Directory {
            return Err("a parent on what is no directory");
        }
        self.xattrs(index, record)?;
        match kind {
            Kind::File => self.hashes(record)?,
            Kind::Directory if record.size == 0 => {}
            Kind::Symlink => self.target(record)?,
            Kind::CharDevice | Kind::BlockDevice if (record.size, record.first, record.count) == (0, 0, 0) => {}
            Kind::Directory | Kind::CharDevice | Kind::BlockDevice => return Err("it has a size and cannot"),
        }
        Ok(kind)
    }

    fn hashes(&mut self, record: &NodeRecord) -> Result<(), &'static str> {
        if record.size > FILE_BYTES_MAX {
            return Err("its size is absurd");
        }
        let blocks = block_count(record.size);
        let expected = if blocks <= INLINE_BLOCKS_MAX { blocks } else { blocks.div_ceil(PAGE_BLOCKS) };
        if record.first != self.hash || u64::from(record.count) != expected {
            return Err("its hashes are not where they belong");
        }
        self.hash = self.hash.checked_add(record.count).ok_or("it has too many hashes")?;
        if self.hash > self.sections.hash_count { Err("its hashes are missing") } else { Ok(()) }
    }

    fn target(&self, record: &NodeRecord) -> Result<(), &'static str> {
        if !(1..=TARGET_BYTES_MAX).contains(&record.size) || record.count != 0 {
            return Err("its target is empty or too long");
        }
        let target = self.text(record.first, record.size as u32).ok_or("its target is missing")?;
        if target.contains(&0) { Err("its target contains a zero byte") } else { Ok(()) }
    }

    fn xattrs(&mut self, index: u32, record: &NodeRecord) -> Result<(), &'static str> {
        if record.xattr_first != self.xattr {
            return Err("its attributes are not where they belong");
        }
        self.xattr = self.xattr.checked_add(record.xattr_count).ok_or("it has too many attributes")?;
        if self.xattr > self.sections.xattr_count {
            return Err("its attributes are missing");
        }
        let mut previous: &[u8] = &[];
        for position in record.xattr_first..self.xattr {
            let at = self.sections.xattrs + position as usize * XATTR_BYTES;
            let xattr = XattrRecord::read(self.bytes[at..].first_chunk().ok_or("its attributes are missing")?);
            if xattr.node != index {
                return Err("an attribute belongs to another node");
            }
            if !(1..=XATTR_NAME_BYTES_MAX).contains(&xattr.name_len) || xattr.value_len > XATTR_VALUE_BYTES_MAX {
                return Err("an attribute's name or value is too long");
            }
            let text = self.text(xattr.text_at, xattr.name_len + xattr.value_len).ok_or("an attribute is missing")?;
            let name = &text[..xattr.name_len as usize];
            if name.contains(&0) || name <= previous {
                return Err("its attributes are not in order");
            }
            previous = name;
        }
        Ok(())
    }

    /// The names of directory `index`: in order, each once, and of subdirectories the only one.
    fn entries(&mut self, index: u32, record: &NodeRecord) -> Result<(), HeadError> {
        let refuse = |what| HeadError::Node { node: index, what };
        if record.first != self.entry {
            return Err(refuse("its names are not where they belong"));
        }
        self.entry = self.entry.checked_add(record.count).ok_or(refuse("it has too many names"))?;
        if self.entry > self.sections.entry_count {
            return Err(refuse("its names are missing"));
        }
        let mut previous: &[u8] = &[];
        for position in record.first..self.entry {
            let name = self.entry(index, position);
            let name = name.map_err(|what| HeadError::Entry { entry: position, what })?;
            if name <= previous {
                return Err(HeadError::Entry { entry: position, what: "it is not in order" });
            }
            previous = name;
        }
        Ok(())
    }

    /// Checks one name of directory `directory` and counts what it means.
    fn entry(&mut self, directory: u32, position: u32) -> Result<&'a [u8], &'static str> {
        let at = self.sections.entries + position as usize * ENTRY_BYTES;
        let record = EntryRecord::read(self.bytes[at..].first_chunk().ok_or("it is missing")?);
        if !(1..=NAME_BYTES_MAX).contains(&record.name_len) || record.reserved != 0 {
            return Err("it is empty or too long");
        }
        let name = self.text(record.name_at, record.name_len).ok_or("its text is missing")?;
        if name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
            return Err("it is not the name of a file");
        }
        let child = self.node_record(record.node).ok_or("it means a node that is not there")?;
        if child.kind == Kind::Directory.to_u8() {
            // Directories come after the one they are in, and have one name: no cycle can be written.
            if record.node <= directory || child.parent != directory || self.links[record.node as usize] != 0 {
                return Err("it means a directory that is elsewhere");
            }
            self.links[directory as usize] += 1;
            self.links[record.node as usize] += 1;
        }
        self.links[record.node as usize] += 1;
        Ok(name)
    }

    /// Every table used to its end, every node reachable, every link counted.
    fn finish(&self) -> Result<(), HeadError> {
        if self.sections.node_count == 0 {
            return Err(HeadError::Damaged("it has no root directory"));
        }
        if (self.entry, self.xattr, self.hash)
            != (self.sections.entry_count, self.sections.xattr_count, self.sections.hash_count)
        {
            return Err(HeadError::Damaged("something in it belongs to no file"));
        }
        for (index, links) in (0..).zip(&self.links) {
            // The root has no name; its "." and ".." are itself.
            let found = if index == 0 { links + 2 } else { *links };
            let record = self.node_record(index).ok_or(HeadError::Damaged("a node is missing"))?;
            if found == 0 || record.links != found {
                return Err(HeadError::Node { node: index, what: "its names do not add up" });
            }
        }
        Ok(())
    }

    fn node_record(&self, index: u32) -> Option<NodeRecord> {
        let nodes = &self.bytes[self.sections.nodes..self.sections.entries];
        nodes.as_chunks::<NODE_BYTES>().0.get(index as usize).map(NodeRecord::read)
    }

    fn text(&self, at: u32, len: u32) -> Option<&'a [u8]> {
        let end = u64::from(at) + u64::from(len);
        if end > u64::from(self.sections.text_bytes) {
            return None;
        }
        let start = self.sections.text + at as usize;
        self.bytes.get(start..start + len as usize)
    }
}
