//! Where everything lies in a repository, and the lock that says whose it is.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use icbd_image::{ImageName, Root, VersionId};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::MasterError;

/// The names at the top of a repository.
const CATALOGUE: &str = "catalog.db";
const LOCK: &str = "repository.lock";
const VERSIONS: &str = "versions";
const MANIFESTS: &str = "manifests";
const PUBLISHING: &str = "publishing";
const PROFILES: &str = "profiles";
/// Of the trees: made when there are any.
const EDITING: &str = "editing";
const MAKING: &str = "making";
/// Where versions are received.
pub(crate) const RECEIVING: &str = "receiving";
/// Where what workstations wrote is put over a version.
pub(crate) const IMPROVING: &str = "improving";
/// Room that is kept for making room.
const SPARE: &str = "spare";
/// Runs that are packed already: made when there are any.
const PACKED: &str = "packed";

/// What a cache's store holds and a repository does not; FORMAT.md, "Cache store on disk".
const STORE_FORMAT: &str = "format";
const STORE_FORMAT_PREFIX: &str = "icbd-store ";
const STORE_FILLING: &str = "filling";
const SPOILT: &str = ". It is a repository too: an icbd that did not look may have run a cache on it. If so, \
                      remove `format`, `lock`, `site` and `filling`, and put the newest `catalog.db.damaged-N` back as \
                      `catalog.db`";

/// How often, and after how long, a lock is tried again that a process holds which is not there any more.
const ORPHAN_TRIES: u32 = 100;
const ORPHAN_WAIT: Duration = Duration::from_millis(20);

/// Who says in the file that the repository is its own.
fn owner(mut file: &File) -> Option<u32> {
    let mut pid = String::new();
    file.rewind().and_then(|()| file.take(20).read_to_string(&mut pid)).ok()?;
    pid.trim().parse().ok()
}

fn is_dead(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(Errno::SRCH))
}

/// Says that a repository is ours, until it is dropped or this process ends, by whatever end.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would leave it to a child process that was forked and has not called exec yet.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// The paths of one repository.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Layout {
        Layout { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn catalogue(&self) -> PathBuf {
        self.root.join(CATALOGUE)
    }

    pub(crate) fn versions(&self) -> PathBuf {
        self.root.join(VERSIONS)
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.root.join(MANIFESTS)
    }

    pub(crate) fn publishing(&self) -> PathBuf {
        self.root.join(PUBLISHING)
    }

    pub(crate) fn packed(&self) -> PathBuf {
        self.root.join(PACKED)
    }

    pub(crate) fn spare(&self) -> PathBuf {
        self.root.join(SPARE)
    }

    pub(crate) fn profiles(&self) -> PathBuf {
        self.root.join(PROFILES)
    }

    pub(crate) fn profile(&self, root: &Root) -> PathBuf {
        self.profiles().join(format!("{root}.profile"))
    }

    pub(crate) fn image(&self, image: &ImageName) -> PathBuf {
        self.versions().join(image.as_str())
    }

    /// The version's tree itself.
    pub(crate) fn version(&self, version: &VersionId) -> PathBuf {
        self.image(&version.image).join(version.number.to_string())
    }

    pub(crate) fn head(&self, root: &Root) -> PathBuf {
        self.manifests().join(format!("{root}.head"))
    }

    pub(crate) fn pages(&self, root: &Root) -> PathBuf {
        self.manifests().join(format!("{root}.pages"))
    }

    /// Refuses what is somebody else's before anything is written to it: a cache's store, whose catalogue has the same
    /// name and other tables, and a directory that happens to hold a `catalog.db`.
    pub(crate) fn check_ours(&self) -> Result<(), MasterError> {
        let is_repository = [LOCK, VERSIONS, PUBLISHING].iter().any(|name| self.root.join(name).exists());
        if let Some(mark) = store_mark(&self.root) {
            // Sealed versions are under a name that a repository has, too.
            let was_repository = [LOCK, PUBLISHING].iter().any(|name| self.root.join(name).exists());
            let hint = if was_repository { SPOILT } else { "" };
            return Err(MasterError::IsAStore { path: self.root.clone(), mark, hint });
        }
        match !is_repository && self.catalogue().exists() {
            true => self.check_names(),
            false => Ok(()),
        }
    }

    /// Makes the repository's directory (in an existing one) if it is not there; refuses one that holds other things.
    pub(crate) fn prepare(&self) -> Result<(), MasterError> {
        create_directory(&self.root)?;
        self.check_names()
    }

    fn check_names(&self) -> Result<(), MasterError> {
        let entries = std::fs::read_dir(&self.root).map_err(MasterError::io("list", &self.root))?;
        let trees = [VERSIONS, PUBLISHING, EDITING, MAKING, RECEIVING, IMPROVING];
        let ours = [LOCK, MANIFESTS, PROFILES, PACKED, SPARE, "lost+found"];
        for entry in entries {
            let name = entry.map_err(MasterError::io("list", &self.root))?.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with(CATALOGUE) && !ours.contains(&&*name) && !trees.contains(&&*name) {
                return Err(MasterError::NotEmpty(self.root.clone()));
            }
        }
        Ok(())
    }

    pub(crate) fn create_directories(&self) -> Result<(), MasterError> {
        let all = [self.versions(), self.manifests(), self.publishing(), self.profiles()];
        all.iter().try_for_each(|path| create_directory(path))?;
        sync_directory(&self.root)
    }

    /// Makes the repository ours.
    pub(crate) fn lock(&self) -> Result<Lock, MasterError> {
        let path = self.root.join(LOCK);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(MasterError::io("open", &path))?;
        for attempt in 0.. {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {
                    let pid = owner(&file);
                    // A program that a killed owner was about to start holds it until it has started.
                    if attempt < ORPHAN_TRIES && pid.is_some_and(is_dead) {
                        std::thread::sleep(ORPHAN_WAIT);
                        continue;
                    }
                    return Err(MasterError::Locked { path: self.root.clone(), pid });
                }
                Err(error) => return Err(MasterError::io("lock", path)(error)),
            }
        }
        // Only said to whoever comes second; a full disk must keep nobody from serving.
        if let Err(error) = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
            tracing::warn!(path = %path.display(), %error, "it cannot be noted who owns the repository");
        }
        Ok(Lock(file))
    }
}

/// What shows that a directory is a cache's store.
fn store_mark(directory: &Path) -> Option<&'static str> {
    let format = std::fs::read(directory.join(STORE_FORMAT)).unwrap_or_default();
    if format.starts_with(STORE_FORMAT_PREFIX.as_bytes()) {
        return Some("`format`");
    }
    directory.join(STORE_FILLING).is_dir().then_some("`filling`")
}

/// Makes a directory that only its owner may enter, if it is not there: images hold secrets.
pub(crate) fn create_directory(path: &Path) -> Result<(), MasterError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.map_err(MasterError::io("create", path)),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), MasterError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(MasterError::io("sync", path))
}
