//! Plain files by name, whole or in part, for curl, qemu and iPXE.

use std::ops::Range;
use std::time::SystemTime;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue, StatusCode};
use icbd_image::{FileIndex, ImageName, Root, Run, VersionNumber};
use icbd_master::MasterError;

use super::answer::{self, Conditions, IMMUTABLE, Kind, REVALIDATE};
use super::range::{self, Wanted};
use super::routes::{Reading, Shared, begin, read};

/// What is read and sent at a time; two such pieces of each answer are in memory.
const PIECE_BYTES: u64 = 1 << 20;

/// A file of a version, found once: `current` may mean another one a moment later.
struct Found {
    content: (Root, FileIndex),
    size: u64,
    tag: String,
    changed: SystemTime,
}

/// The answer to a request for a file.
pub(super) async fn answer(
    shared: &Shared,
    image: ImageName,
    number: Option<VersionNumber>,
    path: Vec<u8>,
    conditions: &Conditions,
) -> Result<Response, MasterError> {
    let keep = if number.is_some() { IMMUTABLE } else { REVALIDATE };
    let found = read(shared, move |repository| {
        let file = repository.open_file(&image, number, &path)?;
        let (size, tag, changed) = (file.size(), format!("\"{}\"", file.etag()), file.mtime().into());
        Ok(Found { content: file.content(), size, tag, changed })
    })
    .await?;
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
    let (tag, size) = (found.tag.clone(), found.size);
    let body = if conditions.is_head { Body::empty() } else { body(shared, &found, part.clone()).await? };
    let mut response = describe(answer::ok(body, &tag, Kind { media: "application/octet-stream", keep }), &found);
    *response.status_mut() = status;
    if status == StatusCode::PARTIAL_CONTENT {
        insert(response.headers_mut(), CONTENT_RANGE, format!("bytes {}-{}/{size}", part.start, part.end - 1));
    }
    insert(response.headers_mut(), CONTENT_LENGTH, (part.end - part.start).to_string());
    Ok(response)
}

/// Whether the client's copy is this file (RFC 9110, 13.2.2: a date counts only where no tag is given).
fn is_unchanged(conditions: &Conditions, found: &Found) -> bool {
    let headers = &conditions.headers;
    if headers.contains_key(IF_NONE_MATCH) {
        return conditions.matches(&found.tag);
    }
    let since = headers.get(IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
    since.is_some_and(|since| range::is_date(since, found.changed))
}

/// The bytes of `part`, a piece at a time; the first is read at once, so that an error is a status.
async fn body(shared: &Shared, found: &Found, part: Range<u64>) -> Result<Body, MasterError> {
    if part.is_empty() {
        return Ok(Body::empty());
    }
    let mut pieces =
        Pieces { shared: shared.clone(), content: found.content, ready: None, under_way: None, rest: part };
    let first = pieces.piece().await?;
    if pieces.rest.is_empty() {
        return Ok(Body::from(first));
    }
    pieces.ready = Some(first);
    pieces.begin_next();
    Ok(Body::from_stream(stream::unfold(pieces, Pieces::next)))
}

/// The pieces of a body. Each is read while the one before is sent.
struct Pieces {
    shared: Shared,
    content: (Root, FileIndex),
    ready: Option<Bytes>,
    under_way: Option<Reading<Bytes>>,
    /// What is still to be read.
    rest: Range<u64>,
}

impl Pieces {
    async fn next(mut self) -> Option<(Result<Bytes, MasterError>, Pieces)> {
        if let Some(bytes) = self.ready.take() {
            return Some((Ok(bytes), self));
        }
        let reading = self.under_way.take()?;
        let bytes = reading.end(&self.shared).await;
        match &bytes {
            Ok(bytes) => {
                self.shared.sent.bytes(bytes.len());
                self.begin_next();
            }
            Err(error) => {
                let (root, file) = self.content;
                let what = format!("bytes before {} of file {file} of {}", self.rest.start, root.short());
                self.shared.failed(&what, error);
            }
        }
        Some((bytes, self))
    }

    async fn piece(&mut self) -> Result<Bytes, MasterError> {
        let range = self.take();
        let bytes = begin_read(&self.shared, self.content, range).end(&self.shared).await?;
        self.shared.sent.bytes(bytes.len());
        Ok(bytes)
    }

    fn begin_next(&mut self) {
        if !self.rest.is_empty() {
            let range = self.take();
            self.under_way = Some(begin_read(&self.shared, self.content, range));
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

fn begin_read(shared: &Shared, (root, file): (Root, FileIndex), range: Range<u64>) -> Reading<Bytes> {
    let first = Run { root, file, first: 0, count: 1 };
    begin(shared, move |repository| repository.blocks(first)?.read_range(range))
}

fn describe(mut response: Response, found: &Found) -> Response {
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
