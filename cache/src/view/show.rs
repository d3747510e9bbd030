//! What is shown of what is known.

use std::sync::Arc;

use icbd_image::{ImageName, ImageRecord, VersionNumber};

use super::View;
use crate::local::{Choice, Choices};
use crate::trust::Withheld;

impl View {
    /// The same knowledge, shown without what is withheld, and with the bare names of some images meaning what was
    /// chosen here.
    pub(crate) fn showing(self, choices: Choices, withheld: Withheld) -> View {
        let is_plain = |image: &&ImageRecord| {
            !choices.contains_key(&image.name) && image.versions.iter().all(|it| !withheld.contains_key(&it.serial()))
        };
        let images = match self.known.iter().all(|image| is_plain(&image)) {
            // Thousands of versions are not copied for nothing.
            true => self.known.clone(),
            false => {
                let show = |image: &ImageRecord| match is_plain(&image) {
                    true => image.clone(),
                    false => shown(image, choices.get(&image.name), &withheld),
                };
                Arc::new(self.known.iter().map(show).collect())
            }
        };
        View { images, choices, withheld, ..self }
    }

    /// The version that an image's bare name means, whether it is shown or not.
    pub(crate) fn meant(&self, image: &ImageName) -> Option<VersionNumber> {
        let known = self.known_image(image)?;
        chosen(known, self.choices.get(image)).map_or(known.deployed, |choice| Some(choice.number))
    }
}

/// One image. A bare name never leads to a version that is withheld, and never to another one in its place: which
/// version a lab boots is what somebody deployed or chose.
fn shown(known: &ImageRecord, choice: Option<&Choice>, withheld: &Withheld) -> ImageRecord {
    let mut image = known.clone();
    if let Some(choice) = chosen(known, choice) {
        // The time of the link to it.
        (image.deployed, image.changed) = (Some(choice.number), image.changed.max(choice.since));
    }
    image.versions.retain(|version| !withheld.contains_key(&version.serial()));
    let is_shown = |number: &VersionNumber| image.version(*number).is_some();
    (image.deployed, image.fallback) = (image.deployed.filter(is_shown), image.fallback.filter(is_shown));
    image
}

/// A choice counts once there is something known of it.
fn chosen<'a>(known: &ImageRecord, choice: Option<&'a Choice>) -> Option<&'a Choice> {
    choice.filter(|choice| known.version(choice.number).is_some())
}
