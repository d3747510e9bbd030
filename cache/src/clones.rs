//! Writable disks of workstations: one for each client and version, made in an instant, of a cold cache, too.
//!
//! A clone is a version's disk and a layer of what its client wrote over it ([`CloneDisk`]). It is reset, kept or removed
//! here, and never while anybody has it open.

mod disk;
mod layer;
mod personal;
mod record;
mod room;
mod written;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use icbd_image::{ClientName, VersionId};
use tokio::sync::Notify;

use crate::bitmap::Incarnation;
use crate::core::Core;
use crate::disk::{Barrier, Disk};
use crate::{CacheError, File, layout};
pub use disk::CloneDisk;
use disk::Places;
use layer::LayerPlace;
pub use record::{CloneName, Fate};
use record::{Record, layer_name};
pub use room::Refused;
use room::Room;
pub use written::{Written, WrittenPart};

/// The kernel's numbers 0 and 1 are taken: by nothing, and by the directory that clones are in.
const NUMBERS_TAKEN: u64 = 2;

/// All clones of a store.
#[derive(Debug)]
pub struct Clones {
    core: Arc<Core>,
    room: Arc<Room>,
    boot: Incarnation,
    /// What all may take; `u64::MAX`: nothing is set aside.
    reserve_bytes: AtomicU64,
    all: Mutex<BTreeMap<CloneName, Arc<CloneDisk>>>,
    /// One is made, reset or removed at a time.
    changing: tokio::sync::Semaphore,
    /// Told whenever nobody uses one any more.
    closed: Arc<Notify>,
    /// What could not be read at the start, and why.
    damaged: Mutex<BTreeMap<CloneName, String>>,
}

/// How a clone is.
#[derive(Debug, Clone)]
pub struct CloneStatus {
    pub name: CloneName,
    pub fate: Fate,
    /// Bytes of the disk that what was written takes.
    pub written_bytes: u64,
    /// The same of what each session begins as; `None`: the version.
    pub personal_bytes: Option<u64>,
    /// When it was made or reset.
    pub made: SystemTime,
}

/// What a reset takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// What was written since the last one.
    Session,
    /// That, and what each session begins as.
    All,
}

/// How much clones take of what they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloneFill {
    pub written_bytes: u64,
    pub reserve_bytes: u64,
}

/// Those who run shall go on when it is nearly full: new ones do not begin.
const SHORT_PERCENT: u64 = 90;

impl CloneFill {
    /// Whether nobody should begin to write more.
    pub fn is_short(&self) -> bool {
        self.written_bytes > self.reserve_bytes / 100 * SHORT_PERCENT
    }
}

/// A clone that is being used: as long as there is one of these, it is neither reset nor removed.
#[derive(Debug)]
pub struct CloneUse {
    disk: Arc<CloneDisk>,
    core: Arc<Core>,
    closed: Arc<Notify>,
}

impl std::ops::Deref for CloneUse {
    type Target = Arc<CloneDisk>;

    fn deref(&self) -> &Arc<CloneDisk> {
        &self.disk
    }
}

impl Drop for CloneUse {
    fn drop(&mut self) {
        if self.disk.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            let disk = self.disk.clone();
            drop(self.core.spawn_blocking(move || disk.close()));
            self.closed.notify_waiters();
        }
    }
}

impl Clones {
    /// Reads what there is. Blocks.
    pub(crate) fn open(
        core: Arc<Core>,
        boot: Incarnation,
        per_client: Option<u64>,
        reserve_bytes: Option<u64>,
    ) -> io::Result<Clones> {
        let clones = Clones {
            room: Arc::new(Room::new(per_client)),
            core,
            boot,
            reserve_bytes: AtomicU64::new(reserve_bytes.unwrap_or(u64::MAX)),
            all: Mutex::default(),
            changing: tokio::sync::Semaphore::new(1),
            closed: Arc::default(),
            damaged: Mutex::default(),
        };
        let mut all = BTreeMap::new();
        for name in clones.names()? {
            match clones.load(&name) {
                Ok(Some(disk)) => _ = all.insert(name, Arc::new(disk)),
                // It was being made, or removed.
                Ok(None) => {
                    if let Err(error) = clones.core.disk.remove(&name.folder()) {
                        tracing::warn!(clone = %name, %error, "what is left of a clone cannot be removed");
                    }
                }
                Err(error) => {
                    tracing::error!(clone = %name, %error, "a clone cannot be read; it is left as it is");
                    clones.lock_damaged().insert(name, error.to_string());
                }
            }
        }
        *clones.lock() = all;
        Ok(clones)
    }

