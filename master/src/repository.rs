//! An open repository: its lock, its catalogue and the listing everybody reads.
//!
//! Lock order: `publishing` before `catalogue` before `current`; each is held only inside one call.

mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use icbd_image::{ImageName, Listing, RepositoryId, Timestamp, VersionId, VersionNumber, VersionRecord};
use icbd_snapshot::Trees;

use crate::MasterError;
use crate::catalog::Catalogue;
use crate::edit::{self, Making};
use crate::improve;
use crate::layout::{Layout, Lock};
use crate::manifests;
use crate::packed::PackedRuns;
use crate::profiles::Learning;
use crate::publish::Turns;
use crate::receive;
use crate::recover;
use crate::serve::Serving;
use crate::spare;
use crate::trees;
use crate::users::Users;
pub(crate) use snapshot::Snapshot;

/// Says what time it is.
pub type Clock = fn() -> SystemTime;

/// What a repository may use of the machine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Encoded runs kept in memory, in bytes: what a boot storm asks for again and again.
    pub encoded_bytes_max: u64,
    /// Heads of manifests kept in memory, in bytes.
    pub head_bytes_max: u64,
    /// Where times and serials come from.
    pub clock: Clock,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { encoded_bytes_max: 256 << 20, head_bytes_max: 256 << 20, clock: SystemTime::now }
    }
}

/// A directory of published versions that this process owns until it is dropped.
pub struct Repository {
    pub(crate) layout: Layout,
    pub(crate) trees: Trees,
    pub(crate) settings: Settings,
    pub(crate) serving: Serving,
    pub(crate) packed: PackedRuns,
    pub(crate) catalogue: Mutex<Catalogue>,
    current: RwLock<Arc<Snapshot>>,
    pub(crate) users: Users,
    /// Publishes take turns.
    pub(crate) publishing: Turns,
    pub(crate) learning: Learning,
    /// Versions that are being received.
    pub(crate) receiving: Mutex<BTreeSet<VersionId>>,
    pub(crate) making: Making,
    /// Images of which a workstation's clone is being made a version.
    pub(crate) improving: Mutex<BTreeSet<ImageName>>,
    _lock: Lock,
}

impl Repository {
    /// Opens an existing repository and clears away what an interrupted publish left in it.
    pub fn open(path: &Path, settings: Settings) -> Result<Repository, MasterError> {
        let layout = Layout::new(std::path::absolute(path).map_err(MasterError::io("find", path))?);
        layout.check_ours()?;
        if !layout.catalogue().exists() {
            return Err(match holds_versions(&layout) {
                true => MasterError::CatalogueMissing(path.to_owned()),
                false => MasterError::NotARepository(path.to_owned()),
            });
        }
        Repository::take(layout, settings)
    }

    /// Like [`Repository::open`]; makes a repository in a directory that is empty or not there yet.
    pub fn open_or_create(path: &Path, settings: Settings) -> Result<Repository, MasterError> {
        let layout = Layout::new(std::path::absolute(path).map_err(MasterError::io("find", path))?);
        layout.check_ours()?;
        if !layout.catalogue().exists() {
            if holds_versions(&layout) {
                return Err(MasterError::CatalogueMissing(path.to_owned()));
            }
            layout.prepare()?;
            let private = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(path, private).map_err(MasterError::io("protect", path))?;
        }
        Repository::take(layout, settings)
    }

    fn take(layout: Layout, settings: Settings) -> Result<Repository, MasterError> {
        let lock = layout.lock()?;
        layout.create_directories()?;
        let mut catalogue = Catalogue::open(&layout.catalogue(), RepositoryId::from_random(random()?))?;
        let users = Users::new(catalogue.nodes()?);
        let mut snapshot = Snapshot::new(catalogue.listing()?, 0);
        let trees = trees::open(&layout, &mut catalogue)?;
        edit::recover(&layout, &trees, &mut catalogue)?;
        recover::clean(&layout, &trees, &snapshot)?;
        receive::clean(&layout, &trees, &snapshot.listing)?;
        improve::clean(&layout, &trees)?;
        spare::keep(&layout.spare());
        if manifests::look(&layout, &snapshot, &mut catalogue)? {
            snapshot = Snapshot::new(catalogue.listing()?, 0);
        }
        Ok(Repository {
            serving: Serving::new(&settings),
            packed: PackedRuns::open(layout.packed()),
            layout,
            trees,
            settings,
            catalogue: Mutex::new(catalogue),
            current: RwLock::new(Arc::new(snapshot)),
            users,
            publishing: Turns::default(),
            learning: Learning::default(),
            receiving: Mutex::default(),
            making: Making::default(),
            improving: Mutex::default(),
            _lock: lock,
        })
    }

