//! A file of icbd's own among those that a server reads.
//!
//! Its first line, a comment, has a checksum of the others: what somebody changed by hand is not icbd's any more, and is kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use icbd_image::Hash;

use crate::ServerError;

const HEADER: &str =
    "# Written by icbd, and no more once it was edited by hand: exports of your own go into another file. Checksum ";

/// What follows the first line; `None` if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>, ServerError> {
    let by_hand = || ServerError::HandEdited { path: path.to_owned() };
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ServerError::Io { doing: "read", path: path.to_owned(), source }),
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| by_hand())?,
    };
    let (checksum, body) = text.strip_prefix(HEADER).and_then(|text| text.split_once('\n')).ok_or_else(by_hand)?;
    match checksum == Hash::of(body.as_bytes()).to_string() {
        true => Ok(Some(body.to_owned())),
        false => Err(by_hand()),
    }
}

/// The whole text of the file.
pub(crate) fn text(body: &str) -> String {
    format!("{HEADER}{}\n{body}", Hash::of(body.as_bytes()))
}

/// Writes it whole or not at all, for whom `mode` lets read it.
pub(crate) fn write(path: &Path, body: &str, mode: u32) -> Result<(), ServerError> {
    let unfinished = path.with_added_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
        file.write_all(text(body).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|source| ServerError::Io { doing: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_edited_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exports");
        assert_eq!(read(&path).unwrap(), None);
        for body in ["", "10.1.2.0/24\n"] {
            write(&path, body, 0o644).unwrap();
            assert_eq!(read(&path).unwrap().as_deref(), Some(body));
        }
        let ours = std::fs::read_to_string(&path).unwrap();
        let edits = [
            ours.replace("10.1.2.0", "10.1.3.0"),
            format!("{ours}\n"),
            ours.replacen("Checksum ", "Checksum 0", 1),
            ours.split_once('\n').unwrap().1.to_owned(),
            String::new(),
        ];
        for edited in edits {
            std::fs::write(&path, &edited).unwrap();
            let read = read(&path);
            assert!(matches!(read, Err(ServerError::HandEdited { .. })), "{edited}: {read:?}");
        }
        std::fs::write(&path, [0xff]).unwrap();
        assert!(matches!(read(&path), Err(ServerError::HandEdited { .. })));
    }
}
