//! Runs of blocks, encoded piece by piece: the demanded block first and alone, then up to 16 at a time.
//!
//! Pieces end on a grid of 16, so that requests which begin at different blocks share what was encoded.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use icbd_image::{Root, Run};
use icbd_master::{MasterError, Repository};
use icbd_wire::{Codec, FRAME_BLOCKS_MAX};

use super::answer::{self, Conditions, OCTETS};
use super::routes::{Reading, Shared, begin, read};

/// The answer to a request for `run`. Its first piece is read before it begins, so that what is not
/// there, or damaged, is an error status and not a body that breaks off.
pub(super) async fn answer(
    shared: &Shared,
    run: Run,
    codec: Codec,
    tag: &str,
    conditions: &Conditions,
) -> Result<Response, MasterError> {
    // The first block, for which somebody waits, and the others.
    let pieces = split_at(run, 1);
    let check = conditions.check();
    answer_with(shared, run, pieces, move |repository, run| repository.encoded_run(run, codec, check), tag, conditions)
        .await
}

/// The same against a version that the receiver has; nobody waits for a block of it.
pub(super) async fn answer_matched(
    shared: &Shared,
    run: Run,
    base: Root,
    tag: &str,
    conditions: &Conditions,
) -> Result<Response, MasterError> {
    let pack = move |repository: &Arc<Repository>, run| repository.matched_run(run, base);
    answer_with(shared, run, split_on_grid(run), pack, tag, conditions).await
}

async fn answer_with<P>(
    shared: &Shared,
    run: Run,
    (first, rest): (Run, Option<Run>),
    pack: P,
    tag: &str,
    conditions: &Conditions,
) -> Result<Response, MasterError>
where
    P: Fn(&Arc<Repository>, Run) -> Result<Bytes, MasterError> + Copy + Send + 'static,
{
    let is_head = conditions.is_head;
    let read_first = move |repository: &Arc<Repository>| {
        // All of the run must be there before any of it is sent.
        repository.blocks(run)?;
        if is_head { Ok(Bytes::new()) } else { pack(repository, first) }
    };
    let bytes = read(shared, read_first).await?;
    if is_head {
        return Ok(answer::ok(Body::empty(), tag, OCTETS));
    }
    count(shared, first, &bytes);
    let Some(rest) = rest else {
        return Ok(answer::ok(Body::from(bytes), tag, OCTETS));
    };
    let mut pieces = Pieces { shared: shared.clone(), pack, ready: Some(bytes), under_way: None, rest: Some(rest) };
    pieces.begin_next();
    Ok(answer::ok(Body::from_stream(stream::unfold(pieces, Pieces::next)), tag, OCTETS))
}

/// The pieces of an answer. Each is made while the one before is sent, so two of them are in memory.
struct Pieces<P> {
    shared: Shared,
    pack: P,
    ready: Option<Bytes>,
    under_way: Option<(Run, Reading<Bytes>)>,
    rest: Option<Run>,
}

impl<P> Pieces<P>
where
    P: Fn(&Arc<Repository>, Run) -> Result<Bytes, MasterError> + Copy + Send + 'static,
{
    async fn next(mut self) -> Option<(Result<Bytes, MasterError>, Self)> {
        if let Some(bytes) = self.ready.take() {
            return Some((Ok(bytes), self));
        }
        let (run, reading) = self.under_way.take()?;
        let bytes = reading.end(&self.shared).await;
        match &bytes {
            Ok(bytes) => {
                count(&self.shared, run, bytes);
                self.begin_next();
            }
            Err(error) => {
                let what = format!("blocks from {} on of file {} of {}", run.first, run.file, run.root.short());
                self.shared.failed(&what, error);
            }
        }
        Some((bytes, self))
    }

    fn begin_next(&mut self) {
        let Some(rest) = self.rest.take() else { return };
        let (run, rest) = split_on_grid(rest);
        let pack = self.pack;
        self.rest = rest;
        self.under_way = Some((run, begin(&self.shared, move |repository| pack(repository, run))));
    }
}

fn count(shared: &Shared, run: Run, bytes: &Bytes) {
    shared.sent.blocks(run.count.into());
    shared.sent.bytes(bytes.len());
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
        let (first, mut rest) = split_at(run, 1);
        let mut pieces = vec![first.blocks()];
        while let Some(run) = rest {
            let (now, others) = split_on_grid(run);
            pieces.push(now.blocks());
            rest = others;
        }
        assert_eq!(pieces, [5..6, 6..16, 16..32, 32..37]);
        assert_eq!(split_at(Run { count: 1, ..run }, 1).1, None);
    }
}
