//! Directory listings that can be continued after any entry, also by a later daemon.
//!
//! An entry's cookie is a number of the entry itself: its place in the version's name table, its
//! version number, its image's serial; never its place in this listing. Whoever comes back with the
//! cookie of an entry that is gone meanwhile goes on with the next one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use icbd_image::{ImageRecord, Kind};

use super::{CURRENT, Place};
use crate::errno::Refusal;

/// Cookies of `.` and `..`; 0 is "from the start". Those of entries begin behind [`FIRST_COOKIE`].
const DOT_COOKIE: u64 = 1;
const DOT_DOT_COOKIE: u64 = 2;
/// Of a version's first name, of `current`, and one less than those of serial and version number 1.
const FIRST_COOKIE: u64 = 3;

/// One entry of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed<'a> {
    /// Continue behind this entry by asking with its cookie.
    pub(crate) cookie: u64,
    pub(crate) name: Name<'a>,
    pub(crate) place: Place<'a>,
}

/// A name, as text or as the number that it spells.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Name<'a> {
    Bytes(&'a [u8]),
    Number(icbd_image::VersionNumber),
}

impl Name<'_> {
    /// Calls `with` with the name as the kernel wants it.
    pub(crate) fn with<R>(&self, with: impl FnOnce(&OsStr) -> R) -> R {
        match self {
            Name::Bytes(bytes) => with(OsStr::from_bytes(bytes)),
            Name::Number(number) => with(OsStr::new(&number.to_string())),
        }
    }
}

impl<'a> Place<'a> {
    /// The entries behind `cookie`, in the order of their cookies; 0 begins with `.`.
    pub(crate) fn entries(
        &self,
        cookie: u64,
        images: &'a [ImageRecord],
    ) -> Result<Box<dyn Iterator<Item = Listed<'a>> + 'a>, Refusal> {
        let parent = self.lookup(OsStr::new(".."), images)?;
        let dots = [
            Listed { cookie: DOT_COOKIE, name: Name::Bytes(b"."), place: *self },
            Listed { cookie: DOT_DOT_COOKIE, name: Name::Bytes(b".."), place: parent },
        ];
        let dots = dots.into_iter().filter(move |entry| entry.cookie > cookie);
        let rest: Box<dyn Iterator<Item = Listed<'a>> + 'a> = match *self {
            Place::Mount(images) => Box::new(images_behind(images, cookie)),
            Place::Image(image) => Box::new(versions_behind(image, cookie)),
            Place::Inside(it) if it.node.kind() == Kind::Directory => {
                // The name at `position` has the cookie FIRST_COOKIE + position.
                let from = (cookie + 1).saturating_sub(FIRST_COOKIE);
                let from = u32::try_from(from).unwrap_or(u32::MAX);
                Box::new(it.head.entries(it.node.index(), from).filter_map(move |entry| {
                    let place = Place::of_version(it.image, it.version, it.head, entry.node).ok()?;
                    let cookie = FIRST_COOKIE + u64::from(entry.position);
                    Some(Listed { cookie, name: Name::Bytes(entry.name), place })
                }))
            }
            Place::Inside(_) | Place::Current(..) => return Err(Refusal::NotDirectory),
            Place::Unloaded(..) => return Err(Refusal::Stale),
        };
        Ok(Box::new(dots.chain(rest)))
    }
}

/// By serial: a new image then comes last, whatever its name.
fn images_behind<'a>(images: &'a [ImageRecord], cookie: u64) -> impl Iterator<Item = Listed<'a>> + 'a {
    let mut behind = images.iter().filter(|image| image_cookie(image) > cookie).collect::<Vec<_>>();
    behind.sort_unstable_by_key(|image| image.serial);
    behind.into_iter().map(|image| Listed {
        cookie: image_cookie(image),
        name: Name::Bytes(image.name.as_str().as_bytes()),
        place: Place::Image(image),
    })
}

fn image_cookie(image: &ImageRecord) -> u64 {
    FIRST_COOKIE + image.serial.get()
}

fn versions_behind<'a>(image: &'a ImageRecord, cookie: u64) -> impl Iterator<Item = Listed<'a>> + 'a {
    let current = Place::of_image(image, super::current_index()).ok().map(|place| Listed {
        cookie: FIRST_COOKIE,
        name: Name::Bytes(CURRENT.as_bytes()),
        place,
    });
    let versions = image.versions.iter().map(move |version| Listed {
        cookie: FIRST_COOKIE + u64::from(version.number().get()),
        name: Name::Number(version.number()),
        place: Place::Unloaded(image, version),
    });
    current.into_iter().chain(versions).filter(move |entry| entry.cookie > cookie)
}
