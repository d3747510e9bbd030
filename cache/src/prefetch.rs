//! Prefetch: what somebody will read, fetched before it is read.
//!
//! Orders are kept in the catalogue and go on after a restart. The runner looks at what is new, settles
//! promises, and fetches for those that go first among the orders whose time has come: one that takes all of the line,
//! and beside it those ahead of it that were limited.
//! One that cannot go on (no source, no room) says why and lets the next one run. An order never takes
//! memory, a turn or the last room on the disk that somebody who waits could have.

mod book;
mod bucket;
mod clock;
mod explain;
mod fill;
mod line;
mod order;
mod outlook;
mod pace;
mod plan;
mod queue;
mod room;
mod run;
mod schedule;
mod show;
mod turns;
mod window;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use crate::CacheError;
use crate::catalogue::orders::OrderRow;
use crate::core::Core;
use book::Entry;
pub(crate) use book::Promise;
use bucket::Bucket;
pub(crate) use clock::Clock;
pub use explain::{Explanation, Leg as ExplainedVersion};
pub(crate) use fill::Filler;
#[cfg(test)]
pub(crate) use fill::Flying;
use line::Line;
pub use line::Rate;
pub use order::{Order, OrderChange, OrderId, OrderState, OrderStatus, Priority, Verdict, What};
use pace::Pace;
pub(crate) use plan::Piece;
pub use schedule::{Deadline, Weekdays, WeekdaysError, Zone, ZoneError};
pub use window::Window;

/// The orders of a cache.
#[derive(Debug)]
pub(crate) struct Orders {
    core: Arc<Core>,
    pub(crate) clock: Clock,
    /// The machine's, for the window.
    zone: Zone,
    line: Line,
    /// What background fill may use outside of the window.
    background: Arc<Bucket>,
    book: Mutex<BTreeMap<OrderId, Entry>>,
    /// Counts what the runner has to look at.
    changes: watch::Sender<u64>,
    /// How many of them it has looked at.
    seen: watch::Sender<u64>,
}

impl Orders {
    /// With the orders and rates of the catalogue.
    pub(crate) fn new(core: Arc<Core>, rows: Vec<OrderRow>, rates: Vec<(String, u64)>) -> Orders {
        let entry = |row: OrderRow| {
            let entry = Entry { last: row.last, ..Entry::new(row.order, row.state, row.promise) };
            (row.id, entry)
        };
        Orders {
            core,
            clock: Clock::default(),
            zone: Zone::system(),
            line: Line::new(rates),
            background: Arc::new(Bucket::new(None)),
            book: Mutex::new(rows.into_iter().map(entry).collect()),
            changes: watch::Sender::new(0),
            seen: watch::Sender::new(0),
        }
    }

    /// Adds an order; the one that is already at it, if there is one.
    pub(crate) async fn add(&self, order: Order) -> Result<OrderId, CacheError> {
        let view = self.core.view();
        match order.of.number {
            None => drop(view.image(&order.of.image).ok_or_else(|| CacheError::UnknownImage(order.of.image.clone()))?),
            Some(number) => {
                let version = icbd_image::VersionId { image: order.of.image.clone(), number };
                self.core.versions.check_usable(view.usable(&version)?.serial())?;
            }
        }
        let same = |(id, entry): (&OrderId, &Entry)| (entry.order == order && !entry.state.is_ended()).then_some(*id);
        let known = self.lock().iter().find_map(same);
        if let Some(id) = known {
            self.resume(id).await?;
            return Ok(id);
        }
        let promise = Promise::new(self.clock.now());
        let (core, added) = (self.core.clone(), order.clone());
        let id = self.core.blocking(move || core.catalogue.add_order(&added, &promise)).await??;
        self.lock().insert(id, Entry::new(order, OrderState::Active, promise));
        self.changed();
        Ok(id)
    }

    /// Changes an order, also one that runs.
    pub(crate) async fn set(&self, id: OrderId, change: OrderChange) -> Result<OrderStatus, CacheError> {
        let now = self.clock.now();
        self.alter(id, |entry| {
            let is_another_time = change.deadline.is_some() || change.zone.is_some();
            if let (Some(_), Some(running)) = (change.limit, &mut entry.running) {
                // By what it was limited to nothing is reckoned any more.
                (running.pace, running.own) = (Pace::default(), Pace::default());
            }
            entry.order.change(change);
            entry.bucket.set(entry.order.limit);
            if is_another_time {
                (entry.promise.settled, entry.promise.missed) = (now, None);
                entry.has_begun = false;
            }
        })
        .await
    }

    /// Stops an order until it is resumed. What it fetched stays.
    pub(crate) async fn pause(&self, id: OrderId) -> Result<OrderStatus, CacheError> {
        self.alter(id, |entry| {
            (entry.state, entry.running, entry.trouble) = (OrderState::Paused, None, None);
            entry.has_begun = false;
        })
        .await
    }

