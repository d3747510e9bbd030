//! What a boot reads: as recorded, or for a version that never booted here what every boot begins with.
//!
//! Without a record: kernel, initrd and boot scripts by their names, small ones first; then of the largest
//! files, which are disks, the partition table and the file systems' metadata as far as that is cheap to find.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use icbd_image::{BLOCK_BYTES, BootRun, FileIndex, Kind};

use super::disk::partitions;
use super::metadata::{DESCRIPTORS_BYTES_MAX, FileSystem};
use super::{Piece, Plan};
use crate::CacheError;
use crate::disk::Wait;
use crate::file::File;
use crate::prefetch::fill::Filler;
use crate::version::Version;

/// What people are told when there is no record.
pub(crate) const NOT_RECORDED: &str =
    "no boot recorded yet: kernel, initrd, partition table and file-system metadata are fetched";
/// All of it: more than kernels and metadata of usual disks, less than a link's minute at 100 Mbit/s.
const BYTES_MAX: u64 = 256 << 20;
/// Metadata of one partition.
const PARTITION_BYTES_MAX: u64 = 64 << 20;
/// Both ends of a disk: boot loader and partition table, and the table's copy.
const END_BYTES: u64 = 1 << 20;
/// The beginning of a partition: boot sectors and superblocks.
const PARTITION_START_BYTES: u64 = 128 << 10;
/// Files that are looked into: a machine's disks.
const DISKS_MAX: usize = 4;
/// A smaller file is no disk with a system on it.
const DISK_BYTES_MIN: u64 = 16 << 20;

pub(super) async fn plan(version: &Arc<Version>, filler: &Filler<'_>) -> Result<Plan, CacheError> {
    let recorded = version.core().boot_set(version.serial()).await?;
    if recorded.is_empty() {
        return guess(version, filler).await;
    }
    let piece = |run: BootRun| Piece { file: run.file, blocks: run.first..run.first + u64::from(run.count) };
    Ok(Plan::Pieces { pieces: recorded.into_iter().map(piece).collect(), note: None })
}

async fn guess(version: &Arc<Version>, filler: &Filler<'_>) -> Result<Plan, CacheError> {
    let mut guess = Guess { version, filler, pieces: Vec::new(), left_bytes: BYTES_MAX };
    let mut starters = starters(version);
    starters.sort_unstable();
    for (bytes, index) in &starters {
        guess.add(*index, 0..*bytes);
    }
    let others = version.head().files().filter(|node| node.size() >= DISK_BYTES_MIN);
    let mut disks: Vec<(Reverse<u64>, FileIndex)> = others.map(|node| (Reverse(node.size()), node.index())).collect();
    disks.retain(|(_, index)| starters.iter().all(|(_, starter)| starter != index));
    disks.sort_unstable();
    for (_, index) in disks.into_iter().take(DISKS_MAX) {
        guess.disk(&version.file(index)?).await?;
    }
    Ok(Plan::Pieces { pieces: guess.pieces, note: Some(NOT_RECORDED) })
}

/// Files by whose names a firmware or loader would start them, with their sizes.
fn starters(version: &Version) -> Vec<(u64, FileIndex)> {
    let head = version.head();
    let directories = head.nodes().filter(|node| node.kind() == Kind::Directory);
    let entries = directories.flat_map(|directory| head.entries(directory.index(), 0));
    let named = entries.filter(|entry| is_starter(entry.name)).filter_map(|entry| head.node(entry.node));
    named.filter(|node| node.kind() == Kind::File).map(|node| (node.size(), node.index())).collect()
}

fn is_starter(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let begins = ["vmlinuz", "bzimage", "initrd", "initramfs", "grub.cfg", "loader.conf"];
    let ends = [".efi", ".ipxe", ".pxe", ".cmdline"];
    begins.iter().any(|part| name.starts_with(part.as_bytes()))
        || ends.iter().any(|part| name.ends_with(part.as_bytes()))
}

