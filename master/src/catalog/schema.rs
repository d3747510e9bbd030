//! The tables, and the steps that lead to them from those of an older icbd.

use icbd_image::RepositoryId;
use rusqlite::Connection;

/// The format of our tables.
pub(super) const OURS: u32 = MIGRATIONS.len() as u32;

/// One step for each format; `PRAGMA user_version` counts the steps taken.
const MIGRATIONS: [&str; 3] = [
    "
    CREATE TABLE repository (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        uuid BLOB NOT NULL,
        last_serial INTEGER
    ) STRICT;
    CREATE TABLE images (
        name TEXT PRIMARY KEY,
        serial INTEGER NOT NULL UNIQUE,
        changed_seconds INTEGER NOT NULL,
        changed_nanoseconds INTEGER NOT NULL,
        deployed INTEGER,
        last_number INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE versions (
        image TEXT NOT NULL REFERENCES images (name),
        number INTEGER NOT NULL,
        state TEXT NOT NULL,
        data_bytes INTEGER NOT NULL,
        note TEXT NOT NULL,
        statement BLOB NOT NULL,
        damage TEXT,
        PRIMARY KEY (image, number)
    ) STRICT;
",
    // The life cycle: of a version whose content was removed the row stays, with the state `removed`.
    "
    ALTER TABLE repository ADD COLUMN trees TEXT;
    ALTER TABLE images ADD COLUMN fallback INTEGER;
    ALTER TABLE versions ADD COLUMN retired_seconds INTEGER;
    CREATE TABLE editing (
        image TEXT PRIMARY KEY REFERENCES images (name),
        who TEXT NOT NULL,
        since_seconds INTEGER NOT NULL,
        parent INTEGER
    ) STRICT;
    CREATE TABLE condemned (at TEXT PRIMARY KEY) STRICT;
    CREATE TABLE plans (
        image TEXT PRIMARY KEY REFERENCES images (name),
        number INTEGER NOT NULL,
        at_seconds INTEGER NOT NULL,
        who TEXT NOT NULL,
        why TEXT NOT NULL,
        failed TEXT
    ) STRICT;
    CREATE TABLE nodes (
        id BLOB PRIMARY KEY,
        name TEXT NOT NULL,
        address TEXT NOT NULL,
        seen_seconds INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE leases (
        node BLOB NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
        serial INTEGER NOT NULL,
        clients INTEGER NOT NULL,
        PRIMARY KEY (node, serial)
    ) STRICT;
",
    // Deployments that wait for caches.
    "ALTER TABLE plans ADD COLUMN needs TEXT;",
];

/// Settings and migrations; the format that was found, which may be newer than ours.
pub(super) fn prepare(db: &mut Connection, fresh: RepositoryId) -> rusqlite::Result<u32> {
    // Before anything is read: SQLite then maps no file of the repository, where a write on a full btrfs is a SIGBUS.
    // The repository's lock is ours anyway.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    // In WAL mode only FULL makes a commit durable before it returns.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    let tx = db.transaction()?;
    let found: u32 = tx.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for migration in MIGRATIONS.iter().skip(found as usize) {
        tx.execute_batch(migration)?;
    }
    if found == 0 {
        tx.execute("INSERT INTO repository (only, uuid) VALUES (1, ?1)", [fresh.as_bytes().as_slice()])?;
    }
    if found < OURS {
        tx.pragma_update(None, "user_version", OURS)?;
    }
    tx.commit()?;
    Ok(found)
}
