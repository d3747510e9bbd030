//! `/boot/IMAGE?client=NAME` (or `mac=MAC`, `uuid=UUID`): a workstation's boot script, for iPXE.
//!
//! The one request that has something done: the clone of whoever asks is made or reset. It is asked for by who boots, and
//! nothing else follows from it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query};
use axum::response::Response;
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use icbd_image::ImageName;
use serde::Deserialize;

use super::answer;
use super::peers::Place;
use crate::failure::Failure;

/// Who asks, as iPXE can say it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asking {
    /// Its name.
    pub client: Option<String>,
    /// The address of the network card that it boots by: `${net0/mac}`.
    pub mac: Option<String>,
    /// As its firmware tells it: `${uuid}`.
    pub uuid: Option<String>,
}

/// Answers with what `script` gives for an image, who asks, and from where.
pub(crate) fn boot_router<F>(script: impl Fn(ImageName, Asking, IpAddr) -> F + Send + Sync + 'static) -> Router
where
    F: Future<Output = Result<String, Failure>> + Send + 'static,
{
    let script = Arc::new(script);
    let answer = move |Path(image): Path<String>,
                       asking: Result<Query<Asking>, QueryRejection>,
                       place: Extension<Arc<Place>>| {
        let script = script.clone();
        async move {
            let Ok(Query(asking)) = asking else {
                return answer::text(StatusCode::BAD_REQUEST, "ask with ?client=NAME, ?mac=MAC or ?uuid=UUID");
            };
            let image = match image.parse::<ImageName>() {
                Ok(image) => image,
                Err(error) => return answer::text(StatusCode::NOT_FOUND, &error.to_string()),
            };
            match script(image, asking, place.address()).await {
                Ok(script) => text(script),
                Err(failure) => answer::refused(&failure),
            }
        }
    };
    let refused = || async { answer::not_allowed("GET") };
    // Whoever only wants to know has nothing done.
    Router::new().route("/boot/{image}", get(answer).head(refused).fallback(refused))
}

fn text(script: String) -> Response {
    let mut response = Response::new(Body::from(script));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
