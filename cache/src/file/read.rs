//! Reads that wait: for the disk, for a flight under way, for a source that is down.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use icbd_fetch::Urgency;
use icbd_image::{BLOCK_BYTES, Hash};
use tokio::sync::oneshot;

use super::now::{blocks_of, part_of};
use super::{File, is_lost};
use crate::CacheError;
use crate::budget::RUN_BLOCKS_MAX;
use crate::disk::{Wait, is_shortage};
use crate::flight::Flight;
use crate::slots::{Answer, Place};
use crate::waiting::Patience;

/// Longer reads are done in pieces of this.
const PIECE_BYTES: usize = 1 << 20;

/// Who asks again within this for what was given up was waiting for it.
const SAME_WAIT: Duration = Duration::from_millis(500);

/// Where a part of what is read comes from.
enum Part {
    Backing,
    Zero,
    Memory(Bytes),
    Awaited(oneshot::Receiver<Answer>),
}

/// Why a read has to begin again.
enum Again {
    /// Blocks that were here went, or could not be read: now they are missing.
    Changed,
    /// Descriptors or memory are short for now: what is here is all right.
    Lacking(Arc<io::Error>),
    Failed(CacheError),
}

impl From<CacheError> for Again {
    fn from(error: CacheError) -> Again {
        Again::Failed(error)
    }
}

impl File {
    /// Reads at most `len` bytes, fewer only at the end of the file. What is missing is fetched; a source
    /// that is down is waited for up to `offline_wait`. May be dropped: what is under way still arrives.
    pub async fn read(self: &Arc<Self>, offset: u64, len: usize) -> Result<Bytes, CacheError> {
        if len <= PIECE_BYTES {
            return self.read_piece(self.clamp(offset, len)).await;
        }
        let range = self.clamp(offset, len);
        let mut whole = BytesMut::with_capacity((range.end - range.start) as usize);
        for start in range.clone().step_by(PIECE_BYTES) {
            whole.extend_from_slice(&self.read_piece(start..range.end.min(start + PIECE_BYTES as u64)).await?);
        }
        Ok(whole.freeze())
    }

