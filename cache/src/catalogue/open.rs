//! Opening the catalogue: made when it is not there, refused when it is newer, rebuilt when it is damaged.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::rebuild::{self, Proven};
use super::{Catalogue, orders};
use crate::disk::Disk;
use crate::{CacheError, layout};

/// The format of the tables, as SQLite's `user_version`.
const FORMAT: u32 = 2;
const SCHEMA: &str = "
    CREATE TABLE repository (id BLOB NOT NULL);
    CREATE TABLE images (
        name TEXT PRIMARY KEY, serial INTEGER NOT NULL UNIQUE, changed_s INTEGER NOT NULL, changed_ns INTEGER NOT NULL,
        deployed INTEGER
    );
    CREATE TABLE versions (
        serial INTEGER PRIMARY KEY, image TEXT NOT NULL, number INTEGER NOT NULL, state TEXT NOT NULL,
        data_bytes INTEGER NOT NULL, note TEXT NOT NULL, statement BLOB NOT NULL, UNIQUE (image, number)
    );
    CREATE TABLE held (serial INTEGER PRIMARY KEY, total INTEGER NOT NULL, resident INTEGER NOT NULL, durable INTEGER NOT NULL);
";

/// Tables that came after the first stores were made, and that an icbd without them does not miss.
const ADDED: &str = "
    CREATE TABLE IF NOT EXISTS tallies (
        serial INTEGER PRIMARY KEY, complete_s INTEGER, day INTEGER NOT NULL, fetched INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS fallbacks (image TEXT PRIMARY KEY, number INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS node (id BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS uses (serial INTEGER PRIMARY KEY, used_s INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS pins (
        serial INTEGER PRIMARY KEY, since_s INTEGER NOT NULL, until_s INTEGER, who TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS local (image TEXT PRIMARY KEY, number INTEGER NOT NULL, since_s INTEGER NOT NULL, who TEXT NOT NULL);
";

/// Opens the catalogue of the store at `store`; with a warning if it had to be rebuilt.
pub(crate) fn open(store: &Path, disk: &dyn Disk) -> Result<(Catalogue, Option<String>), CacheError> {
    let path = store.join(layout::CATALOGUE);
    let (db, was) = match connect(store, &path) {
        Ok((db, Tables::Found)) => return Ok((Catalogue(Mutex::new(db)), None)),
        Ok((db, Tables::Made)) => (db, "was gone".to_owned()),
        Err(CacheError::Catalogue(error)) if is_damage(&error) => {
            let aside = set_aside(store).map_err(CacheError::disk("set aside the damaged", &path))?;
            (connect(store, &path)?.0, format!("was damaged ({error}) and is kept as {aside}"))
        }
        Err(error) => return Err(error),
    };
    let catalogue = Catalogue(Mutex::new(db));
    let Proven { repository, images, held } = rebuild::from_marks(disk);
    if images.is_empty() && was == "was gone" {
        // A new store.
        return Ok((catalogue, None));
    }
    catalogue.store(repository, &images)?;
    catalogue.store_held(&held)?;
    let versions: usize = images.iter().map(|image| image.versions.len()).sum();
    let warning = format!(
        "the catalogue {was}; it was rebuilt from what the trees prove: {versions} versions of {} images. Prefetch orders \
         and local rollbacks in it are lost: add them again",
        images.len()
    );
    tracing::error!("{warning}");
    Ok((catalogue, Some(warning)))
}

/// Whether a database had tables already.
enum Tables {
    Found,
    Made,
}

fn connect(store: &Path, path: &Path) -> Result<(Connection, Tables), CacheError> {
    let mut db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(5))?;
    // Before anything is read: SQLite then keeps its index of the log in memory of its own instead of mapping a file
    // of the store. On a full btrfs a write to such a mapping is a SIGBUS. The store's lock is ours anyway.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    let found: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > FORMAT {
        return Err(CacheError::NewerStore { store: store.to_owned(), found, ours: FORMAT });
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    if found < FORMAT {
        let change = db.transaction()?;
        if found == 0 {
            change.execute_batch(SCHEMA)?;
        }
        change.execute_batch(orders::SCHEMA)?;
        if found == 1 {
            change.execute_batch(orders::FROM_JOBS)?;
        }
        change.pragma_update(None, "user_version", FORMAT)?;
        change.commit()?;
    }
    db.execute_batch(ADDED)?;
    let sound: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
            Some(sound),
        )
        .into());
    }
    // A damage that the check does not see shows here at the latest.
    super::rows::images(&db)?;
    Ok((db, if found == 0 { Tables::Made } else { Tables::Found }))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(error, says) => {
            matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                // A table that is gone, or there twice.
                || (error.code == ErrorCode::Unknown && says.as_deref().is_some_and(|says| says.contains("table") || says.contains("column")))
        }
        _ => false,
    }
}

/// Renames the damaged files; the new name.
fn set_aside(store: &Path) -> std::io::Result<String> {
    let free = |n: &u32| !store.join(format!("{}.damaged-{n}", layout::CATALOGUE)).exists();
    let n = (1..).find(free).unwrap_or(u32::MAX);
    for suffix in ["", "-wal", "-shm"] {
        let to = store.join(format!("{}.damaged-{n}{suffix}", layout::CATALOGUE));
        match std::fs::rename(store.join(format!("{}{suffix}", layout::CATALOGUE)), to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(format!("{}.damaged-{n}", layout::CATALOGUE))
}
