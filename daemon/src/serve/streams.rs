//! Versions as streams of their file system, packed frame by frame.

use std::io::Read;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use icbd_image::Root;
use icbd_master::{MasterError, Outgoing};
use icbd_wire::{Codec, STREAM_FRAME_BYTES, StreamBase, StreamEncoder};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{self, Conditions, OCTETS};
use super::routes::{Reading, Shared, begin, read};

/// Streams under way at a time: each is a program that reads the disk as fast as it can.
pub(super) const STREAMS_MAX: usize = 4;

/// The answer to a request for the stream of a version, as stored if there is no codec.
pub(super) async fn answer(
    shared: &Shared,
    root: Root,
    base: Option<StreamBase>,
    codec: Option<Codec>,
    conditions: &Conditions,
) -> Result<Response, MasterError> {
    if conditions.is_head {
        read(shared, move |repository| repository.head(root).map(drop)).await?;
        return Ok(describe(Body::empty()));
    }
    let Ok(leave) = shared.streams.clone().try_acquire_owned() else {
        let message = "this master sends as many streams as it may at a time; ask again later";
        return Ok(answer::text(StatusCode::SERVICE_UNAVAILABLE, message));
    };
    let begun = read(shared, move |repository| repository.stream(root, base, codec.is_some())).await;
    let outgoing = match begun {
        Err(MasterError::NoStreams(_)) => {
            let message = "this master's versions lie on a file system without streams; fetch them by blocks";
            return Ok(answer::text(StatusCode::CONFLICT, message));
        }
        begun => begun?,
    };
    let frames = Frames {
        outgoing,
        encoder: Some(StreamEncoder::new(codec.unwrap_or(Codec::None))),
        has_time: false,
        root,
        _leave: leave,
    };
    let under_way = Some(frames.begin(shared));
    let body = stream::unfold((shared.clone(), under_way), move |(shared, under_way)| async move {
        let under_way = under_way?;
        let has_time = under_way.has_ended();
        match under_way.end(&shared).await {
            Ok((frame, frames)) => {
                shared.sent.bytes(frame.len());
                // Made while the one before is sent.
                let next = frames.map(|frames| Frames { has_time, ..frames }.begin(&shared));
                Some((Ok(frame), (shared, next)))
            }
            Err(error) => {
                shared.failed(&format!("the stream of {}", root.short()), &error);
                Some((Err(error), (shared, None)))
            }
        }
    });
    Ok(describe(Body::from_stream(body)))
}

/// No two streams of a version are the same.
fn describe(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OCTETS.media));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What is left of a stream.
struct Frames {
    outgoing: Outgoing,
    /// Until it has ended.
    encoder: Option<StreamEncoder>,
    /// Whether the last frame was ready before the one before it was sent.
    has_time: bool,
    root: Root,
    _leave: OwnedSemaphorePermit,
}

impl Frames {
    fn begin(mut self, shared: &Shared) -> Reading<(Bytes, Option<Frames>)> {
        begin(shared, move |_| {
            let mut plain = Vec::with_capacity(STREAM_FRAME_BYTES);
            let read = self.outgoing.by_ref().take(STREAM_FRAME_BYTES as u64).read_to_end(&mut plain);
            let what = || self.root.short().to_string().into();
            read.map_err(|source| MasterError::Io { doing: "make a stream of", path: what(), source })?;
            let mut frame = Vec::new();
            if let Some(encoder) = self.encoder.as_mut().filter(|_| !plain.is_empty()) {
                encoder.encode(&plain, self.has_time, &mut frame);
                return Ok((frame.into(), Some(self)));
            }
            if let Some(encoder) = self.encoder.take() {
                encoder.end(&mut frame);
            }
            Ok((frame.into(), None))
        })
    }
}
