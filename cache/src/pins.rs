//! Versions that an administrator of this cache wants kept, whatever room is lacking.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use icbd_image::{Serial, Timestamp, VersionId};

use crate::CacheError;
use crate::cache::Cache;

/// Who wants a version kept, since when, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    pub by: String,
    pub since: Timestamp,
    /// `None`: until it is unpinned.
    pub until: Option<Timestamp>,
}

/// The pins of all versions.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<BTreeMap<Serial, Pin>>);

impl Pins {
    /// Goes on with what was kept.
    pub(crate) fn resume(&self, pins: BTreeMap<Serial, Pin>) {
        *self.lock() = pins;
    }

    /// The pin of a version that holds now.
    pub(crate) fn get(&self, version: Serial) -> Option<Pin> {
        let now = Timestamp::from(SystemTime::now());
        self.lock().get(&version).filter(|pin| pin.until.is_none_or(|until| until > now)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Serial, Pin>> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl Cache {
    /// Has what is held of a version stay, in the place of an earlier pin.
    pub async fn pin(&self, version: &VersionId, pin: Pin) -> Result<(), CacheError> {
        let serial = self.view().usable(version)?.serial();
        if pin.until.is_some_and(|until| until <= pin.since) {
            return Err(CacheError::Refused(format!("{version} cannot be pinned until a time that is past")));
        }
        let (core, kept) = (self.core().clone(), pin.clone());
        self.core().blocking(move || core.catalogue.put_pin(serial, &kept)).await??;
        self.core().pins.lock().insert(serial, pin);
        Ok(())
    }

    /// Takes the pin away; the one that it had.
    pub async fn unpin(&self, version: &VersionId) -> Result<Pin, CacheError> {
        let serial = self.view().usable(version)?.serial();
        let Some(pin) = self.core().pins.get(serial) else {
            return Err(CacheError::Refused(format!("{version} is not pinned here")));
        };
        let core = self.core().clone();
        self.core().blocking(move || core.catalogue.remove_pin(serial)).await??;
        self.core().pins.lock().remove(&serial);
        Ok(pin)
    }
}
