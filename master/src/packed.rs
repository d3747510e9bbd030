//! Runs that are packed once, when a version is published, and kept on the disk for everyone who fetches it.
//!
//! Packing takes the processors more time than a fast line takes to carry the result. What is kept here can go at any
//! moment: it is packed anew then. A run is found by the hashes of its blocks, so what versions share is kept once, and is
//! what the manifest says, whatever became of the tree since. What a disk made of it is found out before it is sent.

mod file;
mod pass;
mod version;

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
    /// Counts what went.
    losses: u64,
    /// Of the newest file there ever was.
    last_number: u64,
}

/// The blocks of a run, by their hashes, and what they were packed against.
type Key = [u8; 16];

#[derive(Debug, Clone, Copy)]
struct Place {
    file: u64,
    entry: Entry,
}

/// Keys of runs that were packed against a version begin with it, and with the version's root.
const AGAINST: &[u8] = b"against";

/// What is known of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its frames.
    Frames(Bytes),
    /// It does not shrink, or not by what it is packed against: nobody has to try.
    AsItIs,
}

fn key(base: Option<&Root>, hashes: &[Hash]) -> Key {
    let mut all = Vec::with_capacity((hashes.len() + 1) * Hash::BYTES + AGAINST.len());
    if let Some(base) = base {
        all.extend_from_slice(AGAINST);
        all.extend_from_slice(base.as_bytes());
    }
    hashes.iter().for_each(|hash| all.extend_from_slice(hash.as_bytes()));
    *Hash::of(&all).as_bytes().first_chunk().expect("a hash is longer")
}

impl PackedRuns {
    /// With what is in the folder. What is cut short or damaged there is removed: it is packed anew.
    pub(crate) fn open(folder: PathBuf) -> PackedRuns {
        let packed = PackedRuns { folder, inner: RwLock::default() };
        let mut opened = Vec::new();
        let paths = match std::fs::read_dir(&packed.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return packed,
            Err(error) => {
                tracing::warn!(path = %packed.folder.display(), %error, "what was packed before is not used");
                return packed;
            }
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())),
        };
        for path in paths {
            match PackedFile::open(&path) {
                Ok(file) => opened.push(file),
                Err(error) => packed.give_up(&path, &error),
            }
        }
        // What was packed anew is in a later one.
        opened.sort_by_key(|(file, _)| file.number());
        opened.into_iter().for_each(|(file, entries)| packed.add(file, entries));
        packed
    }

    /// Says that a file cannot be used, and removes what nobody ever will.
    fn give_up(&self, path: &Path, error: &io::Error) {
        tracing::warn!(path = %path.display(), %error, "what was packed before is packed anew");
        if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove what was packed");
        }
    }

    /// What is kept of a run with these blocks.
    pub(crate) fn get(&self, hashes: &[Hash]) -> Option<Found> {
        self.find(&key(None, hashes))
    }

    /// The same for who has the version `base`.
    pub(crate) fn get_against(&self, base: &Root, hashes: &[Hash]) -> Option<Found> {
        self.find(&key(Some(base), hashes))
    }

    fn find(&self, key: &Key) -> Option<Found> {
        let (place, file) = {
            let inner = self.read();
            let place = *inner.places.get(key)?;
            (place, inner.files.get(&place.file)?.clone())
        };
        if place.entry.does_not_shrink() {
            return Some(Found::AsItIs);
        }
        match file.read(&place.entry) {
            Ok(frames) => Some(Found::Frames(frames)),
            Err(error) => {
                tracing::warn!(path = %file.path().display(), %error, "what was packed before is packed anew");
                self.remove(|other| other.number() == place.file);
                None
            }
        }
    }

    /// What a run that is packed by itself travels as; `None` if that is as it is.
    fn kept_bytes(&self, hashes: &[Hash]) -> Option<u64> {
        self.read().places.get(&key(None, hashes)).map(|place| place.entry.bytes()).filter(|bytes| *bytes > 0)
    }

    fn has(&self, key: &Key) -> bool {
        self.read().places.contains_key(key)
    }

    /// On the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.read().files.values().map(|file| file.bytes()).sum()
    }

    fn losses(&self) -> u64 {
        self.read().losses
    }

    /// Removes what was packed for a version that is gone.
    pub(crate) fn forget(&self, root: &Root) {
        self.remove(|file| file.root() == *root);
    }

    fn remove(&self, is_gone: impl Fn(&PackedFile) -> bool) {
        let gone: Vec<Arc<PackedFile>> = {
            let mut inner = self.write();
            let gone: Vec<_> = inner.files.values().filter(|file| is_gone(file)).cloned().collect();
            if gone.is_empty() {
                return;
            }
            gone.iter().for_each(|file| drop(inner.files.remove(&file.number())));
            let Inner { files, places, .. } = &mut *inner;
            places.retain(|_, place| files.contains_key(&place.file));
            inner.lost();
            gone
        };
        // Outside of the lock: long files take their time.
        for file in gone {
            match std::fs::remove_file(file.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %file.path().display(), %error, "cannot remove what was packed");
                }
                _ => {}
            }
        }
    }

    fn add(&self, file: PackedFile, entries: Vec<(Key, Entry)>) {
        let mut inner = self.write();
        let number = file.number();
        inner.last_number = inner.last_number.max(number);
        inner.places.extend(entries.into_iter().map(|(key, entry)| (key, Place { file: number, entry })));
        inner.files.insert(number, Arc::new(file));
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins a file for a version.
    fn begin(&self, root: &Root) -> io::Result<Writing> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let number = {
            let mut inner = self.write();
            inner.last_number += 1;
            inner.last_number
        };
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

impl Inner {
    /// Something went that several versions may have had in common.
    fn lost(&mut self) {
        self.complete.clear();
        self.losses += 1;
    }
}
