//! Takes note of what caches say of themselves: who they are, what is used there, and what is ready.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::state::Master;
use crate::serve::Told;

/// Until `stop`. One after the other: most change nothing that is kept.
pub(super) async fn run(master: Arc<Master>, mut reports: mpsc::Receiver<Told>, stop: CancellationToken) {
    while let Some(Some((from, report, ready))) = stop.run_until_cancelled(reports.recv()).await {
        let repository = master.repository.clone();
        match tokio::task::spawn_blocking(move || repository.heard(&report, &ready, from)).await {
            // A deployment may wait for it.
            Ok(Ok(is_readier)) if is_readier => master.planned.notify_one(),
            Ok(Err(error)) => tracing::error!(%from, %error, "what a cache uses could not be noted"),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
}
