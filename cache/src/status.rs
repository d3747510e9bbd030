//! How the cache is, at a glance. Nothing here waits for a disk or a source.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use icbd_image::{ImageName, Serial, VersionId, VersionRecord};

use crate::core::Core;
use crate::health::StoreState;
use crate::ledger::Tally;
use crate::local::{Choice, LocalRollback};
use crate::pins::Pin;
use crate::version::Residency;
use crate::view::{Object, View};
use crate::waiting::{GivenUp, Waiting};

/// How the cache is.
#[derive(Debug, Clone)]
pub struct CacheStatus {
    pub store: StoreState,
    /// Versions of which something is held, was fetched today, or which are fallbacks, by image and number.
    pub versions: Vec<VersionStatus>,
    /// Which images an administrator rolled back here, whatever their master deploys.
    pub local: Vec<LocalRollback>,
    /// Reads that have waited for more than a second, the longest first.
    pub waiting: Vec<Waiting>,
    pub given_up: GivenUp,
    /// What contradicts what this cache knows.
    pub warnings: Vec<String>,
    /// Bytes of blocks fetched from sources since the start, decoded.
    pub fetched_bytes: u64,
    /// Bytes of blocks taken from other local versions since the start, those shared by reflink not counted.
    pub reused_bytes: u64,
    /// Memory of blocks in flight now; 0 at idle.
    pub in_flight_bytes: u64,
}

/// A version of which there is something to say.
#[derive(Debug, Clone)]
pub struct VersionStatus {
    pub id: VersionId,
    pub serial: Serial,
    /// All zero as long as nothing of it was ever held.
    pub residency: Residency,
    pub complete: bool,
    /// When this cache found it complete; gone when it no longer is.
    pub complete_since: Option<SystemTime>,
    /// What keeps it here whatever room is lacking.
    pub pin: Option<Pin>,
    /// Since when it is sealed.
    pub sealed_since: Option<SystemTime>,
    /// Whether a prefetch job is at it.
    pub filling: bool,
    /// Whether it was deployed before the one that is now.
    pub fallback: bool,
    /// Bytes of its blocks that came from sources since midnight, decoded.
    pub fetched_today_bytes: u64,
}

/// What administrators chose here, by image.
pub(crate) fn local_rollbacks(view: &View) -> Vec<LocalRollback> {
    let rollback = |(image, choice): (&ImageName, &Choice)| LocalRollback {
        version: VersionId { image: image.clone(), number: choice.number },
        by: choice.by.clone(),
        since: choice.since,
        listed: view.deployed_by_master(image),
    };
    view.choices().iter().map(rollback).collect()
}

impl Core {
    pub(crate) fn status(&self, warnings: Vec<String>) -> CacheStatus {
        let mut held = self.held.lock().expect("no panic under this lock").clone();
        for version in self.versions.all() {
            if version.filling().is_some() {
                held.insert(version.serial(), version.residency());
            }
        }
        let (view, ledger) = (self.view(), self.ledger.entries());
        let fetched = |serial: &Serial| ledger.tallies.get(serial).map_or(0, Tally::fetched_today);
        for serial in ledger.tallies.keys().filter(|serial| fetched(serial) > 0) {
            held.entry(*serial).or_default();
        }
        let fallbacks = ledger.fallbacks.iter().filter_map(|(image, number)| view.image(image)?.version(*number));
        let fallbacks: HashSet<Serial> = fallbacks.map(VersionRecord::serial).collect();
        fallbacks.iter().for_each(|serial| _ = held.entry(*serial).or_default());
        let mut versions: Vec<VersionStatus> = Vec::new();
        for (serial, residency) in held {
            let Some(Object::Version(_, record)) = view.object(serial) else { continue };
            let complete = residency.total_bytes > 0 && residency.is_complete();
            let since = ledger.tallies.get(&serial).and_then(Tally::complete_since);
            versions.push(VersionStatus {
                id: record.statement.statement().version(),
                serial,
                residency,
                complete,
                complete_since: since.filter(|_| complete),
                pin: self.pins.get(serial),
                sealed_since: self.sealed_since(serial),
                filling: false,
                fallback: fallbacks.contains(&serial),
                fetched_today_bytes: fetched(&serial),
            });
        }
        versions.sort_by(|a, b| a.id.cmp(&b.id));
        CacheStatus {
            store: self.health.state(),
            versions,
            local: local_rollbacks(&view),
            waiting: self.waiting.shown(),
            given_up: self.waiting.given_up(),
            warnings,
            fetched_bytes: self.fetched_bytes.load(Ordering::Relaxed),
            reused_bytes: self.reused_bytes.load(Ordering::Relaxed),
            in_flight_bytes: self.budget.used_bytes(),
        }
    }
}
