//! Which errno a reader gets: the only place where one is chosen.

use icbd_cache::CacheError;
use nix::errno::Errno;

/// Why a request is not answered with what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such name.
    NoEntry,
    /// A node id that means nothing (any more).
    Stale,
    NotDirectory,
    /// An argument that makes no sense for this node.
    Invalid,
    NameTooLong,
    /// Every attempt to change something.
    ReadOnly,
    NoAttribute,
    /// The buffer for an extended attribute is too small.
    Range,
    /// SEEK_DATA or SEEK_HOLE past the end or with nothing to find.
    NoData,
    NoIoctl,
    /// The request is one this file system does not have; the kernel does not ask again.
    Unsupported,
    /// The request is one that this file cannot have done.
    NotSupported,
    /// The disk is full, or somebody wrote as much as they may.
    NoSpace,
    /// The bytes could be had neither from the disk nor from a source.
    Io,
}

impl Refusal {
    pub(crate) fn errno(self) -> Errno {
        match self {
            Refusal::NoEntry => Errno::ENOENT,
            Refusal::Stale => Errno::ESTALE,
            Refusal::NotDirectory => Errno::ENOTDIR,
            Refusal::Invalid => Errno::EINVAL,
            Refusal::NameTooLong => Errno::ENAMETOOLONG,
            Refusal::ReadOnly => Errno::EROFS,
            Refusal::NoAttribute => Errno::ENODATA,
            Refusal::Range => Errno::ERANGE,
            Refusal::NoData => Errno::ENXIO,
            Refusal::NoIoctl => Errno::ENOTTY,
            Refusal::Unsupported => Errno::ENOSYS,
            Refusal::NotSupported => Errno::EOPNOTSUPP,
            Refusal::NoSpace => Errno::ENOSPC,
            Refusal::Io => Errno::EIO,
        }
    }
}

impl From<&CacheError> for Refusal {
    fn from(error: &CacheError) -> Refusal {
        match error {
            error if error.is_full() => Refusal::NoSpace,
            CacheError::UnknownSerial(_) | CacheError::UnknownVersion(_) | CacheError::Untrusted { .. } => {
                Refusal::Stale
            }
            CacheError::NotAFile { .. } => Refusal::Invalid,
            CacheError::InUse { .. }
            | CacheError::NoFormat { .. }
            | CacheError::NewerStore { .. }
            | CacheError::NotAStore { .. }
            | CacheError::Damaged { .. }
            | CacheError::CannotShare(_)
            | CacheError::Disk { .. }
            | CacheError::Catalogue(_)
            | CacheError::UnknownImage(_)
            | CacheError::NoSuchFile { .. }
            | CacheError::UnknownOrder(_)
            | CacheError::OrderEnded { .. }
            | CacheError::CloneLimit { .. }
            | CacheError::UnknownClone(_)
            | CacheError::Refused(_)
            | CacheError::Reserve { .. }
            | CacheError::NotKept(_)
            | CacheError::Unavailable { .. }
            | CacheError::Unusable { .. }
            | CacheError::Fetch(_)
            | CacheError::Closed => Refusal::Io,
        }
    }
}
