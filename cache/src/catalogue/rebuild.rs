//! A catalogue from what lies in the store: trees, their marks, and the heads they name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use icbd_image::{Head, ImageName, ImageRecord, RepositoryId, VersionId, VersionNumber, VersionRecord, VersionState};

use super::marks;
use crate::disk::{Disk, Missing, Wait};
use crate::layout;

/// What the trees prove. States and notes are not among it: the next refresh brings them.
pub(super) fn from_marks(disk: &dyn Disk) -> (Option<RepositoryId>, Vec<ImageRecord>) {
    let mut images = Vec::new();
    let mut repository = None;
    let names = |directory: &Path| disk.names(directory).unwrap_or_default();
    for name in names(Path::new(layout::FILLING)).iter().filter_map(|name| name.parse::<ImageName>().ok()) {
        let Some(mut image) = marks::read_image(disk, &name) else { continue };
        let numbers = |directory: PathBuf| names(&directory).into_iter().filter_map(|name| name.parse().ok());
        let numbers: BTreeSet<VersionNumber> =
            numbers(layout::image(&name)).chain(numbers(layout::sealed_image(&name))).collect();
        for number in numbers {
            let id = VersionId { image: name.clone(), number };
            let statement = [layout::sealed(&id), layout::tree(&id)]
                .iter()
                .find_map(|tree| marks::read_statement(disk, tree, &id));
            let Some(statement) = statement else { continue };
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

fn data_bytes(disk: &dyn Disk, root: icbd_image::Root) -> Option<u64> {
    let file = disk.open(&layout::head(root), Missing::Fail).ok()?;
    let size = usize::try_from(file.state().ok()?.bytes).ok().filter(|size| *size <= Head::BYTES_MAX)?;
    let mut bytes = vec![0; size];
    let read = file.read(0, &mut bytes, Wait::Yes).ok()?;
    bytes.truncate(read);
    Head::parse_expecting(bytes.into(), &root).ok().map(|head| head.data_bytes())
}
