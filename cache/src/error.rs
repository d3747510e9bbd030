//! What can go wrong in a cache, as its users (fs, daemon, people) are told.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use icbd_fetch::FetchError;
use icbd_image::{FileIndex, HeadError, ImageName, Serial, StatementError, VersionId};

use crate::CloneName;
use crate::disk::is_full;

/// Why the cache could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CacheError {
    #[error(
        "the store {} is in use by the process {owner}; stop that daemon first, or give this one a store of its own",
        store.display()
    )]
    InUse { store: PathBuf, owner: String },
    #[error(
        "{} holds {holds} and no cache's store; it was left as it is: name a directory that is empty or does not exist, \
         with --store or store.path",
        store.display()
    )]
    NotAStore { store: PathBuf, holds: String },
    #[error(
        "the store {} has lost its file `format`, without which nobody knows how to read it; if icbd made it, write it \
         again: echo \"icbd-store {ours}\" > {}",
        store.display(), store.join("format").display()
    )]
    NoFormat { store: PathBuf, ours: u32 },
    #[error(
        "the store {} has format {found}, made by a newer icbd; this one reads up to format {ours}: install the newer \
         icbd again, or use an empty store",
        store.display()
    )]
    NewerStore { store: PathBuf, found: u32, ours: u32 },
    #[error("cannot {doing} {}: {error}; see that the disk is there, healthy and writable", path.display())]
    Disk { doing: &'static str, path: PathBuf, error: Arc<io::Error> },
    #[error("the catalogue of the store failed: {0}; {advice}", advice = catalogue_to_do(.0))]
    Catalogue(Arc<rusqlite::Error>),
    #[error("no version has the serial {0}")]
    UnknownSerial(Serial),
    #[error("there is no version {0} here; `icbd image list` shows those that are")]
    UnknownVersion(VersionId),
    /// It is withheld, whatever is held of it.
    #[error("{version} is withheld: {why}")]
    Untrusted { version: VersionId, why: StatementError },
    #[error("{version} has no regular file with the index {file}")]
    NotAFile { version: VersionId, file: FileIndex },
    /// What an administrator wanted makes no sense as things stand.
    #[error("{0}")]
    Refused(String),
    #[error(
        "{0} cannot be sealed: the store's file system cannot share content between files, and a copy would take its size \
         again; put the store on btrfs or xfs (`icbd store probe` tells what a disk can do)"
    )]
    CannotShare(VersionId),
    #[error("there is no image {0} here; `icbd image list` shows those that are")]
    UnknownImage(ImageName),
    #[error("{version} has no file {path:?}; `--file` takes a path as below the mount's directory of the version")]
    NoSuchFile { version: VersionId, path: String },
    #[error("{clone} has written {} MiB, which is as much as clone.per_client lets a client", limit_bytes >> 20)]
    CloneLimit { clone: CloneName, limit_bytes: u64 },
    #[error("there is no clone {0}; `icbd clone list` shows those that are")]
    UnknownClone(String),
    #[error("there is no prefetch order {0}; `icbd prefetch list` shows them")]
    UnknownOrder(i64),
    #[error("prefetch order {id} is {state}; add another one with `icbd prefetch add`")]
    OrderEnded { id: i64, state: &'static str },
    /// Prefetch leaves room for what is read.
    #[error(
        "{} MiB are free on the store's disk, and prefetch leaves {} MiB for what is read; free space, or set \
         store.min_free",
        free_bytes >> 20,
        reserve_bytes >> 20
    )]
    Reserve { free_bytes: u64, reserve_bytes: u64 },
    /// Every source has these blocks and cannot give them as they were published.
    #[error(
        "{blocks} blocks of {version} are damaged at the source; `icbd image verify {version}` there says what is wrong; they \
         are asked for again in {} minutes, or at once after `icbd prefetch resume`; the first: {first}",
        again.as_secs() / 60
    )]
    Damaged { version: VersionId, blocks: u64, again: Duration, first: Arc<FetchError> },
    /// Blocks came, but could not be kept.
    #[error("{0}")]
    NotKept(String),
    /// No source gave what a reader waited for in time.
    #[error(
        "{version}: {what} could not be had within {} s: {cause}; it is asked for again at the next read",
        waited.as_secs()
    )]
    Unavailable { version: VersionId, what: String, waited: Duration, cause: Arc<FetchError> },
    /// What was published is nothing that this icbd can read; it will not be asked for again.
    #[error("{version} cannot be used: {why}; {}", to_do(why))]
    Unusable { version: VersionId, why: HeadError },
    #[error(transparent)]
    Fetch(Arc<FetchError>),
    #[error("the cache is stopping")]
    Closed,
}

impl CacheError {
    /// Whether the same request cannot succeed later without somebody's doing.
    pub fn is_permanent(&self) -> bool {
        match self {
            CacheError::InUse { .. }
            | CacheError::NewerStore { .. }
            | CacheError::NoFormat { .. }
            | CacheError::NotAStore { .. }
            | CacheError::UnknownSerial(_)
            | CacheError::UnknownVersion(_)
            | CacheError::Untrusted { .. }
            | CacheError::NotAFile { .. }
            | CacheError::UnknownImage(_)
            | CacheError::NoSuchFile { .. }
            | CacheError::UnknownOrder(_)
            | CacheError::OrderEnded { .. }
            | CacheError::CloneLimit { .. }
            | CacheError::UnknownClone(_)
            | CacheError::Refused(_)
            | CacheError::CannotShare(_)
            | CacheError::Unusable { .. }
            | CacheError::Closed => true,
            CacheError::Fetch(error) => error.is_permanent(),
            CacheError::Unavailable { .. }
            | CacheError::Damaged { .. }
            | CacheError::Disk { .. }
            | CacheError::Catalogue(_)
            | CacheError::Reserve { .. }
            | CacheError::NotKept(_) => false,
        }
    }

    /// Whether it takes a person at the source to mend it.
    pub fn is_damaged_there(&self) -> bool {
        match self {
            CacheError::Damaged { .. } => true,
            CacheError::Fetch(error) => error.is_damaged_there(),
            _ => false,
        }
    }

    /// Whether there was no room for what was to be written.
    pub fn is_full(&self) -> bool {
        match self {
            CacheError::Disk { error, .. } => is_full(error),
            CacheError::CloneLimit { .. } => true,
            _ => false,
        }
    }

    /// For `map_err` on what was done to a file of the store.
    pub(crate) fn disk(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> CacheError {
        let path = path.into();
        move |error| CacheError::Disk { doing, path, error: Arc::new(error) }
    }
}

fn to_do(why: &HeadError) -> &'static str {
    match why {
        HeadError::Format(_) => "install an icbd that reads it on this cache server, then restart the cache",
        _ => "publish it anew on its master: other versions are not touched by this",
    }
}

/// What helps against an error of the catalogue.
fn catalogue_to_do(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => "free space on the store's file system, and try again",
        _ => "it is rebuilt at the next start if it is damaged",
    }
}

impl From<rusqlite::Error> for CacheError {
    fn from(error: rusqlite::Error) -> CacheError {
        CacheError::Catalogue(Arc::new(error))
    }
}

impl From<FetchError> for CacheError {
    fn from(error: FetchError) -> CacheError {
        CacheError::Fetch(Arc::new(error))
    }
}
