//! Plain files by HTTP out of a cache, for workstations: what is not here is fetched for them.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use icbd_cache::{Cache, CacheError, File};
use icbd_image::{ImageName, Kind, Serial, VersionId, VersionNumber};

use super::answer::{Conditions, IMMUTABLE};
use super::files::{self, Content, Found};

/// To whom versions are given by their names, and who of those takes them.
pub(crate) trait Readers: Send + Sync + 'static {
    /// Why an image is not for whoever asks from there; `None` if it is.
    fn refusal(&self, image: &ImageName, from: IpAddr) -> Option<String>;

    /// Somebody reads something of a version.
    fn note(&self, version: Serial, from: IpAddr);
}

/// A file that somebody reads.
struct Exported {
    file: Arc<File>,
    readers: Arc<dyn Readers>,
    from: IpAddr,
}

/// Why there is no such file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missing {
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

/// The answer to a request for a file.
pub(super) async fn answer(
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
    let serial = cache.view().version(&id).map(|record| record.serial());
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
        async move { file.read(range.start, (range.end - range.start) as usize).await }.boxed()
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
