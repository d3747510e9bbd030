//! One request, one answer: the path says what, the method may only be GET or HEAD.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, VARY};
use http::{HeaderValue, Method, StatusCode};
use icbd_image::VersionId;
use icbd_master::{MasterError, Repository};
use icbd_wire::{NODE_HEADER, OFFER_HEADER, READY_HEADER, Resource, coding};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::answer::{self, Conditions, IMMUTABLE, Kind, OCTETS, REVALIDATE};
use super::listing::ListingCache;
use super::peers::Place;
use super::{Offers, Reports, Sent, blocks, stored, streams};

/// What is served, and how much it was.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) repository: Arc<Repository>,
    pub(super) sent: Arc<Sent>,
    listing: Arc<ListingCache>,
    offers: Offers,
    reports: Reports,
    /// Leave for streams of versions.
    pub(super) streams: Arc<Semaphore>,
    /// What could not be served and was said lately: who waits for it asks again and again.
    said: moka::sync::Cache<String, ()>,
}

/// The same trouble is logged once in this time …
const SAID_FOR: Duration = Duration::from_secs(60);
/// … of so many different ones.
const SAID_MAX: u64 = 256;

impl Shared {
    /// Logs that something could not be served.
    pub(super) fn failed(&self, what: &str, error: &MasterError) {
        match self.said.entry(error.to_string()).or_insert(()).is_fresh() {
            true => tracing::error!(what, %error, "cannot serve"),
            false => tracing::debug!(what, %error, "cannot serve, still"),
        }
    }
}

/// Serves `repository`, counting in `sent`; what caches offer goes to `offers`, and what they say of themselves to
/// `reports`.
pub(crate) fn router(repository: Arc<Repository>, sent: Arc<Sent>, offers: Offers, reports: Reports) -> Router {
    let said = moka::sync::Cache::builder().max_capacity(SAID_MAX).time_to_live(SAID_FOR).build();
    let streams = Arc::new(Semaphore::new(streams::STREAMS_MAX));
    let shared = Shared { repository, sent, listing: Arc::default(), offers, reports, streams, said };
    Router::new().fallback(handle).with_state(shared)
}

async fn handle(State(shared): State<Shared>, request: Request) -> Response {
    shared.sent.request();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer::not_allowed("GET, HEAD");
    }
    let resource = match Resource::parse(request.uri().path()) {
        Ok(resource) => resource,
        Err(error) => return answer::text(StatusCode::NOT_FOUND, &error.to_string()),
    };
    if resource == Resource::Images {
        hear(&shared, &request);
    }
    let conditions = Conditions::of(&request);
    let answered = answer(&shared, resource, &conditions).await;
    answered.unwrap_or_else(|error| refuse(&shared, &error, request.uri().path()))
}

/// Passes on what a cache offers, and says of itself, with its poll of the listing. Nonsense is as nothing.
fn hear(shared: &Shared, request: &Request) {
    let Some(client) = request.extensions().get::<Arc<Place>>() else { return };
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(offer) = header(OFFER_HEADER).and_then(|offer| offer.parse().ok()) {
        shared.offers.heard(client.address(), offer);
    }
    if let Some(report) = header(NODE_HEADER).and_then(|report| report.parse().ok()) {
        let ready = header(READY_HEADER).and_then(|ready| ready.parse().ok()).unwrap_or_default();
        shared.reports.heard(client.address(), report, ready);
    }
}

async fn answer(shared: &Shared, resource: Resource, conditions: &Conditions) -> Result<Response, MasterError> {
    // What an immutable path names never changes: the path is its own entity tag.
    let tag = format!("\"{resource}\"");
    match resource {
        Resource::Images => {
            let (bytes, tag) = shared.listing.get(&shared.repository).await?;
            Ok(whole(shared, bytes, &tag, Kind { media: "application/json", keep: REVALIDATE }, conditions))
        }
        Resource::Version(version) => one_version(shared, &version, conditions),
        Resource::Blocks { run, codec } if !conditions.matches(&tag) => {
            blocks::answer(shared, run, codec, &tag, conditions).await
        }
        Resource::Matched { run, base } if !conditions.matches(&tag) => {
            blocks::answer_matched(shared, run, base, &tag, conditions).await
        }
        Resource::Stream { root, base, codec } => streams::answer(shared, root, base, codec, conditions).await,
        Resource::Written { .. } => {
            let message = "a master has no clones of workstations: ask the cache server that they boot from";
            Ok(answer::text(StatusCode::NOT_FOUND, message))
        }
        Resource::Profile(root) => {
            let profile = read(shared, move |repository| repository.profile(root)).await?;
            let (response, bytes) = answer::profile(&profile, conditions);
            shared.sent.bytes(bytes);
            Ok(response)
        }
        Resource::File { image, version, path } => stored::answer(shared, image, version, path, conditions).await,
        _ if conditions.matches(&tag) => Ok(answer::not_modified(&tag, IMMUTABLE)),
        Resource::Head(root) => manifest(shared, &tag, conditions, move |master| master.head_bytes(root)).await,
        Resource::Page { root, file, page } => {
            manifest(shared, &tag, conditions, move |master| master.page_bytes(root, file, page)).await
        }
        Resource::Blocks { .. } | Resource::Matched { .. } => Ok(answer::not_modified(&tag, IMMUTABLE)),
    }
}

