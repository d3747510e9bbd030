//! The life of an image's versions: editing → ready → deployed → retiring → archived, and what leads from one to the next.
//!
//! One [`Move`] at a time turns a [`Lifecycle`] into the next, or is refused with the reason and the remedy; a refused
//! move changes nothing. The states are the thesis' (§3.2.1). What always holds: at most one version is deployed; the
//! fallback is ready and was deployed just before; a number is given once; what was removed stays removed.
//!
//! Nothing is done here: whoever makes a move has it decided first, and then acts on it.

mod refusal;

use std::collections::BTreeMap;

use crate::{ImageName, Timestamp, VersionId, VersionNumber, VersionState};
pub use refusal::Refusal;

/// Where one image's versions stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    image: ImageName,
    /// The highest number that was ever given.
    last: Option<VersionNumber>,
    versions: BTreeMap<VersionNumber, Stage>,
    fallback: Option<VersionNumber>,
    editing: Option<Editing>,
}

/// Where a version stands: its state, and of an archived one whether its content is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Ready,
    Deployed,
    Retiring,
    /// Out of service, its content kept.
    Archived,
    /// Its content is gone; its number and its name are not.
    Removed,
}

/// A writable working copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Editing {
    /// Who began it.
    pub by: String,
    pub since: Timestamp,
    /// The version that it began as; `None` for an image without any.
    pub of: Option<VersionNumber>,
}

/// What an administrator does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Begin a working copy of the newest version that is in service; of the newest that is there, if none is.
    Edit { by: String, at: Timestamp },
    /// Make the working copy the next version, ready.
    Save,
    /// Throw the working copy away.
    Discard,
    /// Make something else the next version, ready.
    Publish,
    /// Make a ready version the one that the bare image name means.
    Deploy(VersionNumber),
    /// Deploy the fallback, or another ready version.
    Rollback { to: Option<VersionNumber> },
    /// Offer a version to nobody new.
    Retire { number: VersionNumber, force: Force },
    /// Make a retiring or archived version ready again.
    Restore(VersionNumber),
    /// Take a retiring version out of service; `users` are all who use it, or may, in words.
    Archive { number: VersionNumber, users: Vec<String> },
    /// Remove the content of an archived version, which nobody uses.
    Remove { number: VersionNumber, users: Vec<String> },
}

/// Whether an administrator insists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    No,
    Yes,
}

impl Lifecycle {
    /// An image without versions.
    pub fn new(image: ImageName) -> Lifecycle {
        Lifecycle { image, last: None, versions: BTreeMap::new(), fallback: None, editing: None }
    }

    /// The life cycle that was written down. A fallback that is not ready is none, and of several deployed versions
    /// the newest is: who writes down what this gives never needs either.
    pub fn restore(
        image: ImageName,
        last: Option<VersionNumber>,
        versions: impl IntoIterator<Item = (VersionNumber, Stage)>,
        fallback: Option<VersionNumber>,
        editing: Option<Editing>,
    ) -> Lifecycle {
        let mut versions: BTreeMap<_, _> = versions.into_iter().collect();
        let mut is_deployed = false;
        for stage in versions.values_mut().rev().filter(|stage| **stage == Stage::Deployed) {
            if std::mem::replace(&mut is_deployed, true) {
                *stage = Stage::Ready;
            }
        }
        let fallback = fallback.filter(|number| versions.get(number) == Some(&Stage::Ready));
        let last = last.max(versions.keys().next_back().copied());
        Lifecycle { image, last, versions, fallback, editing }
    }

    /// The versions and where they stand, oldest first.
    pub fn versions(&self) -> impl Iterator<Item = (VersionNumber, Stage)> {
        self.versions.iter().map(|(number, stage)| (*number, *stage))
    }

    pub fn stage(&self, number: VersionNumber) -> Option<Stage> {
        self.versions.get(&number).copied()
    }

    /// What the bare image name means.
    pub fn deployed(&self) -> Option<VersionNumber> {
        self.versions().find(|(_, stage)| *stage == Stage::Deployed).map(|(number, _)| number)
    }

    /// The version that was deployed before this one; it is kept ready.
    pub fn fallback(&self) -> Option<VersionNumber> {
        self.fallback
    }

    pub fn editing(&self) -> Option<&Editing> {
        self.editing.as_ref()
    }

    /// The highest number that was ever given.
    pub fn last(&self) -> Option<VersionNumber> {
        self.last
    }

    /// What the life cycle is after `made`, unless that may not be.
    pub fn after(&self, made: &Move) -> Result<Lifecycle, Refusal> {
        let mut next = self.clone();
        match made {
            Move::Edit { by, at } => next.edit(by, *at)?,
            Move::Save => {
                next.end_editing()?;
                next.add()?;
            }
            Move::Discard => next.end_editing()?,
            Move::Publish => next.add()?,
            Move::Deploy(number) => next.deploy(*number)?,
            Move::Rollback { to } => next.roll_back(*to)?,
            Move::Retire { number, force } => next.retire(*number, *force)?,
            Move::Restore(number) => next.bring_back(*number)?,
            Move::Archive { number, users } => next.archive(*number, users)?,
            Move::Remove { number, users } => next.remove(*number, users)?,
        }
        Ok(next)
    }

    fn edit(&mut self, by: &str, at: Timestamp) -> Result<(), Refusal> {
        if let Some(Editing { by, since, .. }) = &self.editing {
            let (image, by) = (self.image.clone(), by.clone());
            return Err(Refusal::BeingEdited { image, by, since: *since });
        }
        self.editing = Some(Editing { by: by.to_owned(), since: at, of: self.to_edit() });
        Ok(())
    }

