//! How much clones may take, and what is done when the disk is full under one.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::layer::Layer;
use super::record::CloneName;
use crate::CacheError;

/// A write waits so long for room to be made. A workstation gives up after 30 s and more.
const ROOM_WAIT: Duration = Duration::from_secs(20);
/// Who has looked so often and found none will find none.
const ROUNDS: u32 = 3;

/// What all clones share.
#[derive(Debug)]
pub(super) struct Room {
    per_client_bytes: AtomicU64,
    wanted: Notify,
    made: watch::Sender<u64>,
    refused: Mutex<Option<Refused>>,
}

/// A write that was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    pub clone: CloneName,
    pub when: SystemTime,
    /// Whether its client's limit was the reason; else the disk was full.
    pub is_limit: bool,
}

/// Of one write.
pub(super) struct Patience<'a> {
    room: &'a Room,
    made: watch::Receiver<u64>,
    until: Instant,
    rounds: u32,
}

impl Room {
    pub(super) fn new(per_client_bytes: Option<u64>) -> Room {
        Room {
            per_client_bytes: AtomicU64::new(per_client_bytes.unwrap_or(u64::MAX)),
            wanted: Notify::new(),
            made: watch::Sender::default(),
            refused: Mutex::default(),
        }
    }

    pub(super) fn set_per_client(&self, bytes: Option<u64>) {
        self.per_client_bytes.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether writing these pieces would take more than the client may have.
    pub(super) fn refuses(&self, layer: &Layer, pieces: Range<u64>) -> bool {
        let limit = self.per_client_bytes.load(Ordering::Relaxed);
        // One that may have more than the whole disk has no limit.
        let more = if limit == u64::MAX { 0 } else { layer.lacks_bytes(pieces) };
        more > 0 && layer.allocated().is_ok_and(|bytes| bytes + more > limit)
    }

    pub(super) fn limit_reached(&self, clone: &CloneName) -> CacheError {
        self.note(clone, true);
        CacheError::CloneLimit { clone: clone.clone(), limit_bytes: self.per_client_bytes.load(Ordering::Relaxed) }
    }

    pub(super) fn note_full(&self, clone: &CloneName) {
        self.note(clone, false);
    }

    fn note(&self, clone: &CloneName, is_limit: bool) {
        let refused = Refused { clone: clone.clone(), when: SystemTime::now(), is_limit };
        let before = self.refused.lock().unwrap_or_else(PoisonError::into_inner).replace(refused);
        if before.is_none_or(|before| (&before.clone, before.is_limit) != (clone, is_limit)) {
            match is_limit {
                true => {
                    tracing::warn!(%clone, "a client wrote as much as clone.per_client lets it: it gets write errors")
                }
                false => tracing::error!(%clone, "the disk is full: a client gets write errors"),
            }
        }
    }

    pub(super) fn refused(&self) -> Option<Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Until some write found the disk full.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Somebody looked for room, and made what there was to be had.
    pub(super) fn made(&self) {
        self.made.send_modify(|times| *times += 1);
    }

    pub(super) fn patience(&self) -> Patience<'_> {
        Patience { room: self, made: self.made.subscribe(), until: Instant::now() + ROOM_WAIT, rounds: ROUNDS }
    }
}

impl Patience<'_> {
    /// Asks for room and waits until somebody has seen to it; `false` once it has waited long enough.
    pub(super) async fn room_is_made(&mut self) -> bool {
        let Some(left) = self.rounds.checked_sub(1) else { return false };
        self.rounds = left;
        self.made.mark_unchanged();
        self.room.wanted.notify_one();
        matches!(tokio::time::timeout_at(self.until, self.made.changed()).await, Ok(Ok(())))
    }
}