    fn names(&self) -> io::Result<Vec<CloneName>> {
        let (disk, mut names) = (&self.core.disk, Vec::new());
        for image in disk.names(Path::new(layout::CLONES))? {
            for number in disk.names(&Path::new(layout::CLONES).join(&image))? {
                let Ok(version) = format!("{image}@{number}").parse::<VersionId>() else { continue };
                let clients = disk.names(&Path::new(layout::CLONES).join(&image).join(&number))?;
                let name = |client: ClientName| CloneName { version: version.clone(), client };
                names.extend(clients.iter().filter_map(|client| client.parse().ok()).map(name));
            }
        }
        Ok(names)
    }

    fn load(&self, name: &CloneName) -> io::Result<Option<CloneDisk>> {
        let (disk, folder) = (&self.core.disk, name.folder());
        let Some(record) = Record::read(&**disk, &folder)? else { return Ok(None) };
        // Of a reset that a kill came between.
        for stray in disk.names(&folder)?.iter().filter(|file| !record.owns(file)) {
            if let Err(error) = disk.remove(&folder.join(stray)) {
                tracing::warn!(clone = %name, stray, %error, "what a reset left cannot be removed");
            }
        }
        Ok(Some(self.disk(name.clone(), record)))
    }

    fn disk(&self, name: CloneName, record: Record) -> CloneDisk {
        let place = |layer: u64| {
            let mut incarnation = Incarnation::default();
            incarnation[..8].copy_from_slice(&layer.to_le_bytes());
            LayerPlace {
                disk: self.core.disk.clone(),
                path: name.folder().join(layer_name(layer)),
                root: record.root,
                incarnation,
                boot: self.boot,
                size: record.size,
            }
        };
        let places = Places { session: place(record.session), personal: record.personal.map(place) };
        CloneDisk::new(self.core.clone(), self.room.clone(), name, record, places)
    }

    /// A client's disk over a version's file `path`, in which nothing is written yet if it was not there.
    pub async fn prepare(&self, name: &CloneName, file: &Arc<File>, path: &str) -> Result<Arc<CloneDisk>, CacheError> {
        let _turn = self.turn().await?;
        if let Some(disk) = self.get(name) {
            return Ok(disk);
        }
        if let Some(why) = self.lock_damaged().get(name) {
            let (version, client) = (&name.version, &name.client);
            let message = format!(
                "the clone {name} cannot be read ({why}); mend it and restart the cache, or delete it with \
                 `icbd clone remove {client} {version}`"
            );
            return Err(CacheError::Refused(message));
        }
        let version = file.version();
        let record = Record {
            serial: version.serial(),
            root: version.root(),
            file: path.to_owned(),
            size: file.size(),
            session: fresh_number()?,
            personal: None,
            unfinished: false,
            kept: false,
            edited: false,
            made: seconds(SystemTime::now()),
        };
        let disk = Arc::new(self.disk(name.clone(), record));
        let (of, core) = (disk.clone(), self.core.clone());
        let make = move || {
            let folder = of.name().folder();
            of.place().create()?;
            of.record().write(&*core.disk, &folder)?;
            // Its own name, and those of the directories above it.
            folder.ancestors().skip(1).try_for_each(|above| core.disk.sync(Barrier::Names(above)))
        };
        self.core.blocking(make).await?.map_err(CacheError::disk("make the clone", name.folder()))?;
        tracing::info!(clone = %name, "made");
        self.lock().insert(name.clone(), disk.clone());
        Ok(disk)
    }

    /// Has nothing be written in it any more; refused while it is used, and if it is kept.
    pub async fn reset(&self, name: &CloneName, layers: Layers) -> Result<(), CacheError> {
        let _turn = self.turn().await?;
        let old = self.begin_to_leave(name)?;
        let fresh = |session| match layers {
            Layers::Session => Record { session, unfinished: false, ..old.record() },
            Layers::All => Record { session, unfinished: false, personal: None, ..old.record() },
        };
        let new = match old.is_kept() {
            true => Err(CacheError::Refused(format!(
                "{name} is kept; `icbd clone keep {} {} --no` lets it be reset",
                name.client, name.version
            ))),
            false => fresh_number().map(fresh),
        };
        self.renew(&old, new, "reset the clone").await?;
        tracing::info!(clone = %name, ?layers, "reset");
        Ok(())
    }

