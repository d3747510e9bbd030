//! `/metrics`, beside whatever else is served.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

use super::answer;

/// Prometheus' text format.
const MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves what `text` says at the moment, which it must do from memory.
pub(crate) fn metrics_router(text: impl Fn() -> String + Send + Sync + 'static) -> Router {
    let text = Arc::new(text);
    let answer = move || {
        let text = text.clone();
        async move {
            let mut response = Response::new(Body::from(text()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA));
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
    };
    Router::new().route("/metrics", get(answer).fallback(|| async { answer::not_allowed("GET, HEAD") }))
}
