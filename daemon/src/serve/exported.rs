//! Plain files by HTTP out of a cache, for workstations: what is not here is fetched for them.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::StatusCode;
use icbd_cache::{Cache, CacheError, File};
use icbd_image::{FileIndex, Head, ImageName, Kind, Serial, VersionId, VersionNumber, VersionRecord};
use icbd_wire::Resource;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{self, Conditions, IMMUTABLE};
use super::files::{self, Content, Found};
use super::peers::Place;
use crate::failure::Failure;

/// To whom versions are given by their names, and who of those takes them.
pub(crate) trait Readers: Send + Sync + 'static {
    /// Fails if a file of an image is not for whoever asks from there.
    fn check(&self, image: &ImageName, path: &[u8], from: IpAddr) -> Result<(), Failure>;

    /// Whether somebody reads a version.
    fn reads(&self, version: Serial, from: IpAddr) -> bool;

    /// Somebody reads something of a version.
    fn note(&self, version: Serial, from: IpAddr);
}

/// Serves files of versions by their names to `readers`.
pub(crate) fn files_router(cache: Arc<Cache>, readers: Arc<dyn Readers>) -> Router {
    let answer = move |place: Extension<Arc<Place>>, request: Request| {
        let (cache, readers) = (cache.clone(), readers.clone());
        async move {
            let Ok(Resource::File { image, version, path }) = Resource::parse(request.uri().path()) else {
                return answer::text(StatusCode::NOT_FOUND, "ask for /files/IMAGE/NUMBER/PATH");
            };
            let conditions = Conditions::of(&request);
            let named = (image, version, path);
            let answered = file(&cache, &readers, place.address(), named, &conditions).await;
            answered.unwrap_or_else(|missing| missing.answer())
        }
    };
    let refused = || async { answer::not_allowed("GET, HEAD") };
    Router::new().route("/files/{*path}", get(answer).fallback(refused))
}

/// A file that somebody reads.
struct Exported {
    file: Arc<File>,
    readers: Arc<dyn Readers>,
    from: IpAddr,
}

/// Why there is no such file.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error("{}", .0.message)]
    Refused(Failure),
    #[error("there is no version {0}")]
    Version(VersionId),
    #[error("{0} has no file {1:?}")]
    File(VersionId, String),
    #[error("what is exported has a number in its path, so that nobody's files change: ask for /files/{0}/NUMBER/{1}")]
    Current(ImageName, String),
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl Missing {
    fn answer(&self) -> Response {
        let status = match self {
            Missing::Refused(failure) => return answer::refused(failure),
            Missing::Version(_) | Missing::File(..) | Missing::Current(..) => StatusCode::NOT_FOUND,
            Missing::Cache(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        answer::text(status, &self.to_string())
    }
}

/// The answer to a request for a file.
async fn file(
    cache: &Arc<Cache>,
    readers: &Arc<dyn Readers>,
    from: IpAddr,
    (image, number, path): (ImageName, Option<VersionNumber>, Vec<u8>),
    conditions: &Conditions,
) -> Result<Response, Missing> {
    readers.check(&image, &path, from).map_err(Missing::Refused)?;
    let name = String::from_utf8_lossy(&path).into_owned();
    let number = number.ok_or_else(|| Missing::Current(image.clone(), name.clone()))?;
    let id = VersionId { image, number };
    let view = cache.view();
    // What is withheld from others is not taken from those who read it.
    let withheld = || view.withheld_of(&id.image).map(|(record, _)| record).find(|record| record.number() == number);
    let is_read = |record: &&VersionRecord| readers.reads(record.serial(), from);
    let record = view.version(&id).or_else(|| withheld().filter(is_read));
    let serial = record.map(|record| record.serial());
    drop(view);
    let version = cache.version(serial.ok_or_else(|| Missing::Version(id.clone()))?).await?;
    let node = version.head().follow(&path).and_then(|index| version.head().node(index));
    if let Some(folder) = node.filter(|node| node.kind() == Kind::Directory) {
        return Ok(listing(version.head(), folder.index()));
    }
    let node = node.filter(|node| node.kind() == Kind::File).ok_or(Missing::File(id, name))?;
    let file = version.file(node.index())?;
    readers.note(version.serial(), from);
    let tag = files::tag(format_args!("{}-{}", version.root(), node.index()));
    let (size, changed) = (node.size(), node.metadata().mtime.into());
    let content = Exported { file, readers: readers.clone(), from };
    Ok(files::answer(Found { content, size, tag, changed, keep: IMMUTABLE }, conditions).await?)
}

/// What is in a folder, for a person: a name in each line, folders with a slash.
fn listing(head: &Head, folder: FileIndex) -> Response {
    let line = |name: &[u8], node| {
        let is_folder = head.node(node).is_some_and(|node| node.kind() == Kind::Directory);
        format!("{}{}", String::from_utf8_lossy(name), if is_folder { "/" } else { "" })
    };
    let lines: Vec<String> = head.entries(folder, 0).map(|entry| line(entry.name, entry.node)).collect();
    answer::text(StatusCode::OK, &lines.join("\n"))
}

impl Content for Exported {
    type Error = CacheError;

    fn read(&self, range: Range<u64>) -> BoxFuture<'static, Result<Bytes, CacheError>> {
        let file = self.file.clone();
        // Begun at once, and given up with whoever asked.
        let reading = tokio::spawn(async move { file.read(range.start, (range.end - range.start) as usize).await });
        let reading = AbortOnDropHandle::new(reading);
        let died = |error: JoinError| Err(CacheError::Refused(format!("the read was given up: {error}")));
        async move { reading.await.unwrap_or_else(died) }.boxed()
    }

    fn is_sent(&self, _: usize) {
        self.file.version().note_used();
        self.readers.note(self.file.version().serial(), self.from);
    }

    fn failed(&self, before: u64, error: &CacheError) {
        let (version, from) = (self.file.version().id(), self.from);
        tracing::warn!(%version, %from, before, %error, "an answer to a workstation breaks off");
    }
}