fn one_version(shared: &Shared, version: &VersionId, conditions: &Conditions) -> Result<Response, MasterError> {
    let bytes = icbd_wire::listing::encode_version(&shared.repository.version(version)?);
    let tag = answer::tag_of(&bytes);
    Ok(whole(shared, bytes.into(), &tag, Kind { media: "application/json", keep: REVALIDATE }, conditions))
}

/// A part of a manifest, packed for who can unpack it.
async fn manifest(
    shared: &Shared,
    tag: &str,
    conditions: &Conditions,
    bytes: impl FnOnce(&Repository) -> Result<Bytes, MasterError> + Send + 'static,
) -> Result<Response, MasterError> {
    let is_packable = conditions.takes_packed();
    let (bytes, is_packed) = read(shared, move |repository| {
        let plain = bytes(repository)?;
        let packed = is_packable.then(|| coding::pack(&plain)).flatten();
        Ok(packed.map_or((plain, false), |packed| (packed.into(), true)))
    })
    .await?;
    // Other bytes have another tag.
    let packed_tag = format!("{}.{}\"", tag.trim_end_matches('"'), coding::CODING);
    let mut response = whole(shared, bytes, if is_packed { &packed_tag } else { tag }, OCTETS, conditions);
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
    if is_packed {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(coding::CODING));
    }
    Ok(response)
}

fn whole(shared: &Shared, bytes: Bytes, tag: &str, kind: Kind, conditions: &Conditions) -> Response {
    if conditions.matches(tag) {
        return answer::not_modified(tag, kind.keep);
    }
    if !conditions.is_head {
        shared.sent.bytes(bytes.len());
    }
    answer::ok(Body::from(bytes), tag, kind)
}

/// Reads from the repository on a thread where that may block.
pub(super) async fn read<T: Send + 'static>(
    shared: &Shared,
    read: impl FnOnce(&Arc<Repository>) -> Result<T, MasterError> + Send + 'static,
) -> Result<T, MasterError> {
    begin(shared, read).end(shared).await
}

/// A read that has begun.
pub(super) struct Reading<T>(JoinHandle<Result<T, MasterError>>);

/// Begins to read from the repository on a thread where that may block.
pub(super) fn begin<T: Send + 'static>(
    shared: &Shared,
    read: impl FnOnce(&Arc<Repository>) -> Result<T, MasterError> + Send + 'static,
) -> Reading<T> {
    let repository = shared.repository.clone();
    Reading(tokio::task::spawn_blocking(move || read(&repository)))
}

impl<T> Reading<T> {
    /// Whether it is ready.
    pub(super) fn has_ended(&self) -> bool {
        self.0.is_finished()
    }

    /// What was read.
    pub(super) async fn end(self, shared: &Shared) -> Result<T, MasterError> {
        match self.0.await {
            Ok(outcome) => outcome,
            Err(error) => Err(died(&shared.repository, error)),
        }
    }
}

/// What read from the repository died.
pub(super) fn died(repository: &Repository, why: tokio::task::JoinError) -> MasterError {
    let source = std::io::Error::other(why);
    MasterError::Io { doing: "read for a client", path: repository.path().to_owned(), source }
}

fn refuse(shared: &Shared, error: &MasterError, path: &str) -> Response {
    if error.is_absent() {
        return answer::text(StatusCode::NOT_FOUND, &error.to_string());
    }
    shared.failed(path, error);
    answer::text(StatusCode::INTERNAL_SERVER_ERROR, &told(error))
}

/// What is said of an error over TCP: who may read a version may know what is wrong with it, and no more.
fn told(error: &MasterError) -> String {
    match error {
        MasterError::Shared(error) => told(error),
        MasterError::Altered { .. } | MasterError::Damaged { .. } | MasterError::Unsound { .. } => error.to_string(),
        _ => "the master cannot read this; its log says why".to_owned(),
    }
}