    pub fn id(&self) -> RepositoryId {
        self.snapshot().listing.repository
    }

    pub fn path(&self) -> &Path {
        self.layout.root()
    }

    /// What there is now. Cheap: a new listing is made when something changes.
    pub fn listing(&self) -> Arc<Listing> {
        self.snapshot().listing.clone()
    }

    /// Counts the changes of the listing since the repository was opened.
    pub fn revision(&self) -> u64 {
        self.snapshot().revision()
    }

    /// The versions of which stored bytes are known not to be what was published, and what was found.
    pub fn damages(&self) -> BTreeMap<VersionId, String> {
        self.snapshot().damages().clone()
    }

    /// One version's record.
    pub fn version(&self, version: &VersionId) -> Result<VersionRecord, MasterError> {
        self.snapshot().record(version).cloned()
    }

    /// The version that is meant by `number`, or by "deployed" where there is none.
    pub fn resolve(&self, image: &ImageName, number: Option<VersionNumber>) -> Result<VersionId, MasterError> {
        let snapshot = self.snapshot();
        let record = snapshot.listing.image(image).ok_or_else(|| MasterError::NoImage(image.clone()))?;
        let number = number.or(record.deployed).ok_or_else(|| MasterError::NotDeployed(image.clone()))?;
        let version = VersionId { image: image.clone(), number };
        snapshot.record(&version).map(|_| version)
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.settings.clock)().into()
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over the identity of another repository; for one that never had a version.
    pub(crate) fn adopt(&self, repository: RepositoryId) -> Result<(), MasterError> {
        let mut catalogue = guard(&self.catalogue);
        catalogue.adopt(repository)?;
        let snapshot = Snapshot::new(catalogue.listing()?, self.revision() + 1);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        Ok(())
    }

    /// What the catalogue says, read anew and shown to nobody.
    pub(crate) fn reload(&self) -> Result<Snapshot, MasterError> {
        Ok(Snapshot::new(self.catalogue(Catalogue::listing)?, self.revision()))
    }

    /// Reads from the catalogue itself.
    pub(crate) fn catalogue<T>(
        &self,
        read: impl FnOnce(&Catalogue) -> Result<T, MasterError>,
    ) -> Result<T, MasterError> {
        read(&guard(&self.catalogue))
    }

    /// Changes what the catalogue says of `image`, then shows the change to everybody.
    pub(crate) fn change(
        &self,
        image: &ImageName,
        make: impl FnOnce(&mut Catalogue) -> Result<(), MasterError>,
    ) -> Result<(), MasterError> {
        let mut catalogue = guard(&self.catalogue);
        make(&mut catalogue)?;
        self.show(&catalogue, image)
    }

    /// Shows what the catalogue says of `image` now to everybody.
    pub(crate) fn show(&self, catalogue: &Catalogue, image: &ImageName) -> Result<(), MasterError> {
        // This image alone: with thousands of versions, reading all of them would take longer than the publish.
        let (record, damages) = catalogue.image(self.id(), image)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // In place, unless somebody reads in it just now.
        Arc::make_mut(&mut current).replace(image, record, damages);
        Ok(())
    }

    /// Remembers that a version is not what was published, once, and says so.
    pub(crate) fn note_damage(&self, version: &VersionId, what: &str) {
        if self.snapshot().damages().contains_key(version) {
            return;
        }
        tracing::error!(%version, what, "a stored version was altered behind the master's back");
        if let Err(error) = self.change(&version.image, |catalogue| catalogue.set_damage(version, Some(what))) {
            tracing::error!(%version, %error, "the damage could not be noted in the catalogue");
        }
    }

    /// Forgets what was wrong with a version that was found whole again.
    pub(crate) fn clear_damage(&self, version: &VersionId) -> Result<(), MasterError> {
        if !self.snapshot().damages().contains_key(version) {
            return Ok(());
        }
        tracing::info!(%version, "a damaged version is whole again");
        self.change(&version.image, |catalogue| catalogue.set_damage(version, None))
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repository({})", self.layout.root().display())
    }
}

fn holds_versions(layout: &Layout) -> bool {
    std::fs::read_dir(layout.versions()).is_ok_and(|mut entries| entries.next().is_some())
}

/// The data behind a mutex; a thread that panicked left it as whole as it was, since each change is one assignment.
pub(crate) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn random() -> Result<[u8; 16], MasterError> {
    let mut bytes = [0; 16];
    let filled = getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()));
    filled.map_err(MasterError::io("read random numbers from", "the system"))?;
    Ok(bytes)
}
