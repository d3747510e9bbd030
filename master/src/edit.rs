//! Editing: a writable working copy of an image's newest version in service, which becomes its next version or nothing.
//!
//! A working copy shares its blocks with the version it began as, where the file system can. Who edits is in the
//! catalogue before there is a working copy, and a working copy is deleted after the catalogue gave it up: a kill at
//! any moment leaves all of it or none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use icbd_image::{Editing, ImageName, Move, Refusal, SecretKey, VersionId};
use icbd_snapshot::{SnapshotError, Trees, Writable};

use crate::catalog::Catalogue;
use crate::layout::Layout;
use crate::publish::{From, New};
use crate::repository::guard;
use crate::{MasterError, Progress, PublishRequest, Published, Repository, trees};

/// A working copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkingCopy {
    pub editing: Editing,
    /// Where it is; whoever may write there edits it.
    pub path: PathBuf,
}

/// The images of which a working copy is being made, which may take minutes where all of it is copied.
#[derive(Debug, Default)]
pub(crate) struct Making(Mutex<BTreeSet<ImageName>>);

/// As long as it lives, the working copy is being made.
struct Begun<'m> {
    making: &'m Making,
    image: ImageName,
}

impl Making {
    fn begin(&self, image: &ImageName) -> Result<Begun<'_>, MasterError> {
        match guard(&self.0).insert(image.clone()) {
            true => Ok(Begun { making: self, image: image.clone() }),
            false => Err(MasterError::CopyBeingMade(image.clone())),
        }
    }

    fn check(&self, image: &ImageName) -> Result<(), MasterError> {
        match guard(&self.0).contains(image) {
            true => Err(MasterError::CopyBeingMade(image.clone())),
            false => Ok(()),
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        guard(&self.making.0).remove(&self.image);
    }
}

/// What the working copy is to become.
#[derive(Debug, Clone)]
pub struct SaveRequest {
    pub image: ImageName,
    /// What people shall read about the version; at most 1000 bytes.
    pub note: String,
    /// The publisher's key.
    pub sign: Option<Arc<SecretKey>>,
}

impl Repository {
    /// Makes a working copy of the newest version in service of an image, unless there is one: [`crate::Repository::working_copy`].
    ///
    /// A version that is seen not to be what was published is refused: what is wrong with it would be in all that come after.
    pub fn edit(&self, image: &ImageName, by: &str) -> Result<WorkingCopy, MasterError> {
        self.execute();
        let made = Move::Edit { by: by.to_owned(), at: self.now() };
        // Until it is there nobody is to take it for deleted.
        let _making = self.making.begin(image)?;
        let after = self.lifecycle(image)?.after(&made).map_err(|refusal| self.unless_gone(image, refusal))?;
        if let Some(number) = after.editing().and_then(|editing| editing.of) {
            self.check_soundness(&VersionId { image: image.clone(), number })?;
        }
        self.advance(image, &made)?;
        let copy = self.make_working_copy(image);
        if copy.is_err() {
            // Nobody edits what could not be made.
            self.advance(image, &Move::Discard)?;
            self.execute();
        }
        copy
    }

    /// That somebody edits it, or that what they edit is gone.
    fn unless_gone(&self, image: &ImageName, refusal: Refusal) -> MasterError {
        let path = self.layout.root().join(trees::editing(image));
        match matches!(refusal, Refusal::BeingEdited { .. }) && !path.exists() {
            true => MasterError::CopyGone { image: image.clone(), path },
            false => refusal.into(),
        }
    }

    /// Somebody may have deleted it.
    fn copy_is_there(&self, image: &ImageName) -> Result<(), MasterError> {
        self.making.check(image)?;
        let path = self.layout.root().join(trees::editing(image));
        if path.exists() { Ok(()) } else { Err(MasterError::CopyGone { image: image.clone(), path }) }
    }

    fn make_working_copy(&self, image: &ImageName) -> Result<WorkingCopy, MasterError> {
        let (life, at) = (self.lifecycle(image)?, trees::editing(image));
        let number = life.editing().and_then(|editing| editing.of);
        match number.map(|number| VersionId { image: image.clone(), number }) {
            None => drop(self.trees.create(&at)?),
            Some(version) => drop(self.clone_version(&version, &at)?),
        }
        self.working_copy(image)?.ok_or_else(|| MasterError::NoImage(image.clone()))
    }