/// A plan that is being made.
struct Guess<'a> {
    version: &'a Arc<Version>,
    filler: &'a Filler<'a>,
    pieces: Vec<Piece>,
    left_bytes: u64,
}

impl Guess<'_> {
    /// Adds the blocks that hold these bytes of a file, if there is room for them and they are not there yet.
    fn add(&mut self, file: FileIndex, bytes: Range<u64>) {
        let size = self.version.head().node(file).map_or(0, |node| node.size());
        let (start, end) = (bytes.start.min(size) / BLOCK_BYTES, bytes.end.min(size).div_ceil(BLOCK_BYTES));
        for block in start..end {
            if self.left_bytes < BLOCK_BYTES {
                return;
            }
            let has = |piece: &Piece| piece.file == file && piece.blocks.contains(&block);
            if self.pieces.iter().any(has) {
                continue;
            }
            match self.pieces.last_mut() {
                Some(piece) if piece.file == file && piece.blocks.end == block => piece.blocks.end += 1,
                _ => self.pieces.push(Piece { file, blocks: block..block + 1 }),
            }
            self.left_bytes -= BLOCK_BYTES;
        }
    }

    async fn disk(&mut self, file: &Arc<File>) -> Result<(), CacheError> {
        let size = file.size();
        self.add(file.index(), 0..END_BYTES);
        self.add(file.index(), size.saturating_sub(END_BYTES)..size);
        let start = self.read(file, 0..END_BYTES).await?;
        for partition in partitions(&start, size) {
            let first = partition.start..partition.end.min(partition.start + PARTITION_START_BYTES);
            self.add(file.index(), first.clone());
            let superblock = self.read(file, first).await?;
            let Some(found) = FileSystem::recognize(&superblock) else { continue };
            let table = found.descriptors();
            let table =
                partition.start + table.start..partition.start + table.end.min(table.start + DESCRIPTORS_BYTES_MAX);
            let table = table.start.min(partition.end)..table.end.min(partition.end);
            self.add(file.index(), table.clone());
            let descriptors = self.read(file, table).await?;
            let mut left = PARTITION_BYTES_MAX;
            for part in found.metadata(&descriptors) {
                let bytes = (part.end - part.start).min(left);
                left -= bytes;
                let start = partition.start.saturating_add(part.start).min(partition.end);
                self.add(file.index(), start..start.saturating_add(bytes).min(partition.end));
            }
        }
        Ok(())
    }

    /// Bytes of a file, fetched as the patient do; none if they could not be kept. Not a read of the file's: what
    /// is looked at here was not read by a boot.
    async fn read(&self, file: &Arc<File>, bytes: Range<u64>) -> Result<Vec<u8>, CacheError> {
        let blocks = bytes.start / BLOCK_BYTES..bytes.end.min(file.size()).div_ceil(BLOCK_BYTES);
        if blocks.is_empty() {
            return Ok(Vec::new());
        }
        self.filler.fetch(self.version, [Piece { file: file.index(), blocks: blocks.clone() }].into_iter()).await?;
        let file = file.clone();
        let read = move || {
            let mut out = vec![0; (bytes.end - bytes.start) as usize];
            let _guard = file.guard().read().expect("no panic under this lock");
            let is_here = file.is_readable(blocks);
            let read = file.backing().and_then(|backing| backing.read(bytes.start, &mut out, Wait::Yes));
            out.truncate(read.ok().filter(|_| is_here).unwrap_or(0));
            out
        };
        self.version.core().disk_read(read).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_starts_a_machine_is_known_by_its_name() {
        for name in [
            "vmlinuz",
            "vmlinuz-6.18-amd64",
            "bzImage",
            "initrd.img",
            "initramfs-linux.img",
            "BOOTX64.EFI",
            "boot.ipxe",
        ] {
            assert!(is_starter(name.as_bytes()), "{name}");
        }
        for name in ["disk.raw", "my-vmlinuz", "README", "efi"] {
            assert!(!is_starter(name.as_bytes()), "{name}");
        }
    }
}
