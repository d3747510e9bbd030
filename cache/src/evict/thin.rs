//! Making room in a version that is needed: what no boot reads and was read longest ago goes, segment by segment.
//!
//! A version that is complete stays whole, or goes whole: somebody wanted all of it here. So does one that is pinned, the
//! fallback, or the aim of a prefetch order. Of any other, what a scan left behind must not keep out what boots need.

use std::ops::Range;
use std::sync::Arc;

use icbd_image::{BLOCK_BYTES, BootRun};

use crate::CacheError;
use crate::cache::Cache;
use crate::core::Core;
use crate::disk::Barrier;
use crate::file::{File, SEGMENT_BLOCKS};
use crate::ledger;
use crate::version::Version;

/// What was read so many seconds ago, or later, stays: who lets that go has it fetched again at once.
const HOT_SECONDS: u32 = 60;

/// A part of a file that is let go of as a whole, but for what boots read.
#[derive(Debug)]
struct Segment {
    file: Arc<File>,
    /// When something in it was read last, in seconds since 1970; 0 if nobody knows.
    read: u32,
    /// What would go: neither holes nor what boots read.
    goes: Vec<Range<u64>>,
    /// What boots read of it, and is here.
    stays: Vec<Range<u64>>,
}

impl Segment {
    fn bytes(&self) -> u64 {
        self.goes.iter().map(|run| run.end - run.start).sum::<u64>() * BLOCK_BYTES
    }
}

impl Cache {
    /// Lets go of parts of versions that are needed, but neither complete nor to be so, until so much room is free. How
    /// many bytes that freed, as the file system says.
    ///
    /// To be called only while it is known what programs read past the daemon.
    pub async fn thin(&self, wanted_bytes: u64) -> Result<u64, CacheError> {
        let core = self.core();
        let ordered = self.orders().ordered();
        let mut segments = Vec::new();
        for held in core.status(Vec::new()).versions {
            let is_kept = held.complete || held.fallback || held.pin.is_some() || ordered.contains(&held.serial);
            if is_kept || held.residency.resident_bytes == 0 {
                continue;
            }
            // One whose manifest cannot be had now keeps no other from making room.
            let Ok(version) = core.version_once(held.serial).await else { continue };
            if version.open_existing().await && version.filling().is_some_and(|filling| !filling.is_sealed()) {
                let boot = core.boot_set(held.serial).await?;
                segments.extend(cold_segments(&version, &boot).await?);
            }
        }
        segments.sort_by_key(|segment| (segment.read, std::cmp::Reverse(segment.bytes())));
        let mut segments = segments.into_iter().peekable();
        let mut freed = 0;
        while let Some(room) = self.room().await?
            && room.free_bytes < wanted_bytes
            && segments.peek().is_some()
        {
            let (mut batch, mut expected) = (Vec::new(), room.free_bytes);
            while expected < wanted_bytes
                && let Some(segment) = segments.next()
            {
                expected += segment.bytes();
                batch.push(segment);
            }
            let disk = core.clone();
            freed += core.blocking(move || disk.let_segments_go(&batch)).await??;
        }
        Ok(freed)
    }
}

impl Core {
    fn let_segments_go(&self, segments: &[Segment]) -> Result<u64, CacheError> {
        let failed = |error| CacheError::disk("make room in", "the store")(error);
        let free = || self.disk.space().map_or(0, |space| space.free_bytes);
        // btrfs counts what was written when it commits.
        self.disk.sync(Barrier::Everything).map_err(failed)?;
        let before = free();
        for segment in segments {
            segment.file.let_runs_go(&segment.goes, &segment.stays).map_err(failed)?;
            segment.file.version().note_residency();
        }
        self.disk.sync(Barrier::Everything).map_err(failed)?;
        self.disk.settle().map_err(failed)?;
        Ok(free().saturating_sub(before))
    }
}

/// The segments of a version in which something is held that may go.
async fn cold_segments(version: &Arc<Version>, boot: &[BootRun]) -> Result<Vec<Segment>, CacheError> {
    let (mut segments, now) = (Vec::new(), ledger::now_seconds());
    let Some(filling) = version.filling() else { return Ok(segments) };
    for node in version.head().files() {
        if filling.resident.readable_count(node.index(), 0..node.blocks()) == 0 {
            continue;
        }
        let file = version.file(node.index())?;
        let boot: Vec<Range<u64>> = boot
            .iter()
            .filter(|run| run.file == node.index())
            .map(|run| run.first..run.first + u64::from(run.count))
            .collect();
        for first in (0..node.blocks()).step_by(SEGMENT_BLOCKS as usize) {
            let blocks = first..node.blocks().min(first + SEGMENT_BLOCKS);
            let read = file.read_last(first);
            if now.saturating_sub(read) < HOT_SECONDS || file.here_count(blocks.clone()) == 0 {
                continue;
            }
            // Where the hashes are not here and no source has them now, holes cannot be told from what takes room.
            let Ok(hashes) = file.hashes(blocks.clone()).await else { continue };
            let mut segment = Segment { file: file.clone(), read, goes: Vec::new(), stays: Vec::new() };
            for (block, hash) in blocks.zip(hashes) {
                if hash.is_zero() || !file.is_readable(block..block + 1) {
                    continue;
                }
                let is_boot = boot.iter().any(|run| run.contains(&block));
                let runs = if is_boot { &mut segment.stays } else { &mut segment.goes };
                match runs.last_mut() {
                    Some(run) if run.end == block => run.end += 1,
                    _ => runs.push(block..block + 1),
                }
            }
            if !segment.goes.is_empty() {
                segments.push(segment);
            }
        }
    }
    Ok(segments)
}
