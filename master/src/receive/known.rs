//! What is known of the blocks of a version on its way here: the hash of each, and which of them are here.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use icbd_image::{FileIndex, Hash, Head};

/// Known of all files of one version.
#[derive(Debug)]
pub(crate) struct Known {
    head: Head,
    /// Of all blocks, file after file, in a file without a name: of a terabyte 512 MiB.
    hashes: File,
    /// Where in it a file's begin, in blocks.
    firsts: HashMap<FileIndex, u64>,
    /// A bit for each block.
    here: Vec<AtomicU64>,
}

impl Known {
    /// Nothing, so far. `at` is free for a file that is gone at once.
    pub(super) fn nothing(at: &Path, head: Head) -> io::Result<Known> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(at);
        let hashes = open.and_then(|file| std::fs::remove_file(at).map(|()| file))?;
        let (mut firsts, mut blocks) = (HashMap::new(), 0);
        for node in head.files() {
            firsts.insert(node.index(), blocks);
            blocks += node.blocks();
        }
        let here = (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Known { head, hashes, firsts, here })
    }

    /// Takes note of what blocks are to be.
    pub(super) fn announce(&self, file: FileIndex, first: u64, hashes: &[Hash]) -> io::Result<()> {
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
        self.hashes.write_all_at(&bytes, (self.firsts[&file] + first) * Hash::BYTES as u64)
    }

    /// Blocks are here as they were announced.
    pub(super) fn came(&self, file: FileIndex, blocks: Range<u64>) {
        let first = self.firsts[&file];
        for at in first + blocks.start..first + blocks.end {
            self.here[(at / 64) as usize].fetch_or(1 << (at % 64), Ordering::Relaxed);
        }
    }

    /// The file with this path, and which of its blocks nothing is known of.
    pub(crate) fn unknown(&self, inside: &[u8]) -> Option<(FileIndex, Vec<Range<u64>>)> {
        let index = self.head.resolve(inside)?;
        let first = *self.firsts.get(&index)?;
        let mut unknown: Vec<Range<u64>> = Vec::new();
        for block in 0..self.head.node(index)?.blocks() {
            let at = first + block;
            if self.here[(at / 64) as usize].load(Ordering::Relaxed) & 1 << (at % 64) != 0 {
                continue;
            }
            match unknown.last_mut() {
                Some(last) if last.end == block => last.end += 1,
                _ => unknown.push(block..block + 1),
            }
        }
        Some((index, unknown))
    }

    /// What was announced of some blocks.
    pub(crate) fn hashes(&self, file: FileIndex, blocks: Range<u64>) -> io::Result<Vec<Hash>> {
        let mut bytes = vec![0; (blocks.end - blocks.start) as usize * Hash::BYTES];
        self.hashes.read_exact_at(&mut bytes, (self.firsts[&file] + blocks.start) * Hash::BYTES as u64)?;
        Ok(bytes.as_chunks().0.iter().map(|hash| Hash::from_bytes(*hash)).collect())
    }
}
