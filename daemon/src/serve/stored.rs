//! Plain files out of a master's repository.

use std::ops::Range;

use axum::response::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use icbd_image::{FileIndex, ImageName, Root, Run, VersionNumber};
use icbd_master::MasterError;

use super::answer::{Conditions, IMMUTABLE, REVALIDATE};
use super::files::{self, Content, Found};
use super::routes::{Shared, begin, read};

/// A file of the repository.
struct Stored {
    shared: Shared,
    root: Root,
    file: FileIndex,
}

/// The answer to a request for a file.
pub(super) async fn answer(
    shared: &Shared,
    image: ImageName,
    number: Option<VersionNumber>,
    path: Vec<u8>,
    conditions: &Conditions,
) -> Result<Response, MasterError> {
    let keep = if number.is_some() { IMMUTABLE } else { REVALIDATE };
    let known = shared.clone();
    let found = read(shared, move |repository| {
        let file = repository.open_file(&image, number, &path)?;
        let (root, index) = file.content();
        let content = Stored { shared: known, root, file: index };
        Ok(Found { content, size: file.size(), tag: files::tag(file.etag()), changed: file.mtime().into(), keep })
    });
    files::answer(found.await?, conditions).await
}

impl Content for Stored {
    type Error = MasterError;

    fn read(&self, range: Range<u64>) -> BoxFuture<'static, Result<Bytes, MasterError>> {
        let first = Run { root: self.root, file: self.file, first: 0, count: 1 };
        let reading = begin(&self.shared, move |repository| repository.blocks(first)?.read_range(range));
        let shared = self.shared.clone();
        Box::pin(async move { reading.end(&shared).await })
    }

    fn is_sent(&self, bytes: usize) {
        self.shared.sent.bytes(bytes);
    }

    fn failed(&self, before: u64, error: &MasterError) {
        let what = format!("bytes before {before} of file {} of {}", self.file, self.root.short());
        self.shared.failed(&what, error);
    }
}
