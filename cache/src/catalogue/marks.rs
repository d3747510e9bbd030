//! Extended attributes of the trees that say whose they are, so that a lost catalogue can be rebuilt.

use std::io;

use icbd_image::{ImageName, ImageRecord, Serial, SignedStatement, Timestamp, VersionNumber};

use crate::disk::Disk;
use crate::layout;
use crate::version::Version;

/// Of a version's tree: its signed statement.
const STATEMENT: &str = "user.icbd.statement";
/// Of an image's directory: `serial seconds nanoseconds deployed`, in decimal; deployed 0 is none.
const IMAGE: &str = "user.icbd.image";

/// Marks a new tree and its image.
pub(crate) fn write(disk: &dyn Disk, version: &Version) -> io::Result<()> {
    disk.set_xattr(&layout::tree(version.id()), STATEMENT, &version.record().statement.encode())?;
    match version.core().view().listed().image(&version.id().image) {
        Some(image) => write_image(disk, image),
        None => Ok(()),
    }
}

/// Marks an image's directory, if there is one.
pub(crate) fn write_image(disk: &dyn Disk, image: &ImageRecord) -> io::Result<()> {
    let Timestamp { seconds, nanoseconds } = image.changed;
    let deployed = image.deployed.map_or(0, VersionNumber::get);
    let text = format!("{} {seconds} {nanoseconds} {deployed}", image.serial);
    match disk.set_xattr(&layout::image(&image.name), IMAGE, text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// What an image's mark says; without versions.
pub(super) fn read_image(disk: &dyn Disk, name: &ImageName) -> Option<ImageRecord> {
    let mark = disk.xattr(&layout::image(name), IMAGE).ok()??;
    let mut words = str::from_utf8(&mark).ok()?.split(' ');
    let serial = Serial::new(words.next()?.parse().ok()?)?;
    let seconds = words.next()?.parse().ok()?;
    let nanoseconds = words.next()?.parse().ok().filter(|nanoseconds| *nanoseconds < 1_000_000_000)?;
    let deployed = VersionNumber::new(words.next()?.parse().ok()?);
    let changed = Timestamp { seconds, nanoseconds };
    Some(ImageRecord {
        name: name.clone(),
        serial,
        changed,
        deployed,
        fallback: None,
        versions: Vec::new(),
        removed: Vec::new(),
    })
}

/// What a tree's mark says.
pub(super) fn read_statement(disk: &dyn Disk, image: &ImageName, number: VersionNumber) -> Option<SignedStatement> {
    let id = icbd_image::VersionId { image: image.clone(), number };
    let statement = SignedStatement::decode(&disk.xattr(&layout::tree(&id), STATEMENT).ok()??).ok()?;
    (statement.statement().version() == id).then_some(statement)
}
