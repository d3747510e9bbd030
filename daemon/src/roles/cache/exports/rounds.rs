//! Something that is looked at again and again, and whoever waits for the next look.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// So often it is looked whether all is as it should be. A look takes milliseconds.
const INTERVAL: Duration = Duration::from_secs(5);
const SETTLED_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Rounds {
    wake: Notify,
    turns: watch::Sender<Turns>,
}

/// How often it was looked.
#[derive(Debug, Default, Clone, Copy)]
struct Turns {
    begun: u64,
    done: u64,
}

impl Rounds {
    /// Something changed that it depends on.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until what is the case now was seen to, unless that takes too long for people to wait.
    pub(super) async fn settle(&self) {
        let mut turns = self.turns.subscribe();
        let next = turns.borrow().begun + 1;
        self.wake();
        // Without a task that looks, nothing is to be waited for.
        let _ = tokio::time::timeout(SETTLED_MAX, turns.wait_for(|turns| turns.done >= next)).await;
    }

    /// Looks until `stop`.
    pub(super) async fn run<F: Future<Output = ()>>(&self, look: impl Fn() -> F, stop: &CancellationToken) {
        loop {
            self.turns.send_modify(|turns| turns.begun += 1);
            if stop.run_until_cancelled(look()).await.is_none() {
                return;
            }
            self.turns.send_modify(|turns| turns.done = turns.begun);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }
}
