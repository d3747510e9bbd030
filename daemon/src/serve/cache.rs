//! What a cache server answers over TCP beside `/metrics`: what it knows of boots, and what it holds of versions. It asks
//! no source for what it does not hold: who asks it has sources of its own, of which this is one.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{Method, StatusCode};
use icbd_cache::{Cache, CacheError, Served, ServedRun};
use icbd_image::{Root, Run};
use icbd_wire::{Check, Codec, FrameEncoder, Resource, encode_run, listing};
use tokio::task::JoinError;

use super::answer::{self, Conditions, IMMUTABLE, Kind, OCTETS, REVALIDATE};
use super::pieces::{self, Pack};

/// Why something is not answered.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("this cache server does not hold {0}")]
    NotHere(&'static str),
    #[error("a cache server gives no {0}; ask a master")]
    NotServed(&'static str),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("it cannot be read: {0}")]
    Disk(io::Error),
}

/// Serves what nodes ask of `cache`.
pub(crate) fn cache_router(cache: Arc<Cache>) -> Router {
    Router::new().fallback(handle).with_state(cache)
}

async fn handle(State(cache): State<Arc<Cache>>, request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer::not_allowed("GET, HEAD");
    }
    let resource = match Resource::parse(request.uri().path()) {
        Ok(resource) => resource,
        Err(error) => return answer::text(StatusCode::NOT_FOUND, &error.to_string()),
    };
    let answered = answer(&cache, resource, &Conditions::of(&request)).await;
    answered.unwrap_or_else(|refusal| answer::text(refusal.status(), &refusal.to_string()))
}

async fn answer(cache: &Arc<Cache>, resource: Resource, conditions: &Conditions) -> Result<Response, Refusal> {
    let tag = format!("\"{resource}\"");
    match resource {
        Resource::Profile(root) => Ok(answer::profile(&*cache.known_profile(root).await?, conditions).0),
        Resource::Images => {
            let bytes = listing::encode(&cache.listing().ok_or(Refusal::NotHere("a list of versions yet"))?);
            let tag = answer::tag_of(&bytes);
            Ok(whole(bytes.into(), &tag, Kind { media: "application/json", keep: REVALIDATE }, conditions))
        }
        Resource::Head(root) => Ok(whole(held(cache, root).await?.head_bytes(), &tag, OCTETS, conditions)),
        Resource::Page { root, file, page } => {
            let version = held(cache, root).await?;
            let bytes = tokio::task::spawn_blocking(move || version.page_bytes(file, page)).await.map_err(died)?;
            Ok(whole(bytes.ok_or(Refusal::NotHere("this hash page"))?, &tag, OCTETS, conditions))
        }
        Resource::Blocks { .. } if conditions.matches(&tag) => Ok(answer::not_modified(&tag, IMMUTABLE)),
        Resource::Blocks { run, codec } => {
            let held = Held { version: held(cache, run.root).await?, codec, check: conditions.check() };
            pieces::answer(held, run, conditions.parts(run), &tag, conditions.is_head).await
        }
        Resource::Version(_) | Resource::File { .. } => Err(Refusal::NotServed("descriptions of versions")),
        Resource::Matched { .. } => Err(Refusal::NotServed("blocks against other versions")),
        Resource::Stream { .. } => Err(Refusal::NotServed("streams")),
        // Answered elsewhere, but for what is asked in another way.
        Resource::Written { .. } => Err(Refusal::NotHere("such a clone")),
    }
}

async fn held(cache: &Arc<Cache>, root: Root) -> Result<Served, Refusal> {
    cache.served(root).await?.ok_or(Refusal::NotHere("this version"))
}

fn whole(bytes: Bytes, tag: &str, kind: Kind, conditions: &Conditions) -> Response {
    match conditions.matches(tag) {
        true => answer::not_modified(tag, kind.keep),
        false => answer::ok(Body::from(bytes), tag, kind),
    }
}

/// The blocks of a version that are here.
#[derive(Clone)]
struct Held {
    version: Served,
    codec: Codec,
    check: Check,
}

impl Held {
    fn run(&self, run: Run) -> Result<ServedRun, Refusal> {
        self.version.run(run).ok_or(Refusal::NotHere("all of these blocks"))
    }
}

impl Pack for Held {
    type Error = Refusal;

    fn look(&self, run: Run) -> Result<(), Refusal> {
        self.run(run).map(drop)
    }

    fn pack(&self, part: Run) -> Result<Bytes, Refusal> {
        let (held, mut frames) = (self.run(part)?, Vec::new());
        let read = |first, bytes: &mut [u8]| held.read_into(first, bytes, self.check == Check::Both);
        let is_zero = |block| held.is_zero(block);
        encode_run(&mut FrameEncoder::default(), &part, held.file_bytes(), self.codec, is_zero, read, &mut frames)
            .map_err(|error| match error.kind() {
                // Room was made meanwhile.
                io::ErrorKind::NotFound => Refusal::NotHere("all of these blocks"),
                _ => Refusal::Disk(error),
            })?;
        Ok(frames.into())
    }

    fn is_sent(&self, _: Run, _: &Bytes) {}

    fn failed(&self, part: Run, error: &Refusal) {
        tracing::debug!(?part, %error, "an answer to another node breaks off");
    }

    fn died(&self, why: JoinError) -> Refusal {
        died(why)
    }
}

fn died(why: JoinError) -> Refusal {
    Refusal::Disk(io::Error::other(why))
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Refusal::NotHere(_) | Refusal::NotServed(_) => StatusCode::NOT_FOUND,
            Refusal::Cache(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
