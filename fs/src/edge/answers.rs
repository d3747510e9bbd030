//! Answers that one mount gives: at once, later, or never, because a successor does.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle as Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::deferred;
use super::owed::{Owed, Refuse};

/// Of one mount.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    runtime: Runtime,
    /// Those that wait for something.
    tasks: TaskTracker,
    /// Requests are left unanswered from now on: a successor takes over, and the kernel sends them again, or the mount is
    /// no more.
    leaving: Arc<AtomicBool>,
    /// The mount is no more: nobody hears the answers that still wait.
    over: CancellationToken,
}

impl Answers {
    /// To be called in the runtime that is to give them.
    pub(crate) fn new() -> Answers {
        Answers {
            runtime: Runtime::current(),
            tasks: TaskTracker::new(),
            leaving: Arc::new(AtomicBool::new(false)),
            over: CancellationToken::new(),
        }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.tasks.len()
    }

    /// From now on none is given.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Nobody hears them any more: gives up those that wait.
    ///
    /// What the kernel reads ahead keeps no mount busy, and its source may be away for days.
    pub(crate) async fn end(&self) {
        self.leave();
        self.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Polls `answer` once here; if it has to wait, it goes on as a task.
    pub(super) fn drive(&self, answer: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        let answer = async move {
            tokio::select! {
                biased;
                () = answer => {}
                () = over.cancelled() => {}
            }
        };
        deferred::drive(answer, &self.runtime, &self.tasks);
    }

    pub(super) fn owe<R: Refuse>(&self, reply: R) -> Owed<R> {
        Owed::new(reply, self.leaving.clone())
    }
}
