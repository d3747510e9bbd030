//! A version's tree on disk while it is being filled: made, or found again after a restart.
//!
//! The order of its making is what keeps every promise: the old bitmap is gone durably before the tree
//! changes; names, holes and what was taken from another version are synced before the first bit. What
//! does not carry the bitmap's root and incarnation is not resident, and is removed.

mod freeze;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use icbd_image::Kind;

use crate::bitmap::Incarnation;
use crate::bits::Bits;
use crate::catalogue::marks;
use crate::disk::{Barrier, Disk, is_gone};
use crate::inherit::Plan;
use crate::resident::{Layout, Place, Resident};
use crate::version::Version;
use crate::{CacheError, layout};
pub(crate) use freeze::Frozen;

/// The tree's extended attribute that names its filling.
const INCARNATION: &str = "user.icbd.incarnation";

/// A tree and its bitmap.
#[derive(Debug)]
pub(crate) struct Filling {
    /// Where the tree is while it changes, relative to the store.
    filling: PathBuf,
    /// Where it is once it does not change any more.
    sealed: PathBuf,
    is_sealed: AtomicBool,
    /// Whether what was sealed may come back at the next start.
    is_leaving: AtomicBool,
    pub(crate) resident: Resident,
    incarnation: Incarnation,
    /// Counts the trees that were made, empty, in the place of one that somebody took away: what is open of an earlier one is
    /// no part of the store any more.
    generation: AtomicU64,
    /// Held while the tree is made anew.
    remaking: Mutex<()>,
}

impl Filling {
    /// Finds a tree and bitmap that belong together; `None` when one has to be made. Blocks.
    pub(crate) fn load(version: &Version) -> Result<Option<Filling>, CacheError> {
        let disk = &version.core().disk;
        if let Some(sealed) = Filling::load_sealed(version)? {
            return Ok(Some(sealed));
        }
        let Some(incarnation) = incarnation_of(&**disk, &layout::tree(version.id()))? else { return Ok(None) };
        let bitmap = layout::bitmap(version.id());
        let place = Place { disk: disk.clone(), path: bitmap.clone(), root: version.root(), incarnation };
        let resident = Resident::load(place, version.head());
        let resident = resident.map_err(CacheError::disk("read", bitmap))?;
        Ok(resident.map(|resident| Filling::new(version, resident, incarnation, false)))
    }

    /// The same of one that is sealed: it is complete whether its bitmap is there or not.
    fn load_sealed(version: &Version) -> Result<Option<Filling>, CacheError> {
        let (id, disk) = (version.id(), &version.core().disk);
        let Some(incarnation) = incarnation_of(&**disk, &layout::sealed(id))? else { return Ok(None) };
        let statement = marks::read_statement(&**disk, &layout::sealed(id), id);
        if statement.is_none_or(|statement| statement.statement().root != version.root()) {
            // Somebody put another in its place.
            return Ok(None);
        }
        let bitmap = layout::bitmap(id);
        let place = Place { disk: disk.clone(), path: bitmap.clone(), root: version.root(), incarnation };
        let failed = CacheError::disk("read", bitmap);
        let resident = match Resident::load(place.clone(), version.head()) {
            Ok(Some(resident)) => Ok(resident),
            Ok(None) => {
                let layout = Layout::new(version.head());
                let bits = all_blocks(version, &layout);
                Resident::create(place, layout, bits)
            }
            Err(error) => Err(error),
        };
        let resident = resident.map_err(failed)?;
        // A power cut may bring back what it was made of.
        let left = disk.remove(&layout::tree(id)).and_then(|()| disk.remove(&layout::sealing(id)));
        if let Err(error) = left {
            tracing::warn!(version = %id, %error, "what the sealed version was made of could not be removed");
        }
        Ok(Some(Filling::new(version, resident, incarnation, true)))
    }

