//! Plain files by name, whole or in part, for curl, qemu and iPXE.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue, StatusCode};
use icbd_image::{ImageName, VersionNumber};
use icbd_master::{MasterError, Repository};

use super::answer::{self, Conditions, IMMUTABLE, Kind, REVALIDATE};
use super::range::{self, Wanted};
use super::routes::{Shared, read};

/// What is read and held in memory at a time: four blocks keep a fast line busy.
const PIECE_BYTES: u64 = 256 << 10;

/// A file of a version, found once: `current` may mean another one a moment later.
struct Found {
    image: ImageName,
    number: VersionNumber,
    path: Vec<u8>,
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
        Ok(Found { number: file.version().number, image, path, size, tag, changed })
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
    let (image, number, path) = (found.image.clone(), found.number, found.path.clone());
    let mut step = Step { shared: shared.clone(), image, number, path, ready: None, part };
    let first = step.read().await?;
    if step.part.is_empty() {
        return Ok(Body::from(first));
    }
    step.ready = Some(first);
    Ok(Body::from_stream(stream::unfold(step, Step::next)))
}

/// Where a body is.
struct Step {
    shared: Shared,
    image: ImageName,
    number: VersionNumber,
    path: Vec<u8>,
    ready: Option<Bytes>,
    /// What is still to be read.
    part: Range<u64>,
}

impl Step {
    async fn next(mut self) -> Option<(Result<Bytes, MasterError>, Step)> {
        if let Some(bytes) = self.ready.take() {
            return Some((Ok(bytes), self));
        }
        if self.part.is_empty() {
            return None;
        }
        let bytes = self.read().await;
        if let Err(error) = &bytes {
            let (image, number) = (&self.image, self.number);
            tracing::error!(%image, %number, offset = self.part.start, %error, "an answer breaks off");
            self.part = 0..0;
        }
        Some((bytes, self))
    }

    async fn read(&mut self) -> Result<Bytes, MasterError> {
        // Later pieces begin on a multiple of their size, so that no block is read twice.
        let end = (self.part.start / PIECE_BYTES + 1) * PIECE_BYTES;
        let piece = self.part.start..end.min(self.part.end);
        let (image, number, path, range) = (self.image.clone(), self.number, self.path.clone(), piece.clone());
        let open_and_read =
            move |repository: &Arc<Repository>| repository.open_file(&image, Some(number), &path)?.read(range);
        let bytes = read(&self.shared, open_and_read).await?;
        self.part.start = piece.end;
        self.shared.sent.bytes(bytes.len());
        Ok(bytes)
    }
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
