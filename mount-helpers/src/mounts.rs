//! The kernel's table of mounts: whether icbd shows at a place, and waiting for that to change.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What `mount` shows of an icbd.
const KIND: &str = "fuse.icbd";

/// The table; its descriptor polls as POLLPRI when it has changed since it was read.
#[derive(Debug)]
pub(crate) struct MountTable(File);

impl MountTable {
    pub(crate) fn open() -> io::Result<MountTable> {
        File::open("/proc/self/mountinfo").map(MountTable)
    }

    /// Whether what shows at `path` is an icbd's.
    pub(crate) fn shows_icbd(&mut self, path: &Path) -> io::Result<bool> {
        let mut table = Vec::new();
        self.0.seek(SeekFrom::Start(0))?;
        self.0.read_to_end(&mut table)?;
        Ok(is_icbd(&table, path))
    }
}

impl AsFd for MountTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The last line for a place is what shows there.
fn is_icbd(table: &[u8], path: &Path) -> bool {
    let mut lines = table.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b' ').collect::<Vec<_>>());
    let there = lines.rfind(|fields| fields.get(4).is_some_and(|at| unescape(at) == path.as_os_str().as_bytes()));
    let Some(fields) = there else { return false };
    let kind = fields.iter().skip_while(|field| **field != b"-").nth(1);
    kind.is_some_and(|kind| *kind == KIND.as_bytes())
}

/// Blanks, tabs, line ends and backslashes are written as `\040` and so on.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, others @ ..] = rest {
        let digits = others.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &others[3..];
            }
            None => {
                plain.push(*first);
                rest = others;
            }
        }
    }
    plain
}

/// `path` as the table writes it. Its last part may be a mount that does not answer, and is not looked at.
pub(crate) fn canonical(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let path = parent.canonicalize()?.join(name);
            // A link's own kind is asked of the folder that holds it.
            if path.is_symlink() && !MountTable::open()?.shows_icbd(&path)? { path.canonicalize() } else { Ok(path) }
        }
        _ => path.canonicalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_place_is_what_shows() {
        let table = b"31 1 0:29 / /icbd ro - fuse.icbd icbd ro\n32 1 0:30 / /a\\040b ro shared:1 - fuse.icbd icbd ro\n\
            33 31 0:31 / /icbd/x rw - tmpfs tmpfs rw\n34 1 0:32 / /c ro - fuse.icbd icbd ro\n35 34 0:33 / /c rw - tmpfs none rw\n";
        let check = |path: &str, expected: bool| assert_eq!(is_icbd(table, Path::new(path)), expected, "{path}");
        check("/icbd", true);
        check("/a b", true);
        check("/icbd/x", false);
        check("/c", false);
        check("/none", false);
    }

    #[test]
    fn a_place_is_named_as_the_table_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::create_dir(folder.join("a")).unwrap();
        std::os::unix::fs::symlink("a", folder.join("link")).unwrap();
        assert_eq!(canonical(&folder.join("a/")).unwrap(), folder.join("a"));
        assert_eq!(canonical(&folder.join("link")).unwrap(), folder.join("a"));
        assert!(canonical(&folder.join("none/a")).is_err());
        assert_eq!(canonical(Path::new("/")).unwrap(), Path::new("/"));
    }
}
