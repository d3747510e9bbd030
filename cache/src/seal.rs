//! Sealing: a version that is complete becomes one that never changes, verified block for block as it lies on the disk.
//!
//! A sealed version is what was published, with all its names, links, owners and modes: it can be exported, cloned or sent
//! without this daemon. Its readers notice nothing.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use icbd_image::{BLOCK_BYTES, Hash, ImageName, PAGE_BLOCKS, Serial, VersionId};

use crate::catalogue::marks;
use crate::core::Core;
use crate::disk::{DiskFile, Missing};
use crate::file::{File, compare};
use crate::filling::Frozen;
use crate::verify::{Pace, STRIDE_BLOCKS, VerifyProgress, drop_pages};
use crate::version::{Residency, Version};
use crate::{CacheError, layout};

/// What a block is that was found spoilt can be mended and tried again; a disk that spoils more than that is to be replaced.
const ATTEMPTS: u32 = 3;

/// What sealing a version took.
#[derive(Debug, Clone)]
pub struct SealReport {
    pub version: VersionId,
    /// When it was sealed, also if that was before.
    pub since: SystemTime,
    /// Whether it was sealed already.
    pub was_sealed: bool,
    pub blocks_checked: u64,
    /// Blocks that were not what they should be, and were fetched anew.
    pub mended: u64,
    pub elapsed: Duration,
    /// Of this, what the last step took, during which the version was the one or the other.
    pub freezing: Duration,
}

impl Core {
    /// Seals a version that is complete. Readers may go on.
    pub(crate) async fn seal(
        self: &Arc<Core>,
        id: &VersionId,
        pace: Pace,
        mut progress: impl FnMut(VerifyProgress) + Send,
    ) -> Result<SealReport, CacheError> {
        let (started, now) = (Instant::now(), SystemTime::now());
        let version = self.version(self.view().usable(id)?.serial()).await?;
        let _turn = self.sealing.acquire().await.map_err(|_| CacheError::Closed)?;
        version.prepare().await?;
        let mut report = SealReport {
            version: id.clone(),
            since: now,
            was_sealed: false,
            blocks_checked: 0,
            mended: 0,
            elapsed: Duration::ZERO,
            freezing: Duration::ZERO,
        };
        for _ in 0..ATTEMPTS {
            if let Some(since) = self.sealed_since(version.serial()) {
                return Ok(SealReport {
                    since,
                    was_sealed: report.freezing.is_zero(),
                    elapsed: started.elapsed(),
                    ..report
                });
            }
            self.writeback.flush().await;
            if !version.is_complete() {
                let held = version.residency();
                return Err(CacheError::Refused(format!(
                    "{id} is not complete: {} of {} MiB are here; `icbd prefetch add {id} --all --wait` fetches the rest",
                    held.durable_bytes >> 20,
                    held.total_bytes >> 20
                )));
            }
            let tried = self.try_seal(&version, pace, now, &mut report, &mut progress).await;
            // What became of it: the version, or nothing.
            let of = version.clone();
            let removed = self.blocking(move || of.core().disk.remove(&layout::sealing(of.id()))).await?;
            removed.map_err(|error| cannot_seal(&version, error))?;
            tried?;
        }
        match self.sealed_since(version.serial()) {
            Some(since) => Ok(SealReport { since, elapsed: started.elapsed(), ..report }),
            None => Err(CacheError::Refused(format!(
                "{id} could not be sealed: blocks of it were forgotten or spoilt again and again; the log says which"
            ))),
        }
    }

    async fn try_seal(
        self: &Arc<Core>,
        version: &Arc<Version>,
        pace: Pace,
        now: SystemTime,
        report: &mut SealReport,
        progress: &mut (impl FnMut(VerifyProgress) + Send),
    ) -> Result<Frozen, CacheError> {
        let of = version.clone();
        let draft = self.blocking(move || of.filled()?.draft(&of, now)).await?;
        let draft = draft.map_err(|error| cannot_seal(version, error))?;
        let total_bytes = version.residency().total_bytes;
        let mut done = 0;
        for node in version.head().files().filter(|node| node.size() > 0) {
            let file = version.file(node.index())?;
            let path = layout::sealing(version.id()).join(version.tree().path(node.index()));
            let disk = self.disk.clone();
            let drafted = self.blocking(move || disk.open(&path, Missing::Fail)).await?;
            let drafted = drafted.map_err(|error| cannot_seal(version, error))?;
            for start in (0..file.blocks()).step_by(PAGE_BLOCKS as usize) {
                let blocks = start..file.blocks().min(start + PAGE_BLOCKS);
                let hashes = file.patient_hashes(blocks.clone()).await?;
                if version.filling().is_none_or(|filling| !filling.is_as(draft)) {
                    return Ok(Frozen::Outdated);
                }
                let spoilt = self.compare(&file, &drafted, blocks.clone(), &hashes, pace).await?;
                done += blocks.end - blocks.start;
                progress(VerifyProgress { done_bytes: done * BLOCK_BYTES, total_bytes });
                report.mended += spoilt.len() as u64;
                if !spoilt.is_empty() {
                    file.fetch_again(&spoilt).await?;
                }
            }
        }
        report.blocks_checked = done;
        let (of, begun) = (version.clone(), Instant::now());
        let frozen = self.blocking(move || of.filled()?.freeze(&of, draft)).await?;
        report.freezing = begun.elapsed();
        let frozen = frozen.map_err(|error| cannot_seal(version, error))?;
        version.note_residency();
        Ok(frozen)
    }

