//! Which versions of an image somebody may begin to use.

use icbd_image::{ImageRecord, VersionRecord, VersionState};

/// The deployed one, the one to go back to, and newer ones, to be tried out; without a deployed one all that are ready.
/// With an older one nobody begins, and whoever uses one goes on.
pub fn bootable(image: &ImageRecord) -> impl Iterator<Item = &VersionRecord> {
    image.versions.iter().filter(|version| {
        let number = version.number();
        let is_in_service = matches!(version.state, VersionState::Ready | VersionState::Deployed);
        let is_chosen = [image.deployed, image.fallback].contains(&Some(number));
        is_in_service && (is_chosen || image.deployed.is_none_or(|deployed| number > deployed))
    })
}
