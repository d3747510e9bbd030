//! Images and versions as rows.

use std::collections::BTreeMap;

use icbd_image::{
    ImageName, ImageRecord, Serial, SignedStatement, Timestamp, VersionNumber, VersionRecord, VersionState,
};
use rusqlite::{Connection, Transaction, params};

use crate::CacheError;

/// All images, sorted by name, with their versions sorted by number. A row that makes no sense is left out.
pub(super) fn images(db: &Connection) -> Result<Vec<ImageRecord>, CacheError> {
    let mut images = BTreeMap::new();
    let mut query = db.prepare("SELECT name, serial, changed_s, changed_ns, deployed FROM images")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (name, serial): (String, i64) = (row.get(0)?, row.get(1)?);
        let (Ok(name), Some(serial)) = (name.parse::<ImageName>(), Serial::new(serial as u64)) else { continue };
        let changed = Timestamp { seconds: row.get(2)?, nanoseconds: row.get(3)? };
        let deployed = row.get::<_, Option<u32>>(4)?.and_then(VersionNumber::new);
        images.insert(
            name.clone(),
            ImageRecord { name, serial, changed, deployed, fallback: None, versions: Vec::new(), removed: Vec::new() },
        );
    }
    let mut query = db.prepare("SELECT state, data_bytes, note, statement FROM versions ORDER BY number")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (state, statement): (String, Vec<u8>) = (row.get(0)?, row.get(3)?);
        let (Some(state), Ok(statement)) = (state_from(&state), SignedStatement::decode(&statement)) else { continue };
        let data_bytes = row.get::<_, i64>(1)? as u64;
        if let Some(image) = images.get_mut(&statement.statement().image) {
            image.versions.push(VersionRecord { state, data_bytes, note: row.get(2)?, statement });
        }
    }
    Ok(images.into_values().collect())
}

/// Writes images and versions; those that are there and not in `images` stay.
pub(super) fn put_images(change: &Transaction<'_>, images: &[ImageRecord]) -> Result<(), CacheError> {
    let mut put_image = change.prepare(
        "INSERT OR REPLACE INTO images (name, serial, changed_s, changed_ns, deployed) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let mut put_version = change.prepare(
        "INSERT OR REPLACE INTO versions (serial, image, number, state, data_bytes, note, statement)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for image in images {
        put_image.execute(params![
            image.name.as_str(),
            image.serial.get() as i64,
            image.changed.seconds,
            image.changed.nanoseconds,
            image.deployed.map(VersionNumber::get),
        ])?;
        for version in &image.versions {
            put_version.execute(params![
                version.serial().get() as i64,
                image.name.as_str(),
                version.number().get(),
                version.state.to_string(),
                version.data_bytes as i64,
                version.note,
                version.statement.encode(),
            ])?;
        }
    }
    Ok(())
}

fn state_from(text: &str) -> Option<VersionState> {
    [VersionState::Ready, VersionState::Deployed, VersionState::Retiring, VersionState::Archived]
        .into_iter()
        .find(|state| state.to_string() == text)
}
