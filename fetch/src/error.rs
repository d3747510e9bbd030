//! Why a source, or every source, failed.

use std::fmt;
use std::time::Duration;

use icbd_image::{FileIndex, HashMismatch, HeadError, PageError, Root, Run};

/// Why one source did not give what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// There is no connection, or it ended before the answer began.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("{what} within {} s", after.as_secs_f32())]
    Timeout { what: &'static str, after: Duration },
    /// The answer began and did not end.
    #[error("its answer broke off: {0}")]
    Interrupted(String),
    #[error("it is passed over for another {:.1} s after an error: {error}", retry_after.as_secs_f32())]
    CoolingDown { retry_after: Duration, error: String },
    #[error("it has no such thing")]
    Absent,
    #[error("it refuses with HTTP status {status}: {says}")]
    Refused { status: u16, says: String },
    #[error("it failed with HTTP status {status}: {says}")]
    Broken { status: u16, says: String },
    #[error("it {0}: is this an icbd master? check the source's URL")]
    Foreign(String),
    #[error("its answer is malformed: {0}")]
    Malformed(String),
    #[error("its answer is not what the manifest says: {0}")]
    WrongContent(WrongContent),
    #[error("it cannot be read: {0}")]
    Disk(String),
}

/// What did not match its hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongContent {
    #[error(transparent)]
    Block(#[from] HashMismatch),
    #[error(transparent)]
    Page(#[from] PageError),
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("it unpacks to nothing of at most {bytes_max} bytes")]
    Packed { bytes_max: usize },
}

impl SourceError {
    /// Whether asking the same source again cannot help.
    pub fn is_permanent(&self) -> bool {
        match self {
            SourceError::Unreachable(_)
            | SourceError::Timeout { .. }
            | SourceError::Interrupted(_)
            | SourceError::CoolingDown { .. }
            | SourceError::Broken { .. }
            | SourceError::Disk(_) => false,
            SourceError::Refused { status, .. } => *status != TOO_MANY_REQUESTS,
            SourceError::Absent
            | SourceError::Foreign(_)
            | SourceError::Malformed(_)
            | SourceError::WrongContent(_) => true,
        }
    }

    /// Whether it has what was asked for and cannot give it as it was published.
    pub fn is_damaged_there(&self) -> bool {
        matches!(self, SourceError::Broken { status: 500, .. } | SourceError::WrongContent(WrongContent::Block(_)))
    }

    fn in_short(&self) -> String {
        let short = match self {
            SourceError::Unreachable(_) => "unreachable",
            SourceError::Timeout { .. } => "silent",
            SourceError::Interrupted(_) => "its answer broke off",
            SourceError::CoolingDown { .. } => "offline",
            SourceError::Absent => "it has no such thing",
            SourceError::Refused { status, .. } => return format!("it refuses (HTTP {status})"),
            SourceError::Broken { status, .. } => return format!("it failed (HTTP {status})"),
            SourceError::Foreign(_) => "it is no icbd",
            SourceError::Malformed(_) => "its answer is malformed",
            SourceError::WrongContent(_) => "its answer is not what the manifest says",
            SourceError::Disk(_) => "it cannot be read",
        };
        short.to_owned()
    }

    /// How often a request that failed so is made at one source, at most `tries_max` times.
    pub(crate) fn tries(&self, tries_max: u32) -> u32 {
        match self {
            // A bit that flipped on the way is right the second time.
            SourceError::WrongContent(_) => tries_max.min(2),
            // It took long enough already; the next source may answer at once.
            SourceError::Timeout { .. } | SourceError::CoolingDown { .. } => 1,
            error if error.is_permanent() => 1,
            _ => tries_max,
        }
    }

