//! Clearing away what an interrupted publish left behind, and nothing else.
//!
//! Only what a staging directory's intent names is removed, and only if the catalogue does not have
//! it. A tree or manifest that neither knows (a catalogue restored from an old backup, a file that
//! somebody put there) stays where it is and is reported.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use icbd_image::{ImageName, VersionId, VersionNumber};
use icbd_snapshot::Trees;

use crate::MasterError;
use crate::layout::{Layout, sync_directory};
use crate::publish::{Intent, staging};
use crate::repository::Snapshot;
use crate::trees;

/// Settles every staging directory, then reports what is unknown. For a repository that nobody else uses.
pub(crate) fn clean(layout: &Layout, trees: &Trees, snapshot: &Snapshot) -> Result<(), MasterError> {
    for name in list(&layout.publishing())? {
        let directory = layout.publishing().join(name);
        tracing::info!(directory = %directory.display(), "clearing away an interrupted publish");
        settle(layout, trees, &directory, snapshot)?;
    }
    for (path, version) in stored_versions(layout)? {
        if version.is_none_or(|version| snapshot.record(&version).is_err()) {
            tracing::warn!(path, "not in the catalogue; left as it is");
        }
    }
    Ok(())
}

/// Removes one staging directory after what it was meant to become, unless that is in the catalogue.
pub(crate) fn settle(layout: &Layout, trees: &Trees, directory: &Path, snapshot: &Snapshot) -> Result<(), MasterError> {
    if let Some(Intent { version, root }) = Intent::read(directory) {
        // While its tree is still in the staging directory, the version's place is somebody else's, unless it is a
        // snapshot of this very tree.
        let is_ours = !directory.join("tree").exists() || staging::is_from(layout, trees, &version, directory);
        if is_ours && snapshot.record(&version).is_err() {
            trees::remove(trees, &trees::version(&version))?;
        }
        if !snapshot.has_root(&root) {
            for path in [layout.head(&root), layout.pages(&root), layout.profile(&root)] {
                absent_is_fine(std::fs::remove_file(&path)).map_err(MasterError::io("remove", path))?;
            }
        }
        let image = layout.image(&version.image);
        if snapshot.listing.image(&version.image).is_none() {
            // Fails, rightly, when something else is in it.
            let _ = std::fs::remove_dir(image);
        }
        sync_directory(&layout.versions())?;
        sync_directory(&layout.manifests())?;
    }
    // The intent goes last: until then, being interrupted here means to start again.
    for name in list(directory)? {
        let path = directory.join(&name);
        match path.strip_prefix(layout.root()) {
            Ok(at) if name != "intent" => trees::remove(trees, at)?,
            _ => {}
        }
    }
    remove_tree(directory)
}

/// Every tree under `versions/`, with the version its place names (`None` for what is no place of a version).
fn stored_versions(layout: &Layout) -> Result<HashSet<(String, Option<VersionId>)>, MasterError> {
    let mut found = HashSet::new();
    for image in list(&layout.versions())? {
        let directory = layout.versions().join(&image);
        let Some(name) = image.to_str().and_then(|name| name.parse::<ImageName>().ok()) else {
            found.insert((directory.display().to_string(), None));
            continue;
        };
        for number in list(&directory)? {
            let parsed = number.to_str().and_then(|number| number.parse::<VersionNumber>().ok());
            let version = parsed.map(|number| VersionId { image: name.clone(), number });
            found.insert((directory.join(number).display().to_string(), version));
        }
    }
    Ok(found)
}

/// The names in a directory; none if it is not there, or not a directory.
fn list(path: &Path) -> Result<Vec<std::ffi::OsString>, MasterError> {
    match std::fs::read_dir(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        entries => {
            let names = entries.and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect());
            names.map_err(MasterError::io("list", path))
        }
    }
}

/// Removes a file or a whole tree, also one with directories that refuse their own owner.
pub(crate) fn remove_tree(path: &Path) -> Result<(), MasterError> {
    let remove = |path: &Path| match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    let removed = match remove(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => make_removable(path).and_then(|()| remove(path)),
        removed => removed,
    };
    absent_is_fine(removed).map_err(MasterError::io("remove", path))
}

/// Root needs this never; others for a tree with directories they may not write.
fn make_removable(path: &Path) -> std::io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    std::fs::read_dir(path)?.try_for_each(|entry| make_removable(&entry?.path()))
}

fn absent_is_fine(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
