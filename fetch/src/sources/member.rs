//! One source in the list: its health, its limit, and the blocks it is known to have wrong.
//!
//! A source that fails is passed over for a cool-down, which doubles with each failure. When it is
//! over, one request alone may try the source (a probe); the others go on to pass it over until the
//! probe's verdict. Lock order: a member's state is never held with another lock, nor across an await.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use icbd_image::{FileIndex, Root, Run};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::line::{Habit, Line};
use crate::error::SourceError;
use crate::settings::Settings;
use crate::source::{Source, Urgency, Way};

/// Bad blocks that are remembered of one source. A source with more is asked again for some of them,
/// which costs a request each and nothing else.
const BAD_BLOCKS_MAX: usize = 4096;

/// Requests for lists, heads and pages in flight: small ones, which do not wait for runs.
const SMALL_REQUESTS_MAX: usize = 8;

/// A run of so many blocks is as fast as its round trip and its packing; a longer one as the line.
const SHORT_BLOCKS_MAX: u32 = 2;

/// How one source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceHealth {
    pub name: String,
    pub state: SourceState,
    /// As they travelled: encoded, with frame headers.
    pub received_bytes: u64,
    /// Requests made so far, the failed ones too.
    pub requests: u64,
    pub in_flight: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceState {
    /// Nothing was asked of it yet.
    Untried,
    Online {
        since: SystemTime,
    },
    Offline {
        since: SystemTime,
        error: String,
    },
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) source: Arc<dyn Source>,
    permits: Arc<Semaphore>,
    /// Who is not waited for takes one of these first: of the first whoever it is, of the second all but
    /// readahead.
    patient: Arc<Semaphore>,
    idle: Arc<Semaphore>,
    small: Arc<Semaphore>,
    /// What suits runs that somebody waits for from beginning to end, and long ones.
    short_line: Line,
    line: Line,
    requests: AtomicU64,
    settings: Settings,
    state: Mutex<State>,
    bad_blocks: Mutex<HashMap<(Root, FileIndex, u64), Instant>>,
    /// Shared by all members: counts changes of any state.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
enum State {
    Untried,
    Online { since: SystemTime },
    Offline(Offline),
}

#[derive(Debug)]
struct Offline {
    since: SystemTime,
    error: SourceError,
    /// The source is passed over until then.
    until: Instant,
    cool_down: Duration,
    probed: bool,
}

