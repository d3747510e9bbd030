//! How the store is: what its disk refused, said in the status at once and in the log once a minute.
//!
//! A store is full from the first block that found no room until room was really seen: a block written after the
//! last refusal is durable, and the file system has some more to give. What else is written meanwhile proves nothing:
//! older blocks, blocks of zeros, a gap. A full store is tried at intervals, also when nobody reads. One whose
//! disk lost or spoilt something stays suspect until the daemon starts anew: only a person can tell
//! whether the disk is to be replaced. It may be both.

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use icbd_image::BLOCK_BYTES;

use crate::disk::{Disk, Missing, is_full, is_shortage};
use crate::layout;

/// What the store is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    Ok,
    /// No room: blocks are served and not kept. Freeing space mends it.
    Full {
        why: String,
    },
    /// The disk failed at something; what it holds is served as long as it can be read.
    Suspect {
        why: String,
    },
}

/// A full store is tried again so often.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Less free space than this, or than this share of a small disk, is no room: one batch would fill it again.
const ROOM_BYTES: u64 = 16 << 20;
const ROOM_SHARE: u64 = 16;
const FULL_TO_DO: &str = "free space on the store's file system; until then blocks are served and not kept";
const SUSPECT_TO_DO: &str = "look at the disk (`dmesg`, `smartctl`), run `icbd image verify` on what is held, and restart \
                             the cache once the disk is in order or replaced; until then reads go on, and files are not passed through";

/// The store's state, and what was said about it.
#[derive(Debug)]
pub(crate) struct Health {
    inner: Mutex<Inner>,
    failed_syncs: AtomicU64,
    /// Writes that found no room so far.
    refusals: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    full: Option<Trouble>,
    suspect: Option<Trouble>,
    /// When a write found no room last, or was tried.
    tried: Option<Instant>,
}

#[derive(Debug)]
struct Trouble {
    /// What began it.
    why: String,
    logged: Instant,
}

impl Health {
    pub(crate) fn new() -> Health {
        Health { inner: Mutex::default(), failed_syncs: AtomicU64::new(0), refusals: AtomicU64::new(0) }
    }

    pub(crate) fn state(&self) -> StoreState {
        let inner = self.lock();
        match (&inner.full, &inner.suspect) {
            (None, None) => StoreState::Ok,
            (Some(full), None) => StoreState::Full { why: full.why.clone() },
            (None, Some(suspect)) => StoreState::Suspect { why: suspect.why.clone() },
            // What a person can mend at once comes first; the other stays until the next start anyway.
            (Some(full), Some(suspect)) => {
                StoreState::Full { why: format!("{}; the disk is suspect, too: {}", full.why, suspect.why) }
            }
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.lock().full.is_some()
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.lock().suspect.is_some()
    }

    /// Whether a write is worth trying.
    pub(crate) fn may_write(&self) -> bool {
        let mut inner = self.lock();
        if inner.full.is_none() {
            return true;
        }
        // One probe an interval, not one a block.
        let is_due = inner.tried.is_none_or(|tried| tried.elapsed() >= PROBE_INTERVAL);
        if is_due {
            inner.tried = Some(Instant::now());
        }
        is_due
    }

    /// Syncs of blocks that failed so far.
    pub(crate) fn failed_syncs(&self) -> u64 {
        self.failed_syncs.load(Ordering::Acquire)
    }

    /// Writes that found no room so far: to be asked for before a write, for [`Health::wrote`].
    pub(crate) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Acquire)
    }

    /// Blocks could not be synced.
    pub(crate) fn sync_failed(&self, error: &io::Error) {
        self.failed_syncs.fetch_add(1, Ordering::AcqRel);
        self.failed("syncing blocks", error);
    }

    /// Something could not be written or read; `what` names it.
    pub(crate) fn failed(&self, what: &str, error: &io::Error) {
        if is_shortage(error) {
            // The disk is not to blame, and what it holds is not in doubt.
            tracing::warn!(what, %error, "icbd lacks descriptors or memory; raise `ulimit -n` or LimitNOFILE=");
            return;
        }
        let full = is_full(error);
        let why = format!("{what}: {error}; {}", if full { FULL_TO_DO } else { SUSPECT_TO_DO });
        let mut inner = self.lock();
        if full {
            // Under the lock: who saw fewer refusals does not call it well any more.
            self.refusals.fetch_add(1, Ordering::AcqRel);
            inner.tried = Some(Instant::now());
        }
        let trouble = if full { &mut inner.full } else { &mut inner.suspect };
        match trouble {
            Some(known) if known.logged.elapsed() < LOG_INTERVAL => return,
            Some(known) => known.logged = Instant::now(),
            None => *trouble = Some(Trouble { why: why.clone(), logged: Instant::now() }),
        }
        match full {
            true => tracing::warn!(%why, "the store is full"),
            false => tracing::error!(%why, "the store's disk failed; what it lost is fetched again"),
        }
    }

    /// Blocks are durable that were written when there had been so many `refusals`. Blocks the caller.
    pub(crate) fn wrote(&self, refusals: u64, disk: &dyn Disk) {
        if !self.is_full() || !has_room(disk) {
            return;
        }
        let mut inner = self.lock();
        if self.refusals() == refusals && inner.full.take().is_some() {
            tracing::info!("the store has room again");
        }
    }

    /// If the store is full and it is time, tries whether there is room for a block. Blocks the caller.
    pub(crate) fn probe(&self, disk: &dyn Disk) {
        let refusals = self.refusals();
        if !self.is_full() || !has_room(disk) || !self.may_write() {
            return;
        }
        let path = Path::new(layout::PROBE);
        let tried = disk.open(path, Missing::Create).and_then(|file| {
            file.write(0, &[&[0x5a; BLOCK_BYTES as usize]])?;
            file.sync()
        });
        match tried.and_then(|()| disk.remove(path)) {
            Ok(()) => self.wrote(refusals, disk),
            Err(error) => self.failed("trying whether there is room", &error),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under this lock")
    }
}

/// Whether the file system says that it has more than a gap. One that does not tell is tried.
fn has_room(disk: &dyn Disk) -> bool {
    disk.space().map_or(true, |space| space.free_bytes >= ROOM_BYTES.min(space.size_bytes / ROOM_SHARE))
}
