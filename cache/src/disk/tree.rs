//! The part of a version's tree that a filling store needs: directories, and files that have data.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use icbd_image::{FileIndex, Head, Kind};

/// Where each directory and each file with data is. A file of several names is under the first.
///
/// Links, devices, owners, modes and empty files are no data: the head has them, and they are made
/// when a version is sealed. So nothing that is half filled can be run, or opened by its name.
#[derive(Debug)]
pub(crate) struct Tree {
    head: Head,
    /// For each node of the head: the directory it is in and its name's place in the name table.
    places: Vec<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    directory: FileIndex,
    /// `NOWHERE` for the root.
    position: u32,
}

const NOWHERE: u32 = u32::MAX;

impl Tree {
    pub(crate) fn new(head: Head) -> Tree {
        let nowhere = Place { directory: FileIndex::ROOT, position: NOWHERE };
        let mut places = vec![nowhere; head.node_count() as usize];
        for directory in head.nodes().filter(|node| node.kind() == Kind::Directory) {
            for entry in head.entries(directory.index(), 0) {
                let place = &mut places[entry.node.get() as usize];
                if place.position == NOWHERE {
                    *place = Place { directory: directory.index(), position: entry.position };
                }
            }
        }
        Tree { head, places }
    }

    /// A node's path below the version's root.
    pub(crate) fn path(&self, index: FileIndex) -> PathBuf {
        let mut names = Vec::new();
        let mut at = index;
        while let Some(place) = self.places.get(at.get() as usize).filter(|place| place.position != NOWHERE) {
            names.extend(self.head.entries(place.directory, place.position).next().map(|entry| entry.name));
            at = place.directory;
        }
        names.iter().rev().map(|name| Path::new(OsStr::from_bytes(name))).collect()
    }

    /// The directories, each after the one it is in, the root left out.
    pub(crate) fn directories(&self) -> impl Iterator<Item = FileIndex> + '_ {
        let directories = self.head.nodes().filter(|node| node.kind() == Kind::Directory);
        directories.map(|node| node.index()).filter(|index| *index != FileIndex::ROOT)
    }

    /// The files that have data, with their sizes.
    pub(crate) fn files(&self) -> impl Iterator<Item = (FileIndex, u64)> + '_ {
        self.head.files().filter(|file| file.size() > 0).map(|file| (file.index(), file.size()))
    }
}
