//! Moves in the life of versions, as they travel to the master that makes them, and what came of them.

mod local;
mod plan;

use icbd_image::{Force, ImageName, ImageRef, VersionId, VersionNumber};
use icbd_master::{Advance, Repository};
use serde::{Deserialize, Serialize};

use crate::audit::{Audit, Change};
use crate::control::Peer;
use crate::failure::Failure;
use crate::images::{self, ImageSummary, VersionSummary};
pub(crate) use local::{LocalResult, LocalSpec};
pub(crate) use plan::{PlanReport, PlanResult, PlanSpec, waits_for};

/// What is to be done, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MoveSpec {
    #[serde(flatten)]
    pub verb: Verb,
    #[serde(default)]
    pub why: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub(crate) enum Verb {
    Deploy { version: VersionId },
    Rollback { image: ImageName, to: Option<VersionNumber> },
    Retire { version: VersionId, force: bool },
    Restore { version: VersionId },
}

/// The longest reason that is kept, in bytes.
pub(crate) const WHY_BYTES_MAX: usize = 1000;

/// What was done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MoveResult {
    /// The version that is what the command made it.
    #[serde(flatten)]
    pub version: VersionSummary,
    /// What the bare image name meant before, and means now.
    pub deployed_before: Option<VersionNumber>,
    pub deployed: Option<VersionNumber>,
    /// Where a rollback leads.
    pub fallback: Option<VersionNumber>,
    /// Files of what was deployed before that programs have open on cache servers, by what these said last.
    #[serde(default)]
    pub clients: u64,
}

impl MoveSpec {
    /// Makes the move, with both ends of it in the audit log.
    pub(crate) fn make(&self, repository: &Repository, audit: &Audit, peer: &Peer) -> anyhow::Result<MoveResult> {
        let what = self.verb.to_string();
        let (image, number) = self.verb.named();
        let done = known(repository, image, number)
            .and_then(|()| audit.begin(peer, Change { what: &what, why: &self.why }))
            .and_then(|()| self.verb.act(repository));
        let what = match (&done, &self.verb) {
            (Ok(done), Verb::Rollback { .. }) => format!("{what}: {}", done.change()),
            _ => what,
        };
        audit.record(peer, Change { what: &what, why: &self.why }, &done);
        done
    }
}

/// That there is such a thing; near names are shown where there is none.
fn known(repository: &Repository, image: &ImageName, number: Option<VersionNumber>) -> anyhow::Result<()> {
    let listing = repository.listing();
    let images: Vec<ImageSummary> = listing.images.iter().map(ImageSummary::from).collect();
    let is_removed = |number| listing.image(image).is_some_and(|image| image.removed.contains(&number));
    match number {
        // Its number is known, and what can be said of it the life cycle says.
        Some(number) if is_removed(number) => Ok(()),
        Some(_) => Ok(images::find_version(&images, &ImageRef { image: image.clone(), number }).map(drop)?),
        None => Ok(images::find_image(&images, image).map(drop)?),
    }
}

impl Verb {
    /// Which image is meant, and which version of it, where one is named.
    fn named(&self) -> (&ImageName, Option<VersionNumber>) {
        match self {
            Verb::Deploy { version } | Verb::Retire { version, .. } | Verb::Restore { version } => {
                (&version.image, Some(version.number))
            }
            Verb::Rollback { image, to } => (image, *to),
        }
    }

    fn act(&self, repository: &Repository) -> anyhow::Result<MoveResult> {
        let force = |force: &bool| if *force { Force::Yes } else { Force::No };
        let moved = match self {
            Verb::Deploy { version } => repository.deploy(version),
            Verb::Rollback { image, to } => repository.roll_back(image, *to),
            Verb::Retire { version, force: insists } => repository.retire(version, force(insists)),
            Verb::Restore { version } => repository.restore(version),
        };
        let Advance { before, after } = moved.map_err(Failure::from)?;
        // A rollback without a number leads to what is deployed then.
        let (image, number) = self.named();
        let version = repository.resolve(image, number).and_then(|version| repository.version(&version));
        let is_other = before.deployed() != after.deployed();
        let left = before.deployed().filter(|_| is_other).map(|number| VersionId { image: image.clone(), number });
        let clients = left.map_or(0, |left| repository.clients(&left).unwrap_or_default());
        Ok(MoveResult {
            version: VersionSummary::from(&version.map_err(Failure::from)?),
            deployed_before: before.deployed(),
            deployed: after.deployed(),
            fallback: after.fallback(),
            clients,
        })
    }
}

/// The command, as it is written in the audit log.
impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verb::Deploy { version } => write!(f, "image deploy {version}"),
            Verb::Rollback { image, to: None } => write!(f, "image rollback {image}"),
            Verb::Rollback { image, to: Some(number) } => write!(f, "image rollback {image} --to {number}"),
            Verb::Retire { version, force: false } => write!(f, "image retire {version}"),
            Verb::Retire { version, force: true } => write!(f, "image retire {version} --force"),
            Verb::Restore { version } => write!(f, "image restore {version}"),
        }
    }
}

impl MoveResult {
    /// `lab@8 → lab@7`.
    pub(crate) fn change(&self) -> String {
        let image = &self.version.version.image;
        let name = |number: Option<VersionNumber>| number.map_or("-".to_owned(), |number| format!("{image}@{number}"));
        format!("{} → {}", name(self.deployed_before), name(self.deployed))
    }

    /// Who goes on with what was deployed before; empty if nobody does.
    pub(crate) fn users(&self) -> String {
        match self.clients {
            0 => String::new(),
            count => format!("; {count} open files change at their next boot"),
        }
    }
}
