//! The tree that is shown: `/IMAGE/N/…` and `/IMAGE/current -> N`, from the view and the heads.
//!
//! Pure: no I/O and no clock. Node ids and directory positions come from serials, version numbers and
//! the manifest's own tables, so they are the same on every cache and after every restart, and
//! nothing has to be remembered about a node that the kernel or an NFS client still holds.

mod attributes;
mod listing;
mod xattr;

pub(crate) use attributes::{Attributes, NodeKind};
pub(crate) use listing::Listed;
pub(crate) use xattr::Fill;

use std::os::unix::ffi::OsStrExt;

use icbd_image::{FileIndex, Head, ImageName, ImageRecord, Kind, Node, NodeId, VersionNumber, VersionRecord};

use crate::errno::Refusal;

/// The name of an image's link to its deployed version.
pub(crate) const CURRENT: &str = "current";
/// File index of an image's directory among its node ids.
const IMAGE_DIRECTORY: FileIndex = FileIndex::ROOT;
/// The longest name of a directory entry on Linux.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// The file index that makes the node id of an image's `current`.
pub(crate) fn current_index() -> FileIndex {
    FileIndex::new(1).unwrap_or(FileIndex::ROOT)
}

/// A node of the tree with what is needed to answer for it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// The mount's root and the images in it.
    Mount(&'a [ImageRecord]),
    Image(&'a ImageRecord),
    Current(&'a ImageRecord, VersionNumber),
    /// The root directory of a version whose head is not at hand.
    Unloaded(&'a ImageRecord, &'a VersionRecord),
    Inside(Inside<'a>),
}

/// A node inside a version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inside<'a> {
    pub(crate) image: &'a ImageRecord,
    pub(crate) version: &'a VersionRecord,
    pub(crate) head: &'a Head,
    pub(crate) node: Node<'a>,
}

impl<'a> Place<'a> {
    /// What the image's own serial with `index` means.
    pub(crate) fn of_image(image: &'a ImageRecord, index: FileIndex) -> Result<Place<'a>, Refusal> {
        if index == IMAGE_DIRECTORY {
            return Ok(Place::Image(image));
        }
        let deployed = image.deployed.filter(|_| index == current_index());
        deployed.map(|number| Place::Current(image, number)).ok_or(Refusal::Stale)
    }

    /// Node `index` of the version whose head is `head`.
    pub(crate) fn of_version(
        image: &'a ImageRecord,
        version: &'a VersionRecord,
        head: &'a Head,
        index: FileIndex,
    ) -> Result<Place<'a>, Refusal> {
        let node = head.node(index).ok_or(Refusal::Stale)?;
        Ok(Place::Inside(Inside { image, version, head, node }))
    }

    pub(crate) fn id(&self) -> NodeId {
        match self {
            Place::Mount(_) => NodeId::Mount,
            Place::Image(image) => NodeId::Object { serial: image.serial, index: IMAGE_DIRECTORY },
            Place::Current(image, _) => NodeId::Object { serial: image.serial, index: current_index() },
            Place::Unloaded(_, version) => NodeId::Object { serial: version.serial(), index: FileIndex::ROOT },
            Place::Inside(it) => NodeId::Object { serial: it.version.serial(), index: it.node.index() },
        }
    }

    /// The node named `name` here; `.` and `..` mean what they mean (NFS asks for both).
    ///
    /// Above an image `images` is needed, for the way up.
    pub(crate) fn lookup(&self, name: &std::ffi::OsStr, images: &'a [ImageRecord]) -> Result<Place<'a>, Refusal> {
        let name = name.as_bytes();
        if name.len() > NAME_BYTES_MAX {
            return Err(Refusal::NameTooLong);
        }
        if name == b"." {
            // Also of what is no directory: that is how a file handle becomes an inode again.
            return Ok(*self);
        }
        if name == b".." {
            return self.parent(images);
        }
        match self {
            Place::Mount(images) => image_named(images, name).map(Place::Image).ok_or(Refusal::NoEntry),
            Place::Image(image) if name == CURRENT.as_bytes() => {
                image.deployed.map(|number| Place::Current(image, number)).ok_or(Refusal::NoEntry)
            }
            Place::Image(image) => {
                let number = std::str::from_utf8(name).ok().and_then(|text| text.parse::<VersionNumber>().ok());
                let version = number.and_then(|number| image.version(number)).ok_or(Refusal::NoEntry)?;
                Ok(Place::Unloaded(image, version))
            }
            Place::Inside(it) if it.node.kind() == Kind::Directory => {
                let index = it.head.lookup(it.node.index(), name).ok_or(Refusal::NoEntry)?;
                Place::of_version(it.image, it.version, it.head, index)
            }
            Place::Unloaded(..) => Err(Refusal::Stale),
            Place::Inside(_) | Place::Current(..) => Err(Refusal::NotDirectory),
        }
    }

    /// The directory that this directory is in.
    fn parent(&self, images: &'a [ImageRecord]) -> Result<Place<'a>, Refusal> {
        match self {
            Place::Mount(_) | Place::Image(_) => Ok(Place::Mount(images)),
            Place::Unloaded(image, _) => Ok(Place::Image(image)),
            Place::Inside(it) if it.node.index() == FileIndex::ROOT => Ok(Place::Image(it.image)),
            Place::Inside(it) => {
                let parent = it.node.parent().ok_or(Refusal::NotDirectory)?;
                Place::of_version(it.image, it.version, it.head, parent)
            }
            Place::Current(..) => Err(Refusal::NotDirectory),
        }
    }

    /// A symbolic link's target.
    pub(crate) fn target(&self) -> Result<Vec<u8>, Refusal> {
        match self {
            Place::Current(_, number) => Ok(number.to_string().into_bytes()),
            Place::Inside(it) => it.node.target().map(<[u8]>::to_vec).ok_or(Refusal::Invalid),
            Place::Mount(_) | Place::Image(_) | Place::Unloaded(..) => Err(Refusal::Invalid),
        }
    }

    /// Whether what is shown here can never change.
    pub(crate) fn is_immutable(&self) -> bool {
        matches!(self, Place::Inside(_))
    }
}

fn image_named<'a>(images: &'a [ImageRecord], name: &[u8]) -> Option<&'a ImageRecord> {
    let name: ImageName = std::str::from_utf8(name).ok()?.parse().ok()?;
    images.binary_search_by(|image| image.name.cmp(&name)).ok().map(|at| &images[at])
}

#[cfg(test)]
mod tests;
