//! The one task that fetches for orders, one after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use icbd_fetch::Urgency;
use icbd_image::Serial;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Mutex, watch};

use super::book::{Entry, Event, Here, Running, after};
use super::fill::{Filler, Flying, Toll};
use super::order::{OrderId, OrderState};
use super::outlook::{Speed, latest_starts};
use super::plan::Plan;
use super::{Bucket, Orders};
use crate::CacheError;
use crate::health::StoreState;
use crate::version::Version;

/// While something is fetched: how often its rate is measured, and who goes first is asked again.
const TICK: Duration = Duration::from_secs(1);
/// While nothing is: a clock that was set is noticed after this.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Whether the sources were all right in this turn: the next failure is a new one then, not one more.
fn went_on(outcome: Option<&Result<(), CacheError>>, fetched_bytes: u64) -> bool {
    match outcome {
        None | Some(Ok(())) => true,
        Some(Err(CacheError::Fetch(_))) => fetched_bytes > 0,
        // What came and could not be kept is not to be asked for ever faster.
        Some(Err(_)) => false,
    }
}

/// What to do for which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Task {
    id: OrderId,
    serial: Serial,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Finding out what is missing.
    Look,
    Fetch,
}

impl Orders {
    /// Fetches for orders until the cache stops.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut changes = self.changes.subscribe();
        let flying = Mutex::new(Flying::default());
        let mut failures: u32 = 0;
        loop {
            self.evaluate(&mut changes).await;
            if let Some(task) = self.next() {
                let fetched_before = self.core.fetched_bytes.load(Ordering::Relaxed);
                let outcome = tokio::select! {
                    biased;
                    outcome = self.turn(task, &flying) => Some(outcome),
                    () = self.displaced(task, &mut changes) => None,
                };
                let fetched = self.core.fetched_bytes.load(Ordering::Relaxed) - fetched_before;
                if went_on(outcome.as_ref(), fetched) {
                    failures = 0;
                }
                self.ended(task, outcome).await;
                continue;
            }
            let is_stuck = self.lock().values().any(|entry| entry.is_stuck);
            tokio::select! {
                _ = changes.changed() => {}
                () = self.core.sources.pause(failures + 1), if is_stuck => {
                    failures += 1;
                    self.lock().values_mut().for_each(|entry| entry.is_stuck = false);
                }
                () = tokio::time::sleep(self.idle_time()) => {}
            }
        }
    }

    /// Looks at all orders, at what is here and at the time.
    async fn evaluate(&self, changes: &mut watch::Receiver<u64>) {
        let number = *changes.borrow_and_update();
        self.look_at_all();
        if let Err(error) = self.note().await {
            tracing::warn!(%error, "how prefetch orders stand could not be noted");
        }
        self.seen.send_replace(number);
    }

    /// The same without noting what came of it.
    pub(super) fn look_at_all(&self) {
        let (now, view) = (self.clock.now(), self.core.view());
        let outside = self.core.window.filter(|window| !window.is_open(now, &self.zone));
        self.background.set(outside.map(|window| window.outside_bytes_per_second));
        let mut book = self.lock();
        for (id, entry) in book.iter_mut().filter(|(_, entry)| !entry.state.is_ended()) {
            entry.retarget(&view, &self.core);
            entry.look(&self.core);
            match entry.settle(now) {
                Some(Event::Complete) => {
                    tracing::info!(order = id, of = %entry.order.of, "a prefetch order has all here")
                }
                Some(Event::Missed(by)) => {
                    let left_bytes = entry.left_bytes();
                    tracing::warn!(order = id, of = %entry.order.of, %by, left_bytes, "a prefetch order missed its deadline");
                }
                None => {}
            }
        }
        self.foresee(now, book.values_mut().filter(|entry| entry.state == OrderState::Active).collect());
    }

    /// Works out when each order has to begin, and when it would be done.
    fn foresee(&self, now: Timestamp, mut entries: Vec<&mut Entry>) {
        entries.retain(|entry| entry.here() != Here::All);
        entries.sort_by_key(|entry| entry.rank());
        let takes: Vec<Option<SignedDuration>> = entries.iter().map(|entry| self.time_for(entry, now)).collect();
        let promised: Vec<usize> = (0..entries.len()).filter(|at| entries[*at].deadline().is_some()).collect();
        let jobs: Vec<(Timestamp, SignedDuration)> = promised
            .iter()
            .map(|at| (entries[*at].deadline().unwrap_or(now), takes[*at].unwrap_or(SignedDuration::MAX)))
            .collect();
        for (at, start) in promised.into_iter().zip(latest_starts(&jobs)) {
            entries[at].start = Some(start);
        }
        let mut free = Some(now);
        for (entry, takes) in entries.into_iter().zip(takes) {
            let is_due = entry.is_due(now);
            let begin = if is_due { free } else { free.max(entry.start) };
            entry.end = begin.and_then(|begin| after(begin, takes));
            if is_due {
                free = entry.end;
            }
        }
    }

    /// How long the rest takes, by its own pace where it has one.
    fn time_for(&self, entry: &Entry, now: Timestamp) -> Option<SignedDuration> {
        let left = entry.left_bytes();
        if let Some(pace) = entry.running.as_ref().and_then(|running| running.pace.bytes_per_second()) {
            return Speed { line: pace, limit: None, window: None }.time_for(left, now);
        }
        self.speed(entry).time_for(left, now)
    }

    pub(super) fn speed(&self, entry: &Entry) -> Speed<'_> {
        let window = self.core.window.as_ref().filter(|_| entry.order.is_background());
        let limit = entry.order.limit.map(|limit| self.line.block_bytes(limit.get()).max(1));
        Speed {
            line: self.line.rate(&self.core).bytes_per_second,
            limit: limit.and_then(std::num::NonZeroU64::new),
            window: window.map(|window| (window, &self.zone)),
        }
    }

    /// Who is next: first all are looked at, for nothing can be promised before.
    fn next(&self) -> Option<Task> {
        let (now, learned, book) = (self.clock.now(), self.core.profiles.changes_so_far(), self.lock());
        let open = book.iter().filter(|(_, entry)| entry.state == OrderState::Active && !entry.is_stuck);
        let mut open: Vec<_> = open.collect();
        open.sort_by_key(|(_, entry)| entry.rank());
        let look = open.iter().find_map(|(id, entry)| {
            let leg = entry.to_look_at(learned, now)?;
            Some(Task { id: **id, serial: leg.serial, step: Step::Look })
        });
        let fetch = open.iter().filter(|(_, entry)| entry.is_due(now)).find_map(|(id, entry)| {
            let leg = entry.legs.iter().find(|leg| !leg.is_complete())?;
            Some(Task { id: **id, serial: leg.serial, step: Step::Fetch })
        });
        look.or(fetch)
    }

    /// Until somebody else goes first. Measures meanwhile.
    async fn displaced(&self, task: Task, changes: &mut watch::Receiver<u64>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if self.measure(task)
                        && let Some(entry) = self.lock().get_mut(&task.id)
                    {
                        // It goes on: what kept it from that is over.
                        entry.trouble = None;
                    }
                }
                _ = changes.changed() => {}
            }
            self.evaluate(changes).await;
            if self.next() != Some(task) {
                return;
            }
        }
    }

    /// Whether more is here than at the last measurement.
    fn measure(&self, task: Task) -> bool {
        if task.step == Step::Look {
            return false;
        }
        self.line.sample(&self.core);
        let mut book = self.lock();
        let Some(entry) = book.get_mut(&task.id) else { return false };
        entry.look(&self.core);
        let resident_bytes = entry.held().resident_bytes;
        let Some(running) = &mut entry.running else { return false };
        let before = running.resident_bytes;
        running.sample(resident_bytes);
        resident_bytes > before
    }

    async fn turn(&self, task: Task, flying: &Mutex<Flying>) -> Result<(), CacheError> {
        let version = self.core.version_once(task.serial).await?;
        version.prepare().await?;
        let Some(buckets) = self.buckets(task.id) else { return Ok(()) };
        let toll = Some(Toll { line: &self.line, buckets });
        let filler = Filler { core: &self.core, urgency: Urgency::Prefetch, toll, flying };
        match task.step {
            Step::Look => self.look_at(task, &version, &filler).await,
            Step::Fetch => self.fetch(task, &version, &filler).await,
        }
    }

    /// Who gives leave to fetch for an order.
    fn buckets(&self, id: OrderId) -> Option<Vec<Arc<Bucket>>> {
        let book = self.lock();
        let entry = book.get(&id)?;
        let background = entry.order.is_background().then(|| self.background.clone());
        Some([entry.bucket.clone()].into_iter().chain(background).collect())
    }

    async fn look_at(&self, task: Task, version: &Arc<Version>, filler: &Filler<'_>) -> Result<(), CacheError> {
        let Some(what) = self.lock().get(&task.id).map(|entry| entry.order.what.clone()) else { return Ok(()) };
        // Before it is made: what is learned meanwhile is not in it.
        let learned = self.core.profiles.changes_so_far();
        let plan = Arc::new(Plan::make(&what, version, filler).await?);
        plan.see_to_files(version).await?;
        if let Some(entry) = self.lock().get_mut(&task.id)
            && let Some(leg) = entry.legs.iter_mut().find(|leg| leg.serial == task.serial)
        {
            leg.held = plan.residency(version);
            (leg.plan, leg.learned, leg.failed) = (Some(plan), learned, None);
        }
        Ok(())
    }

    async fn fetch(&self, task: Task, version: &Arc<Version>, filler: &Filler<'_>) -> Result<(), CacheError> {
        let plan = {
            let mut book = self.lock();
            let Some(entry) = book.get_mut(&task.id) else { return Ok(()) };
            let resident_bytes = entry.held().resident_bytes;
            // Its pace from now on: it may have stood still behind another one.
            entry.running = Some(Running::new(resident_bytes));
            let plan = entry.legs.iter().find(|leg| leg.serial == task.serial).and_then(|leg| leg.plan.clone());
            let Some(plan) = plan else { return Ok(()) };
            plan
        };
        self.line.begin(&self.core);
        // What another reader has under way is not waited for: another pass finds it, or has it fetched.
        let mut durable = None;
        // What cannot be kept is not asked for.
        plan.see_to_files(version).await?;
        loop {
            filler.fetch(version, plan.pieces(version)).await?;
            let held = plan.residency(version);
            if held.is_complete() {
                match plan.see_to_files(version).await? {
                    0 => return Ok(()),
                    _ => durable = None,
                }
                continue;
            }
            if let StoreState::Full { why } = self.core.health.state() {
                return Err(CacheError::NotKept(format!("the store is full: {why}")));
            }
            if durable.is_some_and(|before| held.durable_bytes <= before) {
                return Err(CacheError::NotKept("some blocks could not be kept; they are tried again".to_owned()));
            }
            durable = Some(held.durable_bytes);
        }
    }

    /// What came of a turn; `None`: somebody else goes first.
    async fn ended(&self, task: Task, outcome: Option<Result<(), CacheError>>) {
        if task.step == Step::Fetch && outcome.is_some() {
            // A short turn says something about the line, too.
            self.measure(task);
            let (core, rates) = (self.core.clone(), self.line.rates());
            if let Ok(Err(error)) = self.core.blocking(move || core.catalogue.set_rates(&rates)).await {
                tracing::warn!(%error, "the measured rate of the sources could not be noted");
            }
        }
        let mut book = self.lock();
        let Some(entry) = book.get_mut(&task.id) else { return };
        let known = entry.legs.iter_mut().find(|leg| leg.serial == task.serial && leg.plan.is_some());
        match outcome {
            None if task.step == Step::Fetch && entry.running.is_some() => {
                entry.running = Some(Running::new(entry.held().resident_bytes));
            }
            None => {}
            // What was known before is good enough for now.
            Some(Err(_)) if task.step == Step::Look && known.is_some() => {
                known.into_iter().for_each(|leg| leg.failed = Some(self.clock.now()));
            }
            Some(Ok(())) => entry.trouble = None,
            // Nothing that changes here lets it go on.
            Some(Err(error @ CacheError::Unusable { .. })) if entry.order.of.number.is_some() => {
                entry.end_as(OrderState::Cancelled);
                entry.trouble = Some(error.to_string());
            }
            // A standing order goes on without that version.
            Some(Err(CacheError::Unusable { .. })) => {}
            Some(Err(error)) => {
                let why = error.to_string();
                if entry.trouble.as_ref() != Some(&why) {
                    tracing::warn!(order = task.id, why, "a prefetch order cannot go on for now");
                }
                (entry.trouble, entry.is_stuck) = (Some(why), true);
            }
        }
    }

    /// Has boot orders look again as soon as more is known of boots.
    pub(crate) async fn follow_boots(self: Arc<Self>) {
        let mut changes = self.core.profiles.changes();
        while changes.changed().await.is_ok() {
            self.changed();
        }
    }

    /// Until the next order's time comes, or its deadline.
    fn idle_time(&self) -> Duration {
        let now = self.clock.now();
        let book = self.lock();
        let open = book.values().filter(|entry| entry.state == OrderState::Active);
        let times = open.flat_map(|entry| [entry.start, entry.deadline()]).flatten().filter(|at| *at > now);
        let next = times.min().map_or(SignedDuration::MAX, |at| at.duration_since(now));
        Duration::try_from(next).unwrap_or_default().min(IDLE_MAX)
    }
}