    /// Makes a tree, with what `plan` takes from another version. Blocks.
    pub(crate) fn create(version: &Version, plan: Plan) -> Result<Filling, CacheError> {
        let (id, disk) = (version.id(), &version.core().disk);
        let incarnation = new_incarnation().map_err(CacheError::disk("make", layout::tree(id)))?;
        let (path, bitmap, image) = (layout::tree(id), layout::bitmap(id), layout::image(&id.image));
        let failed = |doing, path: &PathBuf| CacheError::disk(doing, path.clone());
        let made = || -> Result<Resident, CacheError> {
            disk.remove(&bitmap).map_err(failed("remove", &bitmap))?;
            match disk.sync(Barrier::Names(&image)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("sync", &image)(error)),
                _ => {}
            }
            disk.remove(&path).map_err(failed("remove", &path))?;
            disk.make_tree(&path, version.tree()).map_err(failed("make the tree", &path))?;
            disk.set_xattr(&path, INCARNATION, &incarnation).map_err(failed("mark", &path))?;
            marks::write(&**disk, version).map_err(failed("mark", &path))?;
            let layout = Layout::new(version.head());
            let bits = zero_blocks(version, &layout);
            plan.apply(version, &layout, &bits).map_err(failed("take blocks of another version into", &path))?;
            // It was written when it came, but a sync that failed since then may have forgotten it for good.
            version.core().keep_head(version.head());
            disk.sync(Barrier::Everything).map_err(failed("sync", &path))?;
            let place = Place { disk: disk.clone(), path: bitmap.clone(), root: version.root(), incarnation };
            Resident::create(place, layout, bits).map_err(failed("write", &bitmap))
        };
        let resident = made().inspect_err(|error| {
            if let CacheError::Disk { error, .. } = error {
                version.core().health.failed(&format!("making the tree of {id}"), error);
            }
        })?;
        Ok(Filling::new(version, resident, incarnation, false))
    }

    fn new(version: &Version, resident: Resident, incarnation: Incarnation, is_sealed: bool) -> Filling {
        Filling {
            filling: layout::tree(version.id()),
            sealed: layout::sealed(version.id()),
            is_sealed: is_sealed.into(),
            is_leaving: false.into(),
            resident,
            incarnation,
            generation: AtomicU64::new(0),
            remaking: Mutex::default(),
        }
    }

    /// Where the tree is now, relative to the store.
    pub(crate) fn path(&self) -> &Path {
        if self.is_sealed() { &self.sealed } else { &self.filling }
    }

    /// Whether the tree never changes any more.
    pub(crate) fn is_sealed(&self) -> bool {
        self.is_sealed.load(Ordering::Acquire)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the tree in the store is the one that the bits are of. Blocks.
    pub(crate) fn has_its_tree(&self, disk: &dyn Disk) -> io::Result<bool> {
        match disk.xattr(self.path(), INCARNATION) {
            Ok(value) => Ok(value.as_deref() == Some(&self.incarnation)),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the tree anew if somebody took it away, or put another in its place. Blocks.
    ///
    /// All bits go first, durably. Whatever is open of the old tree is of an earlier generation by then: nothing that
    /// is written there is called durable.
    pub(crate) fn see_to_tree(&self, version: &Version) -> io::Result<()> {
        let disk = &*version.core().disk;
        if self.has_its_tree(disk)? {
            return Ok(());
        }
        let _turn = self.remaking.lock().expect("no panic under this lock");
        if self.has_its_tree(disk)? {
            return Ok(());
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        let held = self.resident.counts().0;
        self.resident.clear_all()?;
        version.unmark_zeros();
        disk.remove(&self.sealed)?;
        self.set_sealed(version, false);
        disk.remove(&self.filling)?;
        disk.make_tree(&self.filling, version.tree())?;
        marks::write(disk, version)?;
        disk.sync(Barrier::Everything)?;
        // Last: before this mark, a start finds a tree that is nobody's.
        disk.set_xattr(&self.filling, INCARNATION, &self.incarnation)?;
        disk.sync(Barrier::Names(&self.filling))?;
        let what = format!("the tree of {} was deleted or replaced", version.id());
        version.core().losses.note(version, None, held, &what);
        Ok(())
    }
}

/// Whose filling a tree is; `None` if it is nobody's, or not there.
fn incarnation_of(disk: &dyn Disk, path: &Path) -> Result<Option<Incarnation>, CacheError> {
    match disk.xattr(path, INCARNATION) {
        Ok(value) => Ok(value.and_then(|value| Incarnation::try_from(value).ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CacheError::disk("read the attributes of", path)(error)),
    }
}

fn all_blocks(version: &Version, layout: &Layout) -> Bits {
    let bits = Bits::zeros(layout.words());
    version.head().files().for_each(|node| bits.set(layout.bits(node.index(), 0..node.blocks())));
    bits
}

/// The blocks that the head itself says are zero: they are the holes that they shall be.
fn zero_blocks(version: &Version, layout: &Layout) -> Bits {
    let bits = Bits::zeros(layout.words());
    for node in version.head().nodes().filter(|node| node.kind() == Kind::File) {
        for page in (0..node.pages()).filter(|page| node.page_hash(*page).is_some_and(|hash| hash.is_zero())) {
            let first = page * icbd_image::PAGE_BLOCKS;
            bits.set(layout.bits(node.index(), first..first + node.page_blocks(page)));
        }
        if !node.is_paged() {
            let zero = |block: &u64| node.inline_hash(*block).is_some_and(|hash| hash.is_zero());
            (0..node.blocks()).filter(zero).for_each(|block| bits.set(layout.bits(node.index(), block..block + 1)));
        }
    }
    bits
}

fn new_incarnation() -> io::Result<Incarnation> {
    let mut incarnation = Incarnation::default();
    getrandom::fill(&mut incarnation).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(incarnation)
}
