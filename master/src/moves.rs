//! Moves in the life of versions: decided by [`Lifecycle`], made in the catalogue, shown to everybody.
//!
//! Deploying is choosing: nothing is copied, and it takes effect with one commit.

use icbd_image::{Force, ImageName, Lifecycle, Move, VersionId, VersionNumber};

use crate::catalog::{Catalogue, Plan};
use crate::repository::guard;
use crate::{MasterError, Repository};

/// What a move in the life of an image's versions changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    pub before: Lifecycle,
    pub after: Lifecycle,
}

impl Repository {
    /// Where the versions of an image stand.
    pub fn lifecycle(&self, image: &ImageName) -> Result<Lifecycle, MasterError> {
        self.catalogue(|catalogue| catalogue.lifecycle(image))?.ok_or_else(|| MasterError::NoImage(image.clone()))
    }

    /// Makes `version` the one that its image's bare name means. The one before stays, ready, as the fallback.
    ///
    /// A version that is seen not to be what was published is refused; its blocks are not read for that.
    pub fn deploy(&self, version: &VersionId) -> Result<Advance, MasterError> {
        self.choose(&version.image, &Move::Deploy(version.number))
    }

    /// Deploys the fallback, or another ready version.
    pub fn roll_back(&self, image: &ImageName, to: Option<VersionNumber>) -> Result<Advance, MasterError> {
        self.choose(image, &Move::Rollback { to })
    }

    /// Offers a version to nobody new; who uses it goes on. One that is to be deployed is refused, unless somebody insists:
    /// then that is given up.
    pub fn retire(&self, version: &VersionId, force: Force) -> Result<Advance, MasterError> {
        let retire = Move::Retire { number: version.number, force };
        self.lifecycle(&version.image)?.after(&retire)?;
        let plan = self.plans()?.into_iter().find(|plan| plan.version == *version);
        if plan.is_some_and(|plan| plan.failed.is_none()) && force == Force::No {
            return Err(MasterError::Planned(version.clone()));
        }
        let advance = self.advance(&version.image, &retire)?;
        self.cancel_plan(version)?;
        Ok(advance)
    }

    /// Makes a retired version ready again.
    pub fn restore(&self, version: &VersionId) -> Result<Advance, MasterError> {
        self.advance(&version.image, &Move::Restore(version.number))
    }

    /// Has a version deployed at a time to come, by whoever calls [`Repository::deploy`] then; the plan that this
    /// one replaces. What cannot be deployed now is refused now.
    pub fn plan(&self, plan: &Plan) -> Result<Option<Plan>, MasterError> {
        let before = guard(&self.catalogue).plan(plan)?;
        match self.check_soundness(&plan.version) {
            Ok(()) => Ok(before),
            Err(unsound) => {
                self.cancel_plan(&plan.version)?;
                Err(unsound)
            }
        }
    }

    /// Deployments to come, the next one first, and those that failed.
    pub fn plans(&self) -> Result<Vec<Plan>, MasterError> {
        self.catalogue(Catalogue::plans)
    }

    /// Gives up the plan to deploy a version; `None` if there was none.
    pub fn cancel_plan(&self, version: &VersionId) -> Result<Option<Plan>, MasterError> {
        guard(&self.catalogue).cancel_plan(version)
    }

    /// Remembers why a plan came to nothing, for people.
    pub fn plan_failed(&self, version: &VersionId, why: &str) -> Result<(), MasterError> {
        guard(&self.catalogue).plan_failed(version, why)
    }

    /// Makes a move that changes what is deployed, if it may be made and what it leads to is sound.
    fn choose(&self, image: &ImageName, made: &Move) -> Result<Advance, MasterError> {
        let life = self.lifecycle(image)?;
        let chosen = life.after(made)?.deployed().filter(|chosen| life.deployed() != Some(*chosen));
        if let Some(number) = chosen {
            self.check_soundness(&VersionId { image: image.clone(), number })?;
        }
        self.advance(image, made)
    }

    pub(crate) fn advance(&self, image: &ImageName, made: &Move) -> Result<Advance, MasterError> {
        let mut catalogue = guard(&self.catalogue);
        let (before, after) = catalogue.advance(image, made, self.now())?;
        if before != after {
            self.show(&catalogue, image)?;
        }
        Ok(Advance { before, after })
    }
}
