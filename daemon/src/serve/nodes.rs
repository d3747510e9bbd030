//! What is not meant for workstations, though they may connect.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request};
use axum::middleware::{Next, from_fn};
use http::StatusCode;

use super::peers::Place;
use super::{Allow, answer};

/// Has `router` answer nobody but those whom `allow` knows as nodes.
pub(crate) fn for_nodes(router: Router, allow: &Allow) -> Router {
    let allow = allow.clone();
    let check = move |place: Extension<Arc<Place>>, request: Request, next: Next| {
        let is_node = allow.is_node(place.address());
        async move {
            match is_node {
                true => next.run(request).await,
                false => answer::text(StatusCode::FORBIDDEN, "this is for nodes: your network is not in serve.allow"),
            }
        }
    };
    router.layer(from_fn(check))
}
