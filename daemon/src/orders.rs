//! Prefetch orders as they travel between command and daemon, and the words in which they are shown.

mod terms;
mod words;

use icbd_image::{ImageRef, VersionId};
use serde::{Deserialize, Serialize};

pub(crate) use terms::When;
pub(crate) use words::{Here, explain, list, one, report};

/// An order to be given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OrderBody {
    pub of: ImageRef,
    pub what: What,
    #[serde(flatten)]
    pub terms: Terms,
}

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    Boot,
    All,
    File(String),
}

/// How to fetch, as it was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    pub by: Option<String>,
    pub days: Option<String>,
    pub zone: Option<String>,
    pub limit: Option<String>,
    pub priority: Option<String>,
}

/// What is to be explained: an order, or what could be ordered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Subject {
    Order(i64),
    Could(ImageRef, What),
}

/// An order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OrderReport {
    pub id: i64,
    pub of: ImageRef,
    pub what: What,
    /// Those that are fetched for it.
    pub versions: Vec<VersionId>,
    /// `active`, `paused`, `done` or `cancelled`.
    pub state: String,
    /// `mon-fri by 08:45`.
    pub order: String,
    pub zone: String,
    /// On the wire.
    pub limit_bytes_per_second: Option<u64>,
    pub priority: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
    /// To be fetched still; at most so much while it is not known better.
    pub left_bytes: u64,
    pub is_left_exact: bool,
    pub bytes_per_second: u64,
    /// The next one, as RFC 3339.
    pub deadline: Option<String>,
    pub verdict: Verdict,
    /// The verdict in words.
    pub says: String,
    /// Why it does not get on, if it does not.
    pub trouble: Option<String>,
    pub note: Option<String>,
}

/// How an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Kept,
    Missed,
    Late,
    Runs,
    Stuck,
    Looks,
    Queued,
    Waits,
    NoVersion,
    Paused,
    Cancelled,
}

/// What an order means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExplanationReport {
    pub of: ImageRef,
    pub what: What,
    pub versions: Vec<ExplainedVersion>,
    /// Versions of the image whose signature is not trusted.
    #[serde(default)]
    pub withheld: usize,
    pub source: Option<String>,
    /// Of blocks as they are read.
    pub bytes_per_second: u64,
    pub is_rate_measured: bool,
    pub wire_bytes: u64,
    pub takes_seconds: Option<u64>,
    /// Why it is not faster, or not begun.
    pub hindrances: Vec<String>,
    /// The order, if it was given.
    pub order: Option<OrderReport>,
}

/// A version in an explanation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExplainedVersion {
    pub version: VersionId,
    pub total_bytes: u64,
    pub left_bytes: u64,
    pub is_left_exact: bool,
    pub note: Option<String>,
}

impl OrderReport {
    /// Whether nothing more will happen to it.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(&*self.state, "active" | "paused")
    }

    /// Whether all is here.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.verdict, Verdict::Kept | Verdict::Missed)
    }

    /// Whether what was promised is not kept, or will not be.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self.verdict, Verdict::Missed | Verdict::Late)
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            What::Boot => f.write_str("boot"),
            What::All => f.write_str("all"),
            What::File(path) => f.write_str(path),
        }
    }
}

impl From<&icbd_cache::What> for What {
    fn from(what: &icbd_cache::What) -> What {
        match what {
            icbd_cache::What::Boot => What::Boot,
            icbd_cache::What::All => What::All,
            icbd_cache::What::File(path) => What::File(path.clone()),
        }
    }
}

impl From<What> for icbd_cache::What {
    fn from(what: What) -> icbd_cache::What {
        match what {
            What::Boot => icbd_cache::What::Boot,
            What::All => icbd_cache::What::All,
            What::File(path) => icbd_cache::What::File(path),
        }
    }
}
