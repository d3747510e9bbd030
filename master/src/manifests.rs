//! Manifest files that are not as they were published: noticed, noted with every version they describe, and named.
//!
//! A start looks for all of them by name only: to read thousands of heads would take minutes on a slow disk, and
//! whoever uses one compares all of it with its root anyway. A running master reads all heads now and then.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use icbd_image::{Hash, Head, Root, VersionId};

use crate::catalog::{Catalogue, Damages};
use crate::layout::Layout;
use crate::repository::Snapshot;
use crate::{MasterError, Repository};

/// Notes in the catalogue which versions have lost a file of their manifest; whether that is news.
pub(crate) fn look(layout: &Layout, snapshot: &Snapshot, catalogue: &mut Catalogue) -> Result<bool, MasterError> {
    let mut faults: HashMap<Root, Option<String>> = HashMap::new();
    let mut news = Damages::new();
    for record in snapshot.listing.images.iter().flat_map(|image| &image.versions) {
        let (root, version) = (record.root(), record.statement.statement().version());
        let fault = faults.entry(root).or_insert_with(|| fault(layout, &root));
        if let Some(what) = fault.as_ref().filter(|_| !snapshot.damages().contains_key(&version)) {
            tracing::error!(%version, what, "a version's manifest was altered behind the master's back");
            news.push((version, what.clone()));
        }
    }
    catalogue.set_damages(&news)?;
    Ok(!news.is_empty())
}

/// What is wrong with a manifest, as far as names and sizes tell.
fn fault(layout: &Layout, root: &Root) -> Option<String> {
    let head = layout.head(root);
    if let Some(what) = missing(&head) {
        return Some(shown(layout, &head, what));
    }
    let pages = layout.pages(root);
    // Whether there have to be any only the head knows.
    let what = missing(&pages).filter(|_| has_pages(&head, root))?;
    Some(shown(layout, &pages, what))
}

fn missing(path: &Path) -> Option<&'static str> {
    match path.metadata() {
        Ok(found) if !found.is_file() => Some("is no file"),
        Ok(found) if found.len() == 0 => Some("is empty"),
        Ok(_) => None,
        Err(error) => is_gone(&error).then_some("is missing"),
    }
}

fn has_pages(head: &Path, root: &Root) -> bool {
    let bytes = std::fs::read(head).unwrap_or_default();
    Head::parse_expecting(bytes.into(), root).is_ok_and(|head| head.paged_blocks() > 0)
}

/// Whether a file is not there, as opposed to a disk that does not give it now.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
}

/// A fault in words, with the file's name as it is in the repository.
fn shown(layout: &Layout, path: &Path, what: &str) -> String {
    format!("{} {what}", path.strip_prefix(layout.root()).unwrap_or(path).display())
}

/// What is wrong with a manifest, as far as its head and the length of its pages tell; an error if the disk does not
/// give them now.
fn fault_in(layout: &Layout, root: &Root) -> io::Result<Option<String>> {
    let (path, pages) = (layout.head(root), layout.pages(root));
    let head = match std::fs::read(&path) {
        Ok(bytes) => Head::parse_expecting(bytes.into(), root),
        Err(error) if is_gone(&error) => return Ok(Some(shown(layout, &path, "is missing"))),
        Err(error) => return Err(error),
    };
    let Ok(head) = head else { return Ok(Some(shown(layout, &path, "is damaged"))) };
    let bytes = head.paged_blocks() * Hash::BYTES as u64;
    match pages.metadata() {
        _ if bytes == 0 => Ok(None),
        Ok(found) => Ok((found.len() < bytes).then(|| shown(layout, &pages, "is cut short"))),
        Err(error) if is_gone(&error) => Ok(Some(shown(layout, &pages, "is missing"))),
        Err(error) => Err(error),
    }
}

impl Repository {
    /// Reads the heads of all versions, and looks how long their hash pages are. What is wrong is noted; what was noted
    /// of a manifest that somebody put back is forgotten. Blocks, for minutes where there are thousands.
    pub fn look_over_manifests(&self, is_over: impl Fn() -> bool) -> Result<(), MasterError> {
        let snapshot = self.snapshot();
        let mut of_root: BTreeMap<Root, Vec<VersionId>> = BTreeMap::new();
        for record in snapshot.listing.images.iter().flat_map(|image| &image.versions) {
            of_root.entry(record.root()).or_default().push(record.statement.statement().version());
        }
        for (root, versions) in of_root {
            if is_over() {
                return Ok(());
            }
            let fault = match fault_in(&self.layout, &root) {
                Ok(fault) => fault,
                Err(error) => {
                    tracing::warn!(root = %root.short(), %error, "a manifest cannot be read now");
                    continue;
                }
            };
            for version in versions {
                match &fault {
                    Some(what) => self.note_damage(&version, what),
                    None if self.is_mended(&root, &version) => self.clear_damage(&version)?,
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Whether what was noted of a version was one of the faults that [`fault_in`] finds: not wrong bytes in a page.
    fn is_mended(&self, root: &Root, version: &VersionId) -> bool {
        let snapshot = self.snapshot();
        let Some(noted) = snapshot.damages().get(version) else { return false };
        let (head, pages) = (self.layout.head(root), self.layout.pages(root));
        let is_of = |path: &Path| noted.starts_with(&shown(&self.layout, path, ""));
        is_of(&head) || is_of(&pages) && *noted != shown(&self.layout, &pages, "is damaged")
    }

    /// Notes that a manifest file is not as it was published.
    pub(crate) fn note_manifest(&self, root: &Root, path: &Path, what: &str) {
        let snapshot = self.snapshot();
        for version in snapshot.versions_of(root) {
            self.note_damage(version, &shown(&self.layout, path, what));
        }
    }

    /// The error of a manifest file of `version` that could not be read; noted, if it was altered.
    pub(crate) fn manifest_error(
        &self,
        version: &VersionId,
        root: &Root,
        path: PathBuf,
        error: io::Error,
    ) -> MasterError {
        let what = match &error {
            error if is_gone(error) => "is missing",
            error if error.kind() == io::ErrorKind::UnexpectedEof => "is cut short",
            _ => return MasterError::io("read", path)(error),
        };
        self.note_manifest(root, &path, what);
        MasterError::Manifest { version: version.clone(), path, what }
    }
}
