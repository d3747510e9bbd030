//! The rows of local rollbacks. One that makes no sense is left out.

use icbd_image::{ImageName, Timestamp, VersionNumber};
use rusqlite::{Connection, params};

use super::Catalogue;
use crate::CacheError;
use crate::local::{Choice, Choices};

impl Catalogue {
    pub(crate) fn put_choice(&self, image: &ImageName, choice: &Choice) -> Result<(), CacheError> {
        let row = params![image.as_str(), choice.number.get(), choice.since.seconds, choice.by];
        self.lock()
            .execute("INSERT OR REPLACE INTO local (image, number, since_s, who) VALUES (?1, ?2, ?3, ?4)", row)?;
        Ok(())
    }

    pub(crate) fn remove_choice(&self, image: &ImageName) -> Result<(), CacheError> {
        self.lock().execute("DELETE FROM local WHERE image = ?1", [image.as_str()])?;
        Ok(())
    }
}

pub(super) fn read(db: &Connection) -> Result<Choices, CacheError> {
    let mut choices = Choices::new();
    let mut query = db.prepare("SELECT image, number, since_s, who FROM local")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (image, number): (String, u32) = (row.get(0)?, row.get(1)?);
        let (Ok(image), Some(number)) = (image.parse::<ImageName>(), VersionNumber::new(number)) else { continue };
        let since = Timestamp { seconds: row.get(2)?, nanoseconds: 0 };
        choices.insert(image, Choice { number, by: row.get(3)?, since });
    }
    Ok(choices)
}
