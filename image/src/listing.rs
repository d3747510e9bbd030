//! What a master says it has: the repository, its images and their versions.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::block::serde_as_text;
use crate::{ImageName, Serial, SignedStatement, Timestamp, VersionNumber, VersionState};

/// The identity of a repository, made once when it is created.
///
/// A cache that finds another one behind its master's address deletes nothing and says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RepositoryId(Uuid);

impl RepositoryId {
    /// An id from 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> RepositoryId {
        RepositoryId(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    pub fn from_bytes(bytes: [u8; 16]) -> RepositoryId {
        RepositoryId(Uuid::from_bytes(bytes))
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RepositoryId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<RepositoryId, uuid::Error> {
        text.parse().map(RepositoryId)
    }
}

serde_as_text!(RepositoryId);

/// Everything a repository offers at one moment. Images are sorted by name, versions by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub repository: RepositoryId,
    pub images: Vec<ImageRecord>,
}

/// One image and its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    pub name: ImageName,
    /// Of the image itself: its directory's node id.
    pub serial: Serial,
    /// The time of the last change (publish, deploy …): its directory's mtime.
    pub changed: Timestamp,
    /// The version that `current` means.
    pub deployed: Option<VersionNumber>,
    /// Where a rollback leads; it is ready, and kept so.
    pub fallback: Option<VersionNumber>,
    pub versions: Vec<VersionRecord>,
    /// Versions whose content was removed on purpose, in order; none of them is in `versions`.
    pub removed: Vec<VersionNumber>,
}

/// One version as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRecord {
    pub state: VersionState,
    /// Sum of the sizes of its files, in bytes.
    pub data_bytes: u64,
    /// What the publisher wrote about it; may be empty. Not signed.
    pub note: String,
    pub statement: SignedStatement,
}

impl VersionRecord {
    pub fn number(&self) -> VersionNumber {
        self.statement.statement().number
    }

    pub fn serial(&self) -> Serial {
        self.statement.statement().serial
    }

    pub fn root(&self) -> crate::Root {
        self.statement.statement().root
    }
}

impl Listing {
    pub fn image(&self, name: &ImageName) -> Option<&ImageRecord> {
        self.images.binary_search_by(|image| image.name.cmp(name)).ok().map(|i| &self.images[i])
    }
}

impl ImageRecord {
    pub fn version(&self, number: VersionNumber) -> Option<&VersionRecord> {
        self.versions.binary_search_by_key(&number, VersionRecord::number).ok().map(|i| &self.versions[i])
    }
}
