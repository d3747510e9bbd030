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
use icbd_image::{ImageName, Kind, Serial, VersionId, VersionNumber, VersionRecord};
use icbd_wire::Resource;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{self, Conditions, IMMUTABLE};
use super::files::{self, Content, Found};
use super::peers::Place;

/// To whom versions are given by their names, and who of those takes them.
pub(crate) trait Readers: Send + Sync + 'static {
    /// Why an image is not for whoever asks from there; `None` if it is.
    fn refusal(&self, image: &ImageName, from: IpAddr) -> Option<String>;

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
            answered.unwrap_or_else(|missing| answer::text(missing.status(), &missing.to_string()))
        }
    };
    let refused = || async { answer::not_allowed() };
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
    #[error("{0}")]
    Refused(String),
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
    fn status(&self) -> StatusCode {
        match self {
            Missing::Refused(_) => StatusCode::FORBIDDEN,
            Missing::Version(_) | Missing::File(..) | Missing::Current(..) => StatusCode::NOT_FOUND,
            Missing::Cache(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
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
    if let Some(why) = readers.refusal(&image, from) {
        return Err(Missing::Refused(why));
    }
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
    let node = node.filter(|node| node.kind() == Kind::File).ok_or(Missing::File(id, name))?;
    let file = version.file(node.index())?;
    readers.note(version.serial(), from);
    let tag = files::tag(format_args!("{}-{}", version.root(), node.index()));
    let (size, changed) = (node.size(), node.metadata().mtime.into());
    let content = Exported { file, readers: readers.clone(), from };
    Ok(files::answer(Found { content, size, tag, changed, keep: IMMUTABLE }, conditions).await?)
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