    /// What a working copy begins as: what was withdrawn was so for a reason.
    fn to_edit(&self) -> Option<VersionNumber> {
        let newest = |is_meant: fn(&Stage) -> bool| self.versions().filter(|(_, stage)| is_meant(stage)).last();
        let in_service = newest(|stage| matches!(stage, Stage::Ready | Stage::Deployed));
        in_service.or_else(|| newest(|stage| *stage != Stage::Removed)).map(|(number, _)| number)
    }

    fn end_editing(&mut self) -> Result<(), Refusal> {
        self.editing.take().map(drop).ok_or_else(|| Refusal::NotBeingEdited(self.image.clone()))
    }

    fn add(&mut self) -> Result<(), Refusal> {
        let next = self.last.map_or(Some(1), |last| last.get().checked_add(1)).and_then(VersionNumber::new);
        let number = next.ok_or_else(|| Refusal::Numbers(self.image.clone()))?;
        self.last = Some(number);
        self.versions.insert(number, Stage::Ready);
        Ok(())
    }

    fn deploy(&mut self, number: VersionNumber) -> Result<(), Refusal> {
        match self.known(number)? {
            Stage::Deployed => return Ok(()),
            Stage::Ready => {}
            Stage::Removed => return Err(Refusal::Removed(self.version(number))),
            stage @ (Stage::Retiring | Stage::Archived) => {
                return Err(Refusal::NotReady { version: self.version(number), state: stage.state() });
            }
        }
        let before = self.deployed();
        if let Some(before) = before {
            self.versions.insert(before, Stage::Ready);
        }
        self.fallback = before.or(self.fallback.filter(|fallback| *fallback != number));
        self.versions.insert(number, Stage::Deployed);
        Ok(())
    }

    fn roll_back(&mut self, to: Option<VersionNumber>) -> Result<(), Refusal> {
        let target = to.or(self.fallback).ok_or_else(|| Refusal::NoFallback(self.image.clone()))?;
        if self.known(target)? == Stage::Deployed {
            return Err(Refusal::Deployed(self.version(target)));
        }
        self.deploy(target)
    }

    fn retire(&mut self, number: VersionNumber, force: Force) -> Result<(), Refusal> {
        let version = self.version(number);
        match self.known(number)? {
            Stage::Deployed if force == Force::No => return Err(Refusal::OnlyDeployed(version)),
            Stage::Ready if force == Force::No && self.fallback == Some(number) => {
                return Err(Refusal::Fallback { version, deployed: self.deployed() });
            }
            Stage::Deployed | Stage::Ready => {}
            stage @ (Stage::Retiring | Stage::Archived) => {
                return Err(Refusal::RetiredAlready { version, state: stage.state() });
            }
            Stage::Removed => return Err(Refusal::Removed(version)),
        }
        self.fallback = self.fallback.filter(|fallback| *fallback != number);
        self.versions.insert(number, Stage::Retiring);
        Ok(())
    }

    fn bring_back(&mut self, number: VersionNumber) -> Result<(), Refusal> {
        match self.known(number)? {
            Stage::Retiring | Stage::Archived => {
                self.versions.insert(number, Stage::Ready);
                Ok(())
            }
            stage @ (Stage::Ready | Stage::Deployed) => {
                Err(Refusal::NotRetired { version: self.version(number), state: stage.state() })
            }
            Stage::Removed => Err(Refusal::Removed(self.version(number))),
        }
    }

    fn archive(&mut self, number: VersionNumber, users: &[String]) -> Result<(), Refusal> {
        let version = self.version(number);
        match self.known(number)? {
            Stage::Retiring if users.is_empty() => {
                self.versions.insert(number, Stage::Archived);
                Ok(())
            }
            Stage::Retiring => Err(Refusal::InUse { version, users: users.to_vec() }),
            stage @ (Stage::Ready | Stage::Deployed) => Err(Refusal::InService { version, state: stage.state() }),
            stage @ Stage::Archived => Err(Refusal::RetiredAlready { version, state: stage.state() }),
            Stage::Removed => Err(Refusal::Removed(version)),
        }
    }

    fn remove(&mut self, number: VersionNumber, users: &[String]) -> Result<(), Refusal> {
        let version = self.version(number);
        match self.known(number)? {
            Stage::Archived if users.is_empty() => {
                self.versions.insert(number, Stage::Removed);
                Ok(())
            }
            Stage::Archived => Err(Refusal::InUse { version, users: users.to_vec() }),
            stage @ (Stage::Ready | Stage::Deployed | Stage::Retiring) => {
                Err(Refusal::InService { version, state: stage.state() })
            }
            Stage::Removed => Err(Refusal::Removed(version)),
        }
    }

    fn known(&self, number: VersionNumber) -> Result<Stage, Refusal> {
        self.stage(number).ok_or_else(|| Refusal::Absent(self.version(number)))
    }

    fn version(&self, number: VersionNumber) -> VersionId {
        VersionId { image: self.image.clone(), number }
    }
}

impl Stage {
    pub fn state(self) -> VersionState {
        match self {
            Stage::Ready => VersionState::Ready,
            Stage::Deployed => VersionState::Deployed,
            Stage::Retiring => VersionState::Retiring,
            Stage::Archived | Stage::Removed => VersionState::Archived,
        }
    }
}

#[cfg(test)]
mod tests;
