//! `Range` and `If-Range` (RFC 9110, 13.1.5 and 14): which bytes of a file a client asked for.
//!
//! One range is answered. Several, and what cannot be read, are answered with the whole file, as the RFC allows.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{IF_RANGE, RANGE};

/// What is to be sent of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    Part(Range<u64>),
    /// Nothing of what was asked for is in the file.
    Outside,
}

/// What `headers` ask for of a file of `file_bytes`.
pub(super) fn wanted(headers: &HeaderMap, file_bytes: u64, etag: &str, changed: SystemTime) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(range) = text(RANGE) else { return Wanted::Whole };
    match text(IF_RANGE) {
        // The client holds a piece of another version of this file: it needs all of ours.
        Some(condition) if condition != etag && !is_date(condition, changed) => Wanted::Whole,
        _ => parse(range, file_bytes),
    }
}

/// Whether `text` is the very second that `changed` falls into.
pub(super) fn is_date(text: &str, changed: SystemTime) -> bool {
    let Ok(date) = httpdate::parse_http_date(text) else { return false };
    changed.duration_since(date).is_ok_and(|later| later < Duration::from_secs(1))
}

fn parse(range: &str, file_bytes: u64) -> Wanted {
    let spec = range.trim().strip_prefix("bytes=").map(str::trim);
    let Some((first, last)) = spec.filter(|spec| !spec.contains(',')).and_then(|spec| spec.split_once('-')) else {
        return Wanted::Whole;
    };
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().unwrap_or(u64::MAX));
    let part = match (first.is_empty(), last.is_empty()) {
        (true, true) => None,
        (true, false) => number(last).map(|suffix| file_bytes.saturating_sub(suffix)..file_bytes),
        (false, true) => number(first).map(|first| first..file_bytes),
        (false, false) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Some(first..last.saturating_add(1).min(file_bytes)),
            _ => None,
        },
    };
    match part {
        None => Wanted::Whole,
        Some(part) if part.start >= part.end => Wanted::Outside,
        Some(part) => Wanted::Part(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_500)
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let check = |text: &str, expected: Wanted| assert_eq!(parse(text, 1000), expected, "{text}");
        check("bytes=0-0", Wanted::Part(0..1));
        check("bytes=0-499", Wanted::Part(0..500));
        check("bytes=500-", Wanted::Part(500..1000));
        check("bytes=-1", Wanted::Part(999..1000));
        check("bytes=-5000", Wanted::Part(0..1000));
        check("bytes=999-99999999999999999999999999", Wanted::Part(999..1000));
        check("bytes=1000-", Wanted::Outside);
        check("bytes=1000-1001", Wanted::Outside);
        check("bytes=-0", Wanted::Outside);
        for odd in ["bytes=5-2", "bytes=0-1,3-4", "bytes=-", "bytes", "lines=1-2", "bytes=a-b", "bytes=+1-2", ""] {
            check(odd, Wanted::Whole);
        }
        assert_eq!(parse("bytes=0-", 0), Wanted::Outside);
    }

    #[test]
    fn if_range_lets_only_the_same_file_go_on() {
        let check = |condition: &'static str, expected| {
            let headers = HeaderMap::from_iter([
                (RANGE, http::HeaderValue::from_static("bytes=1-1")),
                (IF_RANGE, http::HeaderValue::from_static(condition)),
            ]);
            assert_eq!(wanted(&headers, 9, "\"a\"", changed()), expected, "{condition}");
        };
        check("\"a\"", Wanted::Part(1..2));
        check("\"b\"", Wanted::Whole);
        check("W/\"a\"", Wanted::Whole);
        check("Sun, 06 Nov 1994 08:49:37 GMT", Wanted::Part(1..2));
        check("Sun, 06 Nov 1994 08:49:38 GMT", Wanted::Whole);
        check("yesterday", Wanted::Whole);
        assert_eq!(wanted(&HeaderMap::new(), 9, "\"a\"", changed()), Wanted::Whole);
    }
}
