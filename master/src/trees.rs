//! The trees of a repository: sealed ones under `versions/`, working copies under `editing/`.
//!
//! What they are made of is tried out once and remembered. A repository that was made before there were trees has
//! plain directories under `versions/`: they are served as ever, and a working copy of one is made file by file.

use std::path::{Path, PathBuf};

use icbd_image::{ImageName, VersionId};
use icbd_snapshot::{Access, Kind, Probe, SnapshotError, Trees};

use crate::MasterError;
use crate::catalog::Catalogue;
use crate::layout::Layout;

const KINDS: [(Kind, &str); 3] = [(Kind::Btrfs, "btrfs"), (Kind::Reflink, "reflink"), (Kind::Plain, "plain")];

/// Opens the repository's trees, of the kind that is remembered; of the best there is, if none is.
///
/// Where the remembered kind cannot be had, nothing else is taken in its place: most likely another file system is
/// mounted here than the one that holds the versions.
pub(crate) fn open(layout: &Layout, catalogue: &mut Catalogue) -> Result<Trees, MasterError> {
    if let Some(named) = catalogue.trees()? {
        let refused = |why: String| MasterError::TreesKind { path: layout.root().to_owned(), kind: named.clone(), why };
        let known = KINDS.into_iter().find(|(_, name)| *name == named);
        let (kind, _) = known.ok_or_else(|| refused("this icbd knows no such kind".to_owned()))?;
        return Trees::open(layout.root(), kind).map_err(|error| refused(error.to_string()));
    }
    let kind = match Probe::run(layout.root()) {
        Ok(probe) => probe.best(),
        Err(error) => {
            tracing::warn!(%error, "it could not be tried out what the repository's disk can do; versions are copied");
            Kind::Plain
        }
    };
    tracing::info!(repository = %layout.root().display(), %kind, "versions are kept as trees");
    let trees = Trees::open(layout.root(), kind)?;
    let name = KINDS.into_iter().find(|(known, _)| *known == kind).map_or("plain", |(_, name)| name);
    catalogue.set_trees(name)?;
    Ok(trees)
}

/// Where a version's tree is, below the repository.
pub(crate) fn version(version: &VersionId) -> PathBuf {
    Path::new("versions").join(version.image.as_str()).join(version.number.to_string())
}

/// Where an image's working copy is, below the repository.
pub(crate) fn editing(image: &ImageName) -> PathBuf {
    Path::new("editing").join(image.as_str())
}

/// Removes what is at a place, a tree or not; nothing there is fine.
pub(crate) fn remove(trees: &Trees, at: &Path) -> Result<(), MasterError> {
    let listed = trees.list(at)?;
    match listed.iter().find(|listed| listed.at == at).map(|listed| listed.access) {
        Some(Access::Sealed) => Ok(trees.delete(trees.sealed(at)?)?),
        Some(Access::Writable) => Ok(trees.delete(trees.writable(at)?)?),
        None => crate::recover::remove_tree(&trees.path().join(at)),
    }
}

/// The error of a tree, as the repository's.
impl From<SnapshotError> for MasterError {
    fn from(error: SnapshotError) -> MasterError {
        MasterError::Tree(Box::new(error))
    }
}
