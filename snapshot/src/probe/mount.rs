//! On which file system a directory lies.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};

use crate::SnapshotError;
use crate::beneath::Beneath;

const TABLE: &str = "/proc/self/mountinfo";

/// A line of the mount table.
pub(super) struct Mount {
    pub(super) file_system: String,
    pub(super) at: PathBuf,
    pub(super) options: String,
}

/// The mount that `directory` is in; words that say so where the table does not have it.
pub(super) fn of(directory: &Beneath) -> Result<Mount, SnapshotError> {
    let stat = rustix::fs::statx(directory.root(), "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
    let id = stat.map_err(SnapshotError::io("look at", directory.shown(b"")))?.stx_mnt_id;
    let table = std::fs::read(TABLE).map_err(SnapshotError::io("read", TABLE))?;
    let found = table.split(|byte| *byte == b'\n').find_map(|line| parse(line, id));
    Ok(found.unwrap_or(Mount { file_system: "unknown".into(), at: "/".into(), options: String::new() }))
}

/// What is mounted below a path without links, if anything is.
pub(crate) fn below(path: &Path) -> Result<Option<PathBuf>, SnapshotError> {
    let table = std::fs::read(TABLE).map_err(SnapshotError::io("read", TABLE))?;
    let places = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let mut places = places.map(|word| PathBuf::from(OsStr::from_bytes(&unescape(word))));
    Ok(places.find(|place| place.starts_with(path)))
}

/// The line of mount `id`: `ID PARENT MAJOR:MINOR ROOT AT OPTIONS [TAG …] - TYPE SOURCE OPTIONS` (proc(5)).
fn parse(line: &[u8], id: u64) -> Option<Mount> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    if text(words.first()?).parse() != Ok(id) {
        return None;
    }
    let dash = words.iter().position(|word| *word == b"-")?;
    let (own, common) = (text(words.get(5)?), text(words.get(dash + 3)?));
    let mut options: Vec<&str> = own.split(',').collect();
    options.extend(common.split(',').filter(|option| !own.split(',').any(|own| own == *option)));
    let options = options.join(",");
    let at = OsStr::from_bytes(&unescape(words.get(4)?)).into();
    Some(Mount { file_system: text(words.get(dash + 1)?), at, options })
}

/// Blanks and the like stand in the table as `\040`.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, after)) = rest.split_first() {
        let code =
            after.get(..3).filter(|code| first == b'\\' && code.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match code.map(|code| code.iter().fold(0_u32, |sum, digit| sum * 8 + u32::from(digit - b'0'))) {
            Some(code) => {
                plain.push(code as u8);
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_understood() {
        let line = br"36 35 98:0 /sub /mnt/my\040disk rw,noatime master:1 - btrfs /dev/root rw,errors=continue";
        let mount = parse(line, 36).unwrap();
        assert_eq!((&*mount.file_system, mount.at), ("btrfs", PathBuf::from("/mnt/my disk")));
        assert_eq!(mount.options, "rw,noatime,errors=continue");
        assert!(parse(line, 3).is_none() && parse(b"", 36).is_none() && parse(b"36 1", 36).is_none());
        assert_eq!(unescape(br"\134\04"), br"\\04");
    }
}
