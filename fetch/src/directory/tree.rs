//! Where the files of a version are on disk.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use icbd_image::{FileIndex, Hash, Head, Kind};

/// A version's folder and head, and how to find a file's name from its index.
#[derive(Debug)]
pub(super) struct Tree {
    folder: PathBuf,
    head: Head,
    /// For each regular file one of the directories it is in, and its name-table position there.
    names: HashMap<FileIndex, (FileIndex, u32)>,
}

impl Tree {
    pub(super) fn new(folder: PathBuf, head: Head) -> Tree {
        let mut names = HashMap::new();
        for directory in head.nodes().filter(|node| node.kind() == Kind::Directory) {
            for entry in head.entries(directory.index(), 0) {
                names.insert(entry.node, (directory.index(), entry.position));
            }
        }
        Tree { folder, head, names }
    }

    /// The path of a regular file of this size.
    pub(super) fn path(&self, file: FileIndex, file_bytes: u64) -> Option<PathBuf> {
        self.head.node(file).filter(|node| node.kind() == Kind::File && node.size() == file_bytes)?;
        let mut names = Vec::new();
        let mut node = file;
        // The head was checked: its directories are a tree, so this ends at the root.
        while node != FileIndex::ROOT {
            let (directory, position) = *self.names.get(&node)?;
            names.push(self.head.entries(directory, position).next()?.name);
            node = directory;
        }
        let mut path = self.folder.clone();
        path.extend(names.into_iter().rev().map(OsStr::from_bytes));
        Some(path)
    }

    /// Where a page is in the version's `.pages` file: offset and length in bytes.
    pub(super) fn page(&self, file: FileIndex, page: u64) -> Option<(u64, usize)> {
        let node = self.head.node(file)?;
        Some((node.page_offset(page)?, node.page_blocks(page) as usize * Hash::BYTES))
    }
}
