//! Who may ask next, and for how much: those who are waited for at once, others as the line has room.
//!
//! The line is one, whichever source is at its end. Demand asks without leave. What nobody waits for yet
//! asks within the [`Window`], the more urgent first. While somebody waits, prefetch and long scans go
//! at an eighth of the line's pace, a little at a time: a disk that is read from front to back holds up no boot.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::window::Window;
use crate::source::Urgency;

/// Somebody who asked this lately will ask again: a boot thinks between its reads.
const ACTIVE: Duration = Duration::from_millis(250);
/// For the time that a paced request took, those that are paced rest so many times as long.
const REST: u32 = 7;
/// They never rest for longer: what takes more than a second for so little is no line's pace, but an outage.
const REST_MAX: Duration = Duration::from_secs(10);
/// Blocks of a paced request.
const PACED_BLOCKS: u32 = 2;
/// Less than this is not worth a request of its own, unless nothing else is on its way.
const PIECE_BLOCKS_MIN: u32 = 4;

/// The turnstile before the sources.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// Requests of demand so far.
    demands: AtomicU64,
    /// Requests of and ahead of long streams so far.
    streams: AtomicU64,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    window: Window,
    /// The source that the window was measured at.
    place: usize,
    /// Blocks on their way, by urgency.
    asked: [u32; Urgency::COUNT],
    /// Requests under way, and when the last one ended, by urgency.
    under_way: [u32; Urgency::COUNT],
    ended: [Option<Instant>; Urgency::COUNT],
    /// Until when those rest that are paced.
    rest_until: Option<Instant>,
    /// Who waits, by urgency, first come first.
    waiting: [VecDeque<u64>; Urgency::COUNT],
    next_ticket: u64,
}

/// Leave to ask for some blocks once. They count as being on their way until they came or this is dropped.
#[derive(Debug)]
pub struct Leave {
    gate: Arc<Gate>,
    urgency: Urgency,
    blocks: u32,
    since: Instant,
}

/// What a waiter waits for.
enum Not {
    /// Room, or those before it.
    Yet,
    /// Time to pass.
    Until(Instant),
}

impl Gate {
    pub(super) fn new() -> Gate {
        let state = State {
            window: Window::new(Instant::now()),
            place: 0,
            asked: Default::default(),
            under_way: Default::default(),
            ended: Default::default(),
            rest_until: None,
            waiting: Default::default(),
            next_ticket: 0,
        };
        Gate {
            state: Mutex::new(state),
            demands: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// Waits until at least one of `most` blocks may be asked for.
    pub(super) async fn enter(self: &Arc<Self>, urgency: Urgency, most: u32) -> Leave {
        let is_of_stream = [Urgency::Stream, Urgency::Readahead].contains(&urgency);
        self.streams.fetch_add(is_of_stream.into(), Ordering::Relaxed);
        let ticket = {
            let mut state = self.lock();
            if urgency >= Urgency::Stream {
                self.demands.fetch_add(u64::from(urgency == Urgency::Demand), Ordering::Relaxed);
                return state.admit(self, urgency, most);
            }
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.waiting[urgency as usize].push_back(ticket);
            Ticket { gate: self, urgency, ticket }
        };
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let not = {
                let mut state = self.lock();
                match state.grant(urgency, ticket.ticket, most, Instant::now()) {
                    Ok(blocks) => {
                        let leave = state.admit(self, urgency, blocks);
                        drop(state);
                        drop(ticket);
                        return leave;
                    }
                    Err(not) => not,
                }
            };
            match not {
                Not::Yet => changed.await,
                Not::Until(at) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }

    /// The answer to a request to the source at `place` began after `waited`.
    pub(super) fn answered(&self, place: usize, waited: Duration, blocks: u32) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.place != place {
            (state.place, state.window) = (place, Window::new(now));
        }
        state.window.answered(waited, blocks, now);
        drop(state);
        self.changed.notify_waiters();
    }

    /// A block came of the source at `place`, which has sent so much until now.
    pub(super) fn came(&self, place: usize, travelled: u64) {
        let mut state = self.lock();
        if state.place == place {
            state.window.came(travelled);
        }
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.lock().window.round_trip()
    }

    pub(super) fn demands(&self) -> u64 {
        self.demands.load(Ordering::Relaxed)
    }

    pub(super) fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }

    pub(super) fn asked_blocks(&self) -> u32 {
        self.lock().asked.iter().sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }
}

impl State {
    fn admit(&mut self, gate: &Arc<Gate>, urgency: Urgency, blocks: u32) -> Leave {
        self.asked[urgency as usize] += blocks;
        self.under_way[urgency as usize] += 1;
        Leave { gate: gate.clone(), urgency, blocks, since: Instant::now() }
    }

