//! Reading everything back: every resident block of a version from the disk, compared with the manifest.
//!
//! What does not match is forgotten, so that the next reader has it from a source and it is written anew. Where
//! readers go past the daemon it is fetched at once.

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use icbd_image::{BLOCK_BYTES, Hash, PAGE_BLOCKS, Root, VersionId};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::CacheError;
use crate::core::Core;
use crate::disk::DiskFile;
use crate::file::{File, is_lost};
use crate::version::Version;

/// Blocks read in one go, one on a thread at a time: 1 MiB.
pub(crate) const STRIDE_BLOCKS: u64 = 16;

/// How fast the disk is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// At most; `None`: as fast as it can.
    pub bytes_per_second: Option<NonZeroU64>,
}

impl Pace {
    /// Waits as long as reading so many blocks is to take.
    pub(crate) async fn wait(self, blocks: u64) {
        if let Some(rate) = self.bytes_per_second {
            tokio::time::sleep(Duration::from_secs_f64((blocks * BLOCK_BYTES) as f64 / rate.get() as f64)).await;
        }
    }
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// What a verification found.
#[derive(Debug, Clone)]
pub struct VerifyReport {
    pub version: VersionId,
    pub root: Root,
    /// Blocks read from the disk and compared; what is not here is not among them.
    pub blocks_checked: u64,
    /// Those that the version has.
    pub blocks_all: u64,
    /// Those that were not what they should be; they are forgotten, and fetched again when read.
    pub bad: Vec<BadBlock>,
    /// Blocks that were here until somebody took the whole tree away, and have not come again.
    pub lost_blocks: u64,
    pub elapsed: Duration,
}

/// A block that was not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadBlock {
    pub path: String,
    pub block: u64,
}

impl Core {
    /// What it found, and the blocks that are forgotten since.
    pub(crate) async fn verify(
        self: &Arc<Core>,
        id: &VersionId,
        pace: Pace,
        mut progress: impl FnMut(VerifyProgress) + Send,
    ) -> Result<(VerifyReport, Vec<(Arc<File>, u64)>), CacheError> {
        let started = Instant::now();
        let view = self.view();
        let version = self.version(view.usable(id)?.serial()).await?;
        version.prepare().await?;
        let lost_blocks = self.losses.of_tree(&version);
        self.writeback.flush().await;
        let (total_bytes, blocks_all) =
            (version.residency().resident_bytes, version.residency().total_bytes / BLOCK_BYTES);
        self.see_to_head(&version).await?;
        let (mut checked, mut bad, mut spoilt) = (0, Vec::new(), Vec::new());
        for node in version.head().files().filter(|node| node.size() > 0) {
            let file = version.file(node.index())?;
            let path = version.tree().path(node.index()).display().to_string();
            let looked = file.clone();
            let lost = self.disk_read(move || looked.lost_blocks()).await?;
            checked += lost.len() as u64;
            spoilt.extend(lost.iter().map(|block| (file.clone(), *block)));
            bad.extend(lost.into_iter().map(|block| BadBlock { path: path.clone(), block }));
            for start in (0..file.blocks()).step_by(PAGE_BLOCKS as usize) {
                let blocks = start..file.blocks().min(start + PAGE_BLOCKS);
                let here = file.here_count(blocks.clone());
                if here == 0 {
                    continue;
                }
                let hashes = file.patient_hashes(blocks.clone()).await?;
                pace.wait(here).await;
                let wrong = self.verify_page(&file, blocks, &hashes).await?;
                file.mend_for_passthrough(&wrong).await;
                spoilt.extend(wrong.iter().map(|block| (file.clone(), *block)));
                bad.extend(wrong.into_iter().map(|block| BadBlock { path: path.clone(), block }));
                checked += here;
                progress(VerifyProgress { done_bytes: (checked * BLOCK_BYTES).min(total_bytes), total_bytes });
            }
        }
        version.note_residency();
        let root = version.root();
        let report = VerifyReport {
            version: id.clone(),
            root,
            blocks_checked: checked,
            blocks_all,
            bad,
            lost_blocks,
            elapsed: started.elapsed(),
        };
        Ok((report, spoilt))
    }

    /// Writes the manifest's head anew if what is kept of it is not what it was.
    async fn see_to_head(self: &Arc<Core>, version: &Arc<Version>) -> Result<(), CacheError> {
        let (core, version) = (self.clone(), version.clone());
        self.blocking(move || {
            if core.head_on_disk(version.root()).is_none() {
                tracing::warn!(version = %version.id(), "its manifest was not kept as it should be: it is written anew");
                core.keep_head(version.head());
            }
        })
        .await
    }

    async fn verify_page(
        self: &Arc<Core>,
        file: &Arc<File>,
        blocks: Range<u64>,
        hashes: &[Hash],
    ) -> Result<Vec<u64>, CacheError> {
        let mut bad = Vec::new();
        for start in blocks.clone().step_by(STRIDE_BLOCKS as usize) {
            let stride = start..blocks.end.min(start + STRIDE_BLOCKS);
            let known = hashes[(start - blocks.start) as usize..(stride.end - blocks.start) as usize].to_vec();
            let file = file.clone();
            bad.extend(self.disk_read(move || file.wrong_blocks(stride, &known)).await?);
        }
        Ok(bad)
    }
}

/// Has the disk asked at the next read, not the page cache. Only advice: dirty pages stay, and were checked before.
pub(crate) fn drop_pages(file: &dyn DiskFile, blocks: &Range<u64>) {
    if let Some(fd) = file.fd() {
        let (offset, len) = ((blocks.start * BLOCK_BYTES) as i64, ((blocks.end - blocks.start) * BLOCK_BYTES) as i64);
        let _ = posix_fadvise(fd, offset, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

impl File {
    /// Those blocks that were called resident and whose file is lost; it is made anew. Blocks.
    fn lost_blocks(self: &Arc<Self>) -> Vec<u64> {
        let Err(error) = self.whole_backing() else { return Vec::new() };
        if !is_lost(&error) {
            return Vec::new();
        }
        let blocks = (0..self.blocks()).filter(|block| self.is_readable(*block..*block + 1)).collect();
        tracing::error!(file = self.shown(), %error, "a file of the store is not what it was: it is forgotten");
        self.remake(&error);
        blocks
    }

    /// Those blocks that are called resident and are not what their hashes say; they are forgotten. Blocks.
    fn wrong_blocks(self: &Arc<Self>, blocks: Range<u64>, hashes: &[Hash]) -> Vec<u64> {
        if let Ok(backing) = self.backing() {
            drop_pages(&*backing, &blocks);
        }
        let mut wrong = Vec::new();
        for (block, hash) in blocks.zip(hashes) {
            if let Err(error) = self.check_block(block, hash) {
                tracing::error!(file = self.shown(), block, %error, "a block on the disk is not what it was: it is forgotten");
                self.damaged(block..block + 1, &error);
                wrong.push(block);
            }
        }
        wrong
    }
}
