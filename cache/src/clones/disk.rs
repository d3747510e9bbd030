//! One clone: a version's disk with what its client wrote over it.
//!
//! What was not written is read of the version, like anything else of it: from the store, shared by all who read it, or
//! fetched. Nothing written here is seen anywhere else.
//!
//! Lock order: stripes in ascending order, then the layer's. A stripe is held shared by who writes whole pieces, or to such
//! as were written already, and alone by who completes a piece with what it was before.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::{Bytes, BytesMut};
use icbd_image::Serial;

use super::layer::{Layer, LayerPlace, PIECE_BYTES, pieces_of};
use super::record::{CloneName, Fate, Record};
use super::room::Room;
use crate::core::Core;
use crate::disk::{Wait, is_full};
use crate::{CacheError, File, ReadNow};

/// Locks of pieces: enough for writers not to meet by chance.
const STRIPES: usize = 64;
/// Pieces side by side that share one: a long write touches two.
const STRIPE_PIECES: u64 = 256;

/// A writable disk.
pub struct CloneDisk {
    core: Arc<Core>,
    room: Arc<Room>,
    name: CloneName,
    record: Record,
    places: Places,
    fate: Mutex<Fate>,
    is_unfinished: AtomicBool,
    /// Those who have it open; changed under the lock of all clones.
    pub(super) users: AtomicU64,
    /// It is being reset or removed: nobody begins to use it.
    pub(super) is_leaving: AtomicBool,
    opened: RwLock<Option<Arc<Opened>>>,
    stripes: [RwLock<()>; STRIPES],
}

/// Where its layers are.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) session: LayerPlace,
    pub(super) personal: Option<LayerPlace>,
}

/// What is open while it is used.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) layer: Layer,
    /// What lies below it, over the version.
    personal: Option<Layer>,
    base: Arc<File>,
}

/// A part of what is read.
struct Part {
    range: Range<u64>,
    of: Of,
}

/// What holds a part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Session,
    Personal,
    Base,
}

impl CloneDisk {
    pub(super) fn new(core: Arc<Core>, room: Arc<Room>, name: CloneName, record: Record, places: Places) -> CloneDisk {
        CloneDisk {
            core,
            room,
            name,
            fate: Mutex::new(record.fate()),
            is_unfinished: AtomicBool::new(record.unfinished),
            record,
            places,
            users: AtomicU64::new(0),
            is_leaving: AtomicBool::new(false),
            opened: RwLock::default(),
            stripes: std::array::from_fn(|_| RwLock::default()),
        }
    }

    pub fn name(&self) -> &CloneName {
        &self.name
    }

    /// For the kernel: no other clone has had it, nor this one before it was reset.
    pub fn number(&self) -> u64 {
        self.record.session
    }

    /// Of the version that it lies over.
    pub fn serial(&self) -> Serial {
        self.record.serial
    }

    pub fn size(&self) -> u64 {
        self.record.size
    }

    /// When it was made or reset, in seconds since 1970.
    pub fn made(&self) -> u64 {
        self.record.made
    }

    pub(super) fn record(&self) -> Record {
        Record { unfinished: self.is_unfinished(), ..self.record.clone().with_fate(self.fate()) }
    }

    /// Whether what each session begins as is being made, or was when that came to its end without being done.
    pub fn is_unfinished(&self) -> bool {
        self.is_unfinished.load(Ordering::Acquire)
    }

    pub(super) fn set_unfinished(&self) {
        self.is_unfinished.store(true, Ordering::Release);
    }

    pub(super) fn place(&self) -> &LayerPlace {
        &self.places.session
    }

    /// Where what each session begins as is.
    pub(super) fn personal_place(&self) -> Option<&LayerPlace> {
        self.places.personal.as_ref()
    }

    /// Whether its sessions begin as something else than the version.
    pub fn has_personal(&self) -> bool {
        self.places.personal.is_some()
    }

