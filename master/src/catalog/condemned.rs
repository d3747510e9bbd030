//! Trees that are to be deleted, because what was committed says that nobody needs them any more. A kill delays it.

use std::path::PathBuf;

use icbd_image::ImageName;
use rusqlite::Transaction;

use super::Catalogue;
use crate::{MasterError, trees};

impl Catalogue {
    /// Places below the repository.
    pub(crate) fn condemned(&self) -> Result<Vec<PathBuf>, MasterError> {
        let read = || {
            let mut query = self.db.prepare_cached("SELECT at FROM condemned")?;
            query.query_map([], |row| row.get::<_, String>(0).map(PathBuf::from))?.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|source| self.failed(source))
    }

    /// Notes that one is gone.
    pub(crate) fn executed(&mut self, at: &std::path::Path) -> Result<(), MasterError> {
        self.change(|tx| tx.execute("DELETE FROM condemned WHERE at = ?1", [at.to_string_lossy()]).map(|_| ()))
    }

    /// The images of which there is said to be a working copy.
    pub(crate) fn edited(&self) -> Result<Vec<ImageName>, MasterError> {
        let read = || {
            let mut query = self.db.prepare_cached("SELECT image FROM editing")?;
            query.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        };
        let names = read().map_err(|source| self.failed(source))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

/// Has an image's working copy deleted.
pub(super) fn working_copy(tx: &Transaction<'_>, image: &ImageName) -> rusqlite::Result<()> {
    put(tx, &trees::editing(image))
}

/// Has the tree at a place deleted.
pub(super) fn put(tx: &Transaction<'_>, at: &std::path::Path) -> rusqlite::Result<()> {
    // Names of images and numbers are plain ASCII.
    tx.execute("INSERT OR IGNORE INTO condemned (at) VALUES (?1)", [at.to_string_lossy()]).map(|_| ())
}
