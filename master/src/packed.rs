//! Runs that are packed once, when a version is published, and kept on the disk for everyone who fetches it.
//!
//! Packing takes the processors more time than a fast line takes to carry the result. What is kept here can go at any
//! moment: it is packed anew then. A run is found by the hashes of its blocks, so what versions share is kept once, and is
//! what the manifest says, whatever became of the tree since. What a disk made of it is found out before it is sent.

mod file;
mod pass;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use icbd_image::{Hash, Root};

use file::{Entry, PackedFile, Writing};

/// What is kept of packed runs.
#[derive(Debug)]
pub(crate) struct PackedRuns {
    folder: PathBuf,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The oldest first.
    files: BTreeMap<u64, Arc<PackedFile>>,
    places: HashMap<Key, Place>,
    /// Versions of which all is packed.
    complete: HashSet<Root>,
}

/// The blocks of a run, by their hashes.
type Key = [u8; 16];

#[derive(Debug, Clone, Copy)]
struct Place {
    file: u64,
    entry: Entry,
}

/// What is known of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its frames.
    Frames(Bytes),
    /// It does not shrink: nobody has to try.
    AsItIs,
}

fn key(hashes: &[Hash]) -> Key {
    let mut all = Vec::with_capacity(hashes.len() * Hash::BYTES);
    hashes.iter().for_each(|hash| all.extend_from_slice(hash.as_bytes()));
    *Hash::of(&all).as_bytes().first_chunk().expect("a hash is longer")
}

impl PackedRuns {
    /// With what is in the folder. What is cut short or damaged there is removed: it is packed anew.
    pub(crate) fn open(folder: PathBuf) -> io::Result<PackedRuns> {
        let packed = PackedRuns { folder, inner: RwLock::default() };
        let entries = match std::fs::read_dir(&packed.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(packed),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            match PackedFile::open(&path) {
                Ok((file, entries)) => packed.add(file, entries),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "what was packed before is packed anew");
                    std::fs::remove_file(&path)?;
                }
            }
        }
        Ok(packed)
    }

    /// What is kept of a run with these blocks.
    pub(crate) fn get(&self, hashes: &[Hash]) -> Option<Found> {
        let (place, file) = {
            let inner = self.read();
            if inner.places.is_empty() {
                return None;
            }
            let place = *inner.places.get(&key(hashes))?;
            (place, inner.files.get(&place.file)?.clone())
        };
        if place.entry.does_not_shrink() {
            return Some(Found::AsItIs);
        }
        match file.read(&place.entry) {
            Ok(frames) => Some(Found::Frames(frames)),
            Err(error) => {
                tracing::warn!(path = %file.path().display(), %error, "what was packed before is packed anew");
                let mut inner = self.write();
                inner.places.remove(&key(hashes));
                inner.complete.clear();
                None
            }
        }
    }

    pub(crate) fn has(&self, hashes: &[Hash]) -> bool {
        self.read().places.contains_key(&key(hashes))
    }

    /// On the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.read().files.values().map(|file| file.bytes()).sum()
    }

    /// Removes what was packed for a version that is gone.
    pub(crate) fn forget(&self, root: &Root) {
        self.remove(|file| file.root() == *root);
    }

    fn remove(&self, is_gone: impl Fn(&PackedFile) -> bool) {
        let mut inner = self.write();
        let gone: Vec<u64> = inner.files.iter().filter(|(_, file)| is_gone(file)).map(|(number, _)| *number).collect();
        for number in gone {
            let Some(file) = inner.files.remove(&number) else { continue };
            // Others may have had it in common.
            inner.complete.clear();
            inner.places.retain(|_, place| place.file != number);
            if let Err(error) = std::fs::remove_file(file.path()) {
                tracing::warn!(path = %file.path().display(), %error, "cannot remove what was packed");
            }
        }
    }

    fn add(&self, file: PackedFile, entries: Vec<(Key, Entry)>) {
        let mut inner = self.write();
        let number = file.number();
        inner.places.extend(entries.into_iter().map(|(key, entry)| (key, Place { file: number, entry })));
        inner.files.insert(number, Arc::new(file));
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins a file for a version; one at a time.
    fn begin(&self, root: &Root) -> io::Result<Writing> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let number = self.read().files.last_key_value().map_or(1, |(number, _)| number + 1);
        Writing::begin(&self.folder, number, root)
    }

    /// What is in a file can be found from now on.
    fn end(&self, writing: Writing) -> io::Result<()> {
        if let Some((file, entries)) = writing.finish()? {
            self.add(file, entries);
        }
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}
