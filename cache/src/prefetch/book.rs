//! The orders in memory: which versions each means, how much of them is here, who goes next.

use std::cmp::Reverse;
use std::sync::Arc;

use icbd_image::{ImageRecord, ImageRef, Serial, VersionId, VersionNumber, VersionRecord, VersionState};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::bucket::Bucket;
use super::order::{Order, OrderState, Priority, What};
use super::pace::Pace;
use super::plan::Plan;
use crate::core::Core;
use crate::version::Residency;
use crate::view::View;

/// After a look that failed where an older plan is good enough meanwhile.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_mins(10);

/// An order, and how it is getting on.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) order: Order,
    pub(crate) state: OrderState,
    pub(crate) promise: Promise,
    pub(crate) legs: Vec<Leg>,
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) trouble: Option<String>,
    /// It failed, and is left alone.
    pub(crate) stuck: Option<Stuck>,
    /// Its time came once; it is not put off again when there is more time than it seemed.
    pub(crate) has_begun: bool,
    /// While it is being fetched.
    pub(crate) running: Option<Running>,
    /// When it has to begin, of one with a deadline.
    pub(crate) start: Option<Timestamp>,
    /// When it would be done, if all goes on as it does.
    pub(crate) end: Option<Timestamp>,
    /// When it will be done at the earliest: the same, but for a line that nobody measured, which may be any.
    pub(crate) earliest: Option<Timestamp>,
    /// Whether the catalogue does not know all of this yet.
    pub(crate) is_dirty: bool,
    /// What was said last of an order that has ended.
    pub(crate) last: Residency,
}

/// How long an order is left alone after it failed; a change of the order ends that, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// Until the sources are worth another try.
    Retry,
    /// What it waits for is damaged at its source.
    Until(Instant),
}

/// What was promised, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Promise {
    /// All deadlines up to this moment were kept or missed.
    pub(crate) settled: Timestamp,
    /// The last deadline, if it was missed.
    pub(crate) missed: Option<Timestamp>,
    /// All has been here since then.
    pub(crate) since: Option<Timestamp>,
    /// The newest version at that time.
    pub(crate) newest: Option<Serial>,
}

/// One version of an order.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) serial: Serial,
    pub(crate) id: VersionId,
    /// `None` until the version was looked at since the start.
    pub(crate) plan: Option<Arc<Plan>>,
    /// How much was known of boots when it was made, as [`Profiles::changes`](crate::profiles::Profiles::changes) counts.
    pub(crate) learned: u64,
    /// When it could not be made anew the last time.
    pub(crate) failed: Option<Timestamp>,
    pub(crate) held: Residency,
}

/// How fast an order is.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pace: Pace,
    pub(crate) resident_bytes: u64,
    /// What it asked for itself: others may fetch of the same.
    pub(crate) own: Pace,
    pub(crate) asked_bytes: u64,
    pub(crate) at: Instant,
}

/// What is known of whether all is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Here {
    Unknown,
    InPart,
    All,
}

/// Who goes first, the smallest first.
pub(crate) type Rank = (Reverse<Priority>, Timestamp, u8);

impl Stuck {
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Stuck::Until(at) if at <= Instant::now())
    }
}

impl Promise {
    pub(crate) fn new(now: Timestamp) -> Promise {
        Promise { settled: now, missed: None, since: None, newest: None }
    }
}

impl Entry {
    pub(crate) fn new(order: Order, state: OrderState, promise: Promise) -> Entry {
        Entry {
            bucket: Arc::new(Bucket::new(order.limit)),
            order,
            state,
            promise,
            legs: Vec::new(),
            trouble: None,
            stuck: None,
            has_begun: false,
            running: None,
            start: None,
            end: None,
            earliest: None,
            is_dirty: false,
            last: Residency::default(),
        }
    }

