//! Where file systems keep what every boot reads: ext2 to ext4, and NTFS. Pure; in bytes from the partition's start.
//!
//! Sources: the kernel's Documentation/filesystems/ext4, and the boot sector as Linux' fs/ntfs3 reads it.

use std::ops::Range;

use super::disk::{u16_at, u32_at, u64_at};

/// So much of a table of group descriptors is looked at: 16,384 groups, or 2 TiB.
pub(super) const DESCRIPTORS_BYTES_MAX: u64 = 1 << 20;
/// Of NTFS' master file table: some 16,000 files, those of the system come first.
const MFT_BYTES: u64 = 16 << 20;

/// A file system whose metadata can be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileSystem {
    Ext(Ext),
    /// Where the master file table begins, and its mirror.
    Ntfs {
        mft: u64,
        mirror: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ext {
    block_bytes: u64,
    first_block: u64,
    groups: u64,
    inodes_per_group: u64,
    inode_bytes: u64,
    descriptor_bytes: u64,
}

impl FileSystem {
    /// By the first bytes of a partition.
    pub(super) fn recognize(start: &[u8]) -> Option<FileSystem> {
        ext(start).map(FileSystem::Ext).or_else(|| ntfs(start))
    }

    /// What has to be read to know where the rest is.
    pub(super) fn descriptors(&self) -> Range<u64> {
        match self {
            FileSystem::Ntfs { .. } => 0..0,
            FileSystem::Ext(ext) => {
                let start = (ext.first_block + 1) * ext.block_bytes;
                start..start.saturating_add(ext.groups.saturating_mul(ext.descriptor_bytes))
            }
        }
    }

    /// What every boot reads, the first first.
    pub(super) fn metadata(&self, descriptors: &[u8]) -> Vec<Range<u64>> {
        match self {
            FileSystem::Ntfs { mft, mirror } => {
                vec![*mft..mft.saturating_add(MFT_BYTES), *mirror..mirror.saturating_add(4096)]
            }
            FileSystem::Ext(ext) => {
                descriptors.chunks_exact(ext.descriptor_bytes as usize).flat_map(|group| ext.group(group)).collect()
            }
        }
    }
}

fn ext(start: &[u8]) -> Option<Ext> {
    let superblock = start.get(1024..2048)?;
    if u16_at(superblock, 56)? != 0xef53 {
        return None;
    }
    let shift = u32_at(superblock, 24).filter(|shift| *shift <= 6)?;
    let block_bytes = 1024u64 << shift;
    let incompatible = u32_at(superblock, 96)?;
    // With META_BG the descriptors are all over the disk: what is cheap ends here.
    if incompatible & 0x10 != 0 {
        return None;
    }
    let is_64_bit = incompatible & 0x80 != 0;
    let high = if is_64_bit { u64::from(u32_at(superblock, 336)?) << 32 } else { 0 };
    let blocks = u64::from(u32_at(superblock, 4)?) | high;
    let per_group = u64::from(u32_at(superblock, 32)?);
    let descriptor = u64::from(u16_at(superblock, 254)?);
    Some(Ext {
        block_bytes,
        first_block: u64::from(u32_at(superblock, 20)?),
        groups: blocks.checked_div(per_group)? + 1,
        inodes_per_group: u64::from(u32_at(superblock, 40)?),
        inode_bytes: u64::from(u16_at(superblock, 88)?),
        descriptor_bytes: if is_64_bit { descriptor.clamp(64, 1024) } else { 32 },
    })
}

impl Ext {
    /// Bitmaps and the part of the inode table that is in use, of one group.
    fn group(&self, descriptor: &[u8]) -> Vec<Range<u64>> {
        let wide = self.descriptor_bytes >= 64;
        let place = |low: usize, high: usize| {
            let high = if wide { u64::from(u32_at(descriptor, high)?) << 32 } else { 0 };
            (u64::from(u32_at(descriptor, low)?) | high).checked_mul(self.block_bytes)
        };
        const INODES_UNUSED: u16 = 1;
        if u16_at(descriptor, 18).is_none_or(|flags| flags & INODES_UNUSED != 0) {
            return Vec::new();
        }
        let unused_high = if wide { u64::from(u16_at(descriptor, 50).unwrap_or(0)) << 16 } else { 0 };
        let unused = u64::from(u16_at(descriptor, 28).unwrap_or(0)) | unused_high;
        let table = self.inodes_per_group.saturating_sub(unused).saturating_mul(self.inode_bytes);
        let parts = [(place(0, 32), self.block_bytes), (place(4, 36), self.block_bytes), (place(8, 40), table)];
        let parts = parts.into_iter().filter_map(|(start, bytes)| Some((start?, bytes)));
        parts.map(|(start, bytes)| start..start.saturating_add(bytes)).collect()
    }
}

fn ntfs(start: &[u8]) -> Option<FileSystem> {
    if start.get(3..11)? != b"NTFS    " {
        return None;
    }
    let sector = u64::from(u16_at(start, 11)?);
    let sectors = *start.get(13)?;
    // Beyond 128 it is the exponent of a power of two, negated.
    let cluster =
        if sectors <= 128 { u64::from(sectors) * sector } else { sector.checked_shl(256 - u32::from(sectors))? };
    let place = |at| u64_at(start, at)?.checked_mul(cluster);
    Some(FileSystem::Ntfs { mft: place(48)?, mirror: place(56)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
        bytes[at..at + value.len()].copy_from_slice(value);
    }

    #[test]
    fn an_ext4_disk_says_where_its_inodes_are() {
        let mut start = vec![0; 4096];
        let mut put_super = |at: usize, value: &[u8]| put(&mut start, 1024 + at, value);
        put_super(4, &40_000u32.to_le_bytes());
        put_super(24, &2u32.to_le_bytes());
        put_super(32, &32_768u32.to_le_bytes());
        put_super(40, &8192u32.to_le_bytes());
        put_super(56, &0xef53u16.to_le_bytes());
        put_super(88, &256u16.to_le_bytes());
        let found = FileSystem::recognize(&start).unwrap();
        assert_eq!(found.descriptors(), 4096..4096 + 2 * 32);
        let mut groups = vec![0; 64];
        put(&mut groups, 0, &10u32.to_le_bytes());
        put(&mut groups, 4, &11u32.to_le_bytes());
        put(&mut groups, 8, &12u32.to_le_bytes());
        put(&mut groups, 28, &8176u16.to_le_bytes());
        // The second group's inodes were never used.
        put(&mut groups, 32 + 18, &1u16.to_le_bytes());
        let expected = [10 * 4096..11 * 4096, 11 * 4096..12 * 4096, 12 * 4096..13 * 4096];
        assert_eq!(found.metadata(&groups), expected);
    }

    #[test]
    fn an_ntfs_disk_says_where_its_file_table_is() {
        let mut start = vec![0; 512];
        put(&mut start, 3, b"NTFS    ");
        put(&mut start, 11, &512u16.to_le_bytes());
        put(&mut start, 13, &[8]);
        put(&mut start, 48, &786_432u64.to_le_bytes());
        put(&mut start, 56, &2u64.to_le_bytes());
        let found = FileSystem::recognize(&start).unwrap();
        assert_eq!(found, FileSystem::Ntfs { mft: 3 << 30, mirror: 8192 });
        assert_eq!((found.descriptors(), found.metadata(&[]).len()), (0..0, 2));
        assert_eq!(FileSystem::recognize(&start[..40]), None);
    }

    proptest! {
        /// Whatever a superblock says, nothing overflows and nothing runs for long.
        #[test]
        fn nonsense_is_survived(bytes in prop::collection::vec(any::<u8>(), 4096), is_ext in any::<bool>(), groups in prop::collection::vec(any::<u8>(), 0..8192)) {
            let mut bytes = bytes;
            if is_ext {
                put(&mut bytes, 1024 + 56, &0xef53u16.to_le_bytes());
                put(&mut bytes, 1024 + 24, &[1, 0, 0, 0]);
            } else {
                put(&mut bytes, 3, b"NTFS    ");
            }
            if let Some(found) = FileSystem::recognize(&bytes) {
                let table = found.descriptors();
                prop_assert!(table.start <= table.end);
                prop_assert!(found.metadata(&groups).iter().all(|part| part.start <= part.end));
            }
        }
    }
}