    /// Those blocks of a file's draft that are not what their hashes say; they are forgotten.
    async fn compare(
        self: &Arc<Core>,
        file: &Arc<File>,
        drafted: &Arc<dyn DiskFile>,
        blocks: Range<u64>,
        hashes: &[Hash],
        pace: Pace,
    ) -> Result<Vec<u64>, CacheError> {
        let mut spoilt = Vec::new();
        for start in blocks.clone().step_by(STRIDE_BLOCKS as usize) {
            let stride = start..blocks.end.min(start + STRIDE_BLOCKS);
            let known = hashes[(start - blocks.start) as usize..(stride.end - blocks.start) as usize].to_vec();
            let (file, drafted) = (file.clone(), drafted.clone());
            pace.wait(stride.end - stride.start).await;
            spoilt.extend(self.disk_read(move || spoilt_blocks(&file, &*drafted, stride, &known)).await?);
        }
        Ok(spoilt)
    }

    /// Looks which versions are sealed: there are few, and it is known without opening them. Blocks.
    pub(crate) fn find_sealed(&self) -> io::Result<()> {
        let view = self.view();
        // Nothing that was being sealed outlives a start.
        if let Err(error) = self.disk.remove(Path::new(layout::SEALING)) {
            tracing::warn!(%error, "what was being sealed could not be removed");
        }
        for image in
            self.disk.names(Path::new(layout::VERSIONS))?.iter().filter_map(|name| name.parse::<ImageName>().ok())
        {
            let numbers = self.disk.names(&layout::sealed_image(&image))?;
            for number in numbers.iter().filter_map(|name| name.parse().ok()) {
                let id = VersionId { image: image.clone(), number };
                let since = marks::read_sealed(&*self.disk, &layout::sealed(&id));
                let (Some(record), Some(since)) =
                    (view.known_image(&id.image).and_then(|image| image.version(id.number)), since)
                else {
                    continue;
                };
                self.sealed.lock().expect("no panic under this lock").insert(record.serial(), since);
                // A kill may have come before it was noted; to the byte it is known once it is opened.
                let all = record.data_bytes.next_multiple_of(BLOCK_BYTES);
                let whole = Residency { total_bytes: all, resident_bytes: all, durable_bytes: all };
                self.held.lock().expect("no panic under this lock").entry(record.serial()).or_insert(whole);
            }
        }
        Ok(())
    }

    /// Since when a version is sealed.
    pub(crate) fn sealed_since(&self, serial: Serial) -> Option<SystemTime> {
        self.sealed.lock().expect("no panic under this lock").get(&serial).copied()
    }
}

fn spoilt_blocks(file: &Arc<File>, drafted: &dyn DiskFile, blocks: Range<u64>, hashes: &[Hash]) -> Vec<u64> {
    drop_pages(drafted, &blocks);
    let mut spoilt = Vec::new();
    for (block, hash) in blocks.zip(hashes) {
        let Err(error) = compare(drafted, file.size(), block, hash) else { continue };
        tracing::error!(file = file.shown(), block, %error, "a block on the disk is not what it was: it is forgotten");
        file.damaged(block..block + 1, &error);
        spoilt.push(block);
    }
    spoilt
}

impl Version {
    fn filled(&self) -> io::Result<&crate::filling::Filling> {
        self.filling().ok_or_else(|| io::Error::other("its version has no tree"))
    }
}

fn cannot_seal(version: &Version, error: io::Error) -> CacheError {
    match error.kind() {
        io::ErrorKind::Unsupported => CacheError::CannotShare(version.id().clone()),
        _ => CacheError::disk("seal", layout::sealed(version.id()))(error),
    }
}
