//! Where things are in a store. FORMAT.md, "Cache store on disk", has the table.

use std::path::{Path, PathBuf};

use icbd_image::{ImageName, Root, VersionId};

/// Heads and hash pages, by root.
pub(crate) const MANIFESTS: &str = "manifests";
/// Versions that are being filled.
pub(crate) const FILLING: &str = "filling";
/// Versions that are complete, and never change: nothing half done is ever in there.
pub(crate) const VERSIONS: &str = "versions";
/// Versions on their way from the one to the other; nothing in there outlives a restart.
pub(crate) const SEALING: &str = "sealing";
/// Where trees are made and removed.
const MAKING: &str = "making";
pub(crate) const CATALOGUE: &str = "catalog.db";
/// Boot profiles, by root.
pub(crate) const PROFILES: &str = "profiles";
/// Who the store is in its profiles.
pub(crate) const SITE: &str = "site";
/// Written and removed again to see whether there is room.
pub(crate) const PROBE: &str = "room";
/// Directories that somebody put in the place of files; a number follows.
pub(crate) const FOUND: &str = "found.";
pub(crate) const LOCK: &str = "lock";
pub(crate) const FORMAT: &str = "format";
/// Writable disks of workstations.
pub(crate) const CLONES: &str = "clones";
/// The daemon's record of changes.
const AUDIT: &str = "audit.jsonl";
/// What the daemon exports.
const EXPORTS: &str = "exports.json";

/// Whether this may stand at the top of a store.
pub(crate) fn is_ours(name: &str) -> bool {
    let names = [MANIFESTS, FILLING, VERSIONS, SEALING, MAKING, PROFILES, SITE, PROBE, LOCK, FORMAT, AUDIT, CLONES];
    names.contains(&name) || [CATALOGUE, FOUND, EXPORTS].iter().any(|prefix| name.starts_with(prefix))
}

pub(crate) fn head(root: Root) -> PathBuf {
    PathBuf::from(format!("{MANIFESTS}/{root}.head"))
}

pub(crate) fn pages(root: Root) -> PathBuf {
    PathBuf::from(format!("{MANIFESTS}/{root}.pages"))
}

/// The directory of an image's versions.
pub(crate) fn image(name: &ImageName) -> PathBuf {
    PathBuf::from(format!("{FILLING}/{name}"))
}

/// A version's tree.
pub(crate) fn tree(id: &VersionId) -> PathBuf {
    PathBuf::from(format!("{FILLING}/{}/{}", id.image, id.number))
}

/// The directory of an image's sealed versions.
pub(crate) fn sealed_image(name: &ImageName) -> PathBuf {
    PathBuf::from(format!("{VERSIONS}/{name}"))
}

/// A version's tree once it is sealed.
pub(crate) fn sealed(id: &VersionId) -> PathBuf {
    PathBuf::from(format!("{VERSIONS}/{}/{}", id.image, id.number))
}

/// Whether a path is where sealed versions are.
pub(crate) fn is_sealed(path: &Path) -> bool {
    path.starts_with(VERSIONS)
}

/// A version's tree while it is being sealed.
pub(crate) fn sealing(id: &VersionId) -> PathBuf {
    PathBuf::from(format!("{SEALING}/{}/{}", id.image, id.number))
}

/// A version's bitmap.
pub(crate) fn bitmap(id: &VersionId) -> PathBuf {
    PathBuf::from(format!("{FILLING}/{}/{}.resident", id.image, id.number))
}
