//! Asks the sources every other second what there is, so that a publish appears within seconds.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::state::CacheServer;

/// An unchanged listing costs one small answer (304).
const INTERVAL: Duration = Duration::from_secs(2);
/// A part of the interval, so that the caches of a site do not ask in step.
const JITTER: Duration = Duration::from_millis(500);

/// Refreshes until `stop`. `asked` becomes true once the sources were asked for the first time, whatever they said.
pub(super) async fn run(server: std::sync::Arc<CacheServer>, asked: watch::Sender<bool>, stop: CancellationToken) {
    for turn in 0.. {
        server.offer_profiles(turn);
        server.report_uses();
        tokio::select! {
            () = stop.cancelled() => return,
            refreshed = server.cache.refresh() => match refreshed {
                Ok(refresh) => {
                    server.listed_or_not(None);
                    if refresh.changed {
                        tracing::info!(added = refresh.added.len(), "the listing changed");
                        server.view_changed();
                    }
                }
                // Sources say themselves when one goes away and comes back; status shows it.
                Err(error) => {
                    tracing::debug!(%error, "the listing could not be refreshed");
                    server.listed_or_not(Some(error.to_string()));
                }
            },
        }
        asked.send_replace(true);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL - JITTER / 2 + jitter()) => {}
        }
    }
}

fn jitter() -> Duration {
    let mut byte = [0];
    // Without random numbers all ask in step: no harm.
    let _ = getrandom::fill(&mut byte);
    JITTER * u32::from(byte[0]) / 255
}
