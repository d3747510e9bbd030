//! How an NTFS was left: its dirty flag, and whether a Windows sleeps on it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ntfs::indexes::NtfsFileNameIndex;
use ntfs::structured_values::NtfsVolumeFlags;
use ntfs::{Ntfs, NtfsError, NtfsReadSeek};

use super::disk::LeftHow;

/// Where a boot sector says what it is of.
const NAME_AT: u64 = 3;
const NAME: &[u8; 8] = b"NTFS    ";
/// How the file begins in which a Windows sleeps; of one that was woken it says something else, or nothing.
const ASLEEP: [&[u8; 4]; 2] = [b"hibr", b"HIBR"];
/// A sound one is looked at with a few hundred; one that is not must not be looked at for ever.
const READS_MAX: u32 = 100_000;

/// What is to be worried about of the NTFS at a place; of anything else nothing is known.
pub(super) fn left(disk: &File, place: Range<u64>) -> Vec<LeftHow> {
    let mut name = [0; NAME.len()];
    if disk.read_exact_at(&mut name, place.start + NAME_AT).is_err() || name != *NAME {
        return Vec::new();
    }
    let mut part = Part { disk, place, at: 0, reads_left: READS_MAX };
    // What reads it was not made for one that is damaged on purpose.
    match catch_unwind(AssertUnwindSafe(|| look(&mut part))) {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => vec![LeftHow::Unreadable(error.to_string())],
        Err(_) => vec![LeftHow::Unreadable("it contradicts itself".to_owned())],
    }
}

fn look(part: &mut Part<'_>) -> Result<Vec<LeftHow>, NtfsError> {
    let mut ntfs = Ntfs::new(part)?;
    ntfs.read_upcase_table(part)?;
    let mut found = Vec::new();
    if ntfs.volume_info(part)?.flags().contains(NtfsVolumeFlags::IS_DIRTY) {
        found.push(LeftHow::Dirty);
    }
    if is_asleep(&ntfs, part)? {
        found.push(LeftHow::Hibernated);
    }
    Ok(found)
}

fn is_asleep(ntfs: &Ntfs, part: &mut Part<'_>) -> Result<bool, NtfsError> {
    let root = ntfs.root_directory(part)?;
    let index = root.directory_index(part)?;
    let mut finder = index.finder();
    let Some(entry) = NtfsFileNameIndex::find(&mut finder, ntfs, part, "hiberfil.sys") else { return Ok(false) };
    let file = entry?.to_file(ntfs, part)?;
    let Some(data) = file.data(part, "") else { return Ok(false) };
    let item = data?;
    let attribute = item.to_attribute()?;
    let mut value = attribute.value(part)?;
    let mut begins = [0; 4];
    let read = value.read(part, &mut begins)?;
    Ok(read == begins.len() && ASLEEP.contains(&&begins))
}

/// A part of a disk.
struct Part<'a> {
    disk: &'a File,
    place: Range<u64>,
    at: u64,
    reads_left: u32,
}

impl Read for Part<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let reads_left = self.reads_left.checked_sub(1);
        self.reads_left = reads_left.ok_or_else(|| io::Error::other("it leads round in a circle"))?;
        let left = (self.place.end - self.place.start).saturating_sub(self.at);
        let len = (out.len() as u64).min(left) as usize;
        let read = self.disk.read_at(&mut out[..len], self.place.start + self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let end = self.place.end - self.place.start;
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => end.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.filter(|at| *at <= end).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::Command;

    use super::*;

    const BYTES: u64 = 8 << 20;

    /// An NTFS as `mkfs.ntfs` makes it, with a file in which a Windows would sleep.
    fn made(hibernation: Option<&[u8]>) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(BYTES).unwrap();
        let run = |command: &mut Command| {
            let output = command.output().expect("ntfs-3g is installed");
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run(Command::new("mkfs.ntfs").args(["-F", "-Q", "-q"]).arg(file.path()));
        if let Some(content) = hibernation {
            let mut source = tempfile::NamedTempFile::new().unwrap();
            source.write_all(content).unwrap();
            run(Command::new("ntfscp").arg("-q").arg(file.path()).arg(source.path()).arg("hiberfil.sys"));
        }
        file
    }

    fn left_of(file: &tempfile::NamedTempFile) -> Vec<LeftHow> {
        left(file.as_file(), 0..BYTES)
    }

    /// Where the flags of a volume are: in record 3 of the file table, in the attribute of kind 0x70.
    fn flags_at(file: &File) -> u64 {
        let mut boot = [0; 512];
        file.read_exact_at(&mut boot, 0).unwrap();
        let cluster = u64::from(u16::from_le_bytes([boot[11], boot[12]])) * u64::from(boot[13]);
        let table = u64::from_le_bytes(*boot[48..].first_chunk().unwrap()) * cluster;
        let mut record = [0; 1024];
        file.read_exact_at(&mut record, table + 3 * 1024).unwrap();
        let mut at = usize::from(u16::from_le_bytes([record[20], record[21]]));
        while record[at] != 0x70 {
            at += usize::from(u16::from_le_bytes([record[at + 4], record[at + 5]]));
        }
        let value = usize::from(u16::from_le_bytes([record[at + 20], record[at + 21]]));
        table + 3 * 1024 + (at + value + 10) as u64
    }

    #[test]
    fn a_dirty_or_hibernated_ntfs_is_known_from_a_sound_one() {
        assert_eq!(left_of(&made(None)), []);
        assert_eq!(left_of(&made(Some(b"wake and more"))), []);
        assert_eq!(left_of(&made(Some(&[0; 9000]))), []);
        assert_eq!(left_of(&made(Some(b"hibr and more"))), [LeftHow::Hibernated]);
        let dirty = made(Some(&[&b"HIBR"[..], &[7; 100_000]].concat()));
        dirty.as_file().write_all_at(&[1], flags_at(dirty.as_file())).unwrap();
        assert_eq!(left_of(&dirty), [LeftHow::Dirty, LeftHow::Hibernated]);
        assert_eq!(left(&tempfile::tempfile().unwrap(), 0..BYTES), []);
    }

    /// What is damaged is told, or overlooked; it never ends the daemon.
    #[test]
    fn a_damaged_ntfs_is_survived() {
        let sound = made(Some(b"hibr"));
        let mut bytes = vec![0; BYTES as usize];
        sound.as_file().read_exact_at(&mut bytes, 0).unwrap();
        let used: Vec<usize> = (0..bytes.len() / 512).filter(|at| bytes[at * 512..][..512] != [0; 512]).collect();
        let (mut state, mut told) = (1u64, 0);
        for _ in 0..300 {
            let damaged = tempfile::tempfile().unwrap();
            damaged.write_all_at(&bytes, 0).unwrap();
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let random = (state >> 33) as usize;
                let at = used[random % used.len().min(64)] * 512 + (random >> 8) % 512;
                if !(NAME_AT..NAME_AT + 8).contains(&(at as u64)) {
                    damaged.write_all_at(&[(random >> 17) as u8], at as u64).unwrap();
                }
            }
            told += usize::from(left(&damaged, 0..BYTES) != [LeftHow::Hibernated]);
        }
        assert!((1..300).contains(&told), "{told} of 300 were told, or are not as they were");
    }
}
