//! The ledger's rows. One that makes no sense is left out: nobody's data depends on it.

use icbd_image::{ImageName, Serial, VersionNumber};
use rusqlite::params;

use super::Catalogue;
use crate::CacheError;
use crate::ledger::{Day, Entries, Tally};

impl Catalogue {
    pub(crate) fn ledger(&self) -> Result<Entries, CacheError> {
        let (db, mut entries) = (self.lock(), Entries::default());
        let mut query = db.prepare("SELECT serial, complete_s, day, fetched FROM tallies")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let Some(serial) = Serial::new(row.get::<_, i64>(0)? as u64) else { continue };
            let complete_since = row.get::<_, Option<i64>>(1)?.map(|seconds| seconds as u64);
            let (day, fetched_bytes) = (Day::from_number(row.get(2)?), row.get::<_, i64>(3)? as u64);
            entries.tallies.insert(serial, Tally { complete_since, day, fetched_bytes, used: None });
        }
        let mut query = db.prepare("SELECT serial, used_s FROM uses")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let Some(serial) = Serial::new(row.get::<_, i64>(0)? as u64) else { continue };
            entries.tallies.entry(serial).or_default().used = Some(row.get::<_, i64>(1)? as u64);
        }
        let mut query = db.prepare("SELECT image, number FROM fallbacks")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let (image, number): (String, u32) = (row.get(0)?, row.get(1)?);
            if let (Ok(image), Some(number)) = (image.parse::<ImageName>(), VersionNumber::new(number)) {
                entries.fallbacks.insert(image, number);
            }
        }
        Ok(entries)
    }

    pub(crate) fn store_ledger(&self, entries: &Entries) -> Result<(), CacheError> {
        let mut db = self.lock();
        let change = db.transaction()?;
        for (serial, Tally { complete_since, day, fetched_bytes, used }) in &entries.tallies {
            change.execute(
                "INSERT OR REPLACE INTO tallies (serial, complete_s, day, fetched) VALUES (?1, ?2, ?3, ?4)",
                params![
                    serial.get() as i64,
                    complete_since.map(|seconds| seconds as i64),
                    day.number(),
                    *fetched_bytes as i64
                ],
            )?;
            if let Some(used) = used {
                let row = [serial.get() as i64, *used as i64];
                change.execute("INSERT OR REPLACE INTO uses (serial, used_s) VALUES (?1, ?2)", row)?;
            }
        }
        for (image, number) in &entries.fallbacks {
            let row = params![image.as_str(), number.get()];
            change.execute("INSERT OR REPLACE INTO fallbacks (image, number) VALUES (?1, ?2)", row)?;
        }
        Ok(change.commit()?)
    }
}