    /// How many blocks the waiter may ask for now.
    fn grant(&mut self, urgency: Urgency, ticket: u64, most: u32, now: Instant) -> Result<u32, Not> {
        if self.waiting[urgency as usize].front() != Some(&ticket) {
            return Err(Not::Yet);
        }
        if let Some(until) = self.paced_until(urgency, now) {
            let is_alone = self.under_way[Urgency::Prefetch as usize] + self.under_way[Urgency::Scan as usize] == 0;
            return match self.rest_until.filter(|rest| *rest > now) {
                None if is_alone => Ok(most.min(PACED_BLOCKS)),
                Some(rest) if is_alone => Err(Not::Until(rest.min(until))),
                _ => Err(Not::Until(until)),
            };
        }
        if urgency == Urgency::Scan {
            return Ok(most);
        }
        let before = [Urgency::Readahead, Urgency::Guess, Urgency::Profile];
        if before.into_iter().any(|other| other > urgency && !self.waiting[other as usize].is_empty()) {
            return Err(Not::Yet);
        }
        let window = self.window.blocks();
        // What is less urgent is in nobody's way, up to another window.
        let before: u32 = self.asked[urgency as usize..].iter().sum();
        let all: u32 = self.asked.iter().sum();
        let room = window.saturating_sub(before).min((2 * window).saturating_sub(all));
        let piece = window.div_ceil(2);
        if before > 0 && room < most.min(PIECE_BLOCKS_MIN).min(piece) || all > 0 && room == 0 {
            self.window.wanting();
            return Err(Not::Yet);
        }
        Ok(most.min(room.min(piece).max(1)))
    }

    /// Until when at least a request of this urgency has to go slowly, if it has.
    fn paced_until(&self, urgency: Urgency, now: Instant) -> Option<Instant> {
        match urgency {
            Urgency::Prefetch => {
                let awaited = [Urgency::Demand, Urgency::Stream, Urgency::Scan];
                awaited.into_iter().filter_map(|urgency| self.active_until(urgency, now)).max()
            }
            Urgency::Scan => {
                let others = [Urgency::Demand, Urgency::Stream];
                others.into_iter().filter_map(|urgency| self.active_until(urgency, now)).max()
            }
            _ => None,
        }
    }

    fn active_until(&self, urgency: Urgency, now: Instant) -> Option<Instant> {
        if self.under_way[urgency as usize] > 0 {
            return Some(now + ACTIVE);
        }
        self.ended[urgency as usize].map(|ended| ended + ACTIVE).filter(|until| *until > now)
    }
}

impl Leave {
    /// Blocks that may be asked for.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Fewer are asked for, or some came.
    pub(super) fn keep(&mut self, blocks: u32) {
        let fewer = self.blocks.saturating_sub(blocks);
        if fewer == 0 {
            return;
        }
        self.blocks -= fewer;
        self.gate.lock().asked[self.urgency as usize] -= fewer;
        self.gate.changed.notify_waiters();
    }

    pub fn urgency(&self) -> Urgency {
        self.urgency
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.gate.lock();
        state.asked[self.urgency as usize] -= self.blocks;
        state.under_way[self.urgency as usize] -= 1;
        state.ended[self.urgency as usize] = Some(now);
        // What did not come took nothing of the line: a master that was away is not rested for.
        if matches!(self.urgency, Urgency::Prefetch | Urgency::Scan) && self.blocks == 0 {
            state.rest_until = Some(now + ((now - self.since) * REST).min(REST_MAX));
        }
        drop(state);
        self.gate.changed.notify_waiters();
    }
}

/// A place in a queue.
struct Ticket<'a> {
    gate: &'a Gate,
    urgency: Urgency,
    ticket: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.gate.lock().waiting[self.urgency as usize].retain(|other| *other != self.ticket);
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::Poll;

    use super::*;

    fn gate() -> Arc<Gate> {
        Arc::new(Gate::new())
    }

