//! The catalogue: what a cache remembers of its master, and the prefetch orders. SQLite, no row per file.
//!
//! It remembers for ever which root a version has, so that a master cannot change one. What it says can
//! be proved again from the trees and their marks, and that is what happens when it is damaged
//! ([`rebuild`]). All functions block.

mod choices;
mod ledger;
pub(crate) mod marks;
mod open;
pub(crate) mod orders;
mod pins;
mod rebuild;
mod rows;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use icbd_image::{ImageRecord, NodeUuid, RepositoryId, Serial};
use rusqlite::{Connection, OptionalExtension, params};

use crate::CacheError;
use crate::local::Choices;
use crate::version::Residency;
use crate::view::View;
pub(crate) use open::open;

/// The store's database.
#[derive(Debug)]
pub(crate) struct Catalogue(Mutex<Connection>);

impl Catalogue {
    /// Lets go of the file: whoever opens the store next gets it, also while a version of this cache is held on to.
    /// What is asked for later fails.
    pub(crate) fn close(&self) {
        match Connection::open_in_memory() {
            Ok(nothing) => *self.lock() = nothing,
            Err(error) => tracing::warn!(%error, "the catalogue is closed only with the process"),
        }
    }

    /// As a full disk would.
    #[cfg(test)]
    pub(crate) fn refuse_writes(&self, is_refused: bool) {
        self.lock().pragma_update(None, "query_only", is_refused).expect("a pragma that SQLite knows");
    }

    /// What was known at the last refresh, and what was chosen here.
    pub(crate) fn known(&self) -> Result<(View, Choices), CacheError> {
        let db = self.lock();
        let repository: Option<[u8; 16]> =
            db.query_row("SELECT id FROM repository", [], |row| row.get(0)).optional()?;
        let listed = View::new(repository.map(RepositoryId::from_bytes), rows::images(&db)?);
        Ok((listed, choices::read(&db)?))
    }

    /// Remembers a repository and its images, all at once or not at all.
    pub(crate) fn store(&self, repository: Option<RepositoryId>, images: &[ImageRecord]) -> Result<(), CacheError> {
        let mut db = self.lock();
        let change = db.transaction()?;
        if let Some(repository) = repository {
            change.execute("DELETE FROM repository", [])?;
            change.execute("INSERT INTO repository (id) VALUES (?1)", [repository.as_bytes()])?;
        }
        rows::put_images(&change, images)?;
        Ok(change.commit()?)
    }

    /// Who this cache is; made the first time.
    pub(crate) fn node(&self, fresh: NodeUuid) -> Result<NodeUuid, CacheError> {
        let db = self.lock();
        let known: Option<[u8; 16]> = db.query_row("SELECT id FROM node", [], |row| row.get(0)).optional()?;
        if let Some(known) = known {
            return Ok(NodeUuid::from_bytes(known));
        }
        db.execute("INSERT INTO node (id) VALUES (?1)", [fresh.as_bytes()])?;
        Ok(fresh)
    }

    /// How much was held of each version when that was last noted.
    pub(crate) fn held(&self) -> Result<HashMap<Serial, Residency>, CacheError> {
        let db = self.lock();
        let mut query = db.prepare("SELECT serial, total, resident, durable FROM held")?;
        let rows = query.query_map([], |row| {
            let [serial, total, resident, durable]: [i64; 4] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
            let [total_bytes, resident_bytes, durable_bytes] = [total as u64, resident as u64, durable as u64];
            Ok((Serial::new(serial as u64), Residency { total_bytes, resident_bytes, durable_bytes }))
        })?;
        let mut held = HashMap::new();
        for row in rows {
            let (serial, residency) = row?;
            held.extend(serial.map(|serial| (serial, residency)));
        }
        Ok(held)
    }

    pub(crate) fn store_held(&self, held: &HashMap<Serial, Residency>) -> Result<(), CacheError> {
        let mut db = self.lock();
        let change = db.transaction()?;
        for (serial, held) in held {
            change.execute(
                "INSERT OR REPLACE INTO held (serial, total, resident, durable) VALUES (?1, ?2, ?3, ?4)",
                params![
                    serial.get() as i64,
                    held.total_bytes as i64,
                    held.resident_bytes as i64,
                    held.durable_bytes as i64
                ],
            )?;
        }
        Ok(change.commit()?)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().expect("no panic under this lock")
    }
}
