//! The listing, encoded once for each change: every cache asks for it every other second.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use icbd_master::{MasterError, Repository};

use super::answer;

/// The listing as it was last encoded.
#[derive(Debug, Default)]
pub(super) struct ListingCache(Mutex<Option<Encoded>>);

#[derive(Debug, Clone)]
struct Encoded {
    revision: u64,
    bytes: Bytes,
    tag: String,
}

impl ListingCache {
    /// The bytes of the listing and their entity tag.
    pub(super) async fn get(&self, repository: &std::sync::Arc<Repository>) -> Result<(Bytes, String), MasterError> {
        let revision = repository.revision();
        if let Some(encoded) = self.lock().as_ref().filter(|encoded| encoded.revision == revision) {
            return Ok((encoded.bytes.clone(), encoded.tag.clone()));
        }
        let source = repository.clone();
        let encode = move || {
            // The revision first: a change in between makes the bytes newer than they say, and they are encoded anew.
            let bytes = Bytes::from(icbd_wire::listing::encode(&source.listing()));
            let tag = answer::tag_of(&bytes);
            Encoded { revision, bytes, tag }
        };
        let encoded = tokio::task::spawn_blocking(encode).await.map_err(|error| MasterError::Io {
            doing: "encode the listing of",
            path: repository.path().to_owned(),
            source: std::io::Error::other(error),
        })?;
        *self.lock() = Some(encoded.clone());
        Ok((encoded.bytes, encoded.tag))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Encoded>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
