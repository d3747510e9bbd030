//! What somebody ordered, how it is getting on, and whether its promise is kept.

use std::num::NonZeroU64;

use icbd_image::{ImageRef, VersionId};
use jiff::Timestamp;

use super::schedule::{Deadline, Zone};

/// The number of an order, never used twice in a store.
pub type OrderId = i64;

/// What to fetch of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// What a boot reads.
    Boot,
    /// Every block.
    All,
    /// One file, by its path in the version.
    File(String),
}

/// Who goes first among orders that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    Low,
    Normal,
    /// Also background fill outside of the window.
    High,
}

/// To have something here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Without a number a standing order: the deployed version, and the newest one that is ready.
    pub of: ImageRef,
    pub what: What,
    /// `None`: at once.
    pub deadline: Option<Deadline>,
    /// Of the deadline.
    pub zone: Zone,
    /// On the wire, in bytes a second.
    pub limit: Option<NonZeroU64>,
    pub priority: Priority,
}

/// What shall be different about an order from now on; `None`: as it is.
#[derive(Debug, Clone, Default)]
pub struct OrderChange {
    pub deadline: Option<Option<Deadline>>,
    pub zone: Option<Zone>,
    pub limit: Option<Option<NonZeroU64>>,
    pub priority: Option<Priority>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderState {
    Active,
    Paused,
    /// An order for one version ends when all is here.
    Done,
    Cancelled,
}

/// How it stands with what was promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All has been here since then.
    Kept {
        since: Timestamp,
    },
    /// All is here since then, but not by the deadline.
    Missed {
        by: Timestamp,
        since: Timestamp,
    },
    /// It will not be, or was not, in time; `end`: the best that is possible, if that can be told.
    Late {
        by: Timestamp,
        end: Option<Timestamp>,
    },
    /// It is being fetched.
    Runs {
        end: Option<Timestamp>,
    },
    /// It gets nothing; why, the order's trouble says.
    Stuck,
    /// It is looked at how much is missing.
    Looks,
    /// Others go first: this one, if that is known.
    Queued {
        behind: Option<OrderId>,
    },
    /// There is time enough.
    Waits {
        until: Timestamp,
    },
    /// The image has no version to fetch.
    NoVersion,
    Paused,
    Cancelled,
}

/// An order as people see it.
#[derive(Debug, Clone)]
pub struct OrderStatus {
    pub id: OrderId,
    pub order: Order,
    pub state: OrderState,
    /// Those that are fetched for it, the first one first.
    pub versions: Vec<VersionId>,
    /// Of what was ordered; blocks that are zero count as done once that is known.
    pub total_bytes: u64,
    pub done_bytes: u64,
    /// Still to be fetched; at most so much until all hashes were seen (`is_surveyed`).
    pub left_bytes: u64,
    pub is_surveyed: bool,
    /// What it fetches itself now; 0 when it does not run.
    pub bytes_per_second: u64,
    /// The next one.
    pub deadline: Option<Timestamp>,
    pub verdict: Verdict,
    /// Why it does not go on.
    pub trouble: Option<String>,
    /// What is fetched instead of what was ordered, and why.
    pub note: Option<&'static str>,
}

impl Order {
    /// For at once, as fast as it goes.
    pub fn new(of: ImageRef, what: What) -> Order {
        let (deadline, zone, limit, priority) = (None, Zone::system(), None, Priority::Normal);
        Order { of, what, deadline, zone, limit, priority }
    }

    /// For one version, at once.
    pub fn of_version(version: &VersionId, what: What) -> Order {
        Order::new(ImageRef { image: version.image.clone(), number: Some(version.number) }, what)
    }

    /// Whether it goes on once all is here: for versions to come, or for the next day.
    pub fn is_lasting(&self) -> bool {
        self.of.number.is_none() || matches!(self.deadline, Some(Deadline::Weekly(..)))
    }

    /// Whether it has to keep to the window: nobody waits for it, and it takes long.
    pub fn is_background(&self) -> bool {
        self.what == What::All && self.deadline.is_none() && self.priority < Priority::High
    }

    pub(crate) fn change(&mut self, change: OrderChange) {
        self.deadline = change.deadline.unwrap_or(self.deadline);
        self.limit = change.limit.unwrap_or(self.limit);
        self.priority = change.priority.unwrap_or(self.priority);
        if let Some(zone) = change.zone {
            self.zone = zone;
        }
    }
}

impl OrderState {
    /// Whether nothing more will happen to the order.
    pub fn is_ended(self) -> bool {
        matches!(self, OrderState::Done | OrderState::Cancelled)
    }

    pub fn as_text(self) -> &'static str {
        match self {
            OrderState::Active => "active",
            OrderState::Paused => "paused",
            OrderState::Done => "done",
            OrderState::Cancelled => "cancelled",
        }
    }

    pub(crate) fn from_text(text: &str) -> Option<OrderState> {
        [OrderState::Active, OrderState::Paused, OrderState::Done, OrderState::Cancelled]
            .into_iter()
            .find(|state| state.as_text() == text)
    }
}

impl Priority {
    pub fn as_text(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
        }
    }

    pub fn from_text(text: &str) -> Option<Priority> {
        [Priority::Low, Priority::Normal, Priority::High].into_iter().find(|priority| priority.as_text() == text)
    }
}

impl What {
    /// What goes first where all else is equal: the little that a boot waits for.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            What::Boot => 0,
            What::File(_) => 1,
            What::All => 2,
        }
    }
}

impl OrderStatus {
    pub fn is_complete(&self) -> bool {
        matches!(self.verdict, Verdict::Kept { .. } | Verdict::Missed { .. })
    }
}
