//! One version that is in use: its head, its files, and its tree on disk once somebody reads data.
//!
//! There is at most one [`Version`] of a serial at a time: it has the bits. Names are looked up in the
//! head and cost no file; the tree is made or opened by [`Version::prepare`].

mod pages;
mod registry;
mod residency;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use icbd_image::{BLOCK_BYTES, FileIndex, Head, Kind, Page, Root, Serial, VersionId, VersionRecord};

use crate::CacheError;
use crate::boot::Recorder;
use crate::core::Core;
use crate::disk::{DiskFile, Tree, is_full};
use crate::file::File;
use crate::filling::Filling;
use crate::flights::{Flights, Landing};
use crate::ledger;
pub(crate) use registry::Versions;
pub use residency::Residency;

/// A tree that could not be made is tried again after this; reads go to the source meanwhile.
const PREPARE_RETRY: Duration = Duration::from_secs(5);
/// The version that blocks are taken from is chosen anew after this: another one may hold more by then.
const BASE_AGE_MAX: Duration = Duration::from_secs(5);

/// A version of an image.
pub struct Version {
    core: Arc<Core>,
    recorder: Arc<Recorder>,
    id: VersionId,
    record: VersionRecord,
    head: Head,
    tree: OnceLock<Tree>,
    files: Mutex<HashMap<FileIndex, Weak<File>>>,
    filling: OnceLock<Filling>,
    preparing: Flights<(), ()>,
    refused: Mutex<Option<(Instant, CacheError)>>,
    page_flights: Flights<(FileIndex, u64), Page>,
    /// When a read was noted last.
    used: AtomicU64,
    pages_file: OnceLock<Arc<dyn DiskFile>>,
    pages_unsynced: std::sync::atomic::AtomicBool,
    /// The local version that blocks are taken from, as it was found last. By its serial: two versions
    /// that take from each other must not keep each other in memory.
    base: Mutex<Option<(Instant, Option<Serial>)>>,
}

impl Version {
    pub(crate) fn new(core: Arc<Core>, record: VersionRecord, head: Head) -> Version {
        Version {
            core,
            recorder: Arc::new(Recorder::new(head.root())),
            id: record.statement.statement().version(),
            record,
            head,
            tree: OnceLock::new(),
            files: Mutex::default(),
            filling: OnceLock::new(),
            preparing: Flights::new(),
            refused: Mutex::default(),
            page_flights: Flights::new(),
            used: AtomicU64::new(0),
            pages_file: OnceLock::new(),
            pages_unsynced: false.into(),
            base: Mutex::default(),
        }
    }

    pub fn id(&self) -> &VersionId {
        &self.id
    }

    pub fn serial(&self) -> Serial {
        self.record.serial()
    }