/// A place among the requests in flight.
#[derive(Debug)]
pub(super) struct Permit(#[expect(dead_code, reason = "held, not read")] Vec<OwnedSemaphorePermit>);

/// A run that is on its way from a source, and how it travels. It has ended when this is dropped.
#[derive(Debug)]
pub(super) struct Travel {
    member: Arc<Member>,
    is_short: bool,
    way: Way,
}

/// Leave to ask a source.
#[derive(Debug)]
pub(super) struct Admission {
    /// Whether this is the one request that tries whether the source is back.
    probe: bool,
    member: Arc<Member>,
}

impl Member {
    pub(super) fn new(
        source: Arc<dyn Source>,
        settings: Settings,
        changes: watch::Sender<u64>,
        habit: Option<Habit>,
    ) -> Member {
        Member {
            permits: Arc::new(Semaphore::new(settings.requests_max)),
            patient: Arc::new(Semaphore::new(patient_max(&settings))),
            idle: Arc::new(Semaphore::new(idle_max(&settings))),
            small: Arc::new(Semaphore::new(SMALL_REQUESTS_MAX)),
            short_line: Line::short(),
            line: Line::new(source.has_base(), habit),
            source,
            requests: AtomicU64::new(0),
            settings,
            state: Mutex::new(State::Untried),
            bad_blocks: Mutex::default(),
            changes,
        }
    }

    pub(super) fn name(&self) -> &str {
        self.source.name()
    }

    /// What suits long runs from it, as far as that was found out.
    pub(super) fn habit(&self) -> Option<Habit> {
        self.line.habit()
    }

    pub(super) fn health(&self) -> SourceHealth {
        let state = match &*self.state() {
            State::Untried => SourceState::Untried,
            State::Online { since } => SourceState::Online { since: *since },
            State::Offline(offline) => SourceState::Offline { since: offline.since, error: offline.error.to_string() },
        };
        SourceHealth {
            name: self.name().to_owned(),
            state,
            received_bytes: self.source.received_bytes(),
            requests: self.requests.load(Ordering::Relaxed),
            in_flight: (self.settings.requests_max + SMALL_REQUESTS_MAX)
                .saturating_sub(self.permits.available_permits() + self.small.available_permits()),
        }
    }

    /// Whether the source may be asked by anybody.
    pub(super) fn is_online(&self) -> bool {
        !matches!(*self.state(), State::Offline(_))
    }

    /// When a source that is offline may be probed; `None` when it is online or being probed.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        match &*self.state() {
            State::Offline(offline) if !offline.probed => Some(offline.until),
            _ => None,
        }
    }

    /// Leave to ask the source, or why it is passed over. A probe that may last until a time-out is
    /// not left to a request with an `alternative`: the next poll of the listing makes it.
    pub(super) fn admit(self: &Arc<Self>, alternative: bool) -> Result<Admission, SourceError> {
        let mut state = self.state();
        let probe = match &mut *state {
            State::Untried | State::Online { .. } => false,
            State::Offline(offline) => {
                let retry_after = offline.until.saturating_duration_since(Instant::now());
                let slow = matches!(offline.error, SourceError::Timeout { .. });
                if !retry_after.is_zero() || offline.probed || (slow && alternative) {
                    return Err(SourceError::CoolingDown { retry_after, error: offline.error.to_string() });
                }
                offline.probed = true;
                true
            }
        };
        Ok(Admission { probe, member: self.clone() })
    }

    /// Waits for a free place among the requests in flight.
    pub(super) async fn permit(&self, urgency: Urgency) -> Permit {
        let mut permits = Vec::with_capacity(3);
        // Always in this order, so that nobody holds what another one ahead of it needs.
        if urgency < Urgency::Readahead {
            permits.push(take(&self.idle).await);
        }
        if !urgency.is_awaited() {
            permits.push(take(&self.patient).await);
        }
        permits.push(take(&self.permits).await);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Permit(permits)
    }

    /// The same for a request of a list, head or page.
    pub(super) async fn small_permit(&self) -> Permit {
        let permit = take(&self.small).await;
        self.requests.fetch_add(1, Ordering::Relaxed);
        Permit(vec![permit])
    }

    /// A run of so many blocks is asked for now. Who has a base waits for none, and short ones travel against it as well.
    pub(super) fn travel(self: &Arc<Self>, blocks: u32) -> Travel {
        let is_short = blocks <= SHORT_BLOCKS_MAX && !self.source.has_base();
        Travel { member: self.clone(), is_short, way: self.line(is_short).begin() }
    }

    fn line(&self, is_short: bool) -> &Line {
        if is_short { &self.short_line } else { &self.line }
    }

    /// The source gave something good.
    pub(super) fn succeeded(&self) {
        let mut state = self.state();
        if matches!(*state, State::Online { .. }) {
            return;
        }
        let was = std::mem::replace(&mut *state, State::Online { since: SystemTime::now() });
        drop(state);
        if let State::Offline(offline) = was {
            let offline_seconds = offline.since.elapsed().unwrap_or_default().as_secs();
            tracing::info!(source = self.name(), offline_seconds, "source is back");
        }
        self.changed();
    }

    /// A request failed for good at this source.
    pub(super) fn failed(&self, error: &SourceError, probe: bool) {
        if !error.blames_source() {
            // It answered, at least: whoever waits for it to be back need not.
            if !matches!(error, SourceError::CoolingDown { .. } | SourceError::Disk(_)) && probe {
                self.succeeded();
            }
            return;
        }
        let (min, max) = (self.settings.cool_down_min, self.settings.cool_down_max);
        let mut state = self.state();
        match &mut *state {
            // Many requests that fail at once are one failure.
            State::Offline(offline) if !probe => offline.error = error.clone(),
            State::Offline(offline) => {
                offline.cool_down = (offline.cool_down * 2).min(max);
                offline.until = Instant::now() + offline.cool_down;
                offline.error = error.clone();
            }
            State::Untried | State::Online { .. } => {
                let (since, until) = (SystemTime::now(), Instant::now() + min);
                *state = State::Offline(Offline { since, error: error.clone(), until, cool_down: min, probed: false });
                drop(state);
                tracing::warn!(source = self.name(), %error, "source is offline");
                self.changed();
            }
        }
    }

    pub(super) fn mark_bad(&self, run: &Run, block: u64) {
        let now = Instant::now();
        let mut bad = self.bad_blocks.lock().expect("no panic under this lock");
        bad.retain(|_, until| *until > now);
        if bad.len() < BAD_BLOCKS_MAX {
            bad.insert((run.root, run.file, block), now + self.settings.bad_block);
        }
    }

    /// The first block out of `from..end` of the run's file that the source has wrong, else `end`.
    pub(super) fn good_until(&self, run: &Run, from: u64, end: u64) -> u64 {
        let bad = self.bad_blocks.lock().expect("no panic under this lock");
        if bad.is_empty() {
            return end;
        }
        let now = Instant::now();
        let is_bad = |block: &u64| bad.get(&(run.root, run.file, *block)).is_some_and(|until| *until > now);
        (from..end).find(is_bad).unwrap_or(end)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

impl Travel {
    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// So many plain bytes came. What the source has sent so far, as it travels.
    pub(super) fn carried(&self, bytes: usize) -> u64 {
        let travelled = self.member.source.received_bytes();
        self.member.line(self.is_short).carried(self.way, bytes as u64, travelled);
        travelled
    }
}

impl Drop for Travel {
    fn drop(&mut self) {
        self.member.line(self.is_short).end(self.way);
    }
}

fn patient_max(settings: &Settings) -> usize {
    (settings.requests_max * 3 / 4).max(1)
}

fn idle_max(settings: &Settings) -> usize {
    (settings.requests_max / 2).max(1)
}

async fn take(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    permits.clone().acquire_owned().await.expect("the semaphore is never closed")
}

impl Admission {
    pub(super) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Whether the source went offline since this leave was given, and what to say of it.
    pub(super) fn revoked(&self) -> Option<SourceError> {
        match &*self.member.state() {
            State::Offline(offline) if !self.probe => {
                let retry_after = offline.until.saturating_duration_since(Instant::now());
                Some(SourceError::CoolingDown { retry_after, error: offline.error.to_string() })
            }
            _ => None,
        }
    }

    pub(super) fn failed(&self, error: &SourceError) {
        self.member.failed(error, self.probe);
    }
}

impl Drop for Admission {
    /// Also when the request was cancelled: somebody else may probe then.
    fn drop(&mut self) {
        if self.probe {
            if let State::Offline(offline) = &mut *self.member.state() {
                offline.probed = false;
            }
            self.member.changed();
        }
    }
}
