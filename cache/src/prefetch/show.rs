//! Orders as people see them.

use std::collections::{BTreeMap, HashSet};

use icbd_image::{Serial, VersionId, VersionRecord};
use jiff::Timestamp;

use super::Orders;
use super::book::{Entry, Here, targets};
use super::order::{OrderId, OrderState, OrderStatus, Verdict};
use crate::CacheError;

impl Orders {
    pub(crate) fn list(&self) -> Vec<OrderStatus> {
        self.look_at_all();
        let now = self.clock.now();
        let book = self.lock();
        book.iter().map(|(id, entry)| show(*id, entry, now, &book)).collect()
    }

    pub(crate) fn status(&self, id: OrderId) -> Result<OrderStatus, CacheError> {
        let now = self.clock.now();
        let book = self.lock();
        book.get(&id).map(|entry| show(id, entry, now, &book)).ok_or(CacheError::UnknownOrder(id))
    }

    /// Versions that something is fetched of now.
    pub(crate) fn filling(&self) -> Vec<Serial> {
        let book = self.lock();
        let running = book.values().filter(|entry| entry.running.is_some());
        running.filter_map(|entry| Some(entry.legs.iter().find(|leg| !leg.is_complete())?.serial)).collect()
    }

    /// Versions that orders which have not ended are for, whether they run, wait or are paused.
    pub(crate) fn ordered(&self) -> HashSet<Serial> {
        let (view, book) = (self.core.view(), self.lock());
        let going = book.values().filter(|entry| !entry.state.is_ended());
        // What an order means now, and what it was for until something new came.
        let means = |entry: &Entry| {
            let targets = targets(&view, &entry.order.of);
            targets
                .into_iter()
                .map(VersionRecord::serial)
                .chain(entry.legs.iter().map(|leg| leg.serial))
                .collect::<Vec<_>>()
        };
        going.flat_map(means).collect()
    }

    /// What an administrator should know of without asking.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let now = self.clock.now();
        let book = self.lock();
        let active = book.iter().filter(|(_, entry)| entry.state == OrderState::Active);
        active.filter_map(|(id, entry)| warning(*id, entry, now)).collect()
    }
}

fn warning(id: OrderId, entry: &Entry, now: Timestamp) -> Option<String> {
    let of = &entry.order.of;
    match (verdict(entry, now), &entry.trouble) {
        (Verdict::Late { .. }, Some(why)) => Some(format!("prefetch order {id} of {of} is late: {why}")),
        (Verdict::Late { .. }, None) => Some(format!("prefetch order {id} of {of} is late")),
        (_, Some(why)) => Some(format!("prefetch order {id} of {of} waits: {why}")),
        (_, None) => None,
    }
}

/// The order that another one waits for: of those that go before it the last that is fetched for now.
fn ahead(id: OrderId, entry: &Entry, book: &BTreeMap<OrderId, Entry>) -> Option<OrderId> {
    let place = |id, entry: &Entry| (entry.rank(), id);
    let running = book.iter().filter(|(_, entry)| entry.running.is_some()).map(|(id, entry)| place(*id, entry));
    running.filter(|other| *other < place(id, entry)).max().map(|(_, id)| id)
}

fn show(id: OrderId, entry: &Entry, now: Timestamp, book: &BTreeMap<OrderId, Entry>) -> OrderStatus {
    let held = entry.held();
    let named = entry.order.of.number.map(|number| VersionId { image: entry.order.of.image.clone(), number });
    let legs = entry.legs.iter().map(|leg| leg.id.clone());
    let pace = entry.running.as_ref().and_then(|running| running.own.bytes_per_second());
    OrderStatus {
        id,
        order: entry.order.clone(),
        state: entry.state,
        versions: if entry.legs.is_empty() { named.into_iter().collect() } else { legs.collect() },
        total_bytes: held.total_bytes,
        done_bytes: held.durable_bytes,
        left_bytes: entry.left_bytes(),
        is_surveyed: !entry.legs.is_empty() && entry.legs.iter().all(|leg| leg.plan.is_some()),
        bytes_per_second: pace.unwrap_or(0),
        deadline: entry.deadline(),
        verdict: match verdict(entry, now) {
            Verdict::Queued { .. } => Verdict::Queued { behind: ahead(id, entry, book) },
            verdict => verdict,
        },
        trouble: entry.trouble.clone(),
        note: entry.legs.iter().find_map(|leg| leg.plan.as_ref()?.note()),
    }
}

pub(super) fn verdict(entry: &Entry, now: Timestamp) -> Verdict {
    match (entry.state, entry.promise.since, entry.promise.missed) {
        (OrderState::Cancelled, ..) => return Verdict::Cancelled,
        (OrderState::Paused, ..) => return Verdict::Paused,
        // What was here is of no version that is meant.
        (OrderState::Active, ..) if entry.legs.is_empty() && entry.order.of.number.is_none() => {
            return Verdict::NoVersion;
        }
        (_, Some(since), Some(by)) => return Verdict::Missed { by, since },
        (_, Some(since), None) => return Verdict::Kept { since },
        _ => {}
    }
    if entry.legs.is_empty() {
        return Verdict::NoVersion;
    }
    let is_looked_at = entry.legs.iter().all(|leg| leg.plan.is_some());
    match (entry.deadline(), entry.end) {
        (Some(by), end) if by <= now => Verdict::Late { by, end },
        (Some(by), end) if is_looked_at && entry.earliest.is_none_or(|earliest| earliest > by) => {
            Verdict::Late { by, end }
        }
        _ if !is_looked_at && entry.here() == Here::Unknown => Verdict::Looks,
        _ if entry.stuck.is_some() => Verdict::Stuck,
        (_, end) if entry.running.is_some() => Verdict::Runs { end },
        (Some(_), _) if !entry.is_due(now) => match entry.start {
            Some(until) => Verdict::Waits { until },
            None => Verdict::Queued { behind: None },
        },
        _ => Verdict::Queued { behind: None },
    }
}
