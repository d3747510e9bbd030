//! The images and versions that a cache shows: an immutable snapshot, swapped whole.

use std::collections::{BTreeMap, HashMap};

use icbd_image::{
    ImageName, ImageRecord, RepositoryId, Root, Serial, Timestamp, VersionId, VersionNumber, VersionRecord,
};

use crate::local::Choices;

/// What the mount shows at one moment. Images are sorted by name, versions by number.
#[derive(Debug, Clone, Default)]
pub struct View {
    repository: Option<RepositoryId>,
    images: Vec<ImageRecord>,
    places: HashMap<Serial, Place>,
    /// What administrators of this cache chose.
    choices: Choices,
    /// Of images for which something was chosen: what the master deploys, and when it last changed anything.
    listed: BTreeMap<ImageName, (Option<VersionNumber>, Timestamp)>,
}

/// What a serial stands for.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    Image(&'a ImageRecord),
    Version(&'a ImageRecord, &'a VersionRecord),
}

#[derive(Debug, Clone, Copy)]
struct Place {
    image: u32,
    /// `None`: the serial is the image's own.
    version: Option<u32>,
}

impl View {
    /// A view of images that are sorted, and whose serials are each there once.
    pub(crate) fn new(repository: Option<RepositoryId>, images: Vec<ImageRecord>) -> View {
        let mut places = HashMap::new();
        for (i, image) in (0..).zip(&images) {
            places.insert(image.serial, Place { image: i, version: None });
            for (v, version) in (0..).zip(&image.versions) {
                places.insert(version.serial(), Place { image: i, version: Some(v) });
            }
        }
        View { repository, images, places, ..View::default() }
    }

    /// The same as its master lists it, without what was chosen here.
    pub(crate) fn listed(&self) -> View {
        let mut view = View { choices: Choices::new(), listed: BTreeMap::new(), ..self.clone() };
        for (name, (deployed, changed)) in &self.listed {
            if let Some(image) = view.image_mut(name) {
                (image.deployed, image.changed) = (*deployed, *changed);
            }
        }
        view
    }

    pub(crate) fn choices(&self) -> &Choices {
        &self.choices
    }

    /// What the master deploys of an image, whatever is shown.
    pub fn deployed_by_master(&self, image: &ImageName) -> Option<VersionNumber> {
        match self.listed.get(image) {
            Some((deployed, _)) => *deployed,
            None => self.image(image)?.deployed,
        }
    }

    pub(crate) fn set_choices(&mut self, choices: Choices) {
        self.choices = choices;
    }

    pub(crate) fn note_listed(&mut self, image: &ImageName, listed: (Option<VersionNumber>, Timestamp)) {
        self.listed.insert(image.clone(), listed);
    }

    pub(crate) fn image_mut(&mut self, name: &ImageName) -> Option<&mut ImageRecord> {
        let at = self.images.binary_search_by(|image| image.name.cmp(name)).ok()?;
        Some(&mut self.images[at])
    }

    /// The repository these images are of; `None` while no master was ever heard.
    pub fn repository(&self) -> Option<RepositoryId> {
        self.repository
    }

    pub fn images(&self) -> &[ImageRecord] {
        &self.images
    }

    pub fn image(&self, name: &ImageName) -> Option<&ImageRecord> {
        self.images.binary_search_by(|image| image.name.cmp(name)).ok().map(|at| &self.images[at])
    }

    pub fn version(&self, id: &VersionId) -> Option<&VersionRecord> {
        self.image(&id.image)?.version(id.number)
    }

    /// What the serial stands for.
    pub fn object(&self, serial: Serial) -> Option<Object<'_>> {
        let place = self.places.get(&serial)?;
        let image = self.images.get(place.image as usize)?;
        match place.version {
            None => Some(Object::Image(image)),
            Some(version) => Some(Object::Version(image, image.versions.get(version as usize)?)),
        }
    }

    /// A version with this root: those who ask a cache server for blocks name nothing else.
    pub fn with_root(&self, root: Root) -> Option<&VersionRecord> {
        self.images.iter().flat_map(|image| &image.versions).find(|version| version.root() == root)
    }
}
