//! How the cache is, at a glance. Nothing here waits for a disk or a source.

use std::sync::atomic::Ordering;

use icbd_image::{Serial, VersionId};

use crate::core::Core;
use crate::health::StoreState;
use crate::version::Residency;
use crate::view::Object;
use crate::waiting::Waiting;

/// How the cache is.
#[derive(Debug, Clone)]
pub struct CacheStatus {
    pub store: StoreState,
    /// Versions of which something is held, by image and number.
    pub versions: Vec<VersionStatus>,
    /// Reads that have waited for more than a second, the longest first.
    pub waiting: Vec<Waiting>,
    /// What contradicts what this cache knows.
    pub warnings: Vec<String>,
    /// Bytes of blocks fetched from sources since the start, decoded.
    pub fetched_bytes: u64,
    /// Bytes of blocks taken from other local versions since the start, those shared by reflink not counted.
    pub reused_bytes: u64,
    /// Memory of blocks in flight now; 0 at idle.
    pub in_flight_bytes: u64,
}

/// A version of which something is held.
#[derive(Debug, Clone)]
pub struct VersionStatus {
    pub id: VersionId,
    pub serial: Serial,
    pub residency: Residency,
    pub complete: bool,
}

impl Core {
    pub(crate) fn status(&self, warnings: Vec<String>) -> CacheStatus {
        let mut held = self.held.lock().expect("no panic under this lock").clone();
        for version in self.versions.all() {
            if version.filling().is_some() {
                held.insert(version.serial(), version.residency());
            }
        }
        let view = self.view();
        let mut versions: Vec<VersionStatus> = Vec::new();
        for (serial, residency) in held {
            if let Some(Object::Version(_, record)) = view.object(serial) {
                let (id, complete) = (record.statement.statement().version(), residency.is_complete());
                versions.push(VersionStatus { id, serial, residency, complete });
            }
        }
        versions.sort_by(|a, b| a.id.cmp(&b.id));
        CacheStatus {
            store: self.health.state(),
            versions,
            waiting: self.waiting.shown(),
            warnings,
            fetched_bytes: self.fetched_bytes.load(Ordering::Relaxed),
            reused_bytes: self.reused_bytes.load(Ordering::Relaxed),
            in_flight_bytes: self.budget.used_bytes(),
        }
    }
}