    pub fn fate(&self) -> Fate {
        *self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_kept(&self) -> bool {
        self.fate() != Fate::Reset
    }

    pub(super) fn set_fate(&self, fate: Fate) {
        *self.fate.lock().unwrap_or_else(PoisonError::into_inner) = fate;
    }

    pub fn is_open(&self) -> bool {
        self.users.load(Ordering::Acquire) > 0
    }

    /// Whether a sync failed: what was written may be lost.
    pub fn is_suspect(&self) -> bool {
        self.opened_now().is_some_and(|opened| opened.layer.is_suspect())
    }

    /// Bytes of the disk that it takes; what was not written takes none.
    pub fn allocated(&self) -> io::Result<u64> {
        match self.opened_now() {
            Some(opened) => opened.layer.allocated(),
            None => self.place().allocated(),
        }
    }

    /// The same of what its sessions begin as.
    pub fn personal_allocated(&self) -> io::Result<u64> {
        self.personal_place().map_or(Ok(0), LayerPlace::allocated)
    }

    /// Reads at most `len` bytes, fewer only at the end. Never blocks; what is not done at once is for [`CloneDisk::read`].
    pub fn read_now(&self, offset: u64, len: usize, out: &mut Vec<u8>) -> ReadNow {
        let range = self.clamp(offset, len);
        let Some(opened) = self.opened_now() else { return ReadNow::Cold };
        let parts = opened.parts(&range);
        if let [Part { range, of: Of::Base }] = &parts[..] {
            return opened.base.read_now(range.start, (range.end - range.start) as usize, out);
        }
        // What was in it is overwritten.
        out.resize((range.end - range.start) as usize, 0);
        let mut below = Vec::new();
        for part in parts {
            let target = &mut out[part.within(&range)];
            match opened.layer_of(part.of) {
                Some(layer) if layer.read(part.range.start, target, Wait::No).is_err() => return ReadNow::Cold,
                Some(_) => {}
                None => match opened.base.read_now(part.range.start, target.len(), &mut below) {
                    ReadNow::Done => target.copy_from_slice(&below),
                    later => return later,
                },
            }
        }
        ReadNow::Done
    }

    /// Reads at most `len` bytes, fewer only at the end. What is neither written nor here is fetched.
    pub async fn read(self: &Arc<Self>, offset: u64, len: usize) -> Result<Bytes, CacheError> {
        let range = self.clamp(offset, len);
        let opened = self.opened().await?;
        let parts = opened.parts(&range);
        self.read_parts(&opened, parts, (range.end - range.start) as usize).await
    }

    async fn read_parts(&self, opened: &Arc<Opened>, parts: Vec<Part>, len: usize) -> Result<Bytes, CacheError> {
        if let [Part { range, of: Of::Base }] = &parts[..] {
            return opened.base.read(range.start, (range.end - range.start) as usize).await;
        }
        let mut whole = BytesMut::with_capacity(len);
        for Part { range, of } in parts {
            let len = (range.end - range.start) as usize;
            if of == Of::Base {
                whole.extend_from_slice(&opened.base.read(range.start, len).await?);
                continue;
            }
            let (opened, mut bytes) = (opened.clone(), vec![0; len]);
            let read = move || match opened.layer_of(of) {
                Some(layer) => layer.read(range.start, &mut bytes, Wait::Yes).map(|()| bytes),
                None => Err(io::ErrorKind::NotFound.into()),
            };
            whole.extend_from_slice(&self.core.disk_read(read).await?.map_err(self.failed("read"))?);
        }
        Ok(whole.freeze())
    }

    /// Writes what can be written without anything being read, or somebody else being waited for; `None`: it is for
    /// [`CloneDisk::write`]. The kernel may have it wait for the disk when much was written.
    pub fn write_now(&self, offset: u64, bytes: &[u8]) -> Option<Result<(), CacheError>> {
        let range = offset..offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.size())?;
        let opened = self.opened_now()?;
        let is_whole = opened.incomplete(&range).all(|piece| piece.is_none());
        if !is_whole || self.room.refuses(&opened.layer, pieces_of(&range)) {
            return None;
        }
        let stripes = stripes_of(&range);
        let _held: Vec<RwLockReadGuard<'_, ()>> =
            stripes.map(|stripe| self.stripes[stripe].try_read().ok()).collect::<Option<_>>()?;
        match opened.layer.write(offset, bytes) {
            // Room may be made for it.
            Err(error) if is_full(&error) => None,
            done => Some(done.map_err(self.failed("write"))),
        }
    }

