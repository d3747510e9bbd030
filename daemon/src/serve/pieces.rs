//! Runs of blocks, encoded piece by piece: each is made while the one before is sent, so that a slow client holds two
//! pieces of memory and no thread.
//!
//! Pieces end on a grid of 16, so that requests which begin at different blocks share what was encoded.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use icbd_image::Run;
use icbd_wire::FRAME_BLOCKS_MAX;
use tokio::task::JoinHandle;

use super::answer::{self, OCTETS};

/// Whoever has the blocks of a run.
pub(super) trait Pack: Clone + Send + 'static {
    type Error: std::error::Error + Send + Sync + 'static;

    /// Whether all of a run is here: it is known before any of it is sent. Blocks.
    fn look(&self, run: Run) -> Result<(), Self::Error>;

    /// All frames of a part of it. Blocks.
    fn pack(&self, part: Run) -> Result<Bytes, Self::Error>;

    fn is_sent(&self, part: Run, bytes: &Bytes);

    /// An answer breaks off.
    fn failed(&self, part: Run, error: &Self::Error);

    /// What made a part died.
    fn died(&self, why: tokio::task::JoinError) -> Self::Error;
}

/// The answer to a request for `run`, which begins with `first`. That is read before it begins, so that what is not there,
/// or damaged, is an error status and not a body that breaks off.
pub(super) async fn answer<P: Pack>(
    packer: P,
    run: Run,
    (first, rest): (Run, Option<Run>),
    tag: &str,
    is_head: bool,
) -> Result<Response, P::Error> {
    let maker = packer.clone();
    let read_first = move || {
        maker.look(run)?;
        if is_head { Ok(Bytes::new()) } else { maker.pack(first) }
    };
    let bytes = tokio::task::spawn_blocking(read_first).await.unwrap_or_else(|why| Err(packer.died(why)))?;
    if is_head {
        return Ok(answer::ok(Body::empty(), tag, OCTETS));
    }
    packer.is_sent(first, &bytes);
    if rest.is_none() {
        return Ok(answer::ok(Body::from(bytes), tag, OCTETS));
    }
    let mut pieces = Pieces { packer, ready: Some(bytes), under_way: None, rest };
    pieces.begin_next();
    Ok(answer::ok(Body::from_stream(stream::unfold(pieces, Pieces::next)), tag, OCTETS))
}

/// Frames that are being made.
type Making<E> = JoinHandle<Result<Bytes, E>>;

/// The pieces of an answer.
struct Pieces<P: Pack> {
    packer: P,
    ready: Option<Bytes>,
    under_way: Option<(Run, Making<P::Error>)>,
    rest: Option<Run>,
}

impl<P: Pack> Pieces<P> {
    async fn next(mut self) -> Option<(Result<Bytes, P::Error>, Self)> {
        if let Some(bytes) = self.ready.take() {
            return Some((Ok(bytes), self));
        }
        let (run, making) = self.under_way.take()?;
        let bytes = making.await.unwrap_or_else(|why| Err(self.packer.died(why)));
        match &bytes {
            Ok(bytes) => {
                self.packer.is_sent(run, bytes);
                self.begin_next();
            }
            Err(error) => self.packer.failed(run, error),
        }
        Some((bytes, self))
    }

    fn begin_next(&mut self) {
        let Some(rest) = self.rest.take() else { return };
        let (run, rest) = split_on_grid(rest);
        self.rest = rest;
        let packer = self.packer.clone();
        self.under_way = Some((run, tokio::task::spawn_blocking(move || packer.pack(run))));
    }
}

/// The first block, for which somebody waits, and the others.
pub(super) fn split_first(run: Run) -> (Run, Option<Run>) {
    split_at(run, 1)
}

/// The blocks up to the next place of the grid, and the others.
pub(super) fn split_on_grid(run: Run) -> (Run, Option<Run>) {
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
        let (first, mut rest) = split_first(run);
        let mut pieces = vec![first.blocks()];
        while let Some(run) = rest {
            let (now, others) = split_on_grid(run);
            pieces.push(now.blocks());
            rest = others;
        }
        assert_eq!(pieces, [5..6, 6..16, 16..32, 32..37]);
        assert_eq!(split_first(Run { count: 1, ..run }).1, None);
    }
}