    /// Makes a tree that may be written to, and begins as a version is.
    pub(crate) fn clone_version(&self, version: &VersionId, at: &Path) -> Result<Writable, MasterError> {
        match self.trees.sealed(&trees::version(version)) {
            Ok(tree) => Ok(self.trees.clone_tree(&tree, at)?),
            // From before there were trees, or one that somebody made writable.
            Err(SnapshotError::NotATree { .. } | SnapshotError::NotSealed(_)) => {
                Ok(self.trees.import(&self.layout.version(version), at)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The working copy of an image, if somebody edits it.
    pub fn working_copy(&self, image: &ImageName) -> Result<Option<WorkingCopy>, MasterError> {
        let path = self.layout.root().join(trees::editing(image));
        Ok(self.lifecycle(image)?.editing().cloned().map(|editing| WorkingCopy { editing, path }))
    }

    /// Makes the working copy the next version, ready, and ends it. What it has in common with the version it began
    /// as is not read. On any error it is still there, and nothing else is.
    ///
    /// On btrfs what counts is what is in it when this begins; elsewhere nobody may write to it meanwhile.
    pub fn save(
        &self,
        request: &SaveRequest,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &AtomicBool,
    ) -> Result<Published, MasterError> {
        let SaveRequest { image, note, sign } = request.clone();
        let life = self.lifecycle(&image)?;
        life.after(&Move::Save)?;
        self.copy_is_there(&image)?;
        let path = self.layout.root().join(trees::editing(&image));
        let request = PublishRequest { image: image.clone(), path, raw: false, note, deploy: false, sign };
        let new = New { request: &request, from: From::Outside, parent: life.editing().and_then(|editing| editing.of) };
        let published = self.publish_new(new, progress, cancel, |new| {
            // Saved or discarded by somebody else while this one waited?
            self.lifecycle(&image)?.after(&Move::Save)?;
            new.from = From::WorkingCopy(self.trees.writable(&trees::editing(&image))?);
            Ok(())
        })?;
        self.execute();
        Ok(published)
    }

    /// Throws the working copy of an image away.
    pub fn discard(&self, image: &ImageName) -> Result<(), MasterError> {
        // One that is being saved is not.
        let _turn = self.publishing.take(&AtomicBool::new(false), || {})?;
        self.lifecycle(image)?.after(&Move::Discard)?;
        self.making.check(image)?;
        match self.trees.writable(&trees::editing(image)) {
            Ok(copy) => self.trees.check_whole(&copy)?,
            Err(SnapshotError::Absent(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.advance(image, &Move::Discard)?;
        self.execute();
        Ok(())
    }

    /// Deletes what the catalogue gave up; what cannot be deleted now is tried again later.
    pub(crate) fn execute(&self) {
        execute(&self.trees, &mut guard(&self.catalogue));
    }
}

/// Deletes what the catalogue gave up. For a repository that nobody else uses also: ends edits without a working copy.
pub(crate) fn recover(layout: &Layout, trees: &Trees, catalogue: &mut Catalogue) -> Result<(), MasterError> {
    execute(trees, catalogue);
    for image in catalogue.edited()? {
        if !layout.root().join(trees::editing(&image)).exists() {
            tracing::warn!(%image, "its working copy was never made, or was deleted by hand; nobody edits it any more");
            let now = std::time::SystemTime::now().into();
            catalogue.advance(&image, &Move::Discard, now)?;
        }
    }
    Ok(())
}

fn execute(trees: &Trees, catalogue: &mut Catalogue) {
    let condemned = catalogue.condemned().unwrap_or_default();
    for at in condemned {
        let gone = trees::remove(trees, &at).and_then(|()| catalogue.executed(&at));
        if let Err(error) = gone {
            tracing::warn!(at = %at.display(), %error, "a tree that nobody needs cannot be deleted yet");
        }
    }
}