    pub fn root(&self) -> Root {
        self.head.root()
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    /// What the master said of it when it was opened.
    pub fn record(&self) -> &VersionRecord {
        &self.record
    }

    /// A node's path below the version's root; of several names the first.
    pub fn path(&self, index: FileIndex) -> PathBuf {
        self.tree().path(index)
    }

    /// A regular file; always the same [`File`] while anybody holds it.
    pub fn file(self: &Arc<Self>, index: FileIndex) -> Result<Arc<File>, CacheError> {
        let node = self.head.node(index).filter(|node| node.kind() == Kind::File);
        let node = node.ok_or_else(|| CacheError::NotAFile { version: self.id.clone(), file: index })?;
        let file = {
            let mut files = self.files.lock().expect("no panic under this lock");
            if let Some(file) = files.get(&index).and_then(Weak::upgrade) {
                file
            } else {
                if files.len() == files.capacity() {
                    // Before the map grows, those that nobody holds any more leave it.
                    files.retain(|_, file| file.strong_count() > 0);
                }
                let file = Arc::new(File::new(self.clone(), &node));
                files.insert(index, Arc::downgrade(&file));
                file
            }
        };
        self.core.keep_recent(&file);
        Ok(file)
    }

    /// Opens or makes the version's tree on disk. Residency, completeness and passthrough mean nothing
    /// before. At once when it was done already.
    pub async fn prepare(self: &Arc<Self>) -> Result<(), CacheError> {
        if self.filling.get().is_some() {
            return Ok(());
        }
        if let Some((when, error)) = &*self.refused.lock().expect("no panic under this lock")
            && when.elapsed() < PREPARE_RETRY
        {
            // What is read now is not kept either.
            if let CacheError::Disk { error: why, .. } = error
                && is_full(why)
            {
                self.core.health.failed(&format!("making the tree of {}", self.id), why);
            }
            return Err(error.clone());
        }
        let start = |landing: Landing<(), ()>| {
            let version = self.clone();
            self.core.spawn(async move {
                let result = version.make_filling().await;
                if let Err(error) = &result {
                    tracing::warn!(version = %version.id, %error, "its tree cannot be made: blocks are not kept");
                    *version.refused.lock().expect("no panic under this lock") = Some((Instant::now(), error.clone()));
                }
                landing.land(result);
            });
        };
        self.preparing.join((), start).await
    }

    async fn make_filling(self: &Arc<Self>) -> Result<(), CacheError> {
        if self.filling.get().is_some() {
            return Ok(());
        }
        let version = self.clone();
        let found = self.core.blocking(move || Filling::load(&version)).await??;
        let filling = match found {
            Some(filling) => filling,
            None => {
                self.note_lost();
                let plan = crate::inherit::plan(self).await;
                let version = self.clone();
                self.core.blocking(move || Filling::create(&version, plan)).await??
            }
        };
        // Only this flight sets it.
        let _ = self.filling.set(filling);
        let version = self.clone();
        self.core.blocking(move || version.note_sealed()).await?;
        self.note_residency();
        self.core.versions.weigh(self);
        Ok(())
    }

    /// If something of it was held the last time, takes note that its tree or its bitmap is gone.
    fn note_lost(&self) {
        let held = self.core.held.lock().expect("no panic under this lock").get(&self.serial()).copied();
        let blocks = held.map_or(0, |held| held.resident_bytes / BLOCK_BYTES);
        if blocks > 0 {
            let what = format!("the tree of {}, or its bitmap, was deleted or replaced", self.id);
            self.core.losses.note(self, None, blocks, &what);
        }
    }

    /// Sees that files with blocks are in the store still; makes anew those that somebody took away. How many.
    /// An error is one that keeps blocks from being kept. Blocks.
    pub(crate) fn see_to_files(self: &Arc<Self>, files: impl Iterator<Item = FileIndex>) -> Result<u64, CacheError> {
        let Some(filling) = self.filling() else { return Ok(0) };
        let failed = |error| CacheError::disk("make anew", filling.path())(error);
        let generation = filling.generation();
        filling.see_to_tree(self).map_err(failed)?;
        let mut lost = u64::from(filling.generation() != generation);
        for index in files {
            let blocks = self.head.node(index).map_or(0, |node| node.blocks());
            let live = self.files.lock().expect("no panic under this lock").get(&index).and_then(Weak::upgrade);
            if live.is_none() && filling.resident.readable_count(index, 0..blocks) == 0 {
                continue;
            }
            let file = match live {
                Some(file) => file,
                None => self.file(index)?,
            };
            lost += u64::from(file.see_to_backing().map_err(CacheError::disk("make anew", self.path(index)))?);
        }
        Ok(lost)
    }

    /// After all bits were cleared: zero blocks are marked again when somebody comes by.
    pub(crate) fn unmark_zeros(&self) {
        self.live_files().iter().for_each(|file| file.unmark_zeros(&(0..file.blocks())));
    }

    /// The files that somebody holds.
    pub(crate) fn live_files(&self) -> Vec<Arc<File>> {
        self.files.lock().expect("no panic under this lock").values().filter_map(Weak::upgrade).collect()
    }

    /// Opens the tree if there is one; whether there is.
    pub(crate) async fn open_existing(self: &Arc<Self>) -> bool {
        if self.filling.get().is_none() {
            let version = self.clone();
            if let Ok(Ok(Some(filling))) = self.core.blocking(move || Filling::load(&version)).await {
                // Somebody else's is as good: both come from the same bits.
                let _ = self.filling.set(filling);
            }
        }
        self.filling.get().is_some()
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Takes note of a read that somebody asked for.
    pub(crate) fn note_read(self: &Arc<Self>, file: FileIndex, blocks: std::ops::Range<u64>) {
        self.note_used();
        self.recorder.note(self, file, blocks);
    }

    /// Takes note that somebody uses it now.
    pub fn note_used(&self) {
        let now = ledger::use_time();
        if self.used.load(Ordering::Relaxed) != now {
            self.used.store(now, Ordering::Relaxed);
            self.core.ledger.note_used(self.serial(), now);
        }
    }

    /// Whether boots are known to read these blocks.
    pub(crate) fn expects(&self, file: FileIndex, blocks: std::ops::Range<u64>) -> bool {
        self.recorder.expects(file, blocks)
    }

    pub(crate) fn filling(&self) -> Option<&Filling> {
        self.filling.get()
    }

    /// The places of its files; found when first asked for.
    pub(crate) fn tree(&self) -> &Tree {
        self.tree.get_or_init(|| Tree::new(self.head.clone()))
    }

    /// The local version to take unchanged blocks from; looked for again from time to time, for what
    /// is here changes.
    pub(crate) async fn base(self: &Arc<Self>) -> Option<Arc<Version>> {
        let known = *self.base.lock().expect("no panic under this lock");
        match known {
            Some((when, Some(serial))) if when.elapsed() < BASE_AGE_MAX => {
                let base = self.core.version_once(serial).await.ok()?;
                return base.open_existing().await.then_some(base);
            }
            Some((_, None)) if !crate::inherit::is_hopeful(self) => return None,
            _ => {}
        }
        let found = crate::inherit::choose_base(self).await;
        let serial = found.as_ref().map(|base| base.serial());
        *self.base.lock().expect("no panic under this lock") = Some((Instant::now(), serial));
        if let Some(base) = &found
            && known.and_then(|(_, before)| before) != serial
        {
            tracing::info!(version = %self.id, base = %base.id, "unchanged blocks are taken from a local version");
        }
        found
    }

    /// Bytes of memory it takes, roughly.
    fn weight(&self) -> usize {
        let bits = self.filling.get().map_or(0, |filling| filling.resident.weight());
        let places = self.tree.get().map_or(0, |_| self.head.node_count() as usize * 8);
        self.head.bytes().len() + bits + places + size_of::<Version>()
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({}, {})", self.id, self.root().short())
    }
}
