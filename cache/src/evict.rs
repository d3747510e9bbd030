//! Making room: what is held of each version, which may be let go of, and letting one go.
//!
//! What is let go of is not lost: it is fetched again when somebody reads it. The bits go first, durably, and then the
//! bytes: a power cut in between costs room until the next time, never a wrong byte.
//!
//! What it frees is measured, not guessed: blocks that another version shares stay with that one, and btrfs frees a
//! written extent only when none of its blocks is left.

mod thin;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use icbd_image::{FileIndex, Serial, VersionId};

use crate::cache::Cache;
use crate::core::Core;
use crate::disk::{Barrier, Space};
use crate::pins::Pin;
use crate::version::Version;
use crate::{CacheError, layout};

/// Where nothing else was set: a twentieth of the file system, on a large one no more than this.
const RESERVE_SHARE: u64 = 20;
const RESERVE_BYTES_MAX: u64 = 20 << 30;
/// A larger file may have bytes that no bit speaks of, from a time when the power went.
const SMALL_BYTES: u64 = 1 << 20;

/// So little above the reserve is not worth fetching for.
const SHORT_BYTES: u64 = 2 << 20;

/// Room on the store's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub free_bytes: u64,
    /// How much of it shall stay free for what is read.
    pub reserve_bytes: u64,
}

impl Room {
    /// Whether prefetch finds none: a little above the reserve already, which is what is left when it stops, so that
    /// room is made before there is less than the reserve.
    pub fn is_short(&self) -> bool {
        self.free_bytes < self.reserve_bytes + SHORT_BYTES
    }
}

/// Why what is held of a version stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stay {
    Deployed,
    Fallback,
    Pinned(Pin),
    /// Programs have so many of its files open.
    InUse(u64),
    /// A prefetch order is for it.
    Ordered,
}

/// What is held of a version.
#[derive(Debug, Clone)]
pub struct Holding {
    pub version: VersionId,
    pub serial: Serial,
    /// Blocks of zeros included.
    pub resident_bytes: u64,
    /// When something of it was read or fetched last, to ten minutes; `None` if this cache does not know.
    pub used: Option<SystemTime>,
    /// `None`: it may go.
    pub stays: Option<Stay>,
}

impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stay::Deployed => f.write_str("it is deployed"),
            Stay::Fallback => f.write_str("it is the fallback, the version to go back to"),
            Stay::Pinned(pin) => write!(f, "{} pinned it", pin.by),
            Stay::InUse(count) => write!(f, "programs have {count} of its files open"),
            Stay::Ordered => f.write_str("a prefetch order is for it; `icbd prefetch list` shows which"),
        }
    }
}

impl Cache {
    /// When something of a version was read, opened or fetched last, to ten minutes; `None` if this cache does not know.
    pub fn last_used(&self, version: Serial) -> Option<SystemTime> {
        self.core().ledger.used(version)
    }

    /// What is held here. Those that may go come first, the one that was used longest ago before all. `in_use` says of
    /// which versions programs have files open.
    pub fn holdings(&self, in_use: &BTreeMap<Serial, u64>) -> Vec<Holding> {
        let (view, core) = (self.view(), self.core());
        let (ledger, ordered) = (core.ledger.entries(), self.orders().ordered());
        let stays = |id: &VersionId, serial: Serial, is_fallback: bool| {
            let is_meant = [view.meant(&id.image), view.deployed_by_master(&id.image)].contains(&Some(id.number));
            match (is_meant, is_fallback, core.pins.get(serial), in_use.get(&serial).copied().unwrap_or(0)) {
                (true, ..) => Some(Stay::Deployed),
                (_, true, ..) => Some(Stay::Fallback),
                (_, _, Some(pin), _) => Some(Stay::Pinned(pin)),
                (.., count) if count > 0 => Some(Stay::InUse(count)),
                _ => ordered.contains(&serial).then_some(Stay::Ordered),
            }
        };
        let held = core.status(Vec::new()).versions.into_iter().filter(|held| held.residency.resident_bytes > 0);
        let mut holdings: Vec<Holding> = held
            .map(|held| Holding {
                stays: stays(&held.id, held.serial, held.fallback),
                version: held.id,
                serial: held.serial,
                resident_bytes: held.residency.resident_bytes,
                used: ledger.tallies.get(&held.serial).and_then(|tally| tally.used()),
            })
            .collect();
        holdings.sort_by_key(|held| (held.stays.is_some(), held.used, std::cmp::Reverse(held.resident_bytes)));
        holdings
    }

    /// Lets go of what is held of a version that nothing keeps here. How many bytes that freed, as the file system says.
    pub async fn let_go(&self, id: &VersionId, in_use: &BTreeMap<Serial, u64>) -> Result<u64, CacheError> {
        self.view().usable(id).map(drop).or_else(|error| match error {
            // Who trusts it no more may well want its room.
            CacheError::Untrusted { .. } => Ok(()),
            error => Err(error),
        })?;
        let holding = self.holdings(in_use).into_iter().find(|holding| holding.version == *id);
        let Some(holding) = holding else { return Ok(0) };
        if let Some(stays) = holding.stays {
            return Err(CacheError::Refused(format!("{id} stays: {stays}")));
        }
        let core = self.core();
        let version = core.version_once(holding.serial).await?;
        if !version.open_existing().await {
            return Ok(0);
        }
        let of = version.clone();
        let freed = core.blocking(move || of.let_go()).await??;
        tracing::info!(version = %id, freed, "let go of what was held");
        Ok(freed)
    }

    /// How much room there is, and how much shall stay free; `None` where the disk does not tell.
    pub async fn room(&self) -> Result<Option<Room>, CacheError> {
        self.core().room().await
    }
}

impl Core {
    pub(crate) async fn room(self: &Arc<Core>) -> Result<Option<Room>, CacheError> {
        let core = self.clone();
        self.blocking(move || {
            let Space { free_bytes, size_bytes } = core.disk.space().ok()?;
            let usual = (size_bytes / RESERVE_SHARE).min(RESERVE_BYTES_MAX);
            let beyond_quota = core.quota.map_or(0, |quota| quota.leaves(size_bytes));
            let for_clones = core.left_for_clones.load(Ordering::Relaxed);
            let reserve_bytes = core.reserve_bytes.unwrap_or(usual).max(beyond_quota).saturating_add(for_clones);
            Some(Room { free_bytes, reserve_bytes })
        })
        .await
    }
}

impl Version {
    /// Lets go of all blocks of all files that nobody reads past the daemon; the bytes that this freed. Blocks.
    fn let_go(self: &Arc<Self>) -> Result<u64, CacheError> {
        let (core, Some(filling)) = (self.core(), self.filling()) else { return Ok(0) };
        let free = || core.disk.space().map_or(0, |space| space.free_bytes);
        let failed = |error| CacheError::disk("make room in", layout::tree(self.id()))(error);
        // btrfs counts what was written when it commits.
        core.disk.sync(Barrier::Everything).map_err(failed)?;
        let before = free();
        filling.thaw(self).map_err(failed)?;
        // A clone that is being verified holds all of it.
        core.disk.remove(&layout::sealing(self.id())).map_err(failed)?;
        let files: Vec<(FileIndex, u64, u64)> =
            self.head().files().map(|node| (node.index(), node.blocks(), node.size())).collect();
        for (index, blocks, size) in files {
            if size >= SMALL_BYTES || filling.resident.readable_count(index, 0..blocks) > 0 {
                self.file(index)?.let_go().map_err(failed)?;
            }
        }
        self.note_residency();
        core.disk.settle().map_err(failed)?;
        Ok(free().saturating_sub(before))
    }
}
