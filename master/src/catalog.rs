//! The catalogue: which images and versions there are, in SQLite. A version exists when it is in here.
//!
//! Every change is one transaction, durable when it returns. The rest of the crate reads the
//! listing that [`Catalogue::listing`] makes of it and never the tables.

mod condemned;
mod nodes;
mod plans;
mod schema;
mod states;

use std::path::{Path, PathBuf};

use icbd_image::{
    ImageName, ImageRecord, Listing, Move, RepositoryId, Serial, SignedStatement, Timestamp, VersionId, VersionNumber,
    VersionRecord, VersionState,
};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::MasterError;
pub use plans::Plan;

/// What is known to be wrong with which version.
pub(crate) type Damages = Vec<(VersionId, String)>;

/// Image, number, record and damage as the columns say.
type VersionRow = (String, u32, VersionRecord, Option<String>);

/// The open catalogue of one repository.
#[derive(Debug)]
pub(crate) struct Catalogue {
    db: Connection,
    path: PathBuf,
}

/// A version that is about to come into being.
#[derive(Debug)]
pub(crate) struct NewVersion<'a> {
    pub(crate) record: &'a VersionRecord,
    /// The serial of its image, which may be new too.
    pub(crate) image_serial: Serial,
    pub(crate) deploy: bool,
    /// Whether it was the working copy.
    pub(crate) saved: bool,
}

impl Catalogue {
    /// Opens the catalogue, bringing an older (or empty) one to our format; a new one gets the id `fresh`.
    pub(crate) fn open(path: &Path, fresh: RepositoryId) -> Result<Catalogue, MasterError> {
        let failed = |source| MasterError::Catalogue { path: path.to_owned(), source };
        let mut db = Connection::open(path).map_err(failed)?;
        let found = schema::prepare(&mut db, fresh).map_err(failed)?;
        if found > schema::OURS {
            let repository = path.parent().unwrap_or(path).to_owned();
            return Err(MasterError::Newer { path: repository, found, ours: schema::OURS });
        }
        Ok(Catalogue { db, path: path.to_owned() })
    }

    /// Everything in the catalogue, and what is known to be wrong with which version.
    pub(crate) fn listing(&self) -> Result<(Listing, Damages), MasterError> {
        let uuid = self.db.query_row("SELECT uuid FROM repository", [], |row| row.get(0));
        let repository = RepositoryId::from_bytes(uuid.map_err(|source| self.failed(source))?);
        // No name is less than the first or greater than the second.
        let (images, damages) = self.images(repository, ["", "\u{7f}"])?;
        Ok((Listing { repository, images }, damages))
    }

    /// One image of `repository`, which is this one; `None` if there is none of this name.
    pub(crate) fn image(
        &self,
        repository: RepositoryId,
        name: &ImageName,
    ) -> Result<(Option<ImageRecord>, Damages), MasterError> {
        let (mut images, damages) = self.images(repository, [name.as_str(); 2])?;
        Ok((images.pop(), damages))
    }

    /// The images whose names are between two, and what is wrong with their versions.
    fn images(&self, repository: RepositoryId, names: [&str; 2]) -> Result<(Vec<ImageRecord>, Damages), MasterError> {
        let (mut images, versions) = self.read_tables(names).map_err(|source| self.failed(source))?;
        states::read_removed(&self.db, &mut images).map_err(|source| self.failed(source))?;
        let mut damages = Vec::new();
        for (image, number, record, damage) in versions {
            let said = record.statement.statement();
            if said.repository != repository || said.image.as_str() != image || said.number.get() != number {
                return Err(self.damaged(format!("{image}@{number} carries the statement of {}", said.version())));
            }
            damages.extend(damage.map(|damage| (said.version(), damage)));
            let at = images.binary_search_by(|record| record.name.as_str().cmp(&image));
            let at = at.map_err(|_| self.damaged(format!("{image}@{number} belongs to no image")))?;
            images[at].versions.push(record);
        }
        Ok((images, damages))
    }

