//! A catalogue from what lies in the store: trees, their marks, and the heads they name.

use std::path::Path;

use icbd_image::{Head, ImageName, ImageRecord, RepositoryId, VersionNumber, VersionRecord, VersionState};

use super::marks;
use crate::disk::{Disk, Missing, Wait};
use crate::layout;

/// What the trees prove. States and notes are not among it: the next refresh brings them.
pub(super) fn from_marks(store: &Path, disk: &dyn Disk) -> (Option<RepositoryId>, Vec<ImageRecord>) {
    let mut images = Vec::new();
    let mut repository = None;
    for name in names(&store.join(layout::FILLING)).iter().filter_map(|name| name.parse::<ImageName>().ok()) {
        let Some(mut image) = marks::read_image(disk, &name) else { continue };
        let directory = store.join(layout::image(&name));
        for number in names(&directory).iter().filter_map(|name| name.parse::<VersionNumber>().ok()) {
            let Some(statement) = marks::read_statement(disk, &name, number) else { continue };
            let Some(data_bytes) = data_bytes(disk, statement.statement().root) else { continue };
            repository = Some(statement.statement().repository);
            let state = if image.deployed == Some(number) { VersionState::Deployed } else { VersionState::Ready };
            image.versions.push(VersionRecord { state, data_bytes, note: String::new(), statement });
        }
        image.versions.sort_by_key(VersionRecord::number);
        image.deployed = image.deployed.filter(|number| image.version(*number).is_some());
        images.push(image);
    }
    images.sort_by(|a, b| a.name.cmp(&b.name));
    (repository, images)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn data_bytes(disk: &dyn Disk, root: icbd_image::Root) -> Option<u64> {
    let file = disk.open(&layout::head(root), Missing::Fail).ok()?;
    let size = usize::try_from(file.state().ok()?.bytes).ok().filter(|size| *size <= Head::BYTES_MAX)?;
    let mut bytes = vec![0; size];
    let read = file.read(0, &mut bytes, Wait::Yes).ok()?;
    bytes.truncate(read);
    Head::parse_expecting(bytes.into(), &root).ok().map(|head| head.data_bytes())
}
