//! The rows of pins. One that makes no sense is left out.

use std::collections::BTreeMap;

use icbd_image::{Serial, Timestamp};
use rusqlite::params;

use super::Catalogue;
use crate::CacheError;
use crate::pins::Pin;

impl Catalogue {
    pub(crate) fn pins(&self) -> Result<BTreeMap<Serial, Pin>, CacheError> {
        let (db, mut pins) = (self.lock(), BTreeMap::new());
        let mut query = db.prepare("SELECT serial, since_s, until_s, who FROM pins")?;
        let mut rows = query.query([])?;
        let at = |seconds| Timestamp { seconds, nanoseconds: 0 };
        while let Some(row) = rows.next()? {
            let Some(serial) = Serial::new(row.get::<_, i64>(0)? as u64) else { continue };
            let until = row.get::<_, Option<i64>>(2)?.map(at);
            pins.insert(serial, Pin { by: row.get(3)?, since: at(row.get(1)?), until });
        }
        Ok(pins)
    }

    pub(crate) fn put_pin(&self, version: Serial, pin: &Pin) -> Result<(), CacheError> {
        let until = pin.until.map(|until| until.seconds);
        let row = params![version.get() as i64, pin.since.seconds, until, pin.by];
        self.lock()
            .execute("INSERT OR REPLACE INTO pins (serial, since_s, until_s, who) VALUES (?1, ?2, ?3, ?4)", row)?;
        Ok(())
    }

    pub(crate) fn remove_pin(&self, version: Serial) -> Result<(), CacheError> {
        self.lock().execute("DELETE FROM pins WHERE serial = ?1", [version.get() as i64])?;
        Ok(())
    }
}
