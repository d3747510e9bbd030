//! Blocks of a repository, packed by a codec or against a version that the receiver has.

use axum::response::Response;
use bytes::Bytes;
use icbd_image::{Root, Run};
use icbd_master::MasterError;
use icbd_wire::{Check, Codec};
use tokio::task::JoinError;

use super::answer::Conditions;
use super::pieces::{self, Pack, split_on_grid};
use super::routes::{Shared, died};

/// The blocks of the repository, each packed in one way.
#[derive(Clone)]
struct Stored {
    shared: Shared,
    way: Way,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    By(Codec, Check),
    /// Against a version that the receiver has.
    Against(Root),
}

/// The answer to a request for `run`.
pub(super) async fn answer(
    shared: &Shared,
    run: Run,
    codec: Codec,
    tag: &str,
    conditions: &Conditions,
) -> Result<Response, MasterError> {
    let stored = Stored { shared: shared.clone(), way: Way::By(codec, conditions.check()) };
    pieces::answer(stored, run, conditions.parts(run), tag, conditions.is_head).await
}

/// The same against a version that the receiver has; nobody waits for a block of it.
pub(super) async fn answer_matched(
    shared: &Shared,
    run: Run,
    base: Root,
    tag: &str,
    conditions: &Conditions,
) -> Result<Response, MasterError> {
    let stored = Stored { shared: shared.clone(), way: Way::Against(base) };
    pieces::answer(stored, run, split_on_grid(run), tag, conditions.is_head).await
}

impl Pack for Stored {
    type Error = MasterError;

    fn look(&self, run: Run) -> Result<(), MasterError> {
        self.shared.repository.blocks(run).map(drop)
    }

    fn pack(&self, part: Run) -> Result<Bytes, MasterError> {
        match self.way {
            Way::By(codec, check) => self.shared.repository.encoded_run(part, codec, check),
            Way::Against(base) => self.shared.repository.matched_run(part, base),
        }
    }

    fn is_sent(&self, part: Run, bytes: &Bytes) {
        self.shared.sent.blocks(part.count.into());
        self.shared.sent.bytes(bytes.len());
    }

    fn failed(&self, part: Run, error: &MasterError) {
        let what = format!("blocks from {} on of file {} of {}", part.first, part.file, part.root.short());
        self.shared.failed(&what, error);
    }

    fn died(&self, why: JoinError) -> MasterError {
        died(&self.shared.repository, why)
    }
}
