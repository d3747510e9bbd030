//! Publishes and verifications that run now, each on a thread of its own: they take minutes, and
//! must not use up the threads that serve.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Context;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::control::Peer;
use crate::failure::{Exit, Failure};
use crate::report::OperationReport;

/// Publishes take turns anyway; more that wait are a mistake in somebody's script.
const OPERATIONS_MAX: usize = 16;

/// The operations of one daemon.
#[derive(Debug, Default)]
pub(super) struct Operations(Arc<Mutex<Running>>);

#[derive(Debug, Default)]
struct Running {
    last_id: u64,
    by_id: BTreeMap<u64, Operation>,
}

#[derive(Debug)]
struct Operation {
    what: String,
    user: String,
    pid: i32,
    started: Instant,
    cancel: Arc<AtomicBool>,
}

/// An operation's place in the list, given up when it is dropped.
struct Place {
    running: Arc<Mutex<Running>>,
    id: u64,
}

impl Operations {
    /// Does `work` on a thread of its own, and waits for it; `cancelled` sets the flag that `work` looks at.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        peer: &Peer,
        what: &str,
        cancelled: &CancellationToken,
        work: impl FnOnce(&AtomicBool) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let cancel = Arc::new(AtomicBool::new(false));
        let place = self.enter(peer, what, &cancel)?;
        let (send, mut receive) = oneshot::channel();
        let flag = cancel.clone();
        let work = move || {
            let outcome = work(&flag);
            // Before the outcome is told: who hears it may look at the list.
            drop(place);
            let _ = send.send(outcome);
        };
        std::thread::Builder::new().name("operation".into()).spawn(work).context("cannot start a thread")?;
        let outcome = tokio::select! {
            outcome = &mut receive => outcome,
            () = cancelled.cancelled() => {
                cancel.store(true, Ordering::Relaxed);
                receive.await
            }
        };
        outcome.context("the operation panicked; see the log")?
    }

    fn enter(&self, peer: &Peer, what: &str, cancel: &Arc<AtomicBool>) -> Result<Place, Failure> {
        let mut running = lock(&self.0);
        if running.by_id.len() >= OPERATIONS_MAX {
            let message =
                format!("{OPERATIONS_MAX} operations run or wait already; `icbd status` shows them, try later");
            return Err(Failure::new(Exit::Refused, message));
        }
        running.last_id += 1;
        let id = running.last_id;
        let (user, pid, cancel) = (peer.user.clone(), peer.pid, cancel.clone());
        let operation = Operation { what: what.to_owned(), user, pid, started: Instant::now(), cancel };
        running.by_id.insert(id, operation);
        Ok(Place { running: self.0.clone(), id })
    }

    pub(super) fn list(&self) -> Vec<OperationReport> {
        let running = lock(&self.0);
        let report = |(id, operation): (&u64, &Operation)| OperationReport {
            id: *id,
            what: operation.what.clone(),
            user: operation.user.clone(),
            pid: operation.pid,
            seconds: operation.started.elapsed().as_secs(),
        };
        running.by_id.iter().map(report).collect()
    }

    /// Asks all operations to end.
    pub(super) fn cancel_all(&self) {
        lock(&self.0).by_id.values().for_each(|operation| operation.cancel.store(true, Ordering::Relaxed));
    }
}

fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.running).by_id.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_leaves_cancels_its_operation() {
        let operations = Operations::default();
        let cancelled = CancellationToken::new();
        let peer = Peer { uid: 0, user: "root".into(), pid: 1 };
        let (started, has_started) = std::sync::mpsc::channel();
        let work = move |cancel: &AtomicBool| {
            started.send(()).unwrap();
            while !cancel.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            Ok("tidied up")
        };
        let run = operations.run(&peer, "image publish a", &cancelled, work);
        let watch = async {
            tokio::task::spawn_blocking(move || has_started.recv().unwrap()).await.unwrap();
            assert_eq!(operations.list()[0].what, "image publish a");
            cancelled.cancel();
        };
        let (outcome, ()) = tokio::join!(run, watch);
        assert_eq!(outcome.unwrap(), "tidied up");
        assert!(operations.list().is_empty());
    }
}