    /// Whether the source itself is to blame, so that no other request need try it for now. An error
    /// that is about one thing only must not take the source away from all others.
    pub(crate) fn blames_source(&self) -> bool {
        match self {
            SourceError::Unreachable(_) | SourceError::Timeout { .. } | SourceError::Foreign(_) => true,
            SourceError::Refused { status, .. } => matches!(*status, 401 | 403 | 407 | TOO_MANY_REQUESTS),
            // What a proxy says in the place of its master; a plain 500 is about one thing.
            SourceError::Broken { status, .. } => matches!(*status, 502..=504),
            // A master that cannot read one block of a run can only break off.
            SourceError::Interrupted(_)
            | SourceError::CoolingDown { .. }
            | SourceError::Absent
            | SourceError::Malformed(_)
            | SourceError::WrongContent(_)
            | SourceError::Disk(_) => false,
        }
    }
}

const TOO_MANY_REQUESTS: u16 = 429;

impl<E: Into<WrongContent>> From<E> for SourceError {
    fn from(error: E) -> SourceError {
        SourceError::WrongContent(error.into())
    }
}

/// What was asked for, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Listing,
    Head(Root),
    Page { root: Root, file: FileIndex, page: u64 },
    Profile(Root),
    Blocks(Run),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::Listing => f.write_str("the list of images"),
            Wanted::Head(root) => write!(f, "the head of version {}", root.short()),
            Wanted::Profile(root) => write!(f, "the boot profile of version {}", root.short()),
            Wanted::Page { root, file, page } => {
                write!(f, "hash page {page} of file {} of version {}", file.get(), root.short())
            }
            Wanted::Blocks(run) if run.count == 1 => {
                write!(f, "block {} of file {} of version {}", run.first, run.file.get(), run.root.short())
            }
            Wanted::Blocks(run) => {
                let (last, file) = (run.end() - 1, run.file.get());
                write!(f, "blocks {} to {last} of file {file} of version {}", run.first, run.root.short())
            }
        }
    }
}

/// One source's part in a round that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The source's name.
    pub source: String,
    pub error: SourceError,
}

/// Why no source gave what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("{wanted} cannot be fetched: no source is configured; give one with --master URL or [[source]]")]
    NoSource { wanted: Wanted },
    /// The root proves it to be the version's own, so every source has the same, and none can have a better one.
    #[error("the manifest of version {} cannot be used: {why}", root.short())]
    Unusable { root: Root, why: HeadError },
    /// The sources in the order they were asked. Never empty.
    #[error("{wanted} cannot be fetched: {}", show(failures))]
    Failed { wanted: Wanted, failures: Vec<Failure> },
}

impl FetchError {
    /// Whether every source said that asking again cannot help.
    pub fn is_permanent(&self) -> bool {
        match self {
            FetchError::NoSource { .. } | FetchError::Unusable { .. } => true,
            FetchError::Failed { failures, .. } => failures.iter().all(|failure| failure.error.is_permanent()),
        }
    }
}

impl FetchError {
    /// Whether every source has the very thing and cannot give it as it was published: it takes a person there to mend that.
    pub fn is_damaged_there(&self) -> bool {
        let FetchError::Failed { failures, .. } = self else { return false };
        failures.iter().all(|failure| failure.error.is_damaged_there())
    }

    /// Whether every source answered that it has no such thing.
    pub fn is_absent(&self) -> bool {
        let FetchError::Failed { failures, .. } = self else { return false };
        failures.iter().all(|failure| failure.error == SourceError::Absent)
    }

    /// The cause in a few words, for a line of a status; the error itself says all.
    pub fn cause(&self) -> String {
        match self {
            FetchError::NoSource { .. } => "no source is configured".to_owned(),
            FetchError::Unusable { why, .. } => why.to_string(),
            FetchError::Failed { failures, .. } => {
                let each = failures.iter().map(|failure| format!("{}: {}", failure.source, failure.error.in_short()));
                each.collect::<Vec<_>>().join("; ")
            }
        }
    }
}

fn show(failures: &[Failure]) -> String {
    let each = failures.iter().map(|failure| format!("{}: {}", failure.source, failure.error));
    each.collect::<Vec<_>>().join("; ")
}