    /// Takes up versions that are new, and lets go of those that are no longer meant.
    pub(crate) fn retarget(&mut self, view: &View, core: &Core) {
        let mut records = targets(view, &self.order.of);
        // Who stands for versions to come does without one that nobody can use; the status names it.
        records.retain(|record| self.order.of.number.is_some() || core.versions.check_usable(record.serial()).is_ok());
        let mut before = std::mem::take(&mut self.legs);
        for record in records {
            let at = before.iter().position(|leg| leg.serial == record.serial());
            let new = || {
                let held = Residency { total_bytes: record.data_bytes, ..Residency::default() };
                Leg {
                    serial: record.serial(),
                    id: record.statement.statement().version(),
                    plan: None,
                    learned: 0,
                    failed: None,
                    held,
                }
            };
            self.legs.push(at.map_or_else(new, |at| before.swap_remove(at)));
        }
        let newest = self.legs.iter().map(|leg| leg.serial).max();
        if self.promise.since.is_some() && newest > self.promise.newest {
            self.broken();
        }
    }

    /// Looks at how much is here now.
    pub(crate) fn look(&mut self, core: &Core) {
        for leg in &mut self.legs {
            let open = core.versions.get(leg.serial).filter(|version| version.filling().is_some());
            match (&leg.plan, open) {
                (Some(plan), Some(version)) => leg.held = plan.held(&version),
                (_, None) if self.order.what == What::All => {
                    let held = core.held.lock().expect("no panic under this lock").get(&leg.serial).copied();
                    leg.held = held.map_or(leg.held, |held| held.of(leg.held.total_bytes));
                }
                _ => {}
            }
        }
    }

    pub(crate) fn here(&self) -> Here {
        let is_in_part = |leg: &Leg| leg.plan.is_some() && !leg.is_complete();
        match (self.legs.iter().any(is_in_part), self.legs.iter().any(|leg| leg.plan.is_none())) {
            (true, _) => Here::InPart,
            (false, true) => Here::Unknown,
            (false, false) if self.legs.is_empty() => Here::Unknown,
            (false, false) => Here::All,
        }
    }

    /// The next deadline, if there is one: the one that was missed, as long as not all is here.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let overdue = self.promise.missed.filter(|_| self.promise.since.is_none());
        overdue.or_else(|| self.order.deadline?.next(self.promise.settled, &self.order.zone))
    }

    /// Notes what is here now, and what becomes of the promises. What it returns is worth telling.
    pub(crate) fn settle(&mut self, now: Timestamp) -> Option<Event> {
        let before = (self.promise, self.state);
        let mut event = None;
        match self.here() {
            Here::All if self.promise.since.is_none() => {
                self.promise.since = Some(now);
                self.promise.newest = self.legs.iter().map(|leg| leg.serial).max();
                (self.running, self.has_begun) = (None, false);
                event = Some(Event::Complete);
            }
            Here::InPart if self.promise.since.is_some() => self.broken(),
            _ => {}
        }
        // Who paused it takes the promise back.
        while self.state == OrderState::Active
            && let Some(by) =
                self.order.deadline.and_then(|deadline| deadline.next(self.promise.settled, &self.order.zone))
            && by <= now
        {
            let is_kept = self.promise.since.is_some_and(|since| since <= by);
            self.promise.settled = by;
            self.promise.missed = (!is_kept).then_some(by);
            event = if is_kept { event } else { Some(Event::Missed(by)) };
        }
        if self.here() == Here::All && !self.order.is_lasting() && self.state == OrderState::Active {
            self.end_as(OrderState::Done);
        }
        self.is_dirty |= before != (self.promise, self.state);
        event
    }

    pub(crate) fn end_as(&mut self, state: OrderState) {
        self.last = self.held();
        (self.state, self.running, self.trouble, self.stuck) = (state, None, None, None);
        self.is_dirty = true;
    }

    fn broken(&mut self) {
        (self.promise.since, self.promise.missed) = (None, None);
        self.is_dirty = true;
    }

    /// Of all its versions.
    pub(crate) fn held(&self) -> Residency {
        if self.state.is_ended() && self.legs.is_empty() {
            return self.last;
        }
        let mut sum = Residency::default();
        for held in self.legs.iter().map(|leg| leg.held) {
            sum.total_bytes += held.total_bytes;
            sum.resident_bytes += held.resident_bytes;
            sum.durable_bytes += held.durable_bytes;
        }
        sum
    }

    /// Bytes that are to be fetched still.
    pub(crate) fn left_bytes(&self) -> u64 {
        let held = self.held();
        held.total_bytes.saturating_sub(held.resident_bytes)
    }

    /// Who goes first: by priority; then what is promised sooner; then what is smaller.
    pub(crate) fn rank(&self) -> Rank {
        (Reverse(self.order.priority), self.deadline().unwrap_or(Timestamp::MAX), self.order.what.rank())
    }

    /// The first version that has to be looked at: for the first time, or because more is known of boots since;
    /// also while it is being fetched, for what is fetched then may be what no boot reads.
    pub(crate) fn to_look_at(&self, learned: u64, now: Timestamp) -> Option<&Leg> {
        let is_again = |leg: &Leg| leg.failed.is_none_or(|failed| now.duration_since(failed) > LOOK_AGAIN);
        let is_old = |leg: &Leg| self.order.what == What::Boot && leg.learned != learned && is_again(leg);
        self.legs.iter().find(|leg| leg.plan.is_none() || is_old(leg))
    }

    /// Whether its own speed is known.
    pub(crate) fn has_pace(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.pace.bytes_per_second().is_some())
    }

    /// Whether what it waits for is damaged at its source.
    pub(crate) fn is_damaged(&self) -> bool {
        matches!(self.stuck, Some(Stuck::Until(_)))
    }

    /// Whether its time has come.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.has_begun || self.deadline().is_none() || self.start.is_some_and(|start| start <= now)
    }
}

