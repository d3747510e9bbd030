//! Comparing a stored tree's names and attributes with its head.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use icbd_image::{FileIndex, Kind, Node};
use icbd_snapshot::attributes::{Attributes, Keep};
use icbd_snapshot::beneath::{Stat, join, names};
use rustix::fs::FileType;

use super::{FaultKind, Faults};
use crate::MasterError;
use crate::serve::OpenVersion;

/// Finds names that are missing or extra, and nodes whose attributes are not the published ones.
pub(super) fn check(opened: &OpenVersion, faults: &Faults) -> Result<(), MasterError> {
    let head = opened.head();
    let root = opened.tree().root();
    if let Some(node) = head.node(FileIndex::ROOT) {
        attributes(root, b"", &node, b"", faults);
    }
    for directory in head.nodes().filter(|node| node.kind() == Kind::Directory) {
        let inside = opened.path(directory.index());
        // Reported where its own name was looked at.
        let Ok(stored) = opened.tree().directory(&inside) else { continue };
        let found = names(stored.as_fd()).map_err(MasterError::io("list", opened.tree().shown(&inside)))?;
        let mut found: BTreeSet<Vec<u8>> = found.into_iter().collect();
        for entry in head.entries(directory.index(), 0) {
            let path = join(&inside, entry.name);
            match head.node(entry.node) {
                Some(node) if found.remove(entry.name) => attributes(stored.as_fd(), entry.name, &node, &path, faults),
                _ => faults.add(&path, FaultKind::Missing),
            }
        }
        found.iter().for_each(|name| faults.add(&join(&inside, name), FaultKind::Extra));
    }
    Ok(())
}

fn attributes(directory: BorrowedFd<'_>, name: &[u8], node: &Node<'_>, path: &[u8], faults: &Faults) {
    match difference(directory, name, node) {
        Ok(None) => {}
        Ok(Some(what)) => faults.add(path, FaultKind::Differs(what)),
        Err(_) => faults.add(path, FaultKind::Missing),
    }
}

/// In what the stored node is not as published.
fn difference(directory: BorrowedFd<'_>, name: &[u8], node: &Node<'_>) -> rustix::io::Result<Option<&'static str>> {
    let stat = Stat::at(directory, name)?;
    let kind = match stat.kind() {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => return Ok(Some("kind")),
    };
    let found = Attributes::read(directory, name, &stat, Keep::Meaning)?;
    let expected = node.metadata();
    let xattrs = node.xattrs().map(|xattr| (xattr.name, xattr.value));
    let target = match kind {
        Kind::Symlink => Some(rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes()),
        _ => None,
    };
    Ok(if kind != node.kind() {
        Some("kind")
    } else if kind == Kind::File && stat.size() != node.size() {
        Some("size")
    } else if target.as_deref() != node.target() {
        Some("target")
    } else if node.rdev() != 0 && stat.rdev() != node.rdev() {
        Some("device number")
    } else if (found.metadata.uid, found.metadata.gid) != (expected.uid, expected.gid) {
        Some("owner")
    } else if found.metadata.mode != expected.mode {
        Some("mode")
    } else if found.metadata.mtime != expected.mtime {
        Some("time")
    } else if !xattrs.eq(found.xattrs.iter().map(|(name, value)| (&**name, &**value))) {
        Some("set of extended attributes")
    } else if kind != Kind::Directory && stat.links() != node.links() {
        Some("number of links")
    } else {
        None
    })
}