    async fn read_piece(self: &Arc<Self>, range: Range<u64>) -> Result<Bytes, CacheError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let blocks = blocks_of(&range);
        let core = self.version.core().clone();
        let mut patience = Patience::new(&core, self.want(blocks.start));
        let is_spent = self.was_just_given_up(&blocks);
        if is_spent {
            patience = patience.spent();
        }
        // Who asks next may be somebody else, and waits as long as anybody.
        let given_up = || {
            if !is_spent {
                self.note_given_up(blocks.clone())
            }
        };
        loop {
            match self.version.prepare().await {
                // Blocks are served all the same, and not kept.
                Ok(()) | Err(CacheError::Disk { .. }) => {}
                Err(CacheError::Fetch(error)) => {
                    patience.failed(error).await.inspect_err(|_| given_up())?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.note_read(blocks.clone());
            match self.read_round(&range, blocks.clone()).await {
                Ok(bytes) => return Ok(bytes),
                Err(Again::Changed) => {}
                Err(Again::Lacking(error)) => patience.lacked(error).await?,
                Err(Again::Failed(CacheError::Fetch(error))) => {
                    patience.failed(error).await.inspect_err(|_| given_up())?;
                }
                Err(Again::Failed(error)) => return Err(error),
            }
        }
    }

    /// A kernel whose readahead failed asks at once for the part of it that a program wants: that is the same wait.
    fn was_just_given_up(&self, blocks: &Range<u64>) -> bool {
        let given_up = self.given_up.lock().expect("no panic under this lock");
        let is_in = |range: &Range<u64>| range.start <= blocks.start && blocks.end <= range.end;
        given_up.as_ref().is_some_and(|(range, when)| when.elapsed() < SAME_WAIT && is_in(range))
    }

    fn note_given_up(&self, blocks: Range<u64>) {
        let mut given_up = self.given_up.lock().expect("no panic under this lock");
        match &mut *given_up {
            // The pieces of one readahead are given up side by side.
            Some((range, when)) if when.elapsed() < SAME_WAIT => {
                *range = range.start.min(blocks.start)..range.end.max(blocks.end);
                *when = Instant::now();
            }
            _ => *given_up = Some((blocks, Instant::now())),
        }
    }

    async fn read_round(self: &Arc<Self>, range: &Range<u64>, blocks: Range<u64>) -> Result<Bytes, Again> {
        let noted = self.note_stream(range);
        if self.is_readable(blocks.clone()) {
            let bytes = self.read_backing(range.clone()).await?;
            self.read_ahead(noted);
            return Ok(bytes);
        }
        let hashes = self.hashes(blocks.clone()).await?;
        if hashes.len() as u64 != blocks.end - blocks.start {
            return Err(Again::Failed(self.no_such_block()));
        }
        let urgency = noted.urgency(|| self.version.expects(self.index, blocks.clone()));
        let parts = self.find(blocks.clone(), &hashes, urgency);
        self.read_ahead(noted);
        let single = parts.len() == 1;
        let mut whole = BytesMut::with_capacity(if single { 0 } else { (range.end - range.start) as usize });
        let mut parts = blocks.zip(parts).peekable();
        while let Some((block, part)) = parts.next() {
            let wanted = part_of(range, block, self.size);
            let inside = (wanted.start - block * BLOCK_BYTES) as usize..(wanted.end - block * BLOCK_BYTES) as usize;
            let bytes = match part {
                Part::Zero => Bytes::from(vec![0; inside.len()]),
                Part::Memory(bytes) => bytes.slice(inside),
                Part::Backing => {
                    let mut here = wanted;
                    // What lies side by side is read at once.
                    while let Some((next, _)) = parts.next_if(|(_, part)| matches!(part, Part::Backing)) {
                        here.end = part_of(range, next, self.size).end;
                    }
                    self.read_backing(here).await?
                }
                Part::Awaited(receiver) => match receiver.await {
                    Ok(Ok(bytes)) => bytes.slice(inside),
                    Ok(Err(Some(error))) => return Err(CacheError::Fetch(error).into()),
                    Ok(Err(None)) if !self.version.core().stop.is_cancelled() => return Err(Again::Changed),
                    Ok(Err(None)) | Err(_) => return Err(CacheError::Closed.into()),
                },
            };
            if single {
                return Ok(bytes);
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// Where each block is; flights are started for those that nobody fetches.
    fn find(self: &Arc<Self>, blocks: Range<u64>, hashes: &[Hash], urgency: Urgency) -> Vec<Part> {
        let mut parts = Vec::with_capacity(hashes.len());
        let mut claimed: Vec<Range<u64>> = Vec::new();
        let places = self.slots.want(blocks.clone().zip(hashes), |block| self.is_readable(block..block + 1));
        for (block, place) in blocks.clone().zip(places) {
            parts.push(match place {
                Place::Zero => Part::Zero,
                Place::Backing => Part::Backing,
                Place::Memory(bytes) => Part::Memory(bytes),
                Place::Joined(receiver) => Part::Awaited(receiver),
                Place::Claimed(receiver) => {
                    match claimed.last_mut() {
                        Some(run) if run.end == block && run.end - run.start < u64::from(RUN_BLOCKS_MAX) => {
                            run.end += 1
                        }
                        _ => claimed.push(block..block + 1),
                    }
                    Part::Awaited(receiver)
                }
            });
        }
        for run in claimed {
            let known = (run.start - blocks.start) as usize..(run.end - blocks.start) as usize;
            // Whoever waits hears of it through the slots.
            drop(Flight::awaited(self, run, hashes[known].to_vec(), urgency).start());
        }
        parts
    }

    /// Reads from the backing file what is there, under the guard.
    async fn read_backing(self: &Arc<Self>, range: Range<u64>) -> Result<Bytes, Again> {
        let file = self.clone();
        self.version.core().disk_read(move || file.read_backing_blocking(range)).await?
    }

    fn read_backing_blocking(self: &Arc<Self>, range: Range<u64>) -> Result<Bytes, Again> {
        let blocks = blocks_of(&range);
        if let Err((block, error)) = self.check_unchecked(blocks.clone()) {
            return Err(self.unreadable(block..block + 1, error));
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let guard = self.guard.read().expect("no panic under this lock");
        if !self.is_readable(blocks.clone()) {
            return Err(Again::Changed);
        }
        let read = self.backing().and_then(|backing| {
            let read = backing.read(range.start, &mut bytes, Wait::Yes)?;
            self.check_size(&*backing).map(|()| read)
        });
        drop(guard);
        match read {
            Ok(read) if read == bytes.len() => Ok(bytes.into()),
            Ok(_) => Err(self.unreadable(blocks, io::Error::other("its backing file is too short"))),
            Err(error) => Err(self.unreadable(blocks, error)),
        }
    }

    /// What is to be done where blocks could not be read, or were not what they should be.
    fn unreadable(self: &Arc<Self>, blocks: Range<u64>, error: io::Error) -> Again {
        match error {
            // Where it cannot be made anew its blocks must not be called readable for ever.
            error if is_lost(&error) && self.remake(&error) => {}
            error if is_shortage(&error) => return Again::Lacking(Arc::new(error)),
            error => self.damaged(blocks, &error),
        }
        Again::Changed
    }
}
