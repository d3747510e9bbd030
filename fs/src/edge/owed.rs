//! A reply that is owed to the kernel, whatever happens to the task that works on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::convert::errno;
use crate::errno::Refusal;

/// What all of fuser's replies can do.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, refusal: Refusal);
}

macro_rules! refuse {
    ($($reply:ident),*) => {
        $(impl Refuse for fuser::$reply {
            fn refuse(self, refusal: Refusal) {
                self.error(errno(refusal));
            }
        })*
    };
}

refuse!(
    ReplyEntry,
    ReplyAttr,
    ReplyData,
    ReplyOpen,
    ReplyEmpty,
    ReplyXattr,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyLseek,
    ReplyWrite
);

/// A reply that is still to be given.
///
/// Dropped unanswered it is an I/O error. While the daemon leaves the mount to its successor it is
/// never given: the kernel keeps the request and sends it again.
pub(super) struct Owed<R: Refuse> {
    reply: Option<R>,
    leaving: Arc<AtomicBool>,
}

impl<R: Refuse> Owed<R> {
    pub(super) fn new(reply: R, leaving: Arc<AtomicBool>) -> Owed<R> {
        Owed { reply: Some(reply), leaving }
    }

    /// Gives the answer, or the reason why there is none.
    pub(super) fn answer<T>(self, result: Result<T, Refusal>, give: impl FnOnce(R, T)) {
        match result {
            Ok(value) => drop(self.send(|reply| give(reply, value))),
            Err(refusal) => self.refuse(refusal),
        }
    }

    pub(super) fn refuse(self, refusal: Refusal) {
        self.send(|reply| reply.refuse(refusal));
    }

    /// Whether the reply was given.
    pub(super) fn send(mut self, give: impl FnOnce(R)) -> bool {
        let Some(reply) = self.reply.take() else { return false };
        if self.leaving.load(Ordering::Acquire) {
            std::mem::forget(reply);
            return false;
        }
        give(reply);
        true
    }

    /// The reply, to put something in.
    pub(super) fn get(&mut self) -> Option<&mut R> {
        self.reply.as_mut()
    }
}

impl<R: Refuse> Drop for Owed<R> {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            if self.leaving.load(Ordering::Acquire) {
                std::mem::forget(reply);
            } else {
                reply.refuse(Refusal::Io);
            }
        }
    }
}