    pub(crate) async fn resume(&self, id: OrderId) -> Result<OrderStatus, CacheError> {
        let now = self.clock.now();
        self.alter(id, |entry| {
            if entry.state != OrderState::Paused {
                return;
            }
            entry.state = OrderState::Active;
            // Of many deadlines those that passed meanwhile were taken back; of one it is missed.
            if !matches!(entry.order.deadline, Some(Deadline::Once(_))) {
                (entry.promise.settled, entry.promise.missed) = (now, None);
            }
        })
        .await
    }

    /// Ends an order for good; one that has ended stays as it is.
    pub(crate) async fn cancel(&self, id: OrderId) -> Result<OrderStatus, CacheError> {
        match self.alter(id, |entry| entry.end_as(OrderState::Cancelled)).await {
            Err(CacheError::OrderEnded { .. }) => self.status(id),
            result => result,
        }
    }

    /// Changes an order that has not ended, and has the runner look at it.
    async fn alter(&self, id: OrderId, change: impl FnOnce(&mut Entry)) -> Result<OrderStatus, CacheError> {
        let before;
        {
            let mut book = self.lock();
            let entry = book.get_mut(&id).ok_or(CacheError::UnknownOrder(id))?;
            if entry.state.is_ended() {
                return Err(CacheError::OrderEnded { id, state: entry.state.as_text() });
            }
            before = (entry.order.clone(), entry.state, entry.promise);
            change(entry);
            (entry.stuck, entry.is_dirty) = (None, true);
        }
        if let Err(error) = self.note().await {
            // What is not remembered has not happened.
            if let Some(entry) = self.lock().get_mut(&id) {
                (entry.order, entry.state, entry.promise) = before;
                entry.bucket.set(entry.order.limit);
            }
            return Err(error);
        }
        self.changed();
        self.status(id)
    }

    /// Until an order has ended, all is here, or its promise was missed.
    pub(crate) async fn wait(&self, id: OrderId) -> Result<OrderStatus, CacheError> {
        let mut seen = self.seen.subscribe();
        let change = self.changed();
        loop {
            let has_looked = *seen.borrow_and_update() >= change;
            let status = self.status(id)?;
            let is_late = matches!(status.verdict, Verdict::Late { by, .. } if by <= self.clock.now());
            if status.state.is_ended() || has_looked && (status.is_complete() || is_late) {
                return Ok(status);
            }
            tokio::select! {
                () = self.core.stop.cancelled() => return Err(CacheError::Closed),
                _ = seen.changed() => {}
            }
        }
    }

    /// How an order stands once it was looked at how much is missing, or after `patience`.
    pub(crate) async fn look(&self, id: OrderId, patience: Duration) -> Result<OrderStatus, CacheError> {
        let mut seen = self.seen.subscribe();
        let change = self.changed();
        let looked = async {
            loop {
                let has_looked = *seen.borrow_and_update() >= change;
                let status = self.status(id)?;
                let is_known = status.is_surveyed || status.trouble.is_some() || status.versions.is_empty();
                if has_looked && is_known || status.state != OrderState::Active {
                    return Ok(status);
                }
                seen.changed().await.map_err(|_| CacheError::Closed)?;
            }
        };
        tokio::time::timeout(patience, looked).await.unwrap_or_else(|_| self.status(id))
    }

    /// Has the runner look at everything again; the number of this request.
    pub(crate) fn changed(&self) -> u64 {
        let mut number = 0;
        self.changes.send_modify(|changes| {
            *changes += 1;
            number = *changes;
        });
        number
    }

    /// Remembers what is not in the catalogue yet.
    async fn note(&self) -> Result<(), CacheError> {
        let rows: Vec<OrderRow> = {
            let mut book = self.lock();
            let row = |(id, entry): (&OrderId, &mut Entry)| {
                let (order, state) = (entry.order.clone(), entry.state);
                std::mem::take(&mut entry.is_dirty).then_some(OrderRow {
                    id: *id,
                    order,
                    state,
                    promise: entry.promise,
                    last: entry.last,
                })
            };
            book.iter_mut().filter_map(row).collect()
        };
        if rows.is_empty() {
            return Ok(());
        }
        let (core, ids) = (self.core.clone(), rows.iter().map(|row| row.id).collect::<Vec<_>>());
        let noted = self.core.blocking(move || core.catalogue.set_orders(&rows)).await.and_then(|noted| noted);
        if noted.is_err() {
            // The next time all of them are tried again.
            self.lock().iter_mut().filter(|(id, _)| ids.contains(id)).for_each(|(_, entry)| entry.is_dirty = true);
        }
        noted
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<OrderId, Entry>> {
        self.book.lock().expect("no panic under this lock")
    }
}
