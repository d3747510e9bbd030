//! Extended attributes of the trees that say whose they are, so that a lost catalogue can be rebuilt.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use icbd_image::{ImageName, ImageRecord, Serial, SignedStatement, Timestamp, VersionId, VersionNumber};

use crate::disk::Disk;
use crate::layout;
use crate::version::Version;

/// Of a version's tree: its signed statement.
const STATEMENT: &str = "user.icbd.statement";
/// Of a sealed version's tree: when that was, in seconds since 1970, in decimal.
const SEALED: &str = "user.icbd.sealed";
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

/// What the mark of a version's tree says.
pub(crate) fn read_statement(disk: &dyn Disk, tree: &Path, id: &VersionId) -> Option<SignedStatement> {
    let statement = SignedStatement::decode(&disk.xattr(tree, STATEMENT).ok()??).ok()?;
    (statement.statement().version() == *id).then_some(statement)
}

/// Notes when a tree was sealed.
pub(crate) fn write_sealed(disk: &dyn Disk, tree: &Path, since: SystemTime) -> io::Result<()> {
    disk.set_xattr(tree, SEALED, Timestamp::from(since).seconds.to_string().as_bytes())
}

/// When a tree was sealed, if it is.
pub(crate) fn read_sealed(disk: &dyn Disk, tree: &Path) -> Option<SystemTime> {
    let seconds = str::from_utf8(&disk.xattr(tree, SEALED).ok()??).ok()?.parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
