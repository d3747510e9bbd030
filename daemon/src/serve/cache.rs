//! What a cache server answers over TCP beside `/metrics`: what it knows of boots, and nothing else yet.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{Method, StatusCode};
use icbd_cache::Cache;
use icbd_wire::Resource;

use super::answer::{self, Conditions};

/// Serves `cache`.
pub(crate) fn cache_router(cache: Arc<Cache>) -> Router {
    Router::new().fallback(handle).with_state(cache)
}

async fn handle(State(cache): State<Arc<Cache>>, request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer::not_allowed();
    }
    match Resource::parse(request.uri().path()) {
        Ok(Resource::Profile(root)) => match cache.known_profile(root).await {
            Ok(profile) => answer::profile(&profile, &Conditions::of(&request)).0,
            Err(error) => answer::text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        },
        Ok(_) => answer::text(
            StatusCode::GATEWAY_TIMEOUT,
            "this is a cache server, which serves boot profiles and /metrics only",
        ),
        Err(error) => answer::text(StatusCode::NOT_FOUND, &error.to_string()),
    }
}
