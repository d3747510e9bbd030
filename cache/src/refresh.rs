//! A new listing of the master against what this cache knows: what is new is taken, what contradicts is told.
//!
//! An empty, restored or foreign master makes a cache delete nothing: versions only ever come, and a
//! version's root never changes here.

use std::collections::HashSet;

use icbd_image::{ImageRecord, Listing, RepositoryId, Serial, Trust, VersionId, VersionRecord, VersionState};

use crate::view::View;

/// What a refresh brought.
#[derive(Debug, Clone, Default)]
pub struct Refresh {
    /// Whether the view changed.
    pub changed: bool,
    /// Versions that were not shown before.
    pub added: Vec<VersionId>,
    /// What contradicts what was known, for people; the same as in the status.
    pub warnings: Vec<String>,
}

/// A view as it shall be from now on.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) repository: RepositoryId,
    pub(crate) images: Vec<ImageRecord>,
    pub(crate) refresh: Refresh,
}

/// Merges a listing into what is shown; `None` when nothing of it is to be believed.
pub(crate) fn merge(view: &View, listing: Listing, source: &str, trust: &Trust) -> Result<Merged, String> {
    if let Some(known) = view.repository().filter(|known| *known != listing.repository) {
        return Err(format!(
            "{source} serves repository {}, but this cache holds versions of {known}: everything held stays and is served. \
             If the master was replaced on purpose, give this cache an empty store",
            listing.repository
        ));
    }
    let mut merge = Merge {
        view,
        source,
        trust,
        repository: listing.repository,
        serials: view.images().iter().flat_map(serials).collect(),
        refresh: Refresh::default(),
    };
    let mut images: Vec<ImageRecord> = listing.images.into_iter().filter_map(|image| merge.image(image)).collect();
    for known in view.images() {
        if images.binary_search_by(|image| image.name.cmp(&known.name)).is_err() {
            merge.warn(format!("image {} is gone from {source}: its versions stay here", known.name));
            let at = images.partition_point(|image| image.name < known.name);
            images.insert(at, known.clone());
        }
    }
    let mut refresh = merge.refresh;
    refresh.changed = view.repository().is_none() || images != view.images();
    Ok(Merged { repository: listing.repository, images, refresh })
}

struct Merge<'a> {
    view: &'a View,
    source: &'a str,
    trust: &'a Trust,
    repository: RepositoryId,
    /// Those that mean something here already.
    serials: HashSet<Serial>,
    refresh: Refresh,
}

impl Merge<'_> {
    fn image(&mut self, mut listed: ImageRecord) -> Option<ImageRecord> {
        let known = self.view.image(&listed.name);
        match known {
            Some(known) if known.serial != listed.serial => {
                self.warn(format!(
                    "image {} has another serial on {}: it was removed and made again; what is here stays as it is",
                    listed.name, self.source
                ));
                return Some(known.clone());
            }
            None if !self.serials.insert(listed.serial) => {
                self.warn(format!(
                    "image {} has a serial that means something else here; it is not shown",
                    listed.name
                ));
                return None;
            }
            _ => {}
        }
        let mut versions: Vec<VersionRecord> = std::mem::take(&mut listed.versions)
            .into_iter()
            .filter_map(|version| self.version(known, version))
            .collect();
        for known in known.iter().flat_map(|known| &known.versions) {
            if versions.binary_search_by_key(&known.number(), VersionRecord::number).is_err() {
                let mut known = known.clone();
                if listed.removed.binary_search(&known.number()).is_ok() {
                    known.state = VersionState::Archived;
                } else {
                    let id = known.statement.statement().version();
                    self.warn(format!("{id} is gone from {}: what is held of it stays here", self.source));
                }
                let at = versions.partition_point(|version| version.number() < known.number());
                versions.insert(at, known);
            }
        }
        listed.versions = versions;
        // `current` never points to what is not shown.
        if listed.deployed.is_some_and(|number| listed.version(number).is_none()) {
            listed.deployed = known.and_then(|known| known.deployed);
        }
        listed.fallback = listed.fallback.filter(|number| listed.version(*number).is_some());
        Some(listed)
    }

    fn version(&mut self, image: Option<&ImageRecord>, listed: VersionRecord) -> Option<VersionRecord> {
        let statement = listed.statement.statement();
        let id = statement.version();
        let known = image.and_then(|image| image.version(id.number));
        if let Some(known) = known {
            if known.statement == listed.statement {
                return Some(listed);
            }
            if known.statement.statement() != statement {
                self.warn(format!(
                    "{id} is another one on {}: root {} there, {} here. The one that is here stays",
                    self.source,
                    statement.root.short(),
                    known.root().short()
                ));
                return Some(known.clone());
            }
        }
        if statement.repository != self.repository {
            self.warn(format!("{id} is stated for another repository ({}); it is not shown", statement.repository));
            return known.cloned();
        }
        if let Err(error) = self.trust.signer(&listed.statement) {
            self.warn(format!("{error}; it is not shown"));
            return known.cloned();
        }
        if known.is_none() {
            if !self.serials.insert(statement.serial) {
                self.warn(format!("{id} has a serial that means something else here; it is not shown"));
                return None;
            }
            self.refresh.added.push(id);
        }
        Some(listed)
    }

    fn warn(&mut self, warning: String) {
        self.refresh.warnings.push(warning);
    }
}

fn serials(image: &ImageRecord) -> impl Iterator<Item = Serial> + '_ {
    std::iter::once(image.serial).chain(image.versions.iter().map(VersionRecord::serial))
}
