//! A long operation's progress and outcome, as JSON lines in an answer's body.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::failure::Failure;
use crate::output::Progress;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    Progress(Progress),
    /// Something to tell the user that is no result.
    Note {
        text: String,
    },
    /// The last line, if it went well.
    Done {
        result: serde_json::Value,
    },
    /// The last line, if it did not.
    Failed(Failure),
}

/// Lines that wait for a slow client; what does not fit of the progress is left out.
const QUEUE_MAX: usize = 64;

/// Tells a client how far its operation is.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    lines: mpsc::Sender<Event>,
    cancelled: CancellationToken,
}

impl Teller {
    /// Never waits: progress is left out when the client is slow.
    pub(crate) fn tell(&self, event: Event) {
        let _ = self.lines.try_send(event);
    }

    /// The last line. Waits for a slow client; one that is gone does not hear it.
    pub(crate) async fn end<T: Serialize>(self, outcome: &anyhow::Result<T>) {
        let event = match outcome {
            Ok(result) => Event::Done { result: serde_json::to_value(result).unwrap_or_default() },
            Err(error) => Event::Failed(Failure::of(error)),
        };
        let _ = self.lines.send(event).await;
    }

    /// Cancelled when the client is gone.
    pub(crate) fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }
}

/// An answer whose body is what its [`Teller`] tells.
pub(crate) fn answer() -> (Teller, Response) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    let cancelled = CancellationToken::new();
    let teller = Teller { lines: sender, cancelled: cancelled.clone() };
    let lines = Lines { receiver, _cancel: cancelled.drop_guard() };
    let mut response = Response::new(Body::from_stream(lines));
    let kind = http::HeaderValue::from_static("application/jsonl");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    (teller, response)
}

/// The body. Dropped by the server when the client is gone, which cancels the operation.
struct Lines {
    receiver: mpsc::Receiver<Event>,
    _cancel: DropGuard,
}

impl Stream for Lines {
    type Item = Result<Bytes, serde_json::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context).map(|event| {
            event.map(|event| {
                let mut line = serde_json::to_vec(&event)?;
                line.push(b'\n');
                Ok(line.into())
            })
        })
    }
}
