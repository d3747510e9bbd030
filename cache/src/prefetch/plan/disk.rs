//! Partition tables: GPT (UEFI 2.10, chapter 5) and MBR. Pure; whatever a disk says, no more than it has.

use std::ops::Range;

/// Partitions that are looked at.
const PARTITIONS_MAX: usize = 16;
/// GPT headers lie in the second sector; both sizes of sectors are in use.
const SECTORS_BYTES: [u64; 2] = [512, 4096];

/// The partitions of a disk, in bytes, by the first megabyte of it; the whole disk if it has no table.
pub(super) fn partitions(start: &[u8], disk_bytes: u64) -> Vec<Range<u64>> {
    let found = SECTORS_BYTES.iter().find_map(|sector| gpt(start, *sector)).or_else(|| mbr(start));
    let mut found = found.unwrap_or_else(|| std::iter::once(0..disk_bytes).collect());
    found.iter_mut().for_each(|part| part.end = part.end.min(disk_bytes));
    found.retain(|part| part.start < part.end);
    found.truncate(PARTITIONS_MAX);
    found
}

fn gpt(start: &[u8], sector: u64) -> Option<Vec<Range<u64>>> {
    let header = start.get(sector as usize..)?;
    if header.get(..8)? != b"EFI PART" {
        return None;
    }
    let table = u64_at(header, 72)?.checked_mul(sector)?;
    let (count, bytes) = (u32_at(header, 80)?, u32_at(header, 84)?);
    if bytes < 128 {
        return None;
    }
    let table = start.get(usize::try_from(table).ok()?..)?;
    let entries = table.chunks(bytes as usize).take(count as usize);
    let used = entries.filter(|entry| entry.get(..16).is_some_and(|kind| kind.iter().any(|byte| *byte != 0)));
    let range = |entry: &[u8]| {
        let (first, last) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
        Some(first.checked_mul(sector)?..last.checked_add(1)?.checked_mul(sector)?)
    };
    Some(used.filter_map(range).collect())
}

fn mbr(start: &[u8]) -> Option<Vec<Range<u64>>> {
    // A FAT or NTFS boot sector has the same signature, and no partitions that make sense.
    if start.get(510..512)? != [0x55, 0xaa] || start.get(3..7)? == b"NTFS" {
        return None;
    }
    let entries: Vec<&[u8]> = start.get(446..510)?.chunks(16).collect();
    if entries.iter().any(|entry| entry[0] & 0x7f != 0) {
        return None;
    }
    let range = |entry: &&[u8]| {
        let (first, sectors) = (u64::from(u32_at(entry, 8)?), u64::from(u32_at(entry, 12)?));
        (entry[4] != 0 && sectors > 0).then_some(first * 512..(first + sectors) * 512)
    };
    let found: Vec<Range<u64>> = entries.iter().filter_map(range).collect();
    (!found.is_empty()).then_some(found)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DISK: u64 = 1 << 30;

    fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
        bytes[at..at + value.len()].copy_from_slice(value);
    }

    fn gpt_disk(sector: usize, parts: &[(u64, u64)]) -> Vec<u8> {
        let mut disk = vec![0; 1 << 20];
        put(&mut disk, 510, &[0x55, 0xaa]);
        // The protective entry of the MBR.
        put(&mut disk, 450, &[0xee]);
        put(&mut disk, 454, &1u32.to_le_bytes());
        put(&mut disk, 458, &u32::MAX.to_le_bytes());
        put(&mut disk, sector, b"EFI PART");
        put(&mut disk, sector + 72, &2u64.to_le_bytes());
        put(&mut disk, sector + 80, &128u32.to_le_bytes());
        put(&mut disk, sector + 84, &128u32.to_le_bytes());
        for (at, (first, last)) in parts.iter().enumerate() {
            let entry = sector * 2 + at * 128;
            put(&mut disk, entry, &[1; 16]);
            put(&mut disk, entry + 32, &first.to_le_bytes());
            put(&mut disk, entry + 40, &last.to_le_bytes());
        }
        disk
    }

    #[test]
    fn tables_of_both_kinds_are_read() {
        let mib = 1u64 << 20;
        let only = |range: Range<u64>| vec![range];
        assert_eq!(partitions(&gpt_disk(512, &[(2048, 4095), (4096, u64::MAX - 1)]), DISK)[0], mib..2 * mib);
        assert_eq!(partitions(&gpt_disk(4096, &[(256, 511)]), DISK), only(mib..2 * mib));
        let mut disk = vec![0; 1 << 20];
        put(&mut disk, 510, &[0x55, 0xaa]);
        assert_eq!(partitions(&disk, DISK), only(0..DISK), "no partition: a file system on the bare disk");
        put(&mut disk, 446 + 4, &[0x83]);
        put(&mut disk, 446 + 8, &2048u32.to_le_bytes());
        put(&mut disk, 446 + 12, &u32::MAX.to_le_bytes());
        assert_eq!(partitions(&disk, DISK), only(mib..DISK));
        assert_eq!(partitions(&[], 0), [0u64..0; 0]);
    }

    proptest! {
        /// Whatever a table says, partitions lie on the disk and are few.
        #[test]
        fn nonsense_stays_on_the_disk(parts in prop::collection::vec(any::<(u64, u64)>(), 0..40), sector in prop::sample::select(&[512usize, 4096][..]), noise in prop::collection::vec(any::<(u16, u8)>(), 0..40)) {
            let mut disk = gpt_disk(sector, &parts);
            noise.iter().for_each(|(at, byte)| disk[usize::from(*at)] = *byte);
            let found = partitions(&disk, DISK);
            prop_assert!(found.len() <= PARTITIONS_MAX && found.iter().all(|part| part.start < part.end && part.end <= DISK));
        }
    }
}
