//! The catalogue: what a cache remembers of its master, and the prefetch jobs. SQLite, no row per file.
//!
//! It remembers for ever which root a version has, so that a master cannot change one. What it says can
//! be proved again from the trees and their marks, and that is what happens when it is damaged
//! ([`rebuild`]). All functions block.

mod ledger;
pub(crate) mod marks;
mod open;
mod rebuild;
mod rows;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use icbd_image::{ImageRecord, RepositoryId, Serial};
use rusqlite::{Connection, OptionalExtension, params};

use crate::CacheError;
use crate::prefetch::{JobId, JobState};
use crate::version::Residency;
use crate::view::View;
pub(crate) use open::open;

/// The store's database.
#[derive(Debug)]
pub(crate) struct Catalogue(Mutex<Connection>);

/// A prefetch job as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct JobRow {
    pub(crate) id: JobId,
    pub(crate) serial: Serial,
    pub(crate) state: JobState,
}

/// Jobs that ended are listed until so many others were added.
const JOBS_KEPT: u32 = 100;

impl Catalogue {
    /// What was known at the last refresh.
    pub(crate) fn view(&self) -> Result<View, CacheError> {
        let db = self.lock();
        let repository: Option<[u8; 16]> =
            db.query_row("SELECT id FROM repository", [], |row| row.get(0)).optional()?;
        Ok(View::new(repository.map(RepositoryId::from_bytes), rows::images(&db)?))
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

    pub(crate) fn jobs(&self) -> Result<Vec<JobRow>, CacheError> {
        let db = self.lock();
        let mut query = db.prepare("SELECT id, serial, state FROM jobs ORDER BY id")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?)))?;
        let mut jobs = Vec::new();
        for row in rows {
            let (id, serial, state) = row?;
            if let (Some(serial), Some(state)) = (Serial::new(serial as u64), JobState::from_text(&state)) {
                jobs.push(JobRow { id, serial, state });
            }
        }
        Ok(jobs)
    }

    pub(crate) fn add_job(&self, serial: Serial) -> Result<JobId, CacheError> {
        let db = self.lock();
        let ended = "state IN ('done', 'cancelled')";
        let kept = format!("SELECT id FROM jobs WHERE {ended} ORDER BY id DESC LIMIT {JOBS_KEPT}");
        db.execute(&format!("DELETE FROM jobs WHERE {ended} AND id NOT IN ({kept})"), [])?;
        let state = JobState::Queued.as_text();
        db.execute("INSERT INTO jobs (serial, state) VALUES (?1, ?2)", params![serial.get() as i64, state])?;
        Ok(db.last_insert_rowid())
    }

    pub(crate) fn set_job(&self, id: JobId, state: JobState) -> Result<(), CacheError> {
        self.lock().execute("UPDATE jobs SET state = ?2 WHERE id = ?1", params![id, state.as_text()])?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().expect("no panic under this lock")
    }
}