    /// The last number that image `image` gave, and the last serial of all.
    pub(crate) fn last(&self, image: &ImageName) -> Result<(Option<VersionNumber>, Option<Serial>), MasterError> {
        let number = "SELECT last_number FROM images WHERE name = ?1";
        let number = self.db.query_row(number, [image.as_str()], |row| row.get(0)).optional();
        let number: Option<u32> = number.map_err(|source| self.failed(source))?;
        let serial = self.db.query_row("SELECT last_serial FROM repository", [], |row| row.get(0));
        let serial: Option<i64> = serial.map_err(|source| self.failed(source))?;
        let serial = serial.and_then(|serial| Serial::new(serial as u64));
        Ok((number.and_then(VersionNumber::new), serial))
    }

    /// Brings a version into being: the one moment that decides whether it was published.
    pub(crate) fn add(&mut self, new: &NewVersion<'_>) -> Result<(), MasterError> {
        let record = new.record;
        let said = record.statement.statement();
        self.change(|tx| {
            // What was received may be older than what is here.
            let last = [said.serial.get().max(new.image_serial.get()) as i64];
            tx.execute("UPDATE repository SET last_serial = MAX(COALESCE(last_serial, ?1), ?1)", last)?;
            tx.execute(
                "INSERT INTO images (name, serial, changed_seconds, changed_nanoseconds, last_number)
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (name) DO UPDATE SET last_number = MAX(last_number, ?5)",
                params![
                    said.image.as_str(),
                    new.image_serial.get() as i64,
                    said.time.seconds,
                    said.time.nanoseconds,
                    said.number.get()
                ],
            )?;
            tx.execute(
                "INSERT INTO versions (image, number, state, data_bytes, note, statement) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    said.image.as_str(),
                    said.number.get(),
                    VersionState::Ready.to_string(),
                    record.data_bytes as i64,
                    record.note,
                    record.statement.encode()
                ],
            )?;
            touch(tx, &said.image, said.time)?;
            if new.saved {
                tx.execute("DELETE FROM editing WHERE image = ?1", [said.image.as_str()])?;
                condemned::working_copy(tx, &said.image)?;
            }
            let deployed = new.deploy.then(|| states::then(tx, &said.version(), &Move::Deploy(said.number), said.time));
            deployed.unwrap_or(Ok(()))
        })
    }

    /// Makes the repository another one's copy; one without any image.
    pub(crate) fn adopt(&mut self, repository: RepositoryId) -> Result<(), MasterError> {
        let sql = "UPDATE repository SET uuid = ?1 WHERE NOT EXISTS (SELECT 1 FROM images)";
        self.change(|tx| tx.execute(sql, [repository.as_bytes()]).map(|_| ()))
    }

    /// What the trees of the repository are made of, as it was remembered.
    pub(crate) fn trees(&self) -> Result<Option<String>, MasterError> {
        let kind = self.db.query_row("SELECT trees FROM repository", [], |row| row.get(0));
        kind.map_err(|source| self.failed(source))
    }

    pub(crate) fn set_trees(&mut self, kind: &str) -> Result<(), MasterError> {
        self.change(|tx| tx.execute("UPDATE repository SET trees = ?1", [kind]).map(|_| ()))
    }

    /// Remembers what is wrong with a version; `None` when it was found whole.
    pub(crate) fn set_damage(&mut self, version: &VersionId, damage: Option<&str>) -> Result<(), MasterError> {
        let sql = "UPDATE versions SET damage = ?3 WHERE image = ?1 AND number = ?2";
        self.change(|tx| tx.execute(sql, params![version.image.as_str(), version.number.get(), damage]).map(|_| ()))
    }

    /// Remembers what is wrong with several versions, all at once.
    pub(crate) fn set_damages(&mut self, damages: &Damages) -> Result<(), MasterError> {
        let sql = "UPDATE versions SET damage = ?3 WHERE image = ?1 AND number = ?2";
        self.change(|tx| {
            let mut set = tx.prepare(sql)?;
            for (version, damage) in damages {
                set.execute(params![version.image.as_str(), version.number.get(), damage])?;
            }
            Ok(())
        })
    }

    fn change(&mut self, make: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>) -> Result<(), MasterError> {
        let run = || {
            let tx = self.db.transaction()?;
            make(&tx)?;
            tx.commit()
        };
        run().map_err(|source| MasterError::Catalogue { path: self.path.clone(), source })
    }

    fn read_tables(&self, names: [&str; 2]) -> rusqlite::Result<(Vec<ImageRecord>, Vec<VersionRow>)> {
        let images = "SELECT name, serial, changed_seconds, changed_nanoseconds, deployed, fallback FROM images
                      WHERE name BETWEEN ?1 AND ?2 ORDER BY name";
        let mut images = self.db.prepare_cached(images)?;
        let images = images.query_map(names, image_record)?.collect::<Result<_, _>>()?;
        let versions = "SELECT image, number, state, data_bytes, note, statement, damage FROM versions
                        WHERE image BETWEEN ?1 AND ?2 AND state != 'removed' ORDER BY image, number";
        let mut versions = self.db.prepare_cached(versions)?;
        let versions =
            versions.query_map(names, |row| Ok((row.get(0)?, row.get(1)?, version_record(row)?, row.get(6)?)))?;
        Ok((images, versions.collect::<Result<_, _>>()?))
    }

    fn failed(&self, source: rusqlite::Error) -> MasterError {
        match (source.sqlite_error_code(), self.path.parent()) {
            (Some(rusqlite::ErrorCode::DiskFull), Some(repository)) => MasterError::Full(repository.to_owned()),
            _ => MasterError::Catalogue { path: self.path.clone(), source },
        }
    }

    fn damaged(&self, what: String) -> MasterError {
        MasterError::CatalogueDamaged { path: self.path.clone(), what }
    }
}

