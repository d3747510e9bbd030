//! What can go wrong around a mount, said to people.

use std::io;
use std::path::PathBuf;

use icbd_cache::CacheError;

/// Why a mount could not be made, taken over or ended.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    #[error("the mount point {} does not exist; create it with `mkdir -p {}`", .0.display(), .0.display())]
    Missing(PathBuf),
    #[error("the mount point {} is not a directory; name another, or move it away", .0.display())]
    NotDirectory(PathBuf),
    #[error(
        "the mount point {} is not empty: its files would be hidden; empty it or name another directory",
        .0.display()
    )]
    NotEmpty(PathBuf),
    #[error(
        "another icbd serves {} already; stop that daemon (`icbd status` names it), or mount elsewhere",
        .0.display()
    )]
    Served(PathBuf),
    #[error(
        "{} is an icbd mount whose daemon does not answer, but somebody still holds it; stop its keeper (the parent \
         process of `icbd cache`), or mount elsewhere",
        .0.display()
    )]
    Hung(PathBuf),
    #[error(
        "something else ({kind} from {source_name}) is mounted on {}; unmount it, or mount elsewhere",
        path.display()
    )]
    Foreign { path: PathBuf, kind: String, source_name: String },
    #[error(
        "{} shows another mount than the one this daemon made; it was left alone, see /proc/self/mountinfo",
        .0.display()
    )]
    NotOurs(PathBuf),
    #[error("cannot {doing}: {error}; {remedy}")]
    System { doing: String, error: io::Error, remedy: &'static str },
    /// The connection that was handed over cannot be used any more and was cleaned up.
    #[error("the earlier mount could not be taken over: {0}; it was ended, mount anew with a new handover")]
    Renew(String),
    #[error("the descriptors that were handed over are not an icbd mount's: {0}; start without them")]
    Handover(String),
    #[error("the mount is set up for {}, but the settings say {}; restart the keeper too", was.display(), now.display())]
    Moved { was: PathBuf, now: PathBuf },
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl FsError {
    /// Whether trying again cannot help until somebody changes something.
    pub fn is_permanent(&self) -> bool {
        match self {
            FsError::Missing(_)
            | FsError::NotDirectory(_)
            | FsError::NotEmpty(_)
            | FsError::Served(_)
            | FsError::Hung(_)
            | FsError::Foreign { .. }
            | FsError::NotOurs(_)
            | FsError::System { .. }
            | FsError::Handover(_)
            | FsError::Moved { .. } => true,
            FsError::Renew(_) => false,
            FsError::Cache(error) => error.is_permanent(),
        }
    }

    /// For `map_err` on a system call.
    pub(crate) fn system<E: Into<io::Error>>(
        doing: impl Into<String>,
        remedy: &'static str,
    ) -> impl FnOnce(E) -> FsError {
        let doing = doing.into();
        move |error| FsError::System { doing, error: error.into(), remedy }
    }
}
