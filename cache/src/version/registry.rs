//! The versions that are in memory: each at most once, and those nobody has open up to a limit.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};

use icbd_fetch::FetchError;
use icbd_image::{Head, Root, Serial, VersionRecord};
use moka::policy::EvictionPolicy;

use super::Version;
use crate::core::Core;
use crate::disk::{Missing, Wait};
use crate::flights::{Flights, Landing};
use crate::view::Object;
use crate::waiting::{Patience, Want};
use crate::{CacheError, layout};

/// Versions by serial.
#[derive(Debug)]
pub(crate) struct Versions {
    live: RwLock<HashMap<Serial, Weak<Version>>>,
    /// Keeps those that were used last, so that a look around does not load heads again and again.
    recent: moka::sync::Cache<Serial, Arc<Version>>,
    flights: Flights<Serial, Arc<Version>>,
    /// Those whose manifests are nothing we can read, and why. At most one entry a version that is shown.
    unusable: Mutex<BTreeMap<Serial, CacheError>>,
}

impl Versions {
    pub(crate) fn new(memory_bytes: u64) -> Versions {
        let recent = moka::sync::Cache::builder()
            .max_capacity(memory_bytes)
            // By use alone: who comes for the first time must not be refused because others came often.
            .eviction_policy(EvictionPolicy::lru())
            .weigher(move |_, version: &Arc<Version>| {
                // One that is larger than all room would be loaded again for every name looked up in it.
                let weight = (version.weight() as u64).min(memory_bytes / 2);
                u32::try_from(weight).unwrap_or(u32::MAX)
            })
            .build();
        Versions { live: RwLock::default(), recent, flights: Flights::new(), unusable: Mutex::default() }
    }

    pub(crate) fn get(&self, serial: Serial) -> Option<Arc<Version>> {
        let live = self.live.read().expect("no panic under this lock");
        let version = live.get(&serial).and_then(Weak::upgrade);
        drop(live);
        // Asking is what keeps it among the recent ones.
        version.inspect(|_| drop(self.recent.get(&serial)))
    }

    /// All that are in memory.
    pub(crate) fn all(&self) -> Vec<Arc<Version>> {
        self.live.read().expect("no panic under this lock").values().filter_map(Weak::upgrade).collect()
    }

    /// Whether it is known that this version cannot be used.
    pub(crate) fn check_usable(&self, serial: Serial) -> Result<(), CacheError> {
        self.lock_unusable().get(&serial).map_or(Ok(()), |error| Err(error.clone()))
    }

    /// What is known to be unusable, for people.
    pub(crate) fn unusable(&self) -> Vec<String> {
        self.lock_unusable().values().map(ToString::to_string).collect()
    }

    fn lock_unusable(&self) -> MutexGuard<'_, BTreeMap<Serial, CacheError>> {
        self.unusable.lock().expect("no panic under this lock")
    }

    /// Counts its weight again, which has changed.
    pub(crate) fn weigh(&self, version: &Arc<Version>) {
        self.recent.insert(version.serial(), version.clone());
    }

    pub(crate) fn clear(&self) {
        self.recent.invalidate_all();
        self.recent.run_pending_tasks();
    }

    fn keep(&self, version: &Arc<Version>) {
        let mut live = self.live.write().expect("no panic under this lock");
        live.retain(|_, version| version.strong_count() > 0);
        live.insert(version.serial(), Arc::downgrade(version));
        drop(live);
        self.weigh(version);
    }
}

impl Core {
    /// A version, with its head loaded or fetched; waits for a source up to `offline_wait`.
    pub(crate) async fn version(self: &Arc<Core>, serial: Serial) -> Result<Arc<Version>, CacheError> {
        if let Some(version) = self.versions.get(serial) {
            return Ok(version);
        }
        let version = self.record(serial)?.statement.statement().version();
        let mut patience =
            Patience::new(self, Want { version, path: Arc::new(|| "its manifest".to_owned()), block: None });
        loop {
            match self.version_once(serial).await {
                Err(CacheError::Fetch(error)) => patience.failed(error).await?,
                result => return result,
            }
        }
    }

    /// The same with one round over the sources.
    pub(crate) async fn version_once(self: &Arc<Core>, serial: Serial) -> Result<Arc<Version>, CacheError> {
        if let Some(version) = self.versions.get(serial) {
            return Ok(version);
        }
        self.versions.check_usable(serial)?;
        let record = self.record(serial)?;
        let start = |landing: Landing<Serial, Arc<Version>>| {
            let core = self.clone();
            self.spawn(async move {
                let result = core.load(record).await;
                landing.land(result);
            });
        };
        self.versions.flights.join(serial, start).await
    }

    fn record(&self, serial: Serial) -> Result<VersionRecord, CacheError> {
        match self.view().object(serial) {
            Some(Object::Version(_, record)) => Ok(record.clone()),
            _ => Err(CacheError::UnknownSerial(serial)),
        }
    }

    async fn load(self: &Arc<Core>, record: VersionRecord) -> Result<Arc<Version>, CacheError> {
        if let Some(version) = self.versions.get(record.serial()) {
            return Ok(version);
        }
        let (core, root) = (self.clone(), record.root());
        let head = match self.blocking(move || core.head_on_disk(root)).await? {
            Some(head) => head,
            None => {
                let head = self.sources.head(root).await.map_err(|error| self.judge(&record, error))?;
                let (core, copy) = (self.clone(), head.clone());
                self.blocking(move || core.keep_head(&copy)).await?;
                head
            }
        };
        let version = Arc::new(Version::new(self.clone(), record, head));
        self.versions.keep(&version);
        Ok(version)
    }

    /// Keeps in mind that a version is unusable, if that is why its head could not be had.
    fn judge(&self, record: &VersionRecord, error: FetchError) -> CacheError {
        let FetchError::Unusable { why, .. } = error else { return error.into() };
        let error = CacheError::Unusable { version: record.statement.statement().version(), why };
        tracing::error!("{error}");
        self.versions.lock_unusable().insert(record.serial(), error.clone());
        error
    }

    /// A head that was kept; `None` when it is not there, or not what its name says.
    pub(crate) fn head_on_disk(&self, root: Root) -> Option<Head> {
        let path = layout::head(root);
        let file = self.disk.open(&path, Missing::Fail).ok()?;
        let size = usize::try_from(file.state().ok()?.bytes).ok().filter(|size| *size <= Head::BYTES_MAX)?;
        let mut bytes = vec![0; size];
        let read = file.read(0, &mut bytes, Wait::Yes).ok()?;
        bytes.truncate(read);
        let head = Head::parse_expecting(bytes.into(), &root);
        head.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a kept manifest is not what it was: it is to be fetched again"))
            .ok()
    }

    /// Keeps a head. It is synced with the tree it describes; a torn one is noticed by its root. One that is there
    /// already stays whole meanwhile: another version with the same content may have no other.
    pub(crate) fn keep_head(&self, head: &Head) {
        let path = layout::head(head.root());
        let kept = self.disk.open(&path, Missing::Create).and_then(|file| {
            file.set_size(head.bytes().len() as u64)?;
            file.write(0, &[head.bytes()])
        });
        if let Err(error) = kept {
            self.health.failed(&format!("writing {}", path.display()), &error);
        }
    }
}
