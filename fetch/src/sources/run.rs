//! A run of blocks: the stream that goes on at the next source where one broke off.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use icbd_image::{Hash, Run, VerifiedBlock, block_len};
use icbd_wire::{Check, RUN_BLOCKS_MAX};
use tokio::time::Instant;

use super::Sources;
use super::gate::Leave;
use super::member::{Member, Permit, Travel};
use super::round::Round;
use crate::error::{FetchError, SourceError, Wanted};
use crate::source::{BlockRequest, BlockStream, RunRequest};

pub(super) fn stream(
    sources: Arc<Sources>,
    request: RunRequest,
    hashes: Vec<Hash>,
    leave: Option<Leave>,
) -> BoxStream<'static, Result<VerifiedBlock, FetchError>> {
    assert_eq!(hashes.len(), request.run.count as usize, "one hash for each block");
    let round = Round::default();
    let progress = Progress {
        sources,
        request,
        hashes,
        next: request.run.first,
        round,
        leave,
        check: Check::Receiver,
        open: None,
    };
    stream::try_unfold(progress, async |mut progress| {
        let block = progress.block().await?;
        Ok(block.map(|block| (block, progress)))
    })
    .boxed()
}

/// How far a run has come.
struct Progress {
    sources: Arc<Sources>,
    request: RunRequest,
    hashes: Vec<Hash>,
    /// The first block that was not given yet.
    next: u64,
    round: Round,
    /// For the next request.
    leave: Option<Leave>,
    /// Of the next request: once a block was wrong, its source looks as well.
    check: Check,
    open: Option<Open>,
}

/// A request that is being answered.
struct Open {
    member: Arc<Member>,
    blocks: BlockStream,
    /// The part of the run that was asked for.
    run: Run,
    started: Instant,
    bytes: u64,
    travel: Travel,
    leave: Leave,
    _permit: Permit,
}

impl Progress {
    /// The next verified block; `None` after the last.
    async fn block(&mut self) -> Result<Option<VerifiedBlock>, FetchError> {
        loop {
            let item = match &mut self.open {
                Some(open) => open.blocks.next().await,
                None if self.next == self.request.run.end() => return Ok(None),
                None => {
                    self.ask().await?;
                    continue;
                }
            };
            let checked = match item {
                Some(item) => item.and_then(|(block, bytes)| self.check(block, bytes)),
                None if self.open.as_ref().is_some_and(|open| open.run.end() == self.next) => {
                    self.close();
                    continue;
                }
                None => Err(SourceError::Interrupted(format!("it ended before block {}", self.next))),
            };
            match checked {
                Ok(block) => {
                    self.next += 1;
                    self.check = Check::Receiver;
                    self.round.progressed();
                    return Ok(Some(block));
                }
                Err(error) => self.fail(error).await,
            }
        }
    }

    /// Asks the best source for what is left, or for as much of it as that source can give.
    async fn ask(&mut self) -> Result<(), FetchError> {
        let end = self.request.run.end().min(self.next + u64::from(RUN_BLOCKS_MAX));
        let wanted = Run { first: self.next, count: (self.request.run.end() - self.next) as u32, ..self.request.run };
        let has_it_wrong = |member: &Member| member.good_until(&wanted, self.next, self.next + 1) == self.next;
        let member = self.round.choose(&self.sources, Wanted::Blocks(wanted), has_it_wrong)?;
        let RunRequest { file_bytes, urgency, .. } = self.request;
        let mut leave = match self.leave.take() {
            Some(leave) => leave,
            None => self.sources.gate.enter(urgency, wanted.count).await,
        };
        let permit = member.permit(urgency).await;
        if let Some(offline) = self.round.revoked() {
            self.round.failed(&self.sources.settings, offline).await;
            return Ok(());
        }
        // A block that the source has wrong is left to another one, unless there is none.
        let end = end.min(self.next + u64::from(leave.blocks()));
        let count = (member.good_until(&wanted, self.next, end).max(self.next + 1) - self.next) as u32;
        leave.keep(count);
        let run = Run { count, ..wanted };
        let started = Instant::now();
        let travel = member.travel(run.count);
        let request = BlockRequest { run, file_bytes, way: travel.way(), urgency, check: self.check };
        match member.source.blocks(&request).await {
            Ok(blocks) => {
                if let Some(place) = self.round.place() {
                    self.sources.gate.answered(place, started.elapsed(), run.count);
                }
                self.open = Some(Open { member, blocks, run, started, bytes: 0, travel, leave, _permit: permit });
            }
            Err(error) => {
                drop((travel, leave, permit));
                self.fail(error).await;
            }
        }
        Ok(())
    }

    fn check(&mut self, block: u64, bytes: Bytes) -> Result<VerifiedBlock, SourceError> {
        let open = self.open.as_mut().expect("blocks come from an open request");
        if block != self.next || block >= open.run.end() {
            return Err(SourceError::Malformed(format!("block {block} came in the place of block {}", self.next)));
        }
        // The hash of zeros says nothing of their number.
        let expected = block_len(self.request.file_bytes, block);
        if bytes.len() != expected {
            let found = bytes.len();
            return Err(SourceError::Malformed(format!("block {block} has {found} bytes instead of {expected}")));
        }
        open.leave.keep((open.run.end() - block - 1) as u32);
        open.bytes += bytes.len() as u64;
        let travelled = open.travel.carried(bytes.len());
        if let Some(place) = self.round.place() {
            self.sources.gate.came(place, travelled);
        }
        let hash = &self.hashes[(block - self.request.run.first) as usize];
        Ok(VerifiedBlock::check(block, bytes, hash)?)
    }

    /// The request gave all it was asked for.
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            let (what, ms) = (Wanted::Blocks(open.run), open.started.elapsed().as_millis() as u64);
            tracing::debug!(source = open.member.name(), %what, bytes = open.bytes, ms, "fetched");
        }
        self.round.release();
    }

    async fn fail(&mut self, error: SourceError) {
        let open = self.open.take();
        let wrong = matches!(error, SourceError::WrongContent(_) | SourceError::Malformed(_));
        if matches!(error, SourceError::WrongContent(_)) {
            self.check = Check::Both;
        }
        if wrong && let Some(open) = &open {
            let Run { root, file, .. } = open.run;
            let (source, file, block) = (open.member.name(), file.get(), self.next);
            tracing::warn!(source, %root, file, block, %error, "source gave a wrong block");
        }
        // The member without its request: that one's place is free while we wait.
        let member = open.map(|open| open.member);
        let gave_up = self.round.failed(&self.sources.settings, error).await;
        if gave_up
            && wrong
            && let Some(member) = member
        {
            member.mark_bad(&self.request.run, self.next);
        }
    }
}
