//! Where the partitions of a disk begin, by its MBR or GPT.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Of what disk images are made; one of 4 KiB sectors has no table that is found.
const SECTOR_BYTES: u64 = 512;
/// GPT has room for 128 by default; more of either kind are nobody's.
const PARTITIONS_MAX: usize = 256;
const GPT_ENTRY_BYTES: Range<u32> = 128..4096;
const MBR_ENTRIES_AT: usize = 446;
const MBR_ENTRY_BYTES: usize = 16;
const KIND_GPT: u8 = 0xee;
/// Kinds of MBR partitions in which others are.
const KINDS_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// An entry of an MBR: its kind, and its place in sectors.
struct Entry {
    kind: u8,
    start: u64,
    sectors: u64,
}

/// The places of all partitions, in bytes; of a disk without any, the disk itself.
pub(super) fn of(disk: &File, disk_bytes: u64) -> Vec<Range<u64>> {
    let Some(entries) = mbr(disk, 0) else { return Vec::new() };
    let is_gpt = entries.iter().any(|entry| entry.kind == KIND_GPT);
    let sectors = match is_gpt {
        true => gpt(disk).unwrap_or_default(),
        false => entries.iter().flat_map(|entry| partitions(disk, entry)).take(PARTITIONS_MAX).collect(),
    };
    let within = |sectors: Range<u64>| {
        let (start, end) = (sectors.start.checked_mul(SECTOR_BYTES)?, sectors.end.checked_mul(SECTOR_BYTES)?);
        (start < end.min(disk_bytes)).then(|| start..end.min(disk_bytes))
    };
    // A file system that has the whole disk begins with a boot sector that looks like an MBR.
    std::iter::once(0..disk_bytes).chain(sectors.into_iter().filter_map(within)).collect()
}

fn mbr(disk: &File, sector: u64) -> Option<Vec<Entry>> {
    let mut bytes = [0; SECTOR_BYTES as usize];
    disk.read_exact_at(&mut bytes, sector.checked_mul(SECTOR_BYTES)?).ok()?;
    if bytes[510..] != [0x55, 0xaa] {
        return None;
    }
    let entry = |entry: &[u8; MBR_ENTRY_BYTES]| {
        let [_, _, _, _, kind, _, _, _, a, b, c, d, sectors @ ..] = *entry;
        let start = u64::from(u32::from_le_bytes([a, b, c, d]));
        Entry { kind, start, sectors: u64::from(u32::from_le_bytes(sectors)) }
    };
    let entries = bytes[MBR_ENTRIES_AT..510].as_chunks().0.iter().map(entry);
    Some(entries.filter(|entry| entry.kind != 0 && entry.sectors > 0).collect())
}

/// An entry itself, or what is in it.
fn partitions(disk: &File, entry: &Entry) -> Vec<Range<u64>> {
    if !KINDS_EXTENDED.contains(&entry.kind) {
        return std::iter::once(entry.start..entry.start + entry.sectors).collect();
    }
    // A chain: each link has one partition, and where the next link is.
    let (mut found, mut next) = (Vec::new(), Some(entry.start));
    while let Some(at) = next.filter(|_| found.len() < PARTITIONS_MAX) {
        let link = mbr(disk, at).unwrap_or_default();
        let (further, inside): (Vec<Entry>, Vec<Entry>) =
            link.into_iter().partition(|entry| KINDS_EXTENDED.contains(&entry.kind));
        let before = found.len();
        found.extend(inside.iter().map(|inside| at + inside.start..at + inside.start + inside.sectors));
        // A link without a partition could lead round in a circle for ever.
        next = further.first().filter(|_| found.len() > before).map(|further| entry.start + further.start);
    }
    found
}

fn gpt(disk: &File) -> Option<Vec<Range<u64>>> {
    let mut header = [0; 92];
    disk.read_exact_at(&mut header, SECTOR_BYTES).ok()?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let long = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let short = |at: usize| header[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let (table, count, entry_bytes) = (long(72)?.checked_mul(SECTOR_BYTES)?, short(80)?, short(84)?);
    if !GPT_ENTRY_BYTES.contains(&entry_bytes) {
        return None;
    }
    let entry = |number: u32| {
        let mut entry = [0; 48];
        let at = table.checked_add(u64::from(number) * u64::from(entry_bytes))?;
        disk.read_exact_at(&mut entry, at).ok()?;
        let sector = |at: usize| entry[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let is_used = entry[..16].iter().any(|byte| *byte != 0);
        // The last sector is a part of it.
        Some(sector(32)?..sector(40)?.checked_add(1)?).filter(|_| is_used)
    };
    Some((0..count.min(PARTITIONS_MAX as u32)).filter_map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(parts: &[(usize, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        parts.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at as u64).unwrap());
        file
    }

    fn entry(kind: u8, start: u32, sectors: u32) -> Vec<u8> {
        [&[0, 0, 0, 0, kind, 0, 0, 0][..], &start.to_le_bytes(), &sectors.to_le_bytes()].concat()
    }

    #[test]
    fn partitions_of_an_mbr_and_of_those_inside_are_found() {
        let (first, extended) = (entry(7, 8, 16), entry(5, 100, 500));
        let (inside, next, last) = (entry(7, 2, 10), entry(5, 50, 100), entry(7, 3, 10));
        let found = of(
            &disk(&[
                (446, &first),
                (462, &extended),
                (510, &[0x55, 0xaa]),
                (100 * 512 + 446, &inside),
                (100 * 512 + 462, &next),
                (100 * 512 + 510, &[0x55, 0xaa]),
                (150 * 512 + 446, &last),
                (150 * 512 + 510, &[0x55, 0xaa]),
            ]),
            1 << 20,
        );
        let sectors: Vec<_> = found.iter().map(|range| range.start / 512..range.end / 512).collect();
        assert_eq!(sectors, [0..2048, 8..24, 102..112, 153..163]);
        assert!(of(&disk(&[]), 1 << 20).is_empty());
    }

    #[test]
    fn partitions_of_a_gpt_are_found() {
        let protective = entry(KIND_GPT, 1, u32::MAX);
        let mut header = [0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[72..80].copy_from_slice(&2u64.to_le_bytes());
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        let mut used = [0; 128];
        used[0] = 1;
        used[32..40].copy_from_slice(&100u64.to_le_bytes());
        used[40..48].copy_from_slice(&199u64.to_le_bytes());
        let parts: [(usize, &[u8]); 4] =
            [(446, &protective), (510, &[0x55, 0xaa]), (512, &header), (2 * 512 + 128, &used)];
        assert_eq!(of(&disk(&parts), 1 << 20), [0..1 << 20, 100 * 512..200 * 512]);
    }

    #[test]
    fn a_chain_that_leads_round_ends() {
        let (extended, inside, round) = (entry(5, 100, 500), entry(7, 2, 10), entry(5, 0, 100));
        let parts: [(usize, &[u8]); 5] = [
            (446, &extended),
            (510, &[0x55, 0xaa]),
            (100 * 512 + 446, &inside),
            (100 * 512 + 462, &round),
            (100 * 512 + 510, &[0x55, 0xaa]),
        ];
        assert!(of(&disk(&parts), 1 << 20).len() <= PARTITIONS_MAX + 1);
    }
}
