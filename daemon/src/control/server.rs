//! The control socket's server, on a thread of its own.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::response::{IntoResponse, Response};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::peer::Peer;
use super::socket::{self, BoundSocket};
use crate::connections;
use crate::failure::Failure;

/// People and scripts at once; more wait.
const CONNECTIONS_MAX: usize = 64;
/// How long operations that were cancelled may take to tidy up and say so.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// A running control plane. Stops, and removes its socket, when it is dropped.
#[derive(Debug)]
pub(crate) struct ControlServer {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _socket: BoundSocket,
}

impl ControlServer {
    /// Answers `router` at `path` from now on.
    pub(crate) fn start(path: &Path, router: Router) -> anyhow::Result<ControlServer> {
        let (listener, socket) = socket::bind(path)?;
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let token = stop.clone();
        let serve = move || {
            runtime.block_on(async {
                match tokio::net::UnixListener::from_std(listener) {
                    Ok(listener) => {
                        connections::serve(listener, router, CONNECTIONS_MAX, |io, _| Some(Peer::of(io)), None, token)
                            .await;
                    }
                    Err(error) => tracing::error!(%error, "the control socket cannot be served"),
                }
            });
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(serve);
        let thread = Some(thread.context("cannot start the control thread")?);
        tracing::info!(socket = %path.display(), "control socket is open");
        Ok(ControlServer { stop, thread, _socket: socket })
    }

    /// Stops once `tasks`, which were closed, have ended and told so, or do not within a moment.
    pub(crate) async fn stop_after(self, tasks: &TaskTracker) {
        if tokio::time::timeout(LAST_WORDS_MAX, tasks.wait()).await.is_err() {
            tracing::info!(tasks = tasks.len(), "ending what clients still wait for");
        }
        // Hangs up, which cancels what is left.
        drop(self);
        tasks.wait().await;
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
    }
}

/// The answer to a request that failed.
pub(crate) fn fail(error: &anyhow::Error) -> Response {
    Failure::of(error).into_response()
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.exit.status(), axum::Json(self)).into_response()
    }
}