    /// Puts a clone in the place of one that is left, or has that one be used again.
    async fn renew(
        &self,
        old: &Arc<CloneDisk>,
        record: Result<Record, CacheError>,
        doing: &'static str,
    ) -> Result<(), CacheError> {
        let (record, name) = (record.inspect_err(|_| old.is_leaving.store(false, Ordering::Release))?, old.name());
        let record = Record { made: seconds(SystemTime::now()), ..record };
        let new = Arc::new(self.disk(name.clone(), record));
        let (of, before, core) = (new.clone(), old.clone(), self.core.clone());
        let changed = self.core.blocking(move || replace(&before, &of, &*core.disk)).await?;
        changed.map_err(CacheError::disk(doing, name.folder()))?;
        self.lock().insert(name.clone(), new);
        Ok(())
    }

    /// Removes it; refused while it is used.
    pub async fn remove(&self, name: &CloneName) -> Result<(), CacheError> {
        let _turn = self.turn().await?;
        let is_damaged = self.lock_damaged().contains_key(name);
        let disk = if is_damaged { None } else { Some(self.begin_to_leave(name)?) };
        let (core, folder) = (self.core.clone(), name.folder());
        // What is killed halfway is no clone any more.
        let remove = move || {
            Record::remove(&*core.disk, &folder)?;
            core.disk.remove(&folder)
        };
        let removed = self.core.blocking(remove).await?;
        // Half of it may be gone: it is used no more, and goes at the next start.
        removed.map_err(CacheError::disk("remove the clone", name.folder()))?;
        tracing::info!(clone = %name, "removed");
        drop(disk);
        self.lock().remove(name);
        self.lock_damaged().remove(name);
        Ok(())
    }

    /// Says what is to become of it.
    pub async fn set_fate(&self, name: &CloneName, fate: Fate) -> Result<(), CacheError> {
        let _turn = self.turn().await?;
        let disk = self.get(name).ok_or_else(|| CacheError::UnknownClone(name.to_string()))?;
        if disk.is_unfinished() && fate != Fate::Reset {
            return Err(CacheError::Refused(format!("{name} is being made; boot {} once first", name.client)));
        }
        let (core, of) = (self.core.clone(), disk.clone());
        let write = move || of.record().with_fate(fate).write(&*core.disk, &of.name().folder());
        self.core.blocking(write).await?.map_err(CacheError::disk("note in the clone", name.folder()))?;
        disk.set_fate(fate);
        Ok(())
    }

    pub fn get(&self, name: &CloneName) -> Option<Arc<CloneDisk>> {
        self.lock().get(name).cloned()
    }

    /// Begins to use the clone with this number of the kernel's.
    pub fn enter(&self, number: u64) -> Option<CloneUse> {
        let all = self.lock();
        let disk = all.values().find(|disk| disk.number() == number)?;
        if disk.is_leaving.load(Ordering::Acquire) {
            return None;
        }
        disk.users.fetch_add(1, Ordering::AcqRel);
        Some(CloneUse { disk: disk.clone(), core: self.core.clone(), closed: self.closed.clone() })
    }

    /// Until nobody uses a clone.
    pub async fn closed(&self, disk: &CloneDisk) {
        loop {
            // Listened for before it is looked: nothing is missed in between.
            let mut closed = std::pin::pin!(self.closed.notified());
            closed.as_mut().enable();
            if !disk.is_open() {
                return;
            }
            closed.await;
        }
    }

    pub fn by_number(&self, number: u64) -> Option<Arc<CloneDisk>> {
        self.lock().values().find(|disk| disk.number() == number).cloned()
    }

    pub fn all(&self) -> Vec<Arc<CloneDisk>> {
        self.lock().values().cloned().collect()
    }

    /// How they are. Asks the disk for the size of each.
    pub async fn list(&self) -> Result<Vec<CloneStatus>, CacheError> {
        let all = self.all();
        let status = |disk: &Arc<CloneDisk>| CloneStatus {
            name: disk.name().clone(),
            fate: disk.fate(),
            written_bytes: disk.allocated().unwrap_or(0),
            personal_bytes: disk.has_personal().then(|| disk.personal_allocated().unwrap_or(0)),
            made: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(disk.made()),
        };
        self.core.blocking(move || all.iter().map(status).collect()).await
    }

    /// What could not be read when the store was opened, and why.
    pub fn damaged(&self) -> BTreeMap<CloneName, String> {
        self.lock_damaged().clone()
    }