    /// Writes. When it returns, the daemon may be killed, and what was written is there; a power cut takes what was not
    /// flushed.
    pub async fn write(self: &Arc<Self>, offset: u64, bytes: Bytes) -> Result<(), CacheError> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.size());
        let range =
            offset..end.ok_or_else(|| self.failed("write past the end of")(io::ErrorKind::InvalidInput.into()))?;
        let opened = self.opened().await?;
        // What lies below the session never changes: it can be read before anybody is kept from writing.
        let mut before = Vec::new();
        for piece in opened.incomplete(&range).flatten() {
            let whole = self.clamp(piece * PIECE_BYTES, PIECE_BYTES as usize);
            let len = (whole.end - whole.start) as usize;
            before.push((piece, self.read_parts(&opened, opened.parts_below(&whole), len).await?));
        }
        self.with_room(&opened, pieces_of(&range), move |disk, opened| disk.write_over(opened, &range, &bytes, &before))
            .await
    }

    /// Has a range read as zeros; what it took of the disk is given back.
    pub async fn discard(self: &Arc<Self>, range: Range<u64>) -> Result<(), CacheError> {
        let range = range.start.min(self.size())..range.end.min(self.size());
        let is_end = |at: u64| at == self.size();
        let whole = range.start.next_multiple_of(PIECE_BYTES)..match is_end(range.end) {
            true => range.end,
            false => range.end / PIECE_BYTES * PIECE_BYTES,
        };
        if whole.start >= whole.end {
            return self.write(range.start, vec![0; (range.end - range.start) as usize].into()).await;
        }
        for edge in [range.start..whole.start, whole.end..range.end].into_iter().filter(|edge| !edge.is_empty()) {
            self.write(edge.start, vec![0; (edge.end - edge.start) as usize].into()).await?;
        }
        let (opened, disk) = (self.opened().await?, self.clone());
        let clear = move || {
            let _held = disk.hold_all();
            opened.layer.clear(pieces_of(&whole))
        };
        self.core.blocking(clear).await?.map_err(self.failed("discard in"))
    }

    /// Makes durable what was written before.
    pub async fn flush(self: &Arc<Self>) -> Result<(), CacheError> {
        let opened = self.opened().await?;
        let flushed = self.core.blocking(move || opened.layer.flush()).await?;
        // The bits may want room that there is not.
        flushed
            .inspect_err(|error| {
                if is_full(error) {
                    self.room.note_full(&self.name)
                }
            })
            .map_err(self.failed("sync"))
    }

    /// Nobody uses it for now: makes durable what was written, and closes its files. Blocks.
    pub(super) fn close(&self) {
        let Some(opened) = self.opened_now() else { return };
        if let Err(error) = opened.layer.flush() {
            tracing::error!(clone = %self.name, %error, "what was written to a clone could not be made durable");
        }
        drop(opened);
        let mut slot = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        let Some(opened) = &*slot else { return };
        // Whoever is at it still, for a program that was killed, must not have bits of its own.
        if Arc::strong_count(opened) == 1 && !self.is_open() && !opened.layer.is_suspect() {
            *slot = None;
        }
    }

    fn write_over(&self, opened: &Opened, range: &Range<u64>, bytes: &[u8], before: &[(u64, Bytes)]) -> io::Result<()> {
        if before.is_empty() {
            let _held: Vec<_> = stripes_of(range)
                .map(|stripe| self.stripes[stripe].read().unwrap_or_else(PoisonError::into_inner))
                .collect();
            return opened.layer.write(range.start, bytes);
        }
        let _held: Vec<RwLockWriteGuard<'_, ()>> = stripes_of(range)
            .map(|stripe| self.stripes[stripe].write().unwrap_or_else(PoisonError::into_inner))
            .collect();
        // Somebody may have written to one meanwhile.
        let lacking = || before.iter().filter(|(piece, _)| !opened.layer.has(*piece));
        let start = lacking().map(|(piece, _)| piece * PIECE_BYTES).chain([range.start]).min().unwrap_or(range.start);
        let ends = lacking().map(|(piece, content)| piece * PIECE_BYTES + content.len() as u64);
        let end = ends.chain([range.end]).max().unwrap_or(range.end);
        let mut whole = vec![0; (end - start) as usize];
        for (piece, content) in lacking() {
            let at = (piece * PIECE_BYTES - start) as usize;
            whole[at..at + content.len()].copy_from_slice(content);
        }
        whole[(range.start - start) as usize..(range.end - start) as usize].copy_from_slice(bytes);
        opened.layer.write(start, &whole)
    }

    /// Does something that takes room, once there is some, or says that there is none.
    async fn with_room(
        self: &Arc<Self>,
        opened: &Arc<Opened>,
        pieces: Range<u64>,
        work: impl Fn(&CloneDisk, &Opened) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<(), CacheError> {
        let work = Arc::new(work);
        let mut patience = self.room.patience();
        loop {
            if self.room.refuses(&opened.layer, pieces.clone()) {
                return Err(self.room.limit_reached(&self.name));
            }
            let (disk, opened, work) = (self.clone(), opened.clone(), work.clone());
            match self.core.blocking(move || work(&disk, &opened)).await? {
                Err(error) if is_full(&error) => {
                    if !patience.room_is_made().await {
                        self.room.note_full(&self.name);
                        return Err(self.failed("write")(error));
                    }
                }
                done => return done.map_err(self.failed("write")),
            }
        }
    }

    fn hold_all(&self) -> Vec<RwLockReadGuard<'_, ()>> {
        self.stripes.iter().map(|stripe| stripe.read().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    fn opened_now(&self) -> Option<Arc<Opened>> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn opened(self: &Arc<Self>) -> Result<Arc<Opened>, CacheError> {
        if let Some(opened) = self.opened_now() {
            return Ok(opened);
        }
        let version = self.core.version(self.record.serial).await?;
        let index = version.head().resolve(self.record.file.as_bytes()).filter(|_| version.root() == self.record.root);
        let index = index.ok_or_else(|| CacheError::UnknownVersion(self.name.version.clone()))?;
        let (base, disk) = (version.file(index)?, self.clone());
        let open = move || {
            // By one at a time: two would each have bits of their own.
            let mut opened = disk.opened.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(opened) = &*opened {
                return Ok(opened.clone());
            }
            let personal = disk.personal_place().map(LayerPlace::open).transpose()?;
            let fresh = Arc::new(Opened { layer: disk.place().open()?, personal, base });
            *opened = Some(fresh.clone());
            Ok(fresh)
        };
        self.core.blocking(open).await?.map_err(self.failed("open"))
    }

    fn clamp(&self, offset: u64, len: usize) -> Range<u64> {
        let start = offset.min(self.size());
        start..offset.saturating_add(len as u64).min(self.size())
    }

    pub(super) fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> CacheError {
        CacheError::disk(doing, self.place().path.clone())
    }
}

impl Opened {
    /// Where each part of a range is read.
    fn parts(&self, range: &Range<u64>) -> Vec<Part> {
        if self.layer.has_all(pieces_of(range)) {
            return vec![Part { range: range.clone(), of: Of::Session }];
        }
        split(range, |piece| if self.layer.has(piece) { Of::Session } else { self.below(piece) })
    }

    /// The same as it was before the session.
    fn parts_below(&self, range: &Range<u64>) -> Vec<Part> {
        split(range, |piece| self.below(piece))
    }

    fn below(&self, piece: u64) -> Of {
        if self.personal.as_ref().is_some_and(|personal| personal.has(piece)) { Of::Personal } else { Of::Base }
    }

    /// The layer that holds it; `None`: the version.
    fn layer_of(&self, of: Of) -> Option<&Layer> {
        match of {
            Of::Session => Some(&self.layer),
            Of::Personal => self.personal.as_ref(),
            Of::Base => None,
        }
    }

    /// The first and the last piece of a range, each if the range does not cover it and it was never written: what it
    /// was has to be known before it is written.
    fn incomplete(&self, range: &Range<u64>) -> impl Iterator<Item = Option<u64>> {
        let covers = |piece: u64| {
            range.start <= piece * PIECE_BYTES && ((piece + 1) * PIECE_BYTES).min(self.base.size()) <= range.end
        };
        let pieces = pieces_of(range);
        let (first, last) = (pieces.start, pieces.end.saturating_sub(1));
        let is_incomplete = |piece: u64| !pieces.is_empty() && !covers(piece) && !self.layer.has(piece);
        let last = (last != first && is_incomplete(last)).then_some(last);
        [is_incomplete(first).then_some(first), last].into_iter()
    }
}

impl Part {
    fn within(&self, whole: &Range<u64>) -> Range<usize> {
        (self.range.start - whole.start) as usize..(self.range.end - whole.start) as usize
    }
}

/// Parts of a range as long as they can be.
fn split(range: &Range<u64>, of: impl Fn(u64) -> Of) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for piece in pieces_of(range) {
        let part = range.start.max(piece * PIECE_BYTES)..range.end.min((piece + 1) * PIECE_BYTES);
        match (of(piece), parts.last_mut()) {
            (of, Some(last)) if last.of == of => last.range.end = part.end,
            (of, _) => parts.push(Part { range: part, of }),
        }
    }
    parts
}

/// The locks of the pieces that a range touches, in ascending order.
fn stripes_of(range: &Range<u64>) -> impl Iterator<Item = usize> {
    let pieces = pieces_of(range);
    let groups = pieces.start / STRIPE_PIECES..pieces.end.div_ceil(STRIPE_PIECES);
    let mut stripes: Vec<usize> = groups.take(STRIPES).map(|group| group as usize % STRIPES).collect();
    stripes.sort_unstable();
    stripes.into_iter()
}

impl fmt::Debug for CloneDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloneDisk({})", self.name)
    }
}
