//! The one task that fetches for orders: for each that goes first a turn of its own.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, OptionFuture};
use icbd_fetch::Urgency;
use icbd_image::BLOCK_BYTES;
use jiff::SignedDuration;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::book::{Event, Running, Stuck};
use super::fill::{Filler, Flying, Toll};
use super::order::{OrderId, OrderState};
use super::plan::Plan;
use super::queue::{Share, Step, Task};
use super::turns::Turns;
use super::{Bucket, Orders};
use crate::CacheError;
use crate::health::StoreState;
use crate::version::{Residency, Version};

/// While something is fetched: how often its rate is measured, and who goes first is asked again.
const TICK: Duration = Duration::from_secs(1);
/// While nothing is: a clock that was set is noticed after this.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Damage at the source is looked at again so often: it takes a person there to mend it.
const DAMAGE_AGAIN: Duration = Duration::from_secs(600);

impl Orders {
    /// Fetches for orders until the cache stops.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut changes = self.changes.subscribe();
        let flying = Mutex::new(Flying::default());
        let mut turns = Turns::new(&self, &flying);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Until those that failed are tried again, over all that happens meanwhile.
        let mut rest: Option<BoxFuture<'_, ()>> = None;
        let mut failures: u32 = 0;
        loop {
            self.evaluate(&mut changes).await;
            let tasks = self.next();
            turns.set(&tasks);
            self.stand_still(&tasks);
            match self.lock().values().any(|entry| entry.stuck == Some(Stuck::Retry)) {
                true => _ = rest.get_or_insert_with(|| self.core.sources.pause(failures + 1).boxed()),
                false => rest = None,
            }
            tokio::select! {
                biased;
                (task, outcome) = turns.ended() => {
                    let gets_on = self.ended(task, outcome, &turns.tasks()).await;
                    failures = if gets_on { 0 } else { failures };
                }
                _ = changes.changed() => {}
                _ = ticks.tick(), if !tasks.is_empty() => {
                    failures = if self.measure(&tasks) { 0 } else { failures };
                }
                () = OptionFuture::from(rest.as_mut()).map(drop), if rest.is_some() => {
                    (rest, failures) = (None, failures + 1);
                    self.try_again();
                }
                () = tokio::time::sleep(self.idle_time()), if tasks.is_empty() => {}
            }
        }
    }

    /// Those whose turn it is not have no pace, and no trouble but that they wait.
    fn stand_still(&self, tasks: &[Task]) {
        let mut book = self.lock();
        let others = book.iter_mut().filter(|(id, _)| !tasks.iter().any(|task| task.id == **id));
        for (_, entry) in others {
            entry.running = None;
            if entry.stuck.is_none() && entry.state == OrderState::Active {
                entry.trouble = None;
            }
        }
    }

    /// The sources are worth another try.
    fn try_again(&self) {
        for entry in self.lock().values_mut().filter(|entry| entry.stuck == Some(Stuck::Retry)) {
            entry.stuck = None;
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
            entry.stuck = entry.stuck.filter(|stuck| !stuck.is_over());
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

    /// Measures the line, and each order that is fetched for; whether one got on: it is in no trouble then.
    fn measure(&self, tasks: &[Task]) -> bool {
        let mut book = self.lock();
        let (mut is_running, mut is_full, mut gets_on) = (false, false, false);
        for task in tasks.iter().filter(|task| task.step == Step::Fetch) {
            let Some(entry) = book.get_mut(&task.id) else { continue };
            let is_all = self.share(entry) == Share::All;
            entry.look(&self.core);
            let resident_bytes = entry.held().resident_bytes;
            let Some(running) = &mut entry.running else { continue };
            if resident_bytes > running.resident_bytes {
                // How long nothing came says nothing of how long the rest takes.
                if entry.trouble.take().is_some() {
                    *running = Running::new(running.resident_bytes, running.asked_bytes);
                }
                gets_on = true;
            }
            running.sample(resident_bytes, entry.bucket.asked_bytes());
            (is_running, is_full) = (true, is_full | is_all);
        }
        if is_running {
            self.line.sample(&self.core, is_full);
        }
        gets_on
    }

    pub(super) async fn turn(&self, task: Task, flying: &Mutex<Flying>) -> Result<(), CacheError> {
        let version = self.core.version_once(task.serial).await?;
        version.prepare().await?;
        let Some(buckets) = self.buckets(task.id) else { return Ok(()) };
        // One that was limited waits for nobody's runs, and nobody for its.
        let (is_limited, own) = (buckets.iter().any(|bucket| bucket.rate().is_some()), Mutex::default());
        let toll = Some(Toll { line: &self.line, buckets });
        let flying = if is_limited { &own } else { flying };
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
            leg.held = plan.held(version);
            (leg.plan, leg.learned, leg.failed) = (Some(plan), learned, None);
        }
        Ok(())
    }

    async fn fetch(&self, task: Task, version: &Arc<Version>, filler: &Filler<'_>) -> Result<(), CacheError> {
        let plan = {
            let mut book = self.lock();
            let is_alone = book.iter().all(|(id, entry)| *id == task.id || entry.running.is_none());
            let Some(entry) = book.get_mut(&task.id) else { return Ok(()) };
            let resident_bytes = entry.held().resident_bytes;
            // Its pace from now on: it may have stood still behind another one.
            let running = Running::new(resident_bytes, entry.bucket.asked_bytes());
            (entry.running, entry.has_begun) = (Some(running), true);
            if is_alone {
                self.line.begin(&self.core);
            }
            let plan = entry.legs.iter().find(|leg| leg.serial == task.serial).and_then(|leg| leg.plan.clone());
            let Some(plan) = plan else { return Ok(()) };
            plan
        };
        // What another reader has under way is not waited for: another pass finds it, or has it fetched.
        let mut durable = None;
        // What cannot be kept is not asked for.
        plan.see_to_files(version).await?;
        loop {
            let fetched = filler.fetch(version, plan.pieces(version)).await;
            let held = plan.residency(version);
            fetched.map_err(|error| damaged(error, version, held))?;
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

    /// What came of a turn while the `others` go on; whether anything got on.
    async fn ended(&self, task: Task, outcome: Result<(), CacheError>, others: &[Task]) -> bool {
        let mut gets_on = outcome.is_ok();
        if task.step == Step::Fetch {
            // A short turn says something about the line, too.
            gets_on |= self.measure(&[others, &[task]].concat());
            let (core, rates) = (self.core.clone(), self.line.rates());
            if let Ok(Err(error)) = self.core.blocking(move || core.catalogue.set_rates(&rates)).await {
                tracing::warn!(%error, "the measured rate of the sources could not be noted");
            }
        }
        let mut book = self.lock();
        let Some(entry) = book.get_mut(&task.id) else { return gets_on };
        let known = entry.legs.iter_mut().find(|leg| leg.serial == task.serial && leg.plan.is_some());
        match outcome {
            // What was known before is good enough for now.
            Err(_) if task.step == Step::Look && known.is_some() => {
                known.into_iter().for_each(|leg| leg.failed = Some(self.clock.now()));
            }
            Ok(()) => entry.trouble = None,
            // Nothing that changes here lets it go on.
            Err(error @ CacheError::Unusable { .. }) if entry.order.of.number.is_some() => {
                entry.end_as(OrderState::Cancelled);
                entry.trouble = Some(error.to_string());
            }
            // A standing order goes on without that version.
            Err(CacheError::Unusable { .. }) => {}
            Err(error) => {
                let why = match &error {
                    // Which blocks those were helps nobody.
                    CacheError::Fetch(fetch) if !error.is_damaged_there() => {
                        format!("no source has it now: {}", fetch.cause())
                    }
                    error => error.to_string(),
                };
                if entry.trouble.as_ref() != Some(&why) {
                    tracing::warn!(order = task.id, why, "a prefetch order cannot go on for now");
                }
                let is_damage = error.is_damaged_there();
                let stuck = if is_damage { Stuck::Until(Instant::now() + DAMAGE_AGAIN) } else { Stuck::Retry };
                (entry.trouble, entry.stuck, entry.running) = (Some(why), Some(stuck), None);
            }
        }
        gets_on
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

/// Damage at the source, with how much of the version it keeps away.
fn damaged(error: CacheError, version: &Version, held: Residency) -> CacheError {
    match error {
        CacheError::Fetch(first) if first.is_damaged_there() => CacheError::Damaged {
            version: version.id().clone(),
            blocks: held.total_bytes.saturating_sub(held.resident_bytes) / BLOCK_BYTES,
            again: DAMAGE_AGAIN,
            first,
        },
        error => error,
    }
}
