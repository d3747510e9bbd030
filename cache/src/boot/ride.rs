//! Fetching ahead of a boot that is known.

use std::sync::Arc;

use icbd_fetch::Urgency;
use icbd_image::BootRun;
use tokio::sync::Mutex;

use crate::CacheError;
use crate::prefetch::{Filler, Piece};
use crate::version::Version;

/// So many blocks of the order are fetched by their place instead: a boot jumps about, and fewer and longer
/// requests are worth more than the exact order of 2 MiB.
const CHUNK_BLOCKS: u64 = 32;

/// Fetches what a boot reads and is not here, in one round over the sources.
pub(super) async fn ride(version: &Arc<Version>, set: &[BootRun]) -> Result<(), CacheError> {
    let flying = Mutex::default();
    let filler = Filler { core: version.core(), urgency: Urgency::Profile, toll: None, flying: &flying };
    filler.fetch(version, pieces(set).into_iter()).await
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

fn append(pieces: &mut Vec<Piece>, mut chunk: Vec<(icbd_image::FileIndex, u64, u64)>) {
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
    use icbd_image::FileIndex;

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
