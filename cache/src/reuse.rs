//! Blocks that another local version holds are copied from there instead of being fetched.
//!
//! This is for file systems without reflink, and for blocks that the base got after the new version had
//! started from it. What is copied is verified like everything else.

use std::ops::Range;
use std::sync::Arc;

use icbd_image::{BLOCK_BYTES, Hash, PAGE_BLOCKS, VerifiedBlock, block_len};

use crate::disk::Wait;
use crate::file::File;
use crate::inherit::counterpart;
use crate::version::Version;

/// Whether `base` holds any block of `run` at all, whatever its hash. Never blocks.
pub(crate) fn is_likely(base: &Version, file: &File, run: Range<u64>) -> bool {
    let Some((held, node)) = base.filling().zip(counterpart(file.version(), base, file.index())) else { return false };
    run.start < node.blocks() && held.resident.durable_count(node.index(), run.start..run.end.min(node.blocks())) > 0
}

/// The blocks of `run` that `base` holds with the same hash. Blocks.
pub(crate) fn copy(base: &Arc<Version>, file: &File, run: Range<u64>, hashes: &[Hash]) -> Vec<VerifiedBlock> {
    let Some(held) = base.filling() else { return Vec::new() };
    let Some(node) = counterpart(file.version(), base, file.index()) else { return Vec::new() };
    let candidates = run
        .clone()
        .zip(hashes)
        .filter(|(block, _)| *block < node.blocks() && held.resident.is_durable(node.index(), *block..*block + 1));
    let mut copied = Vec::new();
    let mut source = None;
    for (block, hash) in candidates {
        let theirs = match node.is_paged() {
            false => node.inline_hash(block),
            true => base.page_here(node.index(), block / PAGE_BLOCKS).and_then(|page| page.hash(block % PAGE_BLOCKS)),
        };
        if theirs != Some(*hash) {
            continue;
        }
        if source.is_none() {
            source = base.file(node.index()).ok();
        }
        let Some(source) = &source else { break };
        copied.extend(read(source, block, hash));
    }
    copied
}

fn read(source: &File, block: u64, hash: &Hash) -> Option<VerifiedBlock> {
    let mut bytes = vec![0; block_len(source.size(), block)];
    let guard = source.guard().read().expect("no panic under this lock");
    let read = source.backing().ok()?.read(block * BLOCK_BYTES, &mut bytes, Wait::Yes).ok()?;
    drop(guard);
    bytes.truncate(read);
    // One that does not match is fetched; the scrub of the other version will find it there.
    VerifiedBlock::check(block, bytes.into(), hash).ok()
}
