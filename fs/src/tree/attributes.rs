//! What `stat` says of a node.

use icbd_image::{Hash, Kind, Node, NodeId, PAGE_BLOCKS, Timestamp};

use super::Place;

/// The types a node can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeKind {
    File,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
}

/// A node's attributes, exactly as published where a version is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) id: NodeId,
    pub(crate) kind: NodeKind,
    /// Permission bits: 0 to 0o7777.
    pub(crate) mode: u16,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    /// Bytes.
    pub(crate) size: u64,
    /// In units of 512 bytes: without the parts that the head itself knows to be zero, so that `cp`
    /// and `tar` see a sparse file as one.
    pub(crate) sectors: u64,
    pub(crate) mtime: Timestamp,
}

/// Of the mount's root: images hold secrets, and exports run as root.
const MOUNT_MODE: u16 = 0o750;
/// Of an image's directory; who may enter the root may see what there is.
const IMAGE_MODE: u16 = 0o755;
/// Of a version's directory while its head could not be had.
const UNLOADED_MODE: u16 = 0o555;
const LINK_MODE: u16 = 0o777;
const SECTOR_BYTES: u64 = 512;
const BLOCK_SECTORS: u64 = icbd_image::BLOCK_BYTES / SECTOR_BYTES;

impl Place<'_> {
    pub(crate) fn attributes(&self) -> Attributes {
        let base = Attributes {
            id: self.id(),
            kind: NodeKind::Directory,
            mode: IMAGE_MODE,
            links: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            sectors: 0,
            mtime: Timestamp::default(),
        };
        match self {
            Place::Mount(images) => Attributes {
                mode: MOUNT_MODE,
                links: directory_links(images.len()),
                mtime: images.iter().map(|image| image.changed).max().unwrap_or_default(),
                ..base
            },
            Place::Image(image) => {
                Attributes { links: directory_links(image.versions.len()), mtime: image.changed, ..base }
            }
            Place::Current(image, number) => Attributes {
                kind: NodeKind::Symlink,
                mode: LINK_MODE,
                links: 1,
                size: number.to_string().len() as u64,
                mtime: image.changed,
                ..base
            },
            Place::Unloaded(_, version) => {
                Attributes { mode: UNLOADED_MODE, mtime: version.statement.statement().time, ..base }
            }
            Place::Inside(it) => of_node(&it.node, base),
        }
    }
}

fn of_node(node: &Node<'_>, base: Attributes) -> Attributes {
    let metadata = node.metadata();
    Attributes {
        id: base.id,
        kind: node.kind().into(),
        mode: metadata.mode,
        links: node.links(),
        uid: metadata.uid,
        gid: metadata.gid,
        rdev: node.rdev(),
        size: node.size(),
        sectors: sectors(node),
        mtime: metadata.mtime,
    }
}

fn sectors(node: &Node<'_>) -> u64 {
    let blocks = if node.is_paged() {
        (0..node.pages()).filter(|page| !is_zero(node.page_hash(*page))).map(|page| node.page_blocks(page)).sum()
    } else {
        (0..node.blocks()).filter(|block| !is_zero(node.inline_hash(*block))).count() as u64
    };
    debug_assert!(blocks <= node.pages().max(1) * PAGE_BLOCKS);
    (blocks * BLOCK_SECTORS).min(node.size().div_ceil(SECTOR_BYTES))
}

fn is_zero(hash: Option<Hash>) -> bool {
    hash.is_some_and(|hash| hash.is_zero())
}

/// A directory's own two names and `..` of each directory in it.
fn directory_links(directories: usize) -> u32 {
    u32::try_from(directories).unwrap_or(u32::MAX - 2).saturating_add(2)
}

impl From<Kind> for NodeKind {
    fn from(kind: Kind) -> NodeKind {
        match kind {
            Kind::File => NodeKind::File,
            Kind::Directory => NodeKind::Directory,
            Kind::Symlink => NodeKind::Symlink,
            Kind::CharDevice => NodeKind::CharDevice,
            Kind::BlockDevice => NodeKind::BlockDevice,
        }
    }
}
