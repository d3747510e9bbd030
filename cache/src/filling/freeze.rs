//! From a tree that changes to one that never does, and back. A kill leaves the one or the other.
//!
//! What is to be sealed is cloned, made the tree that was published, verified, and moved into place by one step of the
//! disk's. Nothing that was open for writing while it was filled is ever a part of it. One that is spoilt is mended in a
//! clone, and sealed anew.

use std::io;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::Filling;
use crate::catalogue::marks;
use crate::disk::Barrier;
use crate::layout;
use crate::resident::Moment;
use crate::version::Version;

/// A clone that is to be sealed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft {
    /// When it was made: what was forgotten since is not what it should be.
    moment: Moment,
    generation: u64,
}

/// What came of sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frozen {
    Done,
    /// Blocks were forgotten meanwhile.
    Outdated,
}

impl Filling {
    /// Clones the tree to where it is verified, and makes it the one that was published. Blocks.
    pub(crate) fn draft(&self, version: &Version, now: SystemTime) -> io::Result<Draft> {
        let _turn = self.remaking.lock().expect("no panic under this lock");
        let (disk, sealing) = (&*version.core().disk, layout::sealing(version.id()));
        let draft = Draft { moment: self.resident.moment(), generation: self.generation() };
        disk.remove(&sealing)?;
        disk.clone_tree(self.path(), &sealing)?;
        disk.furnish(&sealing, version.head())?;
        marks::write_sealed(disk, &sealing, now)?;
        disk.sync(Barrier::Everything)?;
        Ok(draft)
    }

    /// Whether nothing was forgotten since.
    pub(crate) fn is_as(&self, draft: Draft) -> bool {
        (self.resident.moment(), self.generation()) == (draft.moment, draft.generation)
    }

    /// Puts a clone that was verified in the place of the tree. Blocks.
    pub(crate) fn freeze(&self, version: &Version, draft: Draft) -> io::Result<Frozen> {
        let _turn = self.remaking.lock().expect("no panic under this lock");
        if !self.is_as(draft) || !version.is_complete() {
            return Ok(Frozen::Outdated);
        }
        let disk = &*version.core().disk;
        disk.seal_tree(&layout::sealing(version.id()), &self.sealed)?;
        self.set_sealed(version, true);
        // From here on it is sealed, whatever becomes of what it was made of.
        if let Err(error) = disk.remove(&self.filling) {
            tracing::warn!(version = %version.id(), %error, "what was sealed could not be removed; the next start tries again");
        }
        Ok(Frozen::Done)
    }

    /// Makes a sealed tree one that changes again, and shares all with it. Blocks.
    pub(crate) fn thaw(&self, version: &Version) -> io::Result<()> {
        let _turn = self.remaking.lock().expect("no panic under this lock");
        let disk = &*version.core().disk;
        match (self.is_sealed(), self.is_leaving.load(Ordering::Acquire)) {
            (false, false) => return Ok(()),
            // Once begun, it is to come to its end before anything is forgotten.
            (false, true) => {}
            (true, _) => {
                disk.remove(&self.filling)?;
                disk.clone_tree(&self.sealed, &self.filling)?;
                disk.sync(Barrier::Everything)?;
                self.is_leaving.store(true, Ordering::Release);
                self.set_sealed(version, false);
            }
        }
        disk.remove(&self.sealed)?;
        // What is forgotten next must not come back with it.
        disk.sync(Barrier::Everything)?;
        self.is_leaving.store(false, Ordering::Release);
        tracing::info!(version = %version.id(), "no longer sealed");
        Ok(())
    }

    /// Where the tree is from now on. Who has a file open goes on with that; who opens one takes it from there.
    pub(super) fn set_sealed(&self, version: &Version, is_sealed: bool) {
        self.is_sealed.store(is_sealed, Ordering::Release);
        version.live_files().iter().for_each(|file| file.reopen());
        version.note_sealed();
    }
}
