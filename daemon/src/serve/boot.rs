//! What a workstation asks for when it boots by the network: `/boot`, its menu, and `/boot/IMAGE?client=NAME` (or `mac=MAC`,
//! `uuid=UUID`), its boot script, for iPXE; `/netboot/FILE`, iPXE itself, for firmware.
//!
//! The boot script is the one request that has something done: the clone of whoever asks is made or reset. It is asked for by
//! who boots, and nothing else follows from it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::response::Response;
use axum::routing::get;
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use icbd_image::ImageName;
use serde::Deserialize;

use super::answer;
use super::peers::Place;
use crate::clients::Stage;
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
    /// There if a menu asks, which is to say why nothing is booted.
    pub menu: Option<String>,
}

/// Who knows what workstations boot.
pub(crate) trait Booting: Send + Sync + 'static {
    /// The menu of whoever asks.
    fn menu(&self, asking: Asking, from: IpAddr) -> BoxFuture<'static, Result<String, Failure>>;

    /// What whoever asks does to boot an image.
    fn script(&self, image: ImageName, asking: Asking, from: IpAddr) -> BoxFuture<'static, Result<String, Failure>>;

    /// Whoever asks has come so far.
    fn beacon(&self, stage: Stage, from: IpAddr);

    /// Where the file is that firmware loads.
    fn loader(&self, name: &str) -> Option<PathBuf>;
}

type Shared = State<Arc<dyn Booting>>;
type Asked = Result<Query<Asking>, QueryRejection>;
type From = Extension<Arc<Place>>;

/// Answers with what `booting` says.
pub(crate) fn boot_router(booting: Arc<dyn Booting>) -> Router {
    let refused = || async { answer::not_allowed("GET") };
    // Whoever only wants to know has nothing done.
    Router::new()
        .route("/boot", get(menu).head(refused).fallback(refused))
        .route("/boot/beacon", get(beacon).head(refused).fallback(refused))
        .route("/boot/{image}", get(script).head(refused).fallback(refused))
        .route("/netboot/{file}", get(loader).fallback(|| async { answer::not_allowed("GET, HEAD") }))
        .with_state(booting)
}

async fn menu(State(booting): Shared, asked: Asked, place: From) -> Response {
    match asked {
        Ok(Query(asking)) => answered(booting.menu(asking, place.address()).await),
        Err(_) => unknown(),
    }
}

async fn script(State(booting): Shared, Path(image): Path<String>, asked: Asked, place: From) -> Response {
    let Ok(Query(asking)) = asked else { return unknown() };
    match image.parse::<ImageName>() {
        Ok(image) => answered(booting.script(image, asking, place.address()).await),
        Err(error) => answer::text(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

/// How far a workstation has come, as it says itself; the rest of what it says is for those who look at logs.
#[derive(Debug, Deserialize)]
struct Beacon {
    stage: Stage,
}

async fn beacon(State(booting): Shared, said: Result<Query<Beacon>, QueryRejection>, place: From) -> Response {
    match said {
        Ok(Query(Beacon { stage })) => {
            booting.beacon(stage, place.address());
            answer::text(StatusCode::OK, "noted")
        }
        Err(_) => answer::text(StatusCode::BAD_REQUEST, "say ?stage=kernel, root, up or failed"),
    }
}

/// Small files that are never more than a few.
async fn loader(State(booting): Shared, Path(name): Path<String>) -> Response {
    let absent =
        || answer::text(StatusCode::NOT_FOUND, "there is no such loader; `icbd netboot enable` puts them here");
    let Some(path) = booting.loader(&name) else { return absent() };
    match tokio::fs::read(path).await {
        Ok(bytes) => {
            let mut response = Response::new(Body::from(bytes));
            describe(&mut response, "application/octet-stream");
            response
        }
        Err(_) => absent(),
    }
}

fn unknown() -> Response {
    answer::text(StatusCode::BAD_REQUEST, "ask with ?client=NAME, ?mac=MAC or ?uuid=UUID")
}

fn answered(script: Result<String, Failure>) -> Response {
    match script {
        Ok(script) => {
            let mut response = Response::new(Body::from(script));
            describe(&mut response, "text/plain; charset=utf-8");
            response
        }
        Err(failure) => answer::refused(&failure),
    }
}

fn describe(response: &mut Response, media: &'static str) {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
