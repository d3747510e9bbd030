//! A file of a cache's store that keeps one list as JSON: with the number of its format, and written whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Where a list is kept, and how.
#[derive(Debug)]
pub(crate) struct Kept {
    folder: PathBuf,
    file: &'static str,
    /// The newest format that is understood, and the one that is written.
    format: u32,
    /// What somebody does whose file cannot be read.
    remedy: &'static str,
}

#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} cannot be read ({why}); {remedy}", path.display())]
    Damaged { path: PathBuf, why: String, remedy: &'static str },
    #[error("{} is of a newer icbd (format {format}); use that one", path.display())]
    Newer { path: PathBuf, format: u32 },
}

impl Kept {
    pub(crate) fn new(folder: &Path, file: &'static str, format: u32, remedy: &'static str) -> Kept {
        Kept { folder: folder.to_owned(), file, format, remedy }
    }

    /// What is kept, an object with the number of its `format`; `None` if there is no such file.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<Option<T>, KeptError> {
        let path = self.folder.join(self.file);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(KeptError::Io { doing: "read", path, source }),
            Ok(bytes) => bytes,
        };
        let format = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let format = format.and_then(|value| u32::try_from(value.get("format")?.as_u64()?).ok());
        if let Some(format) = format.filter(|format| *format > self.format) {
            return Err(KeptError::Newer { path, format });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|why| self.damaged(why.to_string()))
    }

    /// That what is kept makes no sense.
    pub(crate) fn damaged(&self, why: String) -> KeptError {
        KeptError::Damaged { path: self.folder.join(self.file), why, remedy: self.remedy }
    }

    /// Keeps this from now on, or what was kept before.
    pub(crate) fn write(&self, content: &impl Serialize) -> Result<(), KeptError> {
        let unfinished = self.folder.join(format!("{}.new", self.file));
        let failed = |source| KeptError::Io { doing: "write", path: unfinished.clone(), source };
        let text = serde_json::to_vec_pretty(content).map_err(|error| failed(error.into()))?;
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&unfinished, self.folder.join(self.file))?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(failed)
    }

    /// Keeps nothing any more.
    pub(crate) fn remove(&self) -> Result<(), KeptError> {
        let path = self.folder.join(self.file);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.and_then(|()| File::open(&self.folder)?.sync_all()),
        }
        .map_err(|source| KeptError::Io { doing: "remove", path, source })
    }
}
