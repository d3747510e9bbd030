//! Gives a tree everything that a manifest says of it besides the content of its files: the empty ones, further names,
//! links and devices, and of all of them owners, modes, times and extended attributes.
//!
//! What holds the content of a version while it is filled has directories and files with data only. This makes it the
//! tree that was published.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use icbd_image::{FileIndex, Head, Kind, Node};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::attributes::Attributes;
use crate::beneath::{Beneath, device_number, join};
use crate::trees::beneath;
use crate::{SnapshotError, Tree, Writable};

/// A name of a manifest in an open directory.
struct Name<'a> {
    node: Node<'a>,
    directory: BorrowedFd<'a>,
    name: &'a [u8],
    /// From the top of the tree.
    inside: &'a [u8],
    /// The node's first name, from the top of the tree, if this is another one.
    first: Option<&'a [u8]>,
}

/// Makes the directories of a manifest and its files with data, each a hole of its size; where each of these files is. What
/// is there already stays.
pub fn lay_out(tree: &Writable, head: &Head) -> Result<HashMap<FileIndex, Vec<u8>>, SnapshotError> {
    let tree = beneath(tree).map_err(SnapshotError::io("open", tree.path()))?;
    let has_data = |node: &Node<'_>| node.kind() == Kind::File && node.size() > 0;
    let mut named = walk(&tree, head, |at| {
        let made = match at.node.kind() {
            _ if at.first.is_some() => Ok(()),
            Kind::Directory => make(&at.node, at.directory, at.name),
            _ if has_data(&at.node) => {
                let file = open_new(at.directory, at.name);
                file.and_then(|file| rustix::fs::ftruncate(file, at.node.size()))
            }
            _ => Ok(()),
        };
        made.map_err(failed(&tree, "create", at.inside))
    })?;
    named.retain(|index, _| head.node(*index).is_some_and(|node| has_data(&node)));
    Ok(named)
}

/// Makes a tree that was laid out, and whose files hold their data, what the manifest says. What is there already stays; a
/// link or device is made anew.
pub fn furnish(tree: &Writable, head: &Head) -> Result<(), SnapshotError> {
    let tree = beneath(tree).map_err(SnapshotError::io("open", tree.path()))?;
    let named = walk(&tree, head, |at| match at.first {
        Some(first) => {
            remove_name(at.directory, at.name).map_err(failed(&tree, "remove", at.inside))?;
            let linked = rustix::fs::linkat(tree.root(), first, at.directory, at.name, AtFlags::empty());
            linked.map_err(failed(&tree, "create", at.inside))
        }
        None => {
            make(&at.node, at.directory, at.name).map_err(failed(&tree, "create", at.inside))?;
            match at.node.kind() {
                Kind::Directory => Ok(()),
                _ => attributes(&tree, &at.node, at.directory, at.name, at.inside),
            }
        }
    })?;
    // Once nothing more is put into them, and each before the one it is in.
    let directories: Vec<Node<'_>> = head.nodes().filter(|node| node.kind() == Kind::Directory).collect();
    for directory in directories.iter().rev() {
        let inside = &named[&directory.index()];
        let opened = tree.directory(inside).map_err(failed(&tree, "open", inside))?;
        attributes(&tree, directory, opened.as_fd(), b"", inside)?;
    }
    Ok(())
}

/// Comes by all names of a manifest, each directory before what is in it; the first name of each node.
fn walk(
    tree: &Beneath,
    head: &Head,
    mut each: impl FnMut(Name<'_>) -> Result<(), SnapshotError>,
) -> Result<HashMap<FileIndex, Vec<u8>>, SnapshotError> {
    let mut named: HashMap<FileIndex, Vec<u8>> = HashMap::from([(FileIndex::ROOT, Vec::new())]);
    for directory in head.nodes().filter(|node| node.kind() == Kind::Directory) {
        let above = named[&directory.index()].clone();
        let opened = tree.directory(&above).map_err(failed(tree, "open", &above))?;
        for entry in head.entries(directory.index(), 0) {
            let Some(node) = head.node(entry.node) else { continue };
            let inside = join(&above, entry.name);
            let first = named.get(&entry.node).map(|first| &**first);
            each(Name { node, directory: opened.as_fd(), name: entry.name, inside: &inside, first })?;
            named.entry(entry.node).or_insert(inside);
        }
    }
    Ok(named)
}

fn attributes(
    tree: &Beneath,
    node: &Node<'_>,
    directory: BorrowedFd<'_>,
    name: &[u8],
    inside: &[u8],
) -> Result<(), SnapshotError> {
    let xattrs = node.xattrs().map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec())).collect();
    let attributes = Attributes { metadata: node.metadata(), xattrs };
    attributes.apply(directory, name, node.kind() == Kind::Symlink).map_err(|refused| SnapshotError::Attribute {
        path: tree.shown(inside),
        what: refused.what,
        source: refused.source.into(),
    })
}

fn failed(tree: &Beneath, doing: &'static str, inside: &[u8]) -> impl FnOnce(Errno) -> SnapshotError + use<> {
    let path = tree.shown(inside);
    move |errno| SnapshotError::io(doing, path)(errno)
}

fn make(node: &Node<'_>, directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let device = |kind| {
        remove_name(directory, name)?;
        rustix::fs::mknodat(directory, name, kind, Mode::RUSR | Mode::WUSR, device_number(node.rdev()))
    };
    match node.kind() {
        Kind::Directory => match rustix::fs::mkdirat(directory, name, Mode::RWXU) {
            Err(Errno::EXIST) => Ok(()),
            made => made,
        },
        // What has data is there, or the tree is not whole.
        Kind::File if node.size() > 0 => Ok(()),
        Kind::File => open_new(directory, name).map(drop),
        Kind::Symlink => {
            remove_name(directory, name)?;
            rustix::fs::symlinkat(node.target().unwrap_or_default(), directory, name)
        }
        Kind::CharDevice => device(FileType::CharacterDevice),
        Kind::BlockDevice => device(FileType::BlockDevice),
    }
}

fn open_new(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
}

fn remove_name(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}