    async fn is_pending<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
        std::future::poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn demand_never_waits_and_the_rest_has_one_window() {
        let gate = gate();
        let mut leaves = vec![gate.enter(Urgency::Prefetch, 64).await, gate.enter(Urgency::Prefetch, 64).await];
        let mut third = Box::pin(gate.enter(Urgency::Prefetch, 64));
        assert!(is_pending(&mut third).await, "the first window is full");
        for _ in 0..40 {
            leaves.push(gate.enter(Urgency::Demand, 64).await);
        }
        leaves.truncate(1);
        tokio::time::sleep(ACTIVE).await;
        assert_eq!(third.await.blocks(), 4);
        drop(leaves);
        assert_eq!(gate.asked_blocks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_more_urgent_goes_first_and_equals_in_turn() {
        let gate = gate();
        let full = [gate.enter(Urgency::Readahead, 4).await, gate.enter(Urgency::Readahead, 4).await];
        let mut late = Box::pin(gate.enter(Urgency::Profile, 4));
        let mut first = Box::pin(gate.enter(Urgency::Guess, 4));
        let mut second = Box::pin(gate.enter(Urgency::Guess, 4));
        assert!(is_pending(&mut late).await && is_pending(&mut first).await && is_pending(&mut second).await);
        let [one, other] = full;
        drop(one);
        assert!(is_pending(&mut late).await && is_pending(&mut second).await, "it is not their turn");
        let first = first.await;
        assert!(is_pending(&mut late).await);
        drop(other);
        let second = second.await;
        assert!(is_pending(&mut late).await, "the window is full again");
        // Who gives up waiting is in nobody's way.
        let mut gone = Box::pin(gate.enter(Urgency::Guess, 4));
        assert!(is_pending(&mut gone).await);
        drop(gone);
        drop((first, second));
        assert_eq!(late.await.urgency(), Urgency::Profile);
    }

    /// While somebody waits, prefetch and whoever scans a disk get an eighth of the line.
    #[tokio::test(start_paused = true)]
    async fn what_is_paced_goes_at_an_eighth() {
        for urgency in [Urgency::Prefetch, Urgency::Scan] {
            let gate = gate();
            let demand = gate.clone();
            let reader = tokio::spawn(async move {
                loop {
                    let leave = demand.enter(Urgency::Demand, 1).await;
                    tokio::time::sleep(Duration::from_millis(4)).await;
                    drop(leave);
                    tokio::time::sleep(Duration::from_millis(4)).await;
                }
            });
            tokio::time::sleep(Duration::from_millis(1)).await;
            let (start, mut busy) = (Instant::now(), Duration::ZERO);
            while start.elapsed() < Duration::from_secs(10) {
                let mut leave = gate.enter(urgency, 64).await;
                assert_eq!(leave.blocks(), PACED_BLOCKS);
                let since = Instant::now();
                tokio::time::sleep(Duration::from_millis(10)).await;
                leave.keep(0);
                busy += since.elapsed();
            }
            let share = busy.as_secs_f64() / start.elapsed().as_secs_f64();
            assert!((0.1..0.15).contains(&share), "{urgency:?} {share}");
            reader.abort();
            let _ = reader.await;
            // Alone it has the line.
            tokio::time::sleep(ACTIVE).await;
            assert!(gate.enter(urgency, 64).await.blocks() > PACED_BLOCKS);
        }
    }

    /// A request that a dead master held up for a time-out kept prefetch from asking for more than a minute, for as
    /// long as somebody read.
    #[tokio::test(start_paused = true)]
    async fn an_outage_is_not_rested_for() {
        for came in [false, true] {
            let gate = gate();
            let demand = gate.clone();
            let reader = tokio::spawn(async move {
                loop {
                    drop(demand.enter(Urgency::Demand, 1).await);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut leave = gate.enter(Urgency::Prefetch, 64).await;
            tokio::time::sleep(Duration::from_secs(20)).await;
            if came {
                leave.keep(0);
            }
            drop(leave);
            let since = Instant::now();
            drop(gate.enter(Urgency::Prefetch, 64).await);
            let most = if came { REST_MAX } else { ACTIVE };
            assert!(since.elapsed() <= most + ACTIVE, "{:?}", since.elapsed());
            reader.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_source_is_another_line() {
        let gate = gate();
        gate.answered(0, Duration::from_millis(1), 4);
        assert_eq!(gate.round_trip(), Some(Duration::from_millis(1)));
        gate.answered(1, Duration::from_millis(20), 4);
        assert_eq!(gate.round_trip(), Some(Duration::from_millis(20)));
    }
}