/// An image's time never runs backwards, whatever the clock does.
fn touch(tx: &Transaction<'_>, image: &ImageName, now: Timestamp) -> rusqlite::Result<()> {
    let sql = "UPDATE images SET changed_seconds = ?2, changed_nanoseconds = ?3
               WHERE name = ?1 AND (changed_seconds, changed_nanoseconds) < (?2, ?3)";
    tx.execute(sql, params![image.as_str(), now.seconds, now.nanoseconds]).map(|_| ())
}

fn image_record(row: &rusqlite::Row<'_>) -> rusqlite::Result<ImageRecord> {
    let (name, serial): (String, i64) = (row.get(0)?, row.get(1)?);
    let number = |column| row.get(column).map(|number: Option<u32>| number.and_then(VersionNumber::new));
    Ok(ImageRecord {
        name: name.parse().map_err(|error| invalid(0, error))?,
        serial: Serial::try_from(serial as u64).map_err(|error| invalid(1, error))?,
        changed: Timestamp { seconds: row.get(2)?, nanoseconds: row.get(3)? },
        deployed: number(4)?,
        fallback: number(5)?,
        versions: Vec::new(),
        removed: Vec::new(),
    })
}

fn version_record(row: &rusqlite::Row<'_>) -> rusqlite::Result<VersionRecord> {
    let (state, statement): (String, Vec<u8>) = (row.get(2)?, row.get(5)?);
    Ok(VersionRecord {
        state: state_of(&state)?,
        data_bytes: row.get::<_, i64>(3)? as u64,
        note: row.get(4)?,
        statement: SignedStatement::decode(&statement).map_err(|error| invalid(5, error))?,
    })
}

fn state_of(text: &str) -> rusqlite::Result<VersionState> {
    let states = [VersionState::Ready, VersionState::Deployed, VersionState::Retiring, VersionState::Archived];
    let known = states.into_iter().find(|known| known.to_string() == text);
    known.ok_or_else(|| invalid(2, format!("{text:?} is no state of a version")))
}

/// A value that SQLite holds and we cannot take.
fn invalid(column: usize, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Null, error.into())
}
