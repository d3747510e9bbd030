//! `/v1/clones/IMAGE/CLIENT.CODEC`: what a workstation wrote over a version, for the master that is to make a version of it.
//!
//! Nothing is changed by it, and nobody is kept from using the clone: whoever begins to write to it while it is read has the
//! answer break off before its last frame.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use icbd_cache::{CacheError, Written, WrittenPart};
use icbd_image::{ClientName, ImageName};
use icbd_wire::{Codec, Resource, StreamEncoder, WRITTEN_RUN_BYTES_MAX, WrittenFrame, WrittenHead, WrittenRun};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{self, OCTETS};
use crate::failure::{Exit, Failure};

/// Under way at a time: each has a few MiB in memory, and reads the disk as fast as it can.
const AT_ONCE_MAX: usize = 2;

/// Answers with what `find` gives of the clone of an image that a client has.
pub(crate) fn written_router<F>(find: impl Fn(ImageName, ClientName) -> F + Clone + Send + Sync + 'static) -> Router
where
    F: Future<Output = Result<Written, Failure>> + Send + 'static,
{
    let leaves = Arc::new(Semaphore::new(AT_ONCE_MAX));
    let answer = move |Path((image, name)): Path<(String, String)>| {
        let (find, leaves) = (find.clone(), leaves.clone());
        async move {
            let path = format!("/v1/clones/{image}/{name}");
            let (image, client, codec) = match Resource::parse(&path) {
                Ok(Resource::Written { image, client, codec }) => (image, client, codec),
                Ok(_) => return answer::text(StatusCode::NOT_FOUND, "there is nothing here"),
                Err(error) => return answer::text(StatusCode::NOT_FOUND, &error.to_string()),
            };
            let Ok(leave) = leaves.try_acquire_owned() else {
                let message = "this cache server sends as many clones as it may at a time; ask again later";
                return answer::text(StatusCode::SERVICE_UNAVAILABLE, message);
            };
            match find(image, client).await.and_then(|written| body(written, codec, leave)) {
                Ok(body) => describe(body),
                Err(failure) => answer::text(status(failure.exit), &failure.message),
            }
        }
    };
    let refused = || async { answer::not_allowed("GET") };
    // Whoever only wants to know has nobody let go of anything.
    Router::new().route("/v1/clones/{image}/{name}", get(answer).head(refused).fallback(refused))
}

fn status(exit: Exit) -> StatusCode {
    match exit {
        Exit::Absent | Exit::Refused | Exit::Usage => exit.status(),
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn describe(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OCTETS.media));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn body(written: Written, codec: Codec, leave: OwnedSemaphorePermit) -> Result<Body, Failure> {
    let disk = written.disk();
    let head = WrittenHead {
        client: disk.name().client.clone(),
        version: disk.name().version.clone(),
        serial: disk.serial(),
        root: disk.root(),
        file: disk.file(),
        file_bytes: disk.size(),
        written_bytes: written.bytes(),
    };
    let first = head.encode().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let frames = Frames {
        written,
        encoder: Some(StreamEncoder::new(codec)),
        next: Some(first),
        waits: None,
        is_ready: false,
        _leave: leave,
    };
    Ok(Body::from_stream(stream::try_unfold(frames, async |frames| {
        let name = frames.written.disk().name().clone();
        let made = tokio::task::spawn_blocking(move || frames.make()).await;
        let made = made.unwrap_or_else(|why| Err(CacheError::Refused(format!("it cannot be read: {why}"))));
        made.inspect_err(|error| tracing::warn!(clone = %name, %error, "an answer to a master breaks off"))
    })))
}

/// What is left of an answer.
struct Frames {
    written: Written,
    /// Until it has ended.
    encoder: Option<StreamEncoder>,
    /// The plain bytes of the next frame, if they are made already.
    next: Option<Vec<u8>>,
    /// What did not fit into the frame before.
    waits: Option<WrittenPart>,
    /// Whether all parts were read.
    is_ready: bool,
    _leave: OwnedSemaphorePermit,
}

impl Frames {
    /// The next frame, and what is left then. Blocks.
    fn make(mut self) -> Result<Option<(Bytes, Frames)>, CacheError> {
        let plain = match self.next.take() {
            Some(plain) => plain,
            None => self.records()?,
        };
        let mut frame = Vec::new();
        if let Some(encoder) = self.encoder.as_mut().filter(|_| !plain.is_empty()) {
            encoder.encode(&plain, false, &mut frame);
        } else if let Some(encoder) = self.encoder.take() {
            encoder.end(&mut frame);
        } else {
            return Ok(None);
        }
        Ok(Some((frame.into(), self)))
    }

    /// As many records as fit; none at the end.
    fn records(&mut self) -> Result<Vec<u8>, CacheError> {
        let mut frame = WrittenFrame::default();
        while !self.is_ready {
            let part = match self.waits.take() {
                Some(part) => Some(part),
                None => self.written.next(WRITTEN_RUN_BYTES_MAX)?,
            };
            let Some(part) = part else {
                self.is_ready = true;
                break;
            };
            if !frame.has_room(part.bytes.as_deref()) {
                self.waits = Some(part);
                break;
            }
            let WrittenPart { range, bytes } = &part;
            frame.push(&WrittenRun { offset: range.start, length: range.end - range.start, bytes: bytes.as_deref() });
        }
        Ok(frame.take())
    }
}
