//! Looks over the manifests now and then: what somebody does to them behind the master's back is told before it is needed.

use std::sync::Arc;
use std::time::Duration;

use icbd_master::Repository;
use tokio_util::sync::CancellationToken;

use crate::roles::every::Every;

/// Reading all heads of a thousand versions takes a second on a disk that turns.
const INTERVAL: Duration = Duration::from_secs(600);

/// From the start on, until `stop`.
pub(super) async fn run(repository: Arc<Repository>, stop: CancellationToken) {
    let mut every = Every::new(INTERVAL, stop.clone());
    let look = async || {
        let (repository, over) = (repository.clone(), stop.clone());
        tokio::task::spawn_blocking(move || repository.look_over_manifests(|| over.is_cancelled())).await
    };
    while let Some(looked) = every.turn(look()).await {
        if let Ok(Err(error)) = looked {
            tracing::warn!(%error, "the manifests could not be looked over");
        }
    }
}
