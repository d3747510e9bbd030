//! Local rollbacks: which version an image's bare name means here, whatever its master deploys.
//!
//! One is made by an administrator of this cache, with the master away or not, and stands until one clears it: no
//! listing, no restart and no version that the master deploys later undoes it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use icbd_image::{ImageName, Timestamp, VersionId, VersionNumber};

use crate::cache::Cache;
use crate::{CacheError, status};

/// What was chosen here for one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRollback {
    pub version: VersionId,
    /// Who chose it, and when.
    pub by: String,
    pub since: Timestamp,
    /// What the master deploys.
    pub listed: Option<VersionNumber>,
}

/// The choice of one image, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) number: VersionNumber,
    pub(crate) by: String,
    pub(crate) since: Timestamp,
}

pub(crate) type Choices = BTreeMap<ImageName, Choice>;

impl Cache {
    /// Has the bare name of an image mean the version that its master deployed before, or another one, here.
    pub async fn roll_back(
        &self,
        image: &ImageName,
        to: Option<VersionNumber>,
        by: &str,
    ) -> Result<LocalRollback, CacheError> {
        let _turn = self.turn().await?;
        let view = self.view();
        let record = view.image(image).ok_or_else(|| CacheError::UnknownImage(image.clone()))?;
        let fallback = || self.core().ledger.entries().fallbacks.get(image).copied();
        let Some(number) = to.or_else(fallback) else {
            return Err(CacheError::Refused(format!(
                "no version of {image} was deployed before, as far as this cache knows; name one with --to"
            )));
        };
        let version = VersionId { image: image.clone(), number };
        view.usable(&version)?;
        if record.deployed == Some(number) {
            return Err(CacheError::Refused(format!("{version} is what {image} means here already")));
        }
        let choice = Choice { number, by: by.to_owned(), since: SystemTime::now().into() };
        let mut choices = view.choices().clone();
        choices.insert(image.clone(), choice.clone());
        let (core, kept) = (self.core().clone(), (image.clone(), choice));
        self.core().blocking(move || core.catalogue.put_choice(&kept.0, &kept.1)).await??;
        self.show(view.listed(), choices).await?;
        self.local_rollback(image).ok_or(CacheError::Closed)
    }

    /// Has the bare name of an image mean again what its master deploys; what it meant.
    pub async fn clear_rollback(&self, image: &ImageName) -> Result<LocalRollback, CacheError> {
        let _turn = self.turn().await?;
        let Some(cleared) = self.local_rollback(image) else {
            return Err(CacheError::Refused(format!("{image} was not rolled back here; there is nothing to clear")));
        };
        let view = self.view();
        let mut choices = view.choices().clone();
        choices.remove(image);
        let (core, gone) = (self.core().clone(), image.clone());
        self.core().blocking(move || core.catalogue.remove_choice(&gone)).await??;
        self.show(view.listed(), choices).await?;
        Ok(cleared)
    }

    /// The local rollback of an image, if there is one.
    pub fn local_rollback(&self, image: &ImageName) -> Option<LocalRollback> {
        status::local_rollbacks(&self.view()).into_iter().find(|local| local.version.image == *image)
    }
}
