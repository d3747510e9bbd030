//! Where versions stand, in the catalogue: read as one life cycle, and written as what the next one differs in.

use icbd_image::{
    Editing, ImageName, ImageRecord, Lifecycle, Move, Stage, Timestamp, VersionId, VersionNumber, VersionState,
};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{Catalogue, condemned, invalid, plans, state_of, touch};
use crate::{MasterError, trees};

/// The state of a version whose content is gone, in its row.
const REMOVED: &str = "removed";

impl Catalogue {
    /// Where the versions of an image stand; `None` if there is none of this name.
    pub(crate) fn lifecycle(&self, image: &ImageName) -> Result<Option<Lifecycle>, MasterError> {
        read(&self.db, image).map_err(|source| self.failed(source))
    }

    /// Since when a version is retired, in seconds since 1970.
    pub(crate) fn retired_at(&self, version: &VersionId) -> Result<Option<i64>, MasterError> {
        retired_at(&self.db, &version.image, version.number).map_err(|source| self.failed(source))
    }

    /// Makes a move in the life of an image's versions, unless it is refused; before and after it.
    pub(crate) fn advance(
        &mut self,
        image: &ImageName,
        made: &Move,
        now: Timestamp,
    ) -> Result<(Lifecycle, Lifecycle), MasterError> {
        let mut outcome = Err(MasterError::NoImage(image.clone()));
        self.change(|tx| {
            let Some(before) = read(tx, image)? else { return Ok(()) };
            outcome = match before.after(made) {
                Ok(after) => {
                    if after != before {
                        touch(tx, image, now)?;
                        write(tx, image, &before, &after, now)?;
                    }
                    Ok((before, after))
                }
                Err(refusal) => Err(MasterError::Refused(refusal)),
            };
            Ok(())
        })?;
        outcome
    }
}

/// Makes a move after a version was added; a refusal is the caller's mistake.
pub(super) fn then(tx: &Transaction<'_>, version: &VersionId, made: &Move, now: Timestamp) -> rusqlite::Result<()> {
    let Some(before) = read(tx, &version.image)? else { return Ok(()) };
    let after = before.after(made).map_err(|refusal| invalid(0, refusal))?;
    write(tx, &version.image, &before, &after, now)
}

/// Adds to images, sorted by name, which of their versions were removed.
pub(super) fn read_removed(db: &Connection, images: &mut [ImageRecord]) -> rusqlite::Result<()> {
    let mut query = db.prepare_cached("SELECT number FROM versions WHERE image = ?1 AND state = ?2 ORDER BY number")?;
    for image in images {
        let numbers = query.query_map([image.name.as_str(), REMOVED], |row| row.get(0))?;
        let numbers = numbers.collect::<rusqlite::Result<Vec<u32>>>()?;
        image.removed = numbers.into_iter().filter_map(VersionNumber::new).collect();
    }
    Ok(())
}

/// The life cycle of an image; `None` if there is none of this name.
pub(super) fn read(db: &Connection, image: &ImageName) -> rusqlite::Result<Option<Lifecycle>> {
    let found = db
        .prepare_cached("SELECT last_number, fallback FROM images WHERE name = ?1")?
        .query_row([image.as_str()], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, Option<u32>>(1)?)));
    let Some((last, fallback)) = found.optional()? else { return Ok(None) };
    let mut query = db.prepare_cached("SELECT number, state FROM versions WHERE image = ?1")?;
    let versions = query.query_map([image.as_str()], |row| {
        let number = VersionNumber::new(row.get(0)?).ok_or_else(|| invalid(0, "a version has the number 0"))?;
        Ok((number, stage_of(&row.get::<_, String>(1)?)?))
    })?;
    let versions = versions.collect::<rusqlite::Result<Vec<_>>>()?;
    let fallback = fallback.and_then(VersionNumber::new);
    let editing = read_editing(db, image)?;
    Ok(Some(Lifecycle::restore(image.clone(), VersionNumber::new(last), versions, fallback, editing)))
}

fn read_editing(db: &Connection, image: &ImageName) -> rusqlite::Result<Option<Editing>> {
    let sql = "SELECT who, since_seconds, parent FROM editing WHERE image = ?1";
    let editing = db.prepare_cached(sql)?.query_row([image.as_str()], |row| {
        let since = Timestamp { seconds: row.get(1)?, nanoseconds: 0 };
        let of = row.get::<_, Option<u32>>(2)?.and_then(VersionNumber::new);
        Ok(Editing { by: row.get(0)?, since, of })
    });
    editing.optional()
}

/// Writes what `after` differs in from `before`, which [`read`] gave.
fn write(
    tx: &Transaction<'_>,
    image: &ImageName,
    before: &Lifecycle,
    after: &Lifecycle,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut update =
        tx.prepare_cached("UPDATE versions SET state = ?3, retired_seconds = ?4 WHERE image = ?1 AND number = ?2")?;
    for (number, stage) in after.versions().filter(|(number, stage)| before.stage(*number) != Some(*stage)) {
        let state = if stage == Stage::Removed { REMOVED.to_owned() } else { stage.state().to_string() };
        // Kept from then on, whatever else becomes of it: it says since when nobody new was offered it.
        let retired = match stage {
            Stage::Retiring => Some(now.seconds),
            Stage::Archived | Stage::Removed => retired_at(tx, image, number)?,
            Stage::Ready | Stage::Deployed => None,
        };
        update.execute(params![image.as_str(), number.get(), state, retired])?;
    }
    let number = |number: Option<VersionNumber>| number.map(VersionNumber::get);
    let sql = "UPDATE images SET deployed = ?2, fallback = ?3 WHERE name = ?1";
    tx.execute(sql, params![image.as_str(), number(after.deployed()), number(after.fallback())])?;
    if after.editing() != before.editing() {
        write_editing(tx, image, after.editing())?;
        if after.editing().is_none() {
            condemned::working_copy(tx, image)?;
        }
    }
    for (removed, _) in after.versions().filter(|(_, stage)| *stage == Stage::Removed) {
        if before.stage(removed) != Some(Stage::Removed) {
            condemned::put(tx, &trees::version(&VersionId { image: image.clone(), number: removed }))?;
        }
    }
    match after.deployed().filter(|deployed| before.deployed() != Some(*deployed)) {
        Some(number) => plans::forget(tx, &VersionId { image: image.clone(), number }),
        None => Ok(()),
    }
}

fn write_editing(tx: &Transaction<'_>, image: &ImageName, editing: Option<&Editing>) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM editing WHERE image = ?1", [image.as_str()])?;
    let Some(Editing { by, since, of }) = editing else { return Ok(()) };
    let sql = "INSERT INTO editing (image, who, since_seconds, parent) VALUES (?1, ?2, ?3, ?4)";
    tx.execute(sql, params![image.as_str(), by, since.seconds, of.map(VersionNumber::get)]).map(|_| ())
}

fn retired_at(db: &Connection, image: &ImageName, number: VersionNumber) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT retired_seconds FROM versions WHERE image = ?1 AND number = ?2";
    let found = db.prepare_cached(sql)?.query_row(params![image.as_str(), number.get()], |row| row.get(0));
    found.optional().map(Option::flatten)
}

fn stage_of(text: &str) -> rusqlite::Result<Stage> {
    if text == REMOVED {
        return Ok(Stage::Removed);
    }
    Ok(match state_of(text)? {
        VersionState::Ready => Stage::Ready,
        VersionState::Deployed => Stage::Deployed,
        VersionState::Retiring => Stage::Retiring,
        VersionState::Archived => Stage::Archived,
    })
}
