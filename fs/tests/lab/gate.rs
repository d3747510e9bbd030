//! A source whose blocks of one version wait while a gate is closed, also for another process.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use icbd_fetch::testing::MemorySource;
use icbd_fetch::{BlockRequest, BlockStream, ListingTag, Source, SourceError};
use icbd_image::{FileIndex, Listing, Root};

/// Closed while somebody holds [`Gate::close`]'s lock on a file; requests for blocks wait for a shared
/// lock on it, and those for the head on one of another file, `.heads`.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    inner: Arc<MemorySource>,
    lock: PathBuf,
    gated: Root,
}

/// The extension of the file that stands for requests of the head.
pub(crate) const HEADS: &str = "heads";

/// Opens the gate when it is dropped.
pub(crate) struct Closed(#[allow(dead_code)] File);

impl Gate {
    pub(crate) fn new(inner: Arc<MemorySource>, lock: PathBuf, gated: Root) -> Gate {
        for lock in [lock.clone(), lock.with_extension(HEADS)] {
            File::options().create(true).truncate(false).write(true).open(lock).unwrap();
        }
        Gate { inner, lock, gated }
    }

    async fn pass(&self, lock: PathBuf) {
        let wait = move || File::open(&lock).and_then(|file| file.lock_shared());
        tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
    }

    pub(crate) fn close(&self) -> Closed {
        let file = File::open(&self.lock).unwrap();
        file.lock().unwrap();
        Closed(file)
    }
}

#[async_trait]
impl Source for Gate {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn received_bytes(&self) -> u64 {
        self.inner.received_bytes()
    }

    async fn listing(&self, known: Option<&ListingTag>) -> Result<Option<(Listing, ListingTag)>, SourceError> {
        self.inner.listing(known).await
    }

    async fn head(&self, root: Root) -> Result<Bytes, SourceError> {
        if root == self.gated {
            self.pass(self.lock.with_extension(HEADS)).await;
        }
        self.inner.head(root).await
    }

    async fn page(&self, root: Root, file: FileIndex, page: u64) -> Result<Bytes, SourceError> {
        self.inner.page(root, file, page).await
    }

    async fn blocks(&self, request: &BlockRequest) -> Result<BlockStream, SourceError> {
        if request.run.root == self.gated {
            self.pass(self.lock.clone()).await;
        }
        self.inner.blocks(request).await
    }
}
