//! The directory in which one publish is put together, and the way it leaves it.
//!
//! `publishing/<random>/` holds `tree/`, `head`, `pages` and, once all of them are complete,
//! `intent`: which version they are meant to become. It is removed after everything else, so that
//! its presence tells [`crate::recover`] what may be unfinished.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use icbd_image::{Hash, Head, Root, VersionId};
use icbd_snapshot::{Sealed, SnapshotError, Tree, Trees, Writable};
use rustix::fs::XattrFlags;

use crate::layout::{Layout, create_directory, sync_directory};
use crate::receive::receiving;
use crate::repository::{Snapshot, guard, random};
use crate::{MasterError, recover, trees};

const INTENT: &str = "intent";

/// What a staging directory is meant to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) version: VersionId,
    pub(crate) root: Root,
}

impl Intent {
    /// The intent in a staging directory; `None` when it was not written to its end, and so nothing left the directory.
    pub(crate) fn read(directory: &Path) -> Option<Intent> {
        let text = std::fs::read_to_string(directory.join(INTENT)).ok()?;
        let (version, root) = text.strip_suffix('\n')?.split_once(' ')?;
        Some(Intent { version: version.parse().ok()?, root: root.parse().ok()? })
    }
}

/// On the top directory of a tree: which staging directory it was put together in.
const FROM: &str = "user.icbd.staging";

/// One publish's directory.
#[derive(Debug)]
pub(crate) struct Staging {
    directory: PathBuf,
    /// The same, below the repository.
    at: PathBuf,
    /// Until it is the version's.
    tree: Mutex<Option<Made>>,
}

/// What is to be the version's tree.
#[derive(Debug)]
enum Made {
    Here(Writable),
    /// Of one that was received a snapshot: by its lineage later differences find it.
    Received(Sealed),
}

/// Whether the tree in a version's place was put together in this staging directory, or is one that was received for it.
pub(crate) fn is_from(layout: &Layout, trees: &Trees, version: &VersionId, staging: &Path) -> bool {
    let (mut value, name) = ([0; 64], staging.file_name().unwrap_or_default().as_encoded_bytes());
    let made = rustix::fs::lgetxattr(layout.version(version), FROM, &mut value);
    let lineage = |at: &Path| trees.streams()?.lineage(&trees.sealed(at).ok()?).ok();
    let received = || Some(lineage(&trees::version(version))? == lineage(&receiving(version))?);
    made.is_ok_and(|bytes| value[..bytes] == *name) || received().unwrap_or(false)
}

impl Staging {
    pub(super) fn create(layout: &Layout, trees: &Trees) -> Result<Staging, MasterError> {
        let name: String = random()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let directory = layout.publishing().join(&name);
        create_directory(&directory).map_err(|error| full_or(error, layout))?;
        let at = Path::new("publishing").join(&name);
        let tree = trees.create(&at.join("tree")).map_err(|error| full_or(error.into(), layout))?;
        rustix::fs::fsetxattr(tree.directory(), FROM, name.as_bytes(), XattrFlags::empty())
            .map_err(MasterError::io("mark", tree.path()))?;
        Ok(Staging { directory, at, tree: Mutex::new(Some(Made::Here(tree))) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.directory
    }

    /// Where the tree is put together.
    pub(super) fn tree(&self) -> PathBuf {
        self.directory.join("tree")
    }

    /// Makes a copy of a working copy as it is now, and returns where it is.
    pub(super) fn freeze(&self, trees: &Trees, from: &Writable) -> Result<PathBuf, MasterError> {
        Ok(trees.seal(from, &self.at.join("frozen"))?.path().to_owned())
    }

    /// Has a tree that was received be the version's, in the place of what was put together here. That stays as long as this
    /// directory: while it is there, what lies in the version's place may be somebody else's.
    pub(super) fn take(&self, trees: &Trees, received: &Sealed) -> Result<(), MasterError> {
        *guard(&self.tree) = Some(Made::Received(trees.sealed(received.at())?));
        Ok(())
    }

    /// The file that takes the hash pages; made when it is first asked for.
    pub(super) fn pages(&self) -> Result<File, MasterError> {
        let path = self.directory.join("pages");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        open.map_err(MasterError::io("create", path))
    }

    /// Adds the manifest and the intent, and makes all of it durable.
    pub(super) fn seal(&self, layout: &Layout, head: &Head, intent: &Intent) -> Result<(), MasterError> {
        let write = |name: &str, bytes: &[u8]| {
            let path = self.directory.join(name);
            std::fs::write(&path, bytes).map_err(MasterError::io("write", path))
        };
        let seal = || {
            write("head", head.bytes())?;
            let pages = self.pages()?;
            let pages_bytes = head.paged_blocks() * Hash::BYTES as u64;
            pages.set_len(pages_bytes).map_err(MasterError::io("write", self.directory.join("pages")))?;
            write(INTENT, format!("{} {}\n", intent.version, intent.root).as_bytes())?;
            // One sync for all: fdatasync of every file costs 1.4 ms each.
            rustix::fs::syncfs(&pages).map_err(MasterError::io("sync", &self.directory))
        };
        seal().map_err(|error| full_or(error, layout))
    }

    /// Moves everything to where the version will have it. Nothing of it exists for anybody before the commit.
    pub(super) fn place(
        &self,
        layout: &Layout,
        trees: &Trees,
        version: &VersionId,
        root: &Root,
    ) -> Result<(), MasterError> {
        let place = || {
            // The same root may be there already, from a version of the same content: the same bytes.
            for (from, to) in [("head", layout.head(root)), ("pages", layout.pages(root))] {
                std::fs::rename(self.directory.join(from), &to).map_err(MasterError::io("move the manifest to", to))?;
            }
            match guard(&self.tree).take() {
                Some(Made::Here(tree)) => drop(trees.finish(tree, &trees::version(version))?),
                Some(Made::Received(tree)) => drop(trees.seal(&tree, &trees::version(version))?),
                None => {}
            }
            [layout.image(&version.image), layout.versions(), layout.manifests()]
                .iter()
                .try_for_each(|path| sync_directory(path))
        };
        place().map_err(|error| full_or(error, layout))
    }

    /// Clears away this directory and, unless `snapshot` has the version, everything that left it.
    pub(super) fn settle(&self, layout: &Layout, trees: &Trees, snapshot: &Snapshot) {
        if let Err(error) = recover::settle(layout, trees, &self.directory, snapshot) {
            // The next start tries again.
            tracing::warn!(%error, "the remains of a publish could not be removed");
        }
    }
}

/// A full file system gets its own error, wherever it showed.
pub(crate) fn full_or(error: MasterError, layout: &Layout) -> MasterError {
    match &error {
        MasterError::Tree(error) if matches!(**error, SnapshotError::Full { .. }) => {
            MasterError::Full(layout.root().to_owned())
        }
        MasterError::Io { source, .. } | MasterError::Attribute { source, .. } if is_full(source) => {
            MasterError::Full(layout.root().to_owned())
        }
        _ => error,
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
