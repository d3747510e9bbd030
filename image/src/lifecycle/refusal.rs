//! Why a move was refused, and what to do instead.

use crate::{ImageName, Timestamp, VersionId, VersionNumber, VersionState};

/// A move that may not be made. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no version {0}")]
    Absent(VersionId),
    #[error(
        "{image} is being edited by {by} since {since}; wait for their `icbd image save {image}`, or end it with \
         `icbd image discard {image}`, which loses what they did"
    )]
    BeingEdited { image: ImageName, by: String, since: Timestamp },
    #[error("{0} is not being edited; begin with `icbd image edit {0}`")]
    NotBeingEdited(ImageName),
    #[error("image {0} has used up its version numbers")]
    Numbers(ImageName),
    #[error("{version} is {state} and cannot be deployed; restore it first with `icbd image restore {version}`")]
    NotReady { version: VersionId, state: VersionState },
    #[error("{0} is the deployed version already; name another one with --to")]
    Deployed(VersionId),
    #[error(
        "no version of {0} was deployed before, so there is none to go back to; name a ready one with --to, or deploy it"
    )]
    NoFallback(ImageName),
    #[error(
        "{0} is deployed, and without it nobody could boot {image}; deploy another version first, or insist with --force",
        image = .0.image
    )]
    OnlyDeployed(VersionId),
    #[error("{version} is kept ready to go back to{}; insist with --force", from(version, *deployed))]
    Fallback { version: VersionId, deployed: Option<VersionNumber> },
    #[error("{version} is {state} already")]
    RetiredAlready { version: VersionId, state: VersionState },
    #[error("{version} is {state}, and nothing is to be restored")]
    NotRetired { version: VersionId, state: VersionState },
    #[error("{version} is {state}; retire it first with `icbd image retire {version}`")]
    InService { version: VersionId, state: VersionState },
    #[error("{version} is used by {}; it goes when they let go of it", users.join(", "))]
    InUse { version: VersionId, users: Vec<String> },
    #[error("the content of {0} was removed for good; publish it again, as another version, from a backup or a cache")]
    Removed(VersionId),
}

/// From which version one would go back.
fn from(version: &VersionId, deployed: Option<VersionNumber>) -> String {
    deployed.map_or_else(String::new, |number| format!(" from {}@{number}", version.image))
}

impl Refusal {
    /// Whether the same move would be refused again although nobody does anything.
    pub fn is_permanent(&self) -> bool {
        // Users come and go by themselves.
        !matches!(self, Refusal::InUse { .. })
    }
}
