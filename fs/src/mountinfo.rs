//! What `/proc/self/mountinfo` says is mounted, read without touching any mount.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount; the fields of proc_pid_mountinfo(5) that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// The device's major and minor number; a FUSE mount has major 0.
    pub(crate) device: (u32, u32),
    pub(crate) path: PathBuf,
    /// `fuse.icbd` for ours.
    pub(crate) kind: String,
    pub(crate) source: String,
}

/// All mounts of this process's namespace; of several on one path the last is the one that shows.
pub(crate) fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(std::fs::read("/proc/self/mountinfo")?.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// The mount that shows at `path`, if `path` is a mount point.
pub(crate) fn mounted_on(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rfind(|mount| mount.path == path))
}

fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let path = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let mut tail = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| OsString::from_vec(unescape(field)).to_string_lossy().into_owned();
    let kind = text(tail.next()?);
    let source = text(tail.next()?);
    Some(MountEntry { device: (major.parse().ok()?, minor.parse().ok()?), path, kind, source })
}

/// Undoes the kernel's `\040` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let byte =
            octal.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_spaces_in_its_path_and_optional_fields() {
        let line = br"611 27 0:53 / /srv/a\040b ro,nosuid shared:9 master:2 - fuse.icbd icbd ro,user_id=0,allow_other";
        let expected =
            MountEntry { device: (0, 53), path: "/srv/a b".into(), kind: "fuse.icbd".into(), source: "icbd".into() };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"1 2 3"), None);
    }

    #[test]
    fn the_real_file_is_understood() {
        assert!(mounts().unwrap().iter().any(|mount| mount.path == Path::new("/")));
    }
}
