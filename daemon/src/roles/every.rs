//! Something that is done again and again while a daemon runs.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Turns at once and every so often from then on, until a stop; one that takes longer delays the next.
#[derive(Debug)]
pub(super) struct Every {
    ticks: Interval,
    stop: CancellationToken,
}

impl Every {
    pub(super) fn new(interval: Duration, stop: CancellationToken) -> Every {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Every { ticks, stop }
    }

    /// Waits for the next turn and does it; `None` at the stop, in the middle of it or before.
    pub(super) async fn turn<T>(&mut self, act: impl Future<Output = T>) -> Option<T> {
        self.turn_or(std::future::pending(), act).await
    }

    /// The same, with the turn sooner if something calls for it.
    pub(super) async fn turn_or<T>(
        &mut self,
        sooner: impl Future<Output = ()>,
        act: impl Future<Output = T>,
    ) -> Option<T> {
        let Every { ticks, stop } = self;
        let turn = async {
            tokio::select! {
                _ = ticks.tick() => {}
                () = sooner => ticks.reset(),
            }
            act.await
        };
        stop.run_until_cancelled(turn).await
    }
}
