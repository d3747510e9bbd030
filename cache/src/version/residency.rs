//! How much of a version is here.

use std::time::SystemTime;

use icbd_image::BLOCK_BYTES;

use super::Version;
use crate::catalogue::marks;

/// How much is here, of a version or a file, in bytes of whole blocks.
///
/// A block of zeros counts as resident and durable once its hash is known: it needs no fetching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Residency {
    pub total_bytes: u64,
    /// Readable without a source.
    pub resident_bytes: u64,
    /// And a power cut cannot take it back.
    pub durable_bytes: u64,
}

impl Residency {
    pub fn is_complete(&self) -> bool {
        self.durable_bytes == self.total_bytes
    }

    /// The same shares of so many bytes: the last block of a file has fewer than others, and a small file has no other.
    pub fn of(self, bytes: u64) -> Residency {
        let share = |part: u64| match self.total_bytes {
            0 => 0,
            total => (u128::from(part) * u128::from(bytes) / u128::from(total)) as u64,
        };
        let (resident_bytes, durable_bytes) = (share(self.resident_bytes), share(self.durable_bytes));
        Residency { total_bytes: bytes, resident_bytes, durable_bytes }
    }
}

impl Version {
    /// Whether every block of every file is durable.
    pub fn is_complete(&self) -> bool {
        self.filling().is_some() && self.residency().is_complete()
    }

    pub fn residency(&self) -> Residency {
        let total: u64 = self.head.files().map(|file| file.blocks()).sum();
        let (readable, durable) = self.filling().map_or((0, 0), |filling| filling.resident.counts());
        Residency {
            total_bytes: total * BLOCK_BYTES,
            resident_bytes: readable * BLOCK_BYTES,
            durable_bytes: durable * BLOCK_BYTES,
        }
    }

    /// Keeps in mind whether it is sealed, and since when, while nobody has it open.
    pub(crate) fn note_sealed(&self) {
        let tree = self.filling().filter(|filling| filling.is_sealed()).map(|filling| filling.path());
        let since = tree.map(|tree| marks::read_sealed(&*self.core.disk, tree).unwrap_or(SystemTime::UNIX_EPOCH));
        let mut sealed = self.core.sealed.lock().expect("no panic under this lock");
        match since {
            Some(since) => sealed.insert(self.serial(), since),
            None => sealed.remove(&self.serial()),
        };
    }

    /// Keeps the counts for the status and for the choice of a base, also after a restart.
    pub(crate) fn note_residency(&self) {
        let held = self.residency();
        self.core.held.lock().expect("no panic under this lock").insert(self.serial(), held);
        self.core.ledger.note_complete(self.serial(), self.filling().is_some() && held.is_complete());
    }
}
