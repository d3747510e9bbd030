//! Gives a tree everything that a manifest says of it besides the content of its files: the empty ones, further names,
//! links and devices, and of all of them owners, modes, times and extended attributes.
//!
//! What holds the content of a version while it is filled has directories and files with data only. This makes it the
//! tree that was published.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

use icbd_image::{FileIndex, Head, Kind, Node};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::attributes::Attributes;
use crate::beneath::{Beneath, device_number, join};
use crate::trees::beneath;
use crate::{SnapshotError, Tree, Writable};

/// Makes a tree that holds the directories of a manifest, and its files with data, what the manifest says. What is there
/// already stays; a link or device is made anew.
pub fn furnish(tree: &Writable, head: &Head) -> Result<(), SnapshotError> {
    let tree = beneath(tree).map_err(SnapshotError::io("open", tree.path()))?;
    let mut furnishing = Furnishing { tree, named: HashMap::from([(FileIndex::ROOT, Vec::new())]) };
    let directories: Vec<Node<'_>> = head.nodes().filter(|node| node.kind() == Kind::Directory).collect();
    for directory in &directories {
        furnishing.entries(head, directory)?;
    }
    // Once nothing more is put into them, and each before the one it is in.
    for directory in directories.iter().rev() {
        let inside = furnishing.named[&directory.index()].clone();
        let opened = furnishing.tree.directory(&inside).map_err(furnishing.failed("open", &inside))?;
        furnishing.attributes(directory, opened.as_fd(), b"", &inside)?;
    }
    Ok(())
}

struct Furnishing {
    tree: Beneath,
    /// The first name of each node that was come across.
    named: HashMap<FileIndex, Vec<u8>>,
}

impl Furnishing {
    fn entries(&mut self, head: &Head, directory: &Node<'_>) -> Result<(), SnapshotError> {
        let above = self.named[&directory.index()].clone();
        let opened = self.tree.directory(&above).map_err(self.failed("open", &above))?;
        for entry in head.entries(directory.index(), 0) {
            let Some(node) = head.node(entry.node) else { continue };
            let inside = join(&above, entry.name);
            match self.named.get(&entry.node) {
                Some(first) => {
                    remove_name(opened.as_fd(), entry.name).map_err(self.failed("remove", &inside))?;
                    let linked = rustix::fs::linkat(self.tree.root(), &**first, &opened, entry.name, AtFlags::empty());
                    linked.map_err(self.failed("create", &inside))?;
                }
                None => {
                    make(&node, opened.as_fd(), entry.name).map_err(self.failed("create", &inside))?;
                    if node.kind() != Kind::Directory {
                        self.attributes(&node, opened.as_fd(), entry.name, &inside)?;
                    }
                    self.named.insert(entry.node, inside);
                }
            }
        }
        Ok(())
    }

    fn attributes(
        &self,
        node: &Node<'_>,
        directory: BorrowedFd<'_>,
        name: &[u8],
        inside: &[u8],
    ) -> Result<(), SnapshotError> {
        let xattrs = node.xattrs().map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec())).collect();
        let attributes = Attributes { metadata: node.metadata(), xattrs };
        attributes.apply(directory, name, node.kind() == Kind::Symlink).map_err(|refused| SnapshotError::Attribute {
            path: self.tree.shown(inside),
            what: refused.what,
            source: refused.source.into(),
        })
    }

    fn failed(&self, doing: &'static str, inside: &[u8]) -> impl FnOnce(Errno) -> SnapshotError + use<> {
        let path = self.tree.shown(inside);
        move |errno| SnapshotError::io(doing, path)(errno)
    }
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
        Kind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR).map(drop)
        }
        Kind::Symlink => {
            remove_name(directory, name)?;
            rustix::fs::symlinkat(node.target().unwrap_or_default(), directory, name)
        }
        Kind::CharDevice => device(FileType::CharacterDevice),
        Kind::BlockDevice => device(FileType::BlockDevice),
    }
}

fn remove_name(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}
