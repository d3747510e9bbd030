//! A catalogue from what lies in the store: trees, their marks, and the heads they name.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use icbd_image::{
    BLOCK_BYTES, Head, ImageName, ImageRecord, RepositoryId, Serial, SignedStatement, VersionId, VersionNumber,
    VersionRecord, VersionState,
};

use super::marks;
use crate::disk::{Disk, Missing, Wait};
use crate::version::Residency;
use crate::{layout, resident};

/// What a store proves without a catalogue.
#[derive(Debug, Default)]
pub(super) struct Proven {
    pub(super) repository: Option<RepositoryId>,
    pub(super) images: Vec<ImageRecord>,
    /// By the bitmaps; to the block it is known once a version is opened.
    pub(super) held: HashMap<Serial, Residency>,
}

/// What the trees prove. States and notes are not among it: the next refresh brings them.
pub(super) fn from_marks(disk: &dyn Disk) -> Proven {
    let mut images = Vec::new();
    let mut held = HashMap::new();
    let mut repository = None;
    let names = |directory: &Path| disk.names(directory).unwrap_or_default();
    for name in names(Path::new(layout::FILLING)).iter().filter_map(|name| name.parse::<ImageName>().ok()) {
        let Some(mut image) = marks::read_image(disk, &name) else { continue };
        let numbers = |directory: PathBuf| names(&directory).into_iter().filter_map(|name| name.parse().ok());
        let numbers: BTreeSet<VersionNumber> =
            numbers(layout::image(&name)).chain(numbers(layout::sealed_image(&name))).collect();
        for number in numbers {
            let id = VersionId { image: name.clone(), number };
            let statement =
                [layout::sealed(&id), layout::tree(&id)].iter().find_map(|tree| marks::read_statement(disk, tree, &id));
            let Some(statement) = statement else { continue };
            let Some(data_bytes) = data_bytes(disk, statement.statement().root) else { continue };
            repository = Some(statement.statement().repository);
            held.extend(
                held_of(disk, &id, &statement, data_bytes).map(|residency| (statement.statement().serial, residency)),
            );
            let state = if image.deployed == Some(number) { VersionState::Deployed } else { VersionState::Ready };
            image.versions.push(VersionRecord { state, data_bytes, note: String::new(), statement });
        }
        image.versions.sort_by_key(VersionRecord::number);
        image.deployed = image.deployed.filter(|number| image.version(*number).is_some());
        images.push(image);
    }
    images.sort_by(|a, b| a.name.cmp(&b.name));
    Proven { repository, images, held }
}

fn held_of(disk: &dyn Disk, id: &VersionId, statement: &SignedStatement, data_bytes: u64) -> Option<Residency> {
    let (root, blocks) = resident::count(disk, &layout::bitmap(id)).ok()??;
    let total_bytes = data_bytes.next_multiple_of(BLOCK_BYTES).max(blocks * BLOCK_BYTES);
    let here = blocks * BLOCK_BYTES;
    (root == statement.statement().root).then_some(Residency { total_bytes, resident_bytes: here, durable_bytes: here })
}

fn data_bytes(disk: &dyn Disk, root: icbd_image::Root) -> Option<u64> {
    let file = disk.open(&layout::head(root), Missing::Fail).ok()?;
    let size = usize::try_from(file.state().ok()?.bytes).ok().filter(|size| *size <= Head::BYTES_MAX)?;
    let mut bytes = vec![0; size];
    let read = file.read(0, &mut bytes, Wait::Yes).ok()?;
    bytes.truncate(read);
    Head::parse_expecting(bytes.into(), &root).ok().map(|head| head.data_bytes())
}
