//! What is remembered of versions for people: since when one is complete, what was fetched for it today, and
//! which one an image had deployed before.
//!
//! Kept in the catalogue, written there every few seconds: a kill costs the last of them.

mod day;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use icbd_image::{ImageName, Serial, VersionNumber};

use crate::View;
pub(crate) use day::Day;

/// What is known of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Seconds since 1970.
    pub(crate) complete_since: Option<u64>,
    /// Of the last fetch.
    pub(crate) day: Day,
    /// Bytes of blocks from sources, decoded, on that day.
    pub(crate) fetched_bytes: u64,
    /// When it was read or fetched last, in whole steps of [`USE_STEP`]; seconds since 1970.
    pub(crate) used: Option<u64>,
}

/// So exactly it is known when a version was used last, in seconds: what is let go of first is a matter of days.
const USE_STEP: u64 = 600;

/// Now, in such steps.
pub(crate) fn use_time() -> u64 {
    u64::from(now_seconds()) / USE_STEP * USE_STEP
}

/// Now, in seconds since 1970.
pub(crate) fn now_seconds() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// All of it, as it is kept in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Entries {
    pub(crate) tallies: HashMap<Serial, Tally>,
    /// The version that was deployed before the one that is now.
    pub(crate) fallbacks: BTreeMap<ImageName, VersionNumber>,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Entries>);

impl Ledger {
    /// Goes on with what was kept.
    pub(crate) fn resume(&self, entries: Entries) {
        *self.lock() = entries;
    }

    pub(crate) fn entries(&self) -> Entries {
        self.lock().clone()
    }

    pub(crate) fn fetched(&self, version: Serial, bytes: u64) {
        let today = Day::today();
        let mut entries = self.lock();
        let tally = entries.tallies.entry(version).or_default();
        let before = tally.fetched_on(today);
        (tally.day, tally.fetched_bytes) = (today, before + bytes);
        tally.used = Some(use_time());
    }

    /// Takes note that a version was read at that [`use_time`].
    pub(crate) fn note_used(&self, version: Serial, at: u64) {
        self.lock().tallies.entry(version).or_default().used = Some(at);
    }

    /// When a version was used last.
    pub(crate) fn used(&self, version: Serial) -> Option<SystemTime> {
        self.lock().tallies.get(&version).and_then(Tally::used)
    }

    /// Takes note of whether a version is complete now.
    pub(crate) fn note_complete(&self, version: Serial, is_complete: bool) {
        let mut entries = self.lock();
        match is_complete {
            true => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                entries.tallies.entry(version).or_default().complete_since.get_or_insert(now);
            }
            false => {
                if let Some(tally) = entries.tallies.get_mut(&version) {
                    tally.complete_since = None;
                }
            }
        }
    }

    /// Remembers what the master calls the fallback, or what was deployed where something else is deployed now.
    pub(crate) fn note_deployed(&self, before: &View, now: &View) {
        let mut entries = self.lock();
        for image in now.images() {
            if let Some(fallback) = image.fallback {
                entries.fallbacks.insert(image.name.clone(), fallback);
                continue;
            }
            let known = before.image(&image.name).and_then(|known| known.deployed);
            if let Some(known) = known.filter(|known| image.deployed.is_some_and(|deployed| deployed != *known)) {
                entries.fallbacks.insert(image.name.clone(), known);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl Tally {
    pub(crate) fn fetched_today(&self) -> u64 {
        self.fetched_on(Day::today())
    }

    pub(crate) fn complete_since(&self) -> Option<SystemTime> {
        self.complete_since.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds))
    }

    pub(crate) fn used(&self) -> Option<SystemTime> {
        self.used.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn fetched_on(&self, day: Day) -> u64 {
        if self.day == day { self.fetched_bytes } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use icbd_image::{ImageRecord, Timestamp};

    use super::*;

    #[test]
    fn bytes_of_another_day_do_not_count() {
        let (ledger, version) = (Ledger::default(), Serial::new(9).unwrap());
        ledger.fetched(version, 100);
        ledger.fetched(version, 11);
        let mut entries = ledger.entries();
        assert_eq!(entries.tallies[&version].fetched_today(), 111);
        let tally = entries.tallies.get_mut(&version).unwrap();
        tally.day = Day::from_number(tally.day.number() - 1);
        assert_eq!(tally.fetched_today(), 0);
        ledger.resume(entries);
        ledger.fetched(version, 5);
        assert_eq!(ledger.entries().tallies[&version].fetched_today(), 5);
    }

    #[test]
    fn a_version_is_complete_since_it_last_became_so() {
        let (ledger, version) = (Ledger::default(), Serial::new(9).unwrap());
        let since = |ledger: &Ledger| ledger.entries().tallies.get(&version).and_then(|tally| tally.complete_since);
        ledger.note_complete(version, false);
        assert_eq!(ledger.entries(), Entries::default());
        let tally = Tally { complete_since: Some(77), ..Tally::default() };
        ledger.resume(Entries { tallies: [(version, tally)].into(), ..Entries::default() });
        ledger.note_complete(version, true);
        assert_eq!(since(&ledger), Some(77));
        ledger.note_complete(version, false);
        assert_eq!(since(&ledger), None);
        ledger.note_complete(version, true);
        assert!(since(&ledger).unwrap() > 77);
    }

    #[test]
    fn the_fallback_is_what_was_deployed_before() {
        let view = |deployed: Option<u32>| {
            let image = ImageRecord {
                name: "lab".parse().unwrap(),
                serial: Serial::new(1).unwrap(),
                changed: Timestamp::default(),
                deployed: deployed.and_then(VersionNumber::new),
                fallback: None,
                versions: Vec::new(),
                removed: Vec::new(),
            };
            View::new(None, vec![image])
        };
        let ledger = Ledger::default();
        let check = |before, now, fallback: Option<u32>| {
            ledger.note_deployed(&view(before), &view(now));
            let found = ledger.entries().fallbacks.get(&"lab".parse::<ImageName>().unwrap()).map(|number| number.get());
            assert_eq!(found, fallback, "{before:?} {now:?}");
        };
        check(None, Some(1), None);
        check(Some(1), Some(1), None);
        check(Some(1), Some(3), Some(1));
        check(Some(3), None, Some(1));
        check(Some(3), Some(2), Some(3));
    }
}
