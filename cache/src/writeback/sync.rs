//! The syncer: data first, then the bits that vouch for them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use icbd_image::{BLOCK_BYTES, FileIndex, Serial};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::batch::{Batch, Written};
use crate::disk::{Barrier, Disk};
use crate::file::{File, is_lost};
use crate::health::Health;
use crate::resident::{Committed, Moment};
use crate::version::Version;

/// More files than this are synced with the whole file system at once.
///
/// [small files: fdatasync each 1,419 µs; one syncfs for 500 of them 77 µs a file]
const FILES_MAX: usize = 8;

/// One version's part of a batch.
struct Part<'a> {
    version: Arc<Version>,
    since: Moment,
    files: Vec<&'a Written>,
}

/// Settles batches in their order until no more can come.
pub(super) fn run(batches: Receiver<Batch>, disk: &dyn Disk, health: &Health) {
    let mut dropped_later = Batch::default();
    for mut batch in batches {
        if !batch.files.is_empty() {
            settle(&batch, disk, health);
        }
        for waiter in batch.waiters.drain(..) {
            // Who went away does not want to know.
            let _ = waiter.send(());
        }
        // One batch later, so that a reader just behind the readahead still finds it in memory.
        forget(&mut dropped_later);
        dropped_later = batch;
    }
}

fn settle(batch: &Batch, disk: &dyn Disk, health: &Health) {
    let mut parts: BTreeMap<Serial, Part<'_>> = BTreeMap::new();
    for ((serial, _), written) in &batch.files {
        let Some(filling) = written.file.version().filling() else { continue };
        let part = parts.entry(*serial).or_insert_with(|| Part {
            version: written.file.version().clone(),
            since: filling.resident.moment(),
            files: Vec::new(),
        });
        part.files.push(written);
    }
    let mut well = batch.failed_syncs == health.failed_syncs();
    if well {
        let is_large = batch.files.len() > FILES_MAX;
        let synced = if is_large { disk.sync(Barrier::Everything) } else { Ok(()) };
        let synced = synced.and_then(|()| parts.values().try_for_each(|part| part.sync(!is_large)));
        well = synced.inspect_err(|error| health.sync_failed(error)).is_ok();
    }
    for part in parts.values_mut() {
        well = (if well { part.commit(health) } else { part.fail(health) }) && well;
        part.version.note_residency();
    }
    // To mark zeros takes no room.
    if well && batch.written_blocks > 0 {
        health.wrote(batch.refusals, disk);
    }
}

impl Part<'_> {
    /// Sees that its files are in the store still, for what is in a deleted one is forgotten here, too. If `each` is to
    /// be synced, syncs their data and the hash pages that came with them.
    fn sync(&self, each: bool) -> io::Result<()> {
        for written in &self.files {
            match written.file.whole_backing() {
                Ok(backing) if each => backing.sync()?,
                Ok(_) => {}
                Err(error) if is_lost(&error) && written.file.remake(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if each { self.version.sync_pages() } else { Ok(()) }
    }

    /// Makes the blocks durable; whether that went well.
    fn commit(&mut self, health: &Health) -> bool {
        let Some(filling) = self.version.filling() else { return true };
        let blocks: Vec<(FileIndex, Vec<u64>)> =
            self.files.iter().map(|written| (written.file.index(), written.blocks.clone())).collect();
        loop {
            match filling.resident.commit(&blocks, self.since) {
                Ok(Committed::Durable) => return true,
                Ok(Committed::Outdated) => {
                    // A block may have been forgotten and written again since its data were synced.
                    self.since = filling.resident.moment();
                    if let Err(error) = self.sync(true) {
                        health.sync_failed(&error);
                        return self.fail(health);
                    }
                }
                Err(error) => {
                    health.failed("writing which blocks are here", &error);
                    return self.fail(health);
                }
            }
        }
    }

    /// After a failed sync nobody knows what is on the disk: all of the batch is forgotten.
    fn fail(&self, health: &Health) -> bool {
        let Some(filling) = self.version.filling() else { return false };
        for written in &self.files {
            for block in &written.blocks {
                let cleared = filling.resident.clear(written.file.index(), *block..*block + 1);
                written.file.unmark_zeros(&(*block..*block + 1));
                if let Err(error) = cleared {
                    health.failed("forgetting a block", &error);
                }
            }
        }
        false
    }
}

/// Lets go of the page cache of what is on the disk: the mount's own pages, or nobody, want it.
fn forget(batch: &mut Batch) {
    for written in batch.files.values_mut() {
        written.blocks.sort_unstable();
        for run in written.blocks.chunk_by(|a, b| *b <= *a + 1) {
            advise(&written.file, run[0], run[run.len() - 1] + 1 - run[0]);
        }
    }
}

fn advise(file: &File, first: u64, count: u64) {
    let Ok(backing) = file.backing() else { return };
    let Some(fd) = backing.fd() else { return };
    let (offset, len) = ((first * BLOCK_BYTES) as i64, (count * BLOCK_BYTES) as i64);
    // Only advice: what the kernel makes of it is its own affair.
    let _ = posix_fadvise(fd, offset, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}
