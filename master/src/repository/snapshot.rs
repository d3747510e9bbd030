//! What everybody reads: the listing and what is looked up in it, as one value.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use icbd_image::{ImageName, ImageRecord, Listing, Root, VersionId, VersionRecord};

use crate::MasterError;
use crate::catalog::Damages;

/// What the catalogue says at one moment.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) listing: Arc<Listing>,
    roots: HashMap<Root, Vec<VersionId>>,
    damages: BTreeMap<VersionId, String>,
    revision: u64,
}

impl Snapshot {
    pub(super) fn new((listing, damages): (Listing, Damages), revision: u64) -> Snapshot {
        let mut roots: HashMap<Root, Vec<VersionId>> = HashMap::new();
        for version in listing.images.iter().flat_map(|image| &image.versions) {
            roots.entry(version.root()).or_default().push(version.statement.statement().version());
        }
        Snapshot { listing: Arc::new(listing), roots, damages: damages.into_iter().collect(), revision }
    }

    /// Puts `record` and `damages` in place of what is said of `image`; `None` removes it. Costs what the image costs.
    pub(super) fn replace(&mut self, image: &ImageName, record: Option<ImageRecord>, damages: Damages) {
        let listing = Arc::make_mut(&mut self.listing);
        let at = listing.images.binary_search_by(|known| known.name.cmp(image));
        let old = match (at, record) {
            (Ok(at), Some(record)) => Some(std::mem::replace(&mut listing.images[at], record)),
            (Ok(at), None) => Some(listing.images.remove(at)),
            (Err(at), record) => {
                listing.images.splice(at..at, record);
                None
            }
        };
        // Each once: many versions may have the same content, and so the same root.
        let gone: HashSet<Root> = old.iter().flat_map(|old| &old.versions).map(VersionRecord::root).collect();
        for root in &gone {
            if let Some(versions) = self.roots.get_mut(root) {
                versions.retain(|version| version.image != *image);
            }
        }
        for version in listing.image(image).iter().flat_map(|image| &image.versions) {
            self.roots.entry(version.root()).or_default().push(version.statement.statement().version());
        }
        for root in &gone {
            if self.roots.get(root).is_some_and(Vec::is_empty) {
                self.roots.remove(root);
            }
        }
        self.damages.retain(|version, _| version.image != *image);
        self.damages.extend(damages);
        self.revision += 1;
    }

    /// Counts the changes.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn damages(&self) -> &BTreeMap<VersionId, String> {
        &self.damages
    }

    pub(crate) fn has_root(&self, root: &Root) -> bool {
        self.roots.contains_key(root)
    }

    /// A version with this root; one that is not known to be damaged, if there is one.
    pub(crate) fn version_of(&self, root: &Root) -> Option<&VersionId> {
        let versions = self.roots.get(root)?;
        versions.iter().find(|version| !self.damages.contains_key(version)).or(versions.first())
    }

    /// All versions with this root.
    pub(crate) fn versions_of(&self, root: &Root) -> &[VersionId] {
        self.roots.get(root).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn record(&self, version: &VersionId) -> Result<&VersionRecord, MasterError> {
        let image = self.listing.image(&version.image).ok_or_else(|| MasterError::NoImage(version.image.clone()))?;
        image.version(version.number).ok_or_else(|| MasterError::NoVersion(version.clone()))
    }
}
