//! Plain files by name, whole or in part, for curl, qemu and iPXE.

use std::fmt::Display;
use std::ops::Range;
use std::time::SystemTime;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::answer::{self, Conditions, Kind};
use super::range::{self, Wanted};

/// What is read and sent at a time; two such pieces of each answer are in memory.
const PIECE_BYTES: u64 = 1 << 20;

/// Where the bytes of a file come from.
pub(super) trait Content: Send + 'static {
    type Error: std::error::Error + Send + Sync + 'static;

    /// Begins to read a piece.
    fn read(&self, range: Range<u64>) -> BoxFuture<'static, Result<Bytes, Self::Error>>;

    fn is_sent(&self, bytes: usize);

    /// An answer breaks off somewhere `before` an offset.
    fn failed(&self, before: u64, error: &Self::Error);
}

/// A file of a version, found once: `current` may mean another one a moment later.
pub(super) struct Found<C> {
    pub(super) content: C,
    pub(super) size: u64,
    /// With its quotes.
    pub(super) tag: String,
    pub(super) changed: SystemTime,
    /// How long it may be kept.
    pub(super) keep: &'static str,
}

/// The tag of a file of a version: the same content has the same one for ever.
pub(super) fn tag(content: impl Display) -> String {
    format!("\"{content}\"")
}

/// The answer to a request for a file.
pub(super) async fn answer<C: Content>(found: Found<C>, conditions: &Conditions) -> Result<Response, C::Error> {
    let keep = found.keep;
    if is_unchanged(conditions, &found) {
        return Ok(describe(answer::not_modified(&found.tag, keep), &found));
    }
    let wanted = range::wanted(&conditions.headers, found.size, &found.tag, found.changed);
    let (status, part) = match wanted {
        Wanted::Whole => (StatusCode::OK, 0..found.size),
        Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Wanted::Outside => {
            let message = format!("the file has {} bytes; the range lies outside of it", found.size);
            let mut response = answer::text(StatusCode::RANGE_NOT_SATISFIABLE, &message);
            insert(response.headers_mut(), CONTENT_RANGE, format!("bytes */{}", found.size));
            return Ok(describe(response, &found));
        }
    };
    let size = found.size;
    let mut response =
        describe(answer::ok(Body::empty(), &found.tag, Kind { media: "application/octet-stream", keep }), &found);
    if !conditions.is_head {
        *response.body_mut() = body(found.content, part.clone()).await?;
    }
    *response.status_mut() = status;
    if status == StatusCode::PARTIAL_CONTENT {
        insert(response.headers_mut(), CONTENT_RANGE, format!("bytes {}-{}/{size}", part.start, part.end - 1));
    }
    insert(response.headers_mut(), CONTENT_LENGTH, (part.end - part.start).to_string());
    Ok(response)
}

/// Whether the client's copy is this file (RFC 9110, 13.2.2: a date counts only where no tag is given).
fn is_unchanged<C>(conditions: &Conditions, found: &Found<C>) -> bool {
    let headers = &conditions.headers;
    if headers.contains_key(IF_NONE_MATCH) {
        return conditions.matches(&found.tag);
    }
    let since = headers.get(IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
    since.is_some_and(|since| range::is_date(since, found.changed))
}

/// The bytes of `part`, a piece at a time; the first is read at once, so that an error is a status.
async fn body<C: Content>(content: C, part: Range<u64>) -> Result<Body, C::Error> {
    if part.is_empty() {
        return Ok(Body::empty());
    }
    let mut pieces = Pieces { content, ready: None, under_way: None, rest: part };
    let first = pieces.piece().await?;
    if pieces.rest.is_empty() {
        return Ok(Body::from(first));
    }
    pieces.ready = Some(first);
    pieces.begin_next();
    Ok(Body::from_stream(stream::unfold(pieces, Pieces::next)))
}

/// The pieces of a body. Each is read while the one before is sent.
struct Pieces<C: Content> {
    content: C,
    ready: Option<Bytes>,
    under_way: Option<BoxFuture<'static, Result<Bytes, C::Error>>>,
    /// What is still to be read.
    rest: Range<u64>,
}

impl<C: Content> Pieces<C> {
    async fn next(mut self) -> Option<(Result<Bytes, C::Error>, Pieces<C>)> {
        if let Some(bytes) = self.ready.take() {
            return Some((Ok(bytes), self));
        }
        let bytes = self.under_way.take()?.await;
        match &bytes {
            Ok(bytes) => {
                self.content.is_sent(bytes.len());
                self.begin_next();
            }
            Err(error) => self.content.failed(self.rest.start, error),
        }
        Some((bytes, self))
    }

    async fn piece(&mut self) -> Result<Bytes, C::Error> {
        let range = self.take();
        let bytes = self.content.read(range).await?;
        self.content.is_sent(bytes.len());
        Ok(bytes)
    }

    fn begin_next(&mut self) {
        if !self.rest.is_empty() {
            let range = self.take();
            self.under_way = Some(self.content.read(range));
        }
    }

    /// The next piece. All but the first begin on a multiple of their size, so that no block is read twice.
    fn take(&mut self) -> Range<u64> {
        let end = (self.rest.start / PIECE_BYTES + 1) * PIECE_BYTES;
        let piece = self.rest.start..end.min(self.rest.end);
        self.rest.start = piece.end;
        piece
    }
}

fn describe<C>(mut response: Response, found: &Found<C>) -> Response {
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Dates that HTTP cannot write (before 1970) are left out.
    if found.changed >= SystemTime::UNIX_EPOCH {
        insert(headers, LAST_MODIFIED, httpdate::fmt_http_date(found.changed));
    }
    response
}

fn insert(headers: &mut HeaderMap, name: http::HeaderName, value: String) {
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(name, value);
    }
}
