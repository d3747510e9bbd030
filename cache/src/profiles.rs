//! The boot profiles of a store: kept on disk beside its manifests, merged with what others learned.
//!
//! A profile is advice. One that cannot be read is as good as none, said once in the log, and replaced by
//! the next that is written. The functions that touch the disk block.

mod carry;
mod exchange;
mod site;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use icbd_image::{Observation, Profile, Root, SiteId};
use tokio::sync::watch;

use crate::boot::Recorder;
use crate::{CacheError, layout};
use exchange::Exchanged;

/// What is kept of boots, by root.
#[derive(Debug)]
pub(crate) struct Profiles {
    directory: PathBuf,
    site: SiteId,
    /// Bounded: a profile has at most 4 MiB and mostly some ten kilobytes.
    recent: moka::sync::Cache<Root, Arc<Profile>>,
    /// One who changes a profile at a time.
    changing: Mutex<()>,
    /// Those that may be recording.
    recorders: Mutex<Vec<Weak<Recorder>>>,
    exchanged: Exchanged,
    /// Counts what was new, whoever told it.
    changes: watch::Sender<u64>,
}

/// Memory for profiles that were used last.
const MEMORY_BYTES: u64 = 16 << 20;

impl Profiles {
    /// Those of the store at `store`, which gets an identity if it has none.
    pub(crate) fn open(store: &Path) -> Result<Profiles, CacheError> {
        let weight = |_: &Root, profile: &Arc<Profile>| {
            let touches: usize = profile.observations().map(|seen| seen.touches().len()).sum();
            u32::try_from(touches * size_of::<icbd_image::Touch>() + 256).unwrap_or(u32::MAX)
        };
        Ok(Profiles {
            directory: store.join(layout::PROFILES),
            site: site::open(store)?,
            recent: moka::sync::Cache::builder().max_capacity(MEMORY_BYTES).weigher(weight).build(),
            changing: Mutex::default(),
            recorders: Mutex::default(),
            exchanged: Exchanged::default(),
            changes: watch::Sender::new(0),
        })
    }

    /// Who this store is in its observations.
    pub(crate) fn site(&self) -> SiteId {
        self.site
    }

    /// What is known here of boots of this root, perhaps nothing.
    pub(crate) fn get(&self, root: Root) -> Arc<Profile> {
        let load = || match self.load(root) {
            Ok(profile) => Arc::new(profile),
            Err(why) => {
                tracing::warn!(path = %self.path(root).display(), why, "a boot profile cannot be read and is ignored");
                Arc::new(Profile::new(root))
            }
        };
        self.recent.get_with(root, load)
    }

    /// Adds what a fill read.
    pub(crate) fn add(&self, root: Root, seen: Observation) -> Result<(), CacheError> {
        let (runs, blocks) = (seen.touches().len(), seen.blocks());
        let mut learned = Profile::new(root);
        learned.insert(seen);
        self.merge(&learned)?;
        self.learned(root);
        tracing::info!(%root, runs, blocks, "noted what a boot read");
        Ok(())
    }

    /// Takes over what `other` knows; whether that was anything new.
    pub(crate) fn merge(&self, other: &Profile) -> Result<bool, CacheError> {
        let _turn = self.changing.lock().expect("no panic under this lock");
        let mut merged = Profile::clone(&self.get(other.root()));
        if !merged.merge(other) {
            return Ok(false);
        }
        let path = self.path(other.root());
        // Known for as long as this daemon runs, whatever the disk does.
        let bytes = merged.encode();
        self.recent.insert(other.root(), Arc::new(merged));
        self.changes.send_modify(|changes| *changes += 1);
        self.write(&path, &bytes).map_err(CacheError::disk("write", path))?;
        Ok(true)
    }

    /// Takes over what a person brought; whether that was anything new.
    pub(crate) fn import(&self, profile: &Profile) -> Result<bool, CacheError> {
        let is_new = self.merge(profile)?;
        if is_new {
            self.learned(profile.root());
        }
        Ok(is_new)
    }

    /// Counts how often something became known here that was not.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The count by now.
    pub(crate) fn changes_so_far(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Has a recording that is under way ended with the cache.
    pub(crate) fn watch(&self, recorder: &Arc<Recorder>) {
        let mut recorders = self.recorders();
        recorders.retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), Arc::as_ptr(recorder)));
        recorders.push(Arc::downgrade(recorder));
    }

    /// Those that may be recording now.
    pub(crate) fn recording(&self) -> Vec<Arc<Recorder>> {
        self.recorders().iter().filter_map(Weak::upgrade).collect()
    }

    fn recorders(&self) -> MutexGuard<'_, Vec<Weak<Recorder>>> {
        self.recorders.lock().expect("no panic under this lock")
    }

    fn path(&self, root: Root) -> PathBuf {
        self.directory.join(format!("{root}.profile"))
    }

    fn load(&self, root: Root) -> Result<Profile, String> {
        let path = self.path(root);
        let length = match fs::metadata(&path) {
            Ok(file) => file.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Profile::new(root)),
            Err(error) => return Err(error.to_string()),
        };
        if length > Profile::BYTES_MAX as u64 {
            return Err(format!("it has {length} bytes"));
        }
        let bytes = fs::read(&path).map_err(|error| error.to_string())?;
        Profile::decode_expecting(&bytes, root).map_err(|error| error.to_string())
    }

    /// All or nothing, whatever happens meanwhile.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let new = path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        fs::File::open(&self.directory)?.sync_all()
    }
}
