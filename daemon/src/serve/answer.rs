//! Answers of the TCP plane and the headers they carry.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use icbd_image::{Hash, Profile, Run};
use icbd_wire::{Check, coding, priority};

use super::pieces::{split_first, split_on_grid};
use crate::failure::{Exit, Failure};

/// For what a path names for ever. `no-transform`: a proxy that recompresses would break hashes and ranges.
pub(super) const IMMUTABLE: &str = "public, max-age=31536000, immutable, no-transform";
/// For what changes: kept, and asked about each time.
pub(super) const REVALIDATE: &str = "no-cache, no-transform";
/// Bytes that never change.
pub(super) const OCTETS: Kind = Kind { media: "application/octet-stream", keep: IMMUTABLE };

/// What a body is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) media: &'static str,
    /// How long it may be kept: a `Cache-Control`.
    pub(super) keep: &'static str,
}

/// What a request says about the copy its sender has.
#[derive(Debug)]
pub(super) struct Conditions {
    pub(super) is_head: bool,
    pub(super) headers: HeaderMap,
}

impl Conditions {
    pub(super) fn of(request: &Request) -> Conditions {
        Conditions { is_head: request.method() == Method::HEAD, headers: request.headers().clone() }
    }

    /// Who is to compare what is answered with its hashes.
    pub(super) fn check(&self) -> Check {
        Check::asked(self.headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()))
    }

    /// The first part of an answer of blocks, and the others: if nobody waits for a single block, as they are packed best.
    pub(super) fn parts(&self, run: Run) -> (Run, Option<Run>) {
        let priorities = self.headers.get_all(priority::HEADER).iter().filter_map(|value| value.to_str().ok());
        if priority::is_bulk(priorities) { split_on_grid(run) } else { split_first(run) }
    }

    /// Whether its sender unpacks what is packed as a whole.
    pub(super) fn takes_packed(&self) -> bool {
        coding::is_accepted(self.headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()))
    }

    /// Whether the client has what `tag` names already (`If-None-Match`, which compares weakly).
    pub(super) fn matches(&self, tag: &str) -> bool {
        let lists = self.headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
        tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
    }
}

/// A strong entity tag for `bytes`, with its quotes.
pub(super) fn tag_of(bytes: &[u8]) -> String {
    format!("\"{}\"", Hash::of(bytes))
}

/// 200 with everything.
pub(super) fn ok(body: Body, tag: &str, kind: Kind) -> Response {
    let mut response = Response::new(body);
    describe(response.headers_mut(), tag, kind.keep);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind.media));
    response
}

/// 304: the client's copy is right.
pub(super) fn not_modified(tag: &str, keep: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    describe(response.headers_mut(), tag, keep);
    response
}

/// A boot profile, and how many bytes of body that is; 404 when nothing is known.
pub(super) fn profile(profile: &Profile, conditions: &Conditions) -> (Response, usize) {
    if profile.is_empty() {
        return (text(StatusCode::NOT_FOUND, "nothing is known of boots of this version"), 0);
    }
    let bytes = profile.encode();
    let tag = tag_of(&bytes);
    if conditions.matches(&tag) {
        return (not_modified(&tag, REVALIDATE), 0);
    }
    let length = if conditions.is_head { 0 } else { bytes.len() };
    (ok(Body::from(bytes), &tag, Kind { keep: REVALIDATE, ..OCTETS }), length)
}

/// 405: nothing is changed over TCP.
pub(super) fn not_allowed(allowed: &'static str) -> Response {
    let mut response =
        text(StatusCode::METHOD_NOT_ALLOWED, "this address is read-only; changes go through icbd's socket");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Why somebody gets nothing.
pub(super) fn refused(failure: &Failure) -> Response {
    let status = match failure.exit {
        Exit::Absent => StatusCode::NOT_FOUND,
        Exit::Usage => StatusCode::BAD_REQUEST,
        Exit::Refused => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    text(status, &failure.message)
}

/// An error, for a person who looks with curl.
pub(super) fn text(status: StatusCode, message: &str) -> Response {
    let mut response = Response::new(Body::from(format!("{message}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn describe(headers: &mut HeaderMap, tag: &str, keep: &'static str) {
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(ETAG, tag);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(keep));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_tag_is_found_in_any_list() {
        let check = |value: &'static str, expected| {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(value))]);
            assert_eq!(Conditions { is_head: false, headers }.matches("\"a\""), expected, "{value}");
        };
        check("\"a\"", true);
        check("\"x\", W/\"a\"", true);
        check("*", true);
        check("\"b\"", false);
        check("a", false);
        assert!(!Conditions { is_head: false, headers: HeaderMap::new() }.matches("\"a\""));
    }
}
