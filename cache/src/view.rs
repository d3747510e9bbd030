//! The images and versions that a cache shows: an immutable snapshot, swapped whole.
//!
//! What is *known* is what the master lists and the catalogue keeps; what is *shown* is that without the versions
//! whose signatures are not believed now ([`crate::trust`]), and with the bare names that were chosen here. A
//! withheld version is found by nobody who looks for its name; its serial keeps its meaning, for those who have its
//! files open.

mod show;

use std::collections::HashMap;
use std::sync::Arc;

use icbd_image::{
    ImageName, ImageRecord, Listing, RepositoryId, Root, Serial, StatementError, VersionId, VersionNumber,
    VersionRecord,
};

use crate::CacheError;
use crate::local::Choices;
use crate::trust::Withheld;

/// What the mount shows at one moment. Images are sorted by name, versions by number.
#[derive(Debug, Clone, Default)]
pub struct View {
    repository: Option<RepositoryId>,
    /// All that is known, as the master lists it.
    known: Arc<Vec<ImageRecord>>,
    /// What is shown of it; the same images in the same places.
    images: Arc<Vec<ImageRecord>>,
    /// Places in `known`.
    places: Arc<HashMap<Serial, Place>>,
    /// What administrators of this cache chose.
    choices: Choices,
    withheld: Withheld,
}

/// What a serial stands for.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    Image(&'a ImageRecord),
    /// Also of a version that is withheld.
    Version(&'a ImageRecord, &'a VersionRecord),
}

#[derive(Debug, Clone, Copy)]
struct Place {
    image: u32,
    /// `None`: the serial is the image's own.
    version: Option<u32>,
}

impl View {
    /// A view of all of these: images that are sorted, and whose serials are each there once.
    pub(crate) fn new(repository: Option<RepositoryId>, images: Vec<ImageRecord>) -> View {
        let mut places = HashMap::new();
        for (i, image) in (0..).zip(&images) {
            places.insert(image.serial, Place { image: i, version: None });
            for (v, version) in (0..).zip(&image.versions) {
                places.insert(version.serial(), Place { image: i, version: Some(v) });
            }
        }
        let known = Arc::new(images);
        View { repository, images: known.clone(), known, places: Arc::new(places), ..View::default() }
    }

    /// All that is known as the master lists it, without what was chosen here and whatever is believed.
    pub(crate) fn listed(&self) -> View {
        let (choices, withheld) = Default::default();
        View { images: self.known.clone(), choices, withheld, ..self.clone() }
    }

    /// All that is known, as the master listed it.
    pub(crate) fn listing(&self) -> Option<Listing> {
        Some(Listing { repository: self.repository?, images: self.known.to_vec() })
    }

    pub(crate) fn choices(&self) -> &Choices {
        &self.choices
    }

    pub(crate) fn withheld(&self) -> &Withheld {
        &self.withheld
    }

    /// What the master deploys of an image, whatever is shown.
    pub fn deployed_by_master(&self, image: &ImageName) -> Option<VersionNumber> {
        self.known_image(image)?.deployed
    }

    /// The repository these images are of; `None` while no master was ever heard.
    pub fn repository(&self) -> Option<RepositoryId> {
        self.repository
    }

    pub fn images(&self) -> &[ImageRecord] {
        &self.images
    }

    pub fn image(&self, name: &ImageName) -> Option<&ImageRecord> {
        find(&self.images, name).map(|at| &self.images[at])
    }

    /// An image with all its versions, also those that are withheld.
    pub(crate) fn known_image(&self, name: &ImageName) -> Option<&ImageRecord> {
        find(&self.known, name).map(|at| &self.known[at])
    }

    pub fn version(&self, id: &VersionId) -> Option<&VersionRecord> {
        self.image(&id.image)?.version(id.number)
    }

    /// A version that may be used; an error that says why not.
    pub fn usable(&self, id: &VersionId) -> Result<&VersionRecord, CacheError> {
        if let Some(record) = self.version(id) {
            return Ok(record);
        }
        let known = self.known_image(&id.image).and_then(|image| image.version(id.number));
        Err(match known.and_then(|known| self.withheld.get(&known.serial())) {
            Some(why) => CacheError::Untrusted { version: id.clone(), why: why.clone() },
            None => CacheError::UnknownVersion(id.clone()),
        })
    }

    /// The versions of an image that are known and not shown, and why each is not.
    pub fn withheld_of(&self, image: &ImageName) -> impl Iterator<Item = (&VersionRecord, &StatementError)> {
        let known = self.known_image(image).into_iter().flat_map(|image| &image.versions);
        known.filter_map(|version| Some((version, self.withheld.get(&version.serial())?)))
    }

    /// What the serial stands for.
    pub fn object(&self, serial: Serial) -> Option<Object<'_>> {
        let place = self.places.get(&serial)?;
        let image = self.images.get(place.image as usize)?;
        match place.version {
            None => Some(Object::Image(image)),
            Some(version) => {
                let known = self.known.get(place.image as usize)?;
                Some(Object::Version(image, known.versions.get(version as usize)?))
            }
        }
    }

    /// A version with this root: those who ask a cache server for blocks name nothing else.
    pub fn with_root(&self, root: Root) -> Option<&VersionRecord> {
        self.images.iter().flat_map(|image| &image.versions).find(|version| version.root() == root)
    }
}

fn find(images: &[ImageRecord], name: &ImageName) -> Option<usize> {
    images.binary_search_by(|image| image.name.cmp(name)).ok()
}
