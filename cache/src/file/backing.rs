//! The backing file: opened when first needed, and made anew if somebody took it away by hand.
//!
//! A file of the store that was deleted, cut short or replaced behind the daemon's back is *lost*: its bits go first,
//! durably, and only then is it made anew, as a hole of its size. So a hole is never taken for data, whenever the
//! power fails. It is always another file than the one before: who still reads that one past the daemon is left it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::File;
use crate::disk::{Barrier, DiskFile, Missing, is_gone};
use crate::filling::Filling;

/// An open backing file.
#[derive(Debug, Clone)]
pub(super) struct Backing {
    /// Of the tree that it was found in.
    generation: u64,
    file: Arc<dyn DiskFile>,
}

/// What was found in the place of a backing file, for people.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Lost {
    what: String,
    /// Whether something may have been read from it that is not the file's.
    is_doubtful: bool,
}

fn lost(what: impl Into<String>, is_doubtful: bool) -> io::Error {
    io::Error::other(Lost { what: what.into(), is_doubtful })
}

fn as_lost(error: &io::Error) -> Option<&Lost> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Whether [`File::backing`] failed because somebody took the file away, so that [`File::remake`] is what helps.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    as_lost(error).is_some()
}

impl File {
    /// The backing file, opened when first needed. Blocks.
    pub(crate) fn backing(&self) -> io::Result<Arc<dyn DiskFile>> {
        let filling = self.version.filling().ok_or_else(|| io::Error::other("its version has no tree"))?;
        let opened = self.backing.read().expect("no panic under this lock").clone();
        match opened {
            Some(opened) if opened.generation == filling.generation() => Ok(opened.file),
            Some(_) => Err(lost("its version's tree was made anew", false)),
            None => self.open_backing(filling),
        }
    }

    /// The same if it is open already. Never blocks.
    pub(super) fn backing_at_hand(&self) -> Option<Arc<dyn DiskFile>> {
        let generation = self.version.filling()?.generation();
        let opened = self.backing.try_read().ok()?;
        opened.as_ref().filter(|opened| opened.generation == generation).map(|opened| opened.file.clone())
    }

    /// The same, and it is sure that what is written to it will be found under its name. Blocks.
    pub(crate) fn whole_backing(&self) -> io::Result<Arc<dyn DiskFile>> {
        let backing = self.backing()?;
        if !backing.state()?.is_named {
            return Err(lost("it was deleted", false));
        }
        self.check_size(&*backing)?;
        Ok(backing)
    }

    /// What is read from a file that was cut short may be a hole: to be asked after the read.
    pub(crate) fn check_size(&self, backing: &dyn DiskFile) -> io::Result<()> {
        match backing.state()?.bytes {
            bytes if bytes == self.size => Ok(()),
            bytes => Err(lost(format!("it had {bytes} bytes instead of {}", self.size), true)),
        }
    }

    fn open_backing(&self, filling: &Filling) -> io::Result<Arc<dyn DiskFile>> {
        let (generation, disk) = (filling.generation(), &self.version.core().disk);
        if !filling.has_its_tree(&**disk)? {
            return Err(lost("its version's tree was deleted or replaced", false));
        }
        let mut opened = self.backing.write().expect("no panic under this lock");
        if let Some(opened) = &*opened {
            return Ok(opened.file.clone());
        }
        // Under the lock: whoever moves the tree has everybody open anew afterwards.
        let path = filling.path().join(self.version.tree().path(self.index));
        let file = disk.open(&path, Missing::Fail).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => lost("it was deleted", false),
            _ if is_gone(&error) => lost(format!("something else was in its place ({error})"), false),
            _ => error,
        })?;
        self.check_size(&*file)?;
        *opened = Some(Backing { generation, file: file.clone() });
        Ok(file)
    }

    /// The tree was moved: the file is found anew by its next reader. Who has it open goes on with what is open.
    pub(crate) fn reopen(&self) {
        *self.backing.write().expect("no panic under this lock") = None;
    }

    /// Makes the backing file anew if it is lost; whether there is a whole one now, and whether it was lost. Blocks.
    pub(crate) fn see_to_backing(self: &Arc<Self>) -> io::Result<bool> {
        match self.whole_backing() {
            Ok(_) => Ok(false),
            Err(error) if !is_lost(&error) => Err(error),
            Err(error) => match self.remake(&error) {
                true => Ok(true),
                false => Err(error),
            },
        }
    }

    /// Makes the backing file anew that was lost, and forgets what was in it: who reads that next takes it from a
    /// source. Whether blocks can be kept in it again. Nobody may hold the residency guard. Blocks.
    pub(crate) fn remake(self: &Arc<Self>, why: &io::Error) -> bool {
        let Some(filling) = self.version.filling() else { return false };
        let is_lost = || self.whole_backing().is_err_and(|error| is_lost(&error));
        let made = filling.see_to_tree(&self.version).and_then(|()| match filling.is_sealed() && is_lost() {
            true => filling.thaw(&self.version),
            false => Ok(()),
        });
        let made = made.and_then(|()| self.remake_in(filling, why));
        if let Err(error) = &made {
            self.version.core().health.failed(&format!("making {} anew, for {why}", self.shown()), error);
        }
        self.version.note_residency();
        made.is_ok()
    }

    fn remake_in(self: &Arc<Self>, filling: &Filling, why: &io::Error) -> io::Result<()> {
        let (core, all) = (self.version.core(), 0..self.blocks());
        let _guard = self.guard.write().expect("no panic under this lock");
        let found = self.whole_backing();
        let is_stale = self.backing_at_hand().is_none() && found.as_ref().is_err_and(is_lost);
        match &found {
            // Somebody else was here first.
            Ok(_) => return Ok(()),
            Err(error) if !is_lost(error) => return found.map(drop),
            Err(_) => {}
        }
        let held = filling.resident.readable_count(self.index, all.clone());
        filling.resident.clear(self.index, all.clone())?;
        self.unmark_zeros(&all);
        *self.backing.write().expect("no panic under this lock") = None;
        if is_stale && self.whole_backing().is_ok() {
            // It came with the new tree.
            return Ok(());
        }
        let file = self.make_hole(filling)?;
        *self.backing.write().expect("no panic under this lock") =
            Some(Backing { generation: filling.generation(), file });
        if as_lost(why).is_some_and(|lost| lost.is_doubtful) {
            core.spoilt.add(self.version.serial(), self.index, 0..self.size);
        }
        core.losses.note(&self.version, Some(self.index), held, &format!("{}: {why}", self.shown()));
        Ok(())
    }

    /// A new file in the place of whatever is there, durable as all names above it are.
    fn make_hole(&self, filling: &Filling) -> io::Result<Arc<dyn DiskFile>> {
        let disk = &self.version.core().disk;
        let path = filling.path().join(self.version.tree().path(self.index));
        let file = disk.open(&path, Missing::Replace)?;
        file.set_size(self.size)?;
        file.sync()?;
        let above = path.ancestors().skip(1).take_while(|above| above.starts_with(filling.path()));
        above.into_iter().try_for_each(|above: &Path| disk.sync(Barrier::Names(above)))?;
        Ok(file)
    }

    /// Passthrough handles that are open.
    pub(super) fn passthrough_count(&self) -> u32 {
        self.passthroughs.load(Ordering::Acquire)
    }
}