/// Something about an order that is worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Complete,
    Missed(Timestamp),
}

impl Leg {
    pub(crate) fn is_complete(&self) -> bool {
        self.plan.is_some() && self.held.is_complete()
    }

    /// Bytes that are to be fetched still.
    pub(crate) fn left_bytes(&self) -> u64 {
        self.held.total_bytes.saturating_sub(self.held.resident_bytes)
    }
}

impl Running {
    pub(crate) fn new(resident_bytes: u64, asked_bytes: u64) -> Running {
        let (pace, own) = (Pace::default(), Pace::default());
        Running { pace, resident_bytes, own, asked_bytes, at: Instant::now() }
    }

    /// Notes how far it came.
    pub(crate) fn sample(&mut self, resident_bytes: u64, asked_bytes: u64) {
        let now = Instant::now();
        self.pace.sample(resident_bytes.saturating_sub(self.resident_bytes), now - self.at);
        self.own.sample(asked_bytes.saturating_sub(self.asked_bytes), now - self.at);
        (self.resident_bytes, self.asked_bytes, self.at) = (resident_bytes, asked_bytes, now);
    }
}

/// Sums of times from now on; a year where it cannot be told.
pub(crate) fn after(now: Timestamp, time: Option<SignedDuration>) -> Option<Timestamp> {
    now.checked_add(time?).ok()
}

/// The versions that are meant: the one named; else the deployed one, and the newest that is ready to follow it.
pub(crate) fn targets<'a>(view: &'a View, of: &ImageRef) -> Vec<&'a VersionRecord> {
    let Some(image) = view.image(&of.image) else { return Vec::new() };
    if let Some(number) = of.number {
        return image.version(number).into_iter().collect();
    }
    let deployed = image.deployed.and_then(|number| image.version(number));
    // One that is older than what is deployed follows nothing, also where that is withheld.
    deployed.into_iter().chain(newest_ready(image, view.meant(&of.image))).collect()
}

fn newest_ready(image: &ImageRecord, deployed: Option<VersionNumber>) -> Option<&VersionRecord> {
    let is_new = |version: &&VersionRecord| deployed.is_none_or(|deployed| version.number() > deployed);
    image.versions.iter().rev().find(|version| version.state == VersionState::Ready).filter(is_new)
}
