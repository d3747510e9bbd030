//! Runs of blocks, encoded piece by piece: the demanded block first and alone, then up to 16 at a time.
//!
//! Pieces end on a grid of 16, so that requests which begin at different blocks share what was encoded.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use icbd_image::Run;
use icbd_master::{MasterError, Repository};
use icbd_wire::{Codec, FRAME_BLOCKS_MAX};

use super::answer::{self, OCTETS};
use super::routes::{Shared, read};

/// The answer to a request for `run`. Its first piece is read before it begins, so that what is not
/// there, or damaged, is an error status and not a body that breaks off.
pub(super) async fn answer(shared: &Shared, run: Run, codec: Codec, tag: &str) -> Result<Response, MasterError> {
    let (first, rest) = split(run);
    let encode = move |repository: &Arc<Repository>| {
        // All of the run must be there before any of it is sent.
        repository.blocks(run)?;
        repository.encoded_run(first, codec)
    };
    let bytes = read(shared, encode).await?;
    count(shared, first, &bytes);
    let Some(rest) = rest else {
        return Ok(answer::ok(Body::from(bytes), tag, OCTETS));
    };
    let begin = Step { shared: shared.clone(), codec, ready: Some(bytes), rest: Some(rest) };
    Ok(answer::ok(Body::from_stream(stream::unfold(begin, Step::next)), tag, OCTETS))
}

/// Where the body of an answer is.
struct Step {
    shared: Shared,
    codec: Codec,
    ready: Option<Bytes>,
    rest: Option<Run>,
}

impl Step {
    async fn next(mut self) -> Option<(Result<Bytes, MasterError>, Step)> {
        if let Some(bytes) = self.ready.take() {
            return Some((Ok(bytes), self));
        }
        let (now, rest) = split_on_grid(self.rest?);
        let bytes = piece(&self.shared, now, self.codec).await;
        if let Err(error) = &bytes {
            tracing::error!(root = %now.root.short(), file = %now.file, first = now.first, %error, "an answer breaks off");
        }
        self.rest = rest.filter(|_| bytes.is_ok());
        Some((bytes, self))
    }
}

async fn piece(shared: &Shared, run: Run, codec: Codec) -> Result<Bytes, MasterError> {
    let bytes = read(shared, move |repository| repository.encoded_run(run, codec)).await?;
    count(shared, run, &bytes);
    Ok(bytes)
}

fn count(shared: &Shared, run: Run, bytes: &Bytes) {
    shared.sent.blocks(run.count.into());
    shared.sent.bytes(bytes.len());
}

/// The first block, for which somebody waits, and the others.
fn split(run: Run) -> (Run, Option<Run>) {
    split_at(run, 1)
}

/// The blocks up to the next place of the grid, and the others.
fn split_on_grid(run: Run) -> (Run, Option<Run>) {
    let grid = FRAME_BLOCKS_MAX as u32;
    split_at(run, grid - (run.first % u64::from(grid)) as u32)
}

fn split_at(run: Run, count: u32) -> (Run, Option<Run>) {
    if count >= run.count {
        return (run, None);
    }
    let rest = Run { first: run.first + u64::from(count), count: run.count - count, ..run };
    (Run { count, ..run }, Some(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use icbd_image::{FileIndex, Root};

    #[test]
    fn pieces_cover_a_run_and_end_on_the_grid() {
        let run = Run { root: Root::of(b""), file: FileIndex::ROOT, first: 5, count: 32 };
        let (first, mut rest) = split(run);
        let mut pieces = vec![first.blocks()];
        while let Some(run) = rest {
            let (now, others) = split_on_grid(run);
            pieces.push(now.blocks());
            rest = others;
        }
        assert_eq!(pieces, [5..6, 6..16, 16..32, 32..37]);
        assert_eq!(split(Run { count: 1, ..run }).1, None);
    }
}