    /// Whether nothing was written to a clone, nor discarded of it.
    pub async fn is_untouched(&self, disk: &Arc<CloneDisk>) -> Result<bool, CacheError> {
        let of = disk.clone();
        let looked = self.core.blocking(move || of.place().is_untouched()).await?;
        looked.map_err(CacheError::disk("look at the clone", disk.name().folder()))
    }

    /// The write that was refused last.
    pub fn refused(&self) -> Option<Refused> {
        self.room.refused()
    }

    /// How much clones may take; `None`: nothing is set aside for them.
    fn reserve_bytes(&self) -> Option<u64> {
        Some(self.reserve_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != u64::MAX)
    }

    /// Has clients write as much as this from now on, all of them and each; `None`: as much as there is room.
    pub fn set_limits(&self, reserve: Option<u64>, per_client: Option<u64>) {
        self.reserve_bytes.store(reserve.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.room.set_per_client(per_client);
    }

    /// How much clones take and may take, and has what they do not take yet be left free for them. Without a reserve they
    /// may take what is free.
    pub async fn fill(&self) -> Result<CloneFill, CacheError> {
        let (all, core, reserve) = (self.all(), self.core.clone(), self.reserve_bytes());
        let measure = move || {
            let takes = |disk: &Arc<CloneDisk>| disk.allocated().unwrap_or(0) + disk.personal_allocated().unwrap_or(0);
            let written_bytes = all.iter().map(takes).sum::<u64>();
            let free_bytes = core.disk.space().map_or(0, |space| space.free_bytes);
            let lacks = reserve.map_or(0, |reserve| reserve.saturating_sub(written_bytes));
            core.left_for_clones.store(lacks, Ordering::Relaxed);
            let can_take = written_bytes.saturating_add(free_bytes);
            CloneFill { written_bytes, reserve_bytes: reserve.map_or(can_take, |reserve| reserve.min(can_take)) }
        };
        self.core.blocking(measure).await
    }

    /// Makes durable what was written to all that are open, and closes those that nobody uses. Blocks.
    pub(crate) fn close_all(&self) {
        self.all().iter().for_each(|disk| disk.close());
    }

    /// Until a write finds the disk full.
    pub async fn room_wanted(&self) {
        self.room.wanted().await;
    }

    /// Somebody looked for room, and made what there was to be had.
    pub fn room_made(&self) {
        self.room.made();
    }

    fn begin_to_leave(&self, name: &CloneName) -> Result<Arc<CloneDisk>, CacheError> {
        let all = self.lock();
        let disk = all.get(name).ok_or_else(|| CacheError::UnknownClone(name.to_string()))?;
        if disk.is_open() {
            return Err(CacheError::Refused(format!("{name} is in use; shut {} down first", name.client)));
        }
        disk.is_leaving.store(true, Ordering::Release);
        Ok(disk.clone())
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, CacheError> {
        self.changing.acquire().await.map_err(|_| CacheError::Closed)
    }

    fn lock_damaged(&self) -> MutexGuard<'_, BTreeMap<CloneName, String>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CloneName, Arc<CloneDisk>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a new, empty clone in the place of one that nobody uses. Blocks.
fn replace(old: &CloneDisk, new: &CloneDisk, disk: &dyn Disk) -> io::Result<()> {
    let folder = new.name().folder();
    let made = new.place().create().and_then(|()| new.place().sync_names());
    let is_back = |_: &io::Error| old.is_leaving.store(false, Ordering::Release);
    made.inspect_err(is_back)?;
    if let Err(error) = new.record().write(disk, &folder) {
        // The new record may be there or not. As long as nobody knows, nobody writes to the old one.
        old.record().write(disk, &folder)?;
        is_back(&error);
        return Err(error);
    }
    // What cannot be removed now is at the next start.
    let kept = new.record();
    let left = [Some(old.place()), old.personal_place()].into_iter().flatten();
    for place in left.filter(|place| !place.name().is_some_and(|name| kept.owns(name))) {
        if let Err(error) = place.remove() {
            tracing::warn!(clone = %new.name(), %error, "what was written before the reset still takes room");
        }
    }
    Ok(())
}

/// A number that no clone had: never given twice, not by another store either.
fn fresh_number() -> Result<u64, CacheError> {
    loop {
        let number = getrandom::u64().map_err(|error| io::Error::other(error.to_string()));
        let number = number.map_err(CacheError::disk("get random numbers for", PathBuf::from(layout::CLONES)))?;
        if number >= NUMBERS_TAKEN {
            return Ok(number);
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
