//! Looks over the manifests now and then: what somebody does to them behind the master's back is told before it is needed.

use std::sync::Arc;
use std::time::Duration;

use icbd_master::Repository;
use tokio_util::sync::CancellationToken;

/// Reading all heads of a thousand versions takes a second on a disk that turns.
const INTERVAL: Duration = Duration::from_secs(600);

/// From the start on, until `stop`.
pub(super) async fn run(repository: Arc<Repository>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (repository, over) = (repository.clone(), stop.clone());
        let look = tokio::task::spawn_blocking(move || repository.look_over_manifests(|| over.is_cancelled()));
        if let Ok(Err(error)) = look.await {
            tracing::warn!(%error, "the manifests could not be looked over");
        }
    }
}
