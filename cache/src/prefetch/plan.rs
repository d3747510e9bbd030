//! What an order means for one version: the pieces of its files to fetch, in their order.
//!
//! Three planners: the whole version, one file, and what a boot reads. A plan is made once all hashes of
//! its blocks are here, so that what is left of it is known to the byte.

mod boot;
mod disk;
mod metadata;

use std::ops::Range;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use icbd_image::{BLOCK_BYTES, FileIndex, PAGE_BLOCKS};

use super::fill::Filler;
use super::order::What;
use crate::CacheError;
use crate::version::{Residency, Version};

/// Hash pages that are asked for at once: fetch/ lets eight small requests travel at a time.
const PAGES_AT_ONCE: usize = 8;

/// Consecutive blocks of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) file: FileIndex,
    pub(crate) blocks: Range<u64>,
}

/// What is to be fetched of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Every file; not listed, for there may be millions.
    Whole,
    Pieces {
        pieces: Vec<Piece>,
        /// What is fetched instead of what was ordered, and why.
        note: Option<&'static str>,
    },
}

impl Plan {
    /// Finds out what is to be fetched. Asks the sources for hash pages, and for the little that has to be
    /// read to know more.
    pub(crate) async fn make(what: &What, version: &Arc<Version>, filler: &Filler<'_>) -> Result<Plan, CacheError> {
        let plan = match what {
            What::All => Plan::Whole,
            What::File(path) => {
                let file = version.head().resolve(path.as_bytes()).and_then(|index| version.file(index).ok());
                let absent = || CacheError::NoSuchFile { version: version.id().clone(), path: path.clone() };
                let file = file.ok_or_else(absent)?;
                Plan::Pieces { pieces: vec![Piece { file: file.index(), blocks: 0..file.blocks() }], note: None }
            }
            What::Boot => boot::plan(version, filler).await?,
        };
        plan.survey(version).await?;
        Ok(plan)
    }

    /// Has the hashes of all its blocks here: those of zeros count as resident from then on.
    async fn survey(&self, version: &Arc<Version>) -> Result<(), CacheError> {
        let pages = self.pieces(version).flat_map(|piece| {
            let Piece { file, blocks } = piece;
            let starts = (blocks.start..blocks.end).step_by(PAGE_BLOCKS as usize);
            starts.map(move |start| (file, start..blocks.end.min(start + PAGE_BLOCKS)))
        });
        let look = |(index, blocks): (FileIndex, Range<u64>)| async move {
            let file = version.file(index)?;
            if !file.is_readable(blocks.clone()) {
                file.hashes(blocks).await?;
            }
            Ok::<_, CacheError>(())
        };
        stream::iter(pages).map(look).buffer_unordered(PAGES_AT_ONCE).try_collect::<()>().await?;
        // Zeros are marked by the writer, after what it has to do already.
        version.core().writeback.flush().await;
        Ok(())
    }

    pub(crate) fn pieces<'a>(&'a self, version: &'a Arc<Version>) -> Box<dyn Iterator<Item = Piece> + Send + 'a> {
        match self {
            Plan::Whole => {
                let indices = (0..version.head().node_count()).filter_map(FileIndex::new);
                let files = indices.filter_map(|index| version.head().node(index));
                Box::new(
                    files
                        .filter(|node| node.blocks() > 0)
                        .map(|node| Piece { file: node.index(), blocks: 0..node.blocks() }),
                )
            }
            Plan::Pieces { pieces, .. } => Box::new(pieces.iter().cloned()),
        }
    }

    /// Makes anew what somebody took out of the store; how many files. An error is one that keeps blocks from being kept.
    pub(crate) async fn see_to_files(self: &Arc<Self>, version: &Arc<Version>) -> Result<u64, CacheError> {
        let (plan, of) = (self.clone(), version.clone());
        let look = move || {
            let mut last = None;
            let files = plan.pieces(&of).map(|piece| piece.file);
            of.see_to_files(files.filter(|file| last.replace(*file) != Some(*file)))
        };
        version.core().blocking(look).await?
    }

    /// How much of it is here, in bytes of its files.
    pub(crate) fn held(&self, version: &Version) -> Residency {
        let head = version.head();
        let bytes = match self {
            Plan::Whole => head.data_bytes(),
            Plan::Pieces { pieces, .. } => pieces
                .iter()
                .map(|Piece { file, blocks }| {
                    let size = head.node(*file).map_or(0, |node| node.size());
                    (blocks.end * BLOCK_BYTES).min(size).saturating_sub(blocks.start * BLOCK_BYTES)
                })
                .sum(),
        };
        self.residency(version).of(bytes)
    }

    /// How much of it is here, in bytes of whole blocks.
    pub(crate) fn residency(&self, version: &Version) -> Residency {
        let Plan::Pieces { pieces, .. } = self else { return version.residency() };
        let mut sum = Residency::default();
        for Piece { file, blocks } in pieces {
            sum.total_bytes += (blocks.end - blocks.start) * BLOCK_BYTES;
            if let Some(filling) = version.filling() {
                sum.resident_bytes += filling.resident.readable_count(*file, blocks.clone()) * BLOCK_BYTES;
                sum.durable_bytes += filling.resident.durable_count(*file, blocks.clone()) * BLOCK_BYTES;
            }
        }
        sum
    }

    pub(crate) fn note(&self) -> Option<&'static str> {
        match self {
            Plan::Whole => None,
            Plan::Pieces { note, .. } => *note,
        }
    }
}
