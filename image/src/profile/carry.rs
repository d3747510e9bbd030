//! A profile for another version of the image: the same paths, the same positions.

use std::collections::{BTreeSet, HashMap};

use super::{Observation, Origin, Profile, Touch};
use crate::{FileIndex, Head, Kind};

impl Profile {
    /// What this profile, of the version with head `old`, lets expect of the version with head `new`.
    ///
    /// By path and position, whether or not a block's content changed: an upgrade rewrites a file system's
    /// tables where they are. Files that are gone and what is past the new end of a file are left out. All
    /// of it is marked as carried, so it counts only until the version has observations of its own.
    pub fn carry(&self, old: &Head, new: &Head) -> Profile {
        let mut carried = Profile::new(new.root());
        if old.root() != self.root {
            return carried;
        }
        let files: BTreeSet<FileIndex> =
            self.observations().flat_map(Observation::touches).map(|touch| touch.file).collect();
        let places = counterparts(&files, old, new);
        for seen in self.observations() {
            let touches = seen.touches().iter().filter_map(|touch| {
                let (file, blocks) = *places.get(&touch.file)?;
                let count = touch.end().min(blocks).checked_sub(touch.first).filter(|count| *count > 0)?;
                Some(Touch { file, count: count as u32, ..*touch })
            });
            let moved = Observation::new(seen.site(), seen.started(), Origin::Carried, touches);
            if !moved.touches().is_empty() {
                carried.insert(moved);
            }
        }
        carried
    }
}

/// For each of `files` of `old` the file of the same path in `new`, and its blocks. Of a file's names the first counts.
fn counterparts(files: &BTreeSet<FileIndex>, old: &Head, new: &Head) -> HashMap<FileIndex, (FileIndex, u64)> {
    let mut found = HashMap::new();
    // Directories come after those they are in, so the way to each is known when it is met.
    let mut directories: HashMap<FileIndex, FileIndex> = HashMap::from([(FileIndex::ROOT, FileIndex::ROOT)]);
    for directory in old.nodes().filter(|node| node.kind() == Kind::Directory).map(|node| node.index()) {
        let Some(same) = directories.get(&directory).copied() else { continue };
        for entry in old.entries(directory, 0) {
            let is_directory = old.node(entry.node).is_some_and(|node| node.kind() == Kind::Directory);
            if !is_directory && !files.contains(&entry.node) {
                continue;
            }
            let Some(node) = new.lookup(same, entry.name).and_then(|index| new.node(index)) else { continue };
            match node.kind() {
                Kind::Directory if is_directory => drop(directories.insert(entry.node, node.index())),
                Kind::File => drop(found.entry(entry.node).or_insert((node.index(), node.blocks()))),
                _ => {}
            }
        }
    }
    found
}
