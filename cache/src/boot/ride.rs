//! Fetching ahead of a boot that is known.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use icbd_fetch::Urgency;
use icbd_image::{BootRun, FileIndex, PAGE_BLOCKS};
use tokio::sync::Mutex;

use crate::CacheError;
use crate::prefetch::{Filler, Piece};
use crate::version::Version;

/// So many blocks of the order are fetched by their place instead: a boot jumps about, and fewer and longer
/// requests are worth more than the exact order of 2 MiB.
const CHUNK_BLOCKS: u64 = 32;

/// Hash pages that are on their way at once, ahead of the blocks: nothing can be asked for without them, and each takes
/// a round trip.
const PAGES_AHEAD: usize = 2;

/// Fetches what a boot reads and is not here, in one round over the sources.
pub(super) async fn ride(version: &Arc<Version>, set: &[BootRun]) -> Result<(), CacheError> {
    let flying = Mutex::default();
    let filler = Filler { core: version.core(), urgency: Urgency::Profile, toll: None, flying: &flying };
    let pieces = pieces(set);
    // One that does not come is asked for again by whoever needs it, who says so.
    let ahead = stream::iter(pages(version, &pieces))
        .map(|(file, page)| version.page(file, page))
        .buffered(PAGES_AHEAD)
        .for_each(async |_| ());
    tokio::join!(ahead, filler.fetch(version, pieces.iter().cloned())).1
}

/// The hash pages of what is missing, in the order in which they are needed.
fn pages(version: &Arc<Version>, pieces: &[Piece]) -> Vec<(FileIndex, u64)> {
    let mut seen = HashSet::new();
    let is_missing =
        |piece: &&Piece| version.file(piece.file).is_ok_and(|file| !file.is_readable(piece.blocks.clone()));
    let is_paged = |file| version.head().node(file).is_some_and(|node| node.is_paged());
    let of_piece = |piece: &Piece| {
        let pages = piece.blocks.start / PAGE_BLOCKS..piece.blocks.end.div_ceil(PAGE_BLOCKS);
        let file = piece.file;
        pages.map(move |page| (file, page))
    };
    let missing = pieces.iter().filter(is_missing).filter(|piece| is_paged(piece.file));
    missing.flat_map(of_piece).filter(|page| seen.insert(*page)).collect()
}

/// The runs cut into chunks, each in order of place and with runs that touch made one.
fn pieces(set: &[BootRun]) -> Vec<Piece> {
    let (mut pieces, mut chunk, mut blocks) = (Vec::new(), Vec::new(), 0);
    for run in set {
        chunk.push((run.file, run.first, u64::from(run.count)));
        blocks += u64::from(run.count);
        if blocks >= CHUNK_BLOCKS {
            append(&mut pieces, std::mem::take(&mut chunk));
            blocks = 0;
        }
    }
    append(&mut pieces, chunk);
    pieces
}

fn append(pieces: &mut Vec<Piece>, mut chunk: Vec<(FileIndex, u64, u64)>) {
    chunk.sort_unstable();
    let from = pieces.len();
    for (file, first, count) in chunk {
        match pieces[from..].last_mut() {
            Some(last) if last.file == file && last.blocks.end == first => last.blocks.end += count,
            _ => pieces.push(Piece { file, blocks: first..first + count }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_keep_the_order_and_join_what_touches() {
        let file = FileIndex::new(3).unwrap();
        let run = |first, count| BootRun { file, first, count, after_ms: 0 };
        let piece = |blocks| Piece { file, blocks };
        assert_eq!(pieces(&[]), []);
        let set = [run(40, 8), run(100, 20), run(48, 4), run(32, 8), run(7, 1), run(8, 1)];
        assert_eq!(pieces(&set), [piece(40..52), piece(100..120), piece(7..9), piece(32..40)]);
    }
}
