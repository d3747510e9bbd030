//! Takes note of what caches say of themselves: who they are, and what is used there.

use std::net::IpAddr;
use std::sync::Arc;

use icbd_master::Repository;
use icbd_wire::NodeReport;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Until `stop`. One after the other: most change nothing that is kept.
pub(super) async fn run(
    repository: Arc<Repository>,
    mut reports: mpsc::Receiver<(IpAddr, NodeReport)>,
    stop: CancellationToken,
) {
    while let Some(Some((from, report))) = stop.run_until_cancelled(reports.recv()).await {
        let repository = repository.clone();
        let heard = tokio::task::spawn_blocking(move || repository.heard(&report, from)).await;
        if let Ok(Err(error)) = heard {
            tracing::error!(%from, %error, "what a cache uses could not be noted");
        }
    }
}
