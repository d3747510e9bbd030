//! Packing what is not packed yet, version by version, in the room there is.

use std::sync::atomic::AtomicBool;

use icbd_image::{Listing, Root, VersionRecord};

use super::PackedRuns;
use super::version::{End, OneVersion};
use crate::{MasterError, Repository};

/// So much of the disk is left to versions.
const RESERVE_SHARE: u64 = 20;
const RESERVE_BYTES_MAX: u64 = 20 << 30;

/// A version and the one before it.
type WithBefore<'a> = (&'a VersionRecord, Option<&'a VersionRecord>);

/// How much may be kept, and what is worth how much.
struct Room<'a> {
    bytes_max: u64,
    /// The lower the more.
    rank: &'a dyn Fn(&Root) -> Option<usize>,
}

impl Repository {
    /// Packs what is served and is not packed yet, what is deployed and then what is new first, until all that is kept
    /// takes `bytes_max`, or the disk has no room to spare. Takes long; one at a time. A version that cannot be read now is
    /// left out, and what is damaged is packed once it is mended.
    pub fn pack(&self, bytes_max: u64, cancel: &AtomicBool) -> Result<(), MasterError> {
        let listing = self.listing();
        let order = in_order(&listing);
        let rank = |root: &Root| order.iter().position(|(version, _)| version.root() == *root);
        // Somebody may have removed a file: what is open of it takes room, and nothing finds it after a restart.
        self.packed.remove(|file| bytes_max == 0 || rank(&file.root()).is_none() || !file.path().exists());
        if bytes_max == 0 {
            return Ok(());
        }
        let room = Room { bytes_max, rank: &rank };
        for (at, version) in order.iter().enumerate() {
            // Less may be given than was before.
            self.packed.make_room(&room, 0, at);
            match self.pack_version(version, |more| self.packed.make_room(&room, more, at + 1), cancel) {
                Ok(End::Packed | End::Gone) => {}
                Ok(End::NoRoom) => break,
                Err(MasterError::Cancelled) => return Err(MasterError::Cancelled),
                Err(error) => {
                    let of = version.0.statement.statement().version();
                    tracing::warn!(version = %of, %error, "it is packed whenever it is asked for");
                }
            }
        }
        Ok(())
    }

    /// How many bytes of packed runs are kept.
    pub fn packed_bytes(&self) -> u64 {
        self.packed.bytes()
    }

    /// Changes whenever something of it goes: then there may be something to pack.
    pub fn packed_losses(&self) -> u64 {
        self.packed.losses()
    }

    fn pack_version(
        &self,
        (record, before): &WithBefore<'_>,
        has_room: impl Fn(u64) -> bool,
        cancel: &AtomicBool,
    ) -> Result<End, MasterError> {
        let (root, losses) = (record.root(), self.packed.losses());
        if self.packed.is_complete(&root) {
            return Ok(End::Packed);
        }
        let versions = (root, before.map(VersionRecord::root));
        let (end, is_all) = OneVersion::begin(self, versions, has_room, cancel)?.pack()?;
        if end == End::Packed && is_all {
            self.packed.set_complete(root, losses);
        }
        Ok(end)
    }
}

impl PackedRuns {
    fn is_complete(&self, root: &Root) -> bool {
        self.read().complete.contains(root)
    }

    /// Unless something was lost since then, which it may have had in common with others.
    fn set_complete(&self, root: Root, losses: u64) {
        let mut inner = self.write();
        if inner.losses == losses {
            inner.complete.insert(root);
        }
    }

    /// Whether `more` bytes fit. What has a rank from `worse` on makes room for it, the worst first.
    fn make_room(&self, room: &Room<'_>, more: u64, worse: usize) -> bool {
        let give_up = || {
            let roots: Vec<Root> = self.read().files.values().map(|file| file.root()).collect();
            let ranked = roots.into_iter().filter_map(|root| Some(((room.rank)(&root)?, root)));
            let last = ranked.filter(|(rank, _)| *rank >= worse).max_by_key(|(rank, _)| *rank);
            last.map(|(_, root)| self.forget(&root)).is_some()
        };
        while self.bytes() + more > room.bytes_max {
            if !give_up() {
                return false;
            }
        }
        // Versions go first. What goes is free only after a while on some file systems: one after the other.
        let is_tight = self.is_tight(more);
        if is_tight {
            give_up();
        }
        !is_tight
    }

    /// Whether the disk has too little room for `more`.
    fn is_tight(&self, more: u64) -> bool {
        let folder =
            if self.folder().exists() { self.folder() } else { self.folder().parent().unwrap_or(self.folder()) };
        let Ok(disk) = rustix::fs::statvfs(folder) else { return false };
        let (free, size) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
        free < (size / RESERVE_SHARE).min(RESERVE_BYTES_MAX) + more
    }
}

/// What is deployed, then what is new first, each with the version before it.
fn in_order(listing: &Listing) -> Vec<WithBefore<'_>> {
    let mut order: Vec<(bool, WithBefore<'_>)> = Vec::new();
    for image in &listing.images {
        let mut before = None;
        for version in &image.versions {
            order.push((image.deployed == Some(version.number()), (version, before)));
            before = Some(version);
        }
    }
    order.sort_by_key(|(is_deployed, (version, _))| (!is_deployed, std::cmp::Reverse(version.serial())));
    order.into_iter().map(|(_, version)| version).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody prunes a version, the runs of which another one has in common, while that one is looked through.
    #[test]
    fn what_is_lost_meanwhile_leaves_no_version_complete() {
        let runs = PackedRuns::open("/nowhere".into());
        let (root, before) = (Root::of(b""), runs.losses());
        runs.set_complete(root, before);
        assert!(runs.is_complete(&root));
        runs.write().lost();
        assert!(!runs.is_complete(&root));
        runs.set_complete(root, before);
        assert!(!runs.is_complete(&root));
    }
}
