//! Which codec makes a line carry most, found by trying.
//!
//! What packing costs depends on the processors at both ends and on what else they do; what it saves
//! depends on the line and the data. So nothing is computed: now and then a neighbour of the chosen codec is tried,
//! with measurements of the chosen one before and after it, and it is chosen if it carried clearly more plain
//! bytes a second than both. What is measured is the time with a request under way, whole requests,
//! so that packing at the far end counts. Only while all of them travel alike: what is left of an
//! earlier codec is waited for. Trials that change nothing become rarer.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use icbd_wire::Codec;
use tokio::time::Instant;

use crate::source::Way;

/// From the cheapest to the smallest. zlib and Snappy are beaten by a neighbour on every line; the last is only for lines
/// whose source packs against a version that is here.
const WAYS: [Way; 5] =
    [Way::By(Codec::None), Way::By(Codec::Lz4), Way::By(Codec::Zstd), Way::By(Codec::Zstd6), Way::Matched];
/// How many of them are for runs that somebody waits for one by one: packing a block harder takes longer than the line saves.
const SHORT_WAYS: usize = 3;
/// Where a line of which nothing is known begins: not far from the best on any …
const UNKNOWN: usize = 1;
/// … and where differences can travel: they would keep a fast line waiting for the processors.
const UNKNOWN_WITH_BASE: usize = 2;
/// What another codec must carry, times what the chosen one does.
const CLEARLY: f64 = 1.05;
/// A measurement is worth something after so many plain bytes in so much time …
const ENOUGH: Enough = Enough { bytes: 4 << 20, time: Duration::from_millis(50) };
/// … of runs that somebody waits for one by one, which never fill a line, after 16 of them …
const ENOUGH_SHORT: Enough = Enough { bytes: 1 << 20, time: Duration::from_millis(2) };
/// … or, on a slow line, after so long with a few.
const LONG: Duration = Duration::from_secs(2);
const FEW_BYTES: u64 = 1 << 20;
/// The first look decides which way the first trial goes: a line below this, in plain bytes a second, is no faster than 1 Gbit/s.
const SLOW: f64 = 150e6;
/// A line that carries more leaves no time for [`Codec::Zstd6`].
const UNHURRIED: f64 = 60e6;
/// A line that carries less than this at first, in plain bytes a second, is slower than any processor packs: no
/// trial is needed to begin with the smallest …
const CRAWLING: f64 = 25e6;
/// … nor many bytes to see it. A disk may begin with what is packed to nearly nothing: so a line that is asked for more than
/// comes is judged by what travels, later too, unless that is next to nothing and packing it takes the time.
const CRAWLING_PLAIN: f64 = 200e6;
/// What is enough to see that a line crawls: the first blocks also wait for the source's disk.
const CRAWLING_BYTES: u64 = 1 << 20;
/// Measurements before a codec at either end, once found better, is doubted.
const SETTLED_REST: u32 = 8;
/// A slow line that carries such a share of the most it did is still the same.
const LIKE_BEFORE: std::ops::RangeInclusive<f64> = 0.7..=1.1;
/// Most measurements between two trials.
const REST_MAX: u32 = 64;

#[derive(Debug, Clone, Copy)]
struct Enough {
    bytes: u64,
    time: Duration,
}

/// One wait in so many is not believed.
const OUTLIERS_SHARE: usize = 4;
const WAITS_MAX: usize = 1024;

/// One kind of requests to one source.
#[derive(Debug)]
pub(super) struct Line(Mutex<State>);

/// What suited a line when it was last measured: where the next one to the same source begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// Whatever packs most: it carried at most so many bytes a second, as they travel.
    Slow { travelled: u64 },
    /// A place in [`WAYS`].
    Suits(usize),
}

#[derive(Debug)]
struct State {
    enough: Enough,
    /// How many of [`WAYS`] there are here.
    ways: usize,
    /// Which of [`WAYS`] is the best known.
    chosen: usize,
    trial: Trial,
    /// Measurements until the next trial, and the next such rest.
    rest: u32,
    next_rest: u32,
    /// Whether the next trial packs harder.
    harder: Option<bool>,
    /// Whether a line that looks slow is believed to be.
    may_jump: bool,
    /// Whether it looked slow in the measurement before. Packing hard, or against another version, takes so much of the
    /// processors that they look like a slow line from then on: one measurement is not enough for that.
    seems_slow: bool,
    /// Requests under way with the codec that is in use, and with others.
    current: u32,
    others: u32,
    /// When it was last looked at.
    since: Instant,
    /// How long each request took, in a measurement in which there was one at a time.
    waits: Vec<Duration>,
    /// Whether there were several at a time.
    is_shared: bool,
    busy: Duration,
    /// Plain bytes that came.
    bytes: u64,
    /// What the source had sent when it began, as it travels, and by now.
    travelled: [u64; 2],
    /// What it had sent when the last of an earlier codec had come: time counts from then on.
    settled: u64,
    /// As fast as anything travelled in a measurement in which several requests shared the line.
    fastest: f64,
    /// As fast as it travels if the line is the slow one that it was; asked once.
    expected: Option<f64>,
}

/// Rates in plain bytes a second.
#[derive(Debug, Clone, Copy)]
enum Trial {
    None,
    Trying { codec: usize, before: f64 },
    Checking { codec: usize, before: f64, tried: f64 },
}

impl Line {
    /// For long runs.
    pub(super) fn new(has_base: bool, habit: Option<Habit>) -> Line {
        let line = Line::measured_after(ENOUGH, WAYS.len() - usize::from(!has_base));
        if let Some(habit) = habit {
            line.lock().go_on(habit);
        }
        line
    }

    /// For short runs.
    pub(super) fn short() -> Line {
        Line::measured_after(ENOUGH_SHORT, SHORT_WAYS)
    }

    fn measured_after(enough: Enough, ways: usize) -> Line {
        Line(Mutex::new(State {
            enough,
            ways,
            chosen: if ways == WAYS.len() { UNKNOWN_WITH_BASE } else { UNKNOWN },
            trial: Trial::None,
            rest: 0,
            next_rest: 1,
            harder: None,
            may_jump: true,
            seems_slow: false,
            current: 0,
            others: 0,
            since: Instant::now(),
            waits: Vec::new(),
            is_shared: false,
            busy: Duration::ZERO,
            bytes: 0,
            travelled: [0; 2],
            settled: 0,
            fastest: 0.0,
            expected: None,
        }))
    }

    /// What was found out; `None` before anything was.
    pub(super) fn habit(&self) -> Option<Habit> {
        let line = self.lock();
        let is_slow = line.chosen + 1 == line.ways;
        let slow = Habit::Slow { travelled: line.fastest as u64 };
        line.harder.map(|_| if is_slow { slow } else { Habit::Suits(line.chosen) })
    }

    /// How blocks shall travel now. A request begins with it; [`Line::end`] is owed the same way.
    pub(super) fn begin(&self) -> Way {
        let mut line = self.lock();
        line.look();
        line.current += 1;
        line.is_shared |= line.current > 1;
        WAYS[line.codec()]
    }

    /// Plain bytes came by a request that travels so; `travelled` is what the source has sent so far, as it travels.
    pub(super) fn carried(&self, way: Way, bytes: u64, travelled: u64) {
        let mut line = self.lock();
        line.travelled[1] = travelled;
        if line.others > 0 {
            line.settled = travelled;
        }
        if line.others == 0 && way == WAYS[line.codec()] {
            line.bytes += bytes;
        }
    }

    /// A request has ended, in whatever way.
    pub(super) fn end(&self, way: Way) {
        let mut line = self.lock();
        line.look();
        let is_current = way == WAYS[line.codec()] && line.current > 0;
        let count = if is_current { &mut line.current } else { &mut line.others };
        *count = count.saturating_sub(1);
        line.judge();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl State {
    /// Begins where a line to the same source ended. It is measured on, and doubted as if it were this one's.
    fn go_on(&mut self, habit: Habit) {
        let last = self.ways - 1;
        self.chosen = match habit {
            Habit::Slow { .. } => last,
            Habit::Suits(way) => way.min(last),
        };
        if let Habit::Slow { travelled } = habit {
            // A short transfer may not come to its full rate, and is not to make the next one doubt it.
            self.fastest = travelled as f64;
            (self.seems_slow, self.expected) = (true, Some(self.fastest));
        }
        self.harder = Some(self.seems_slow);
        (self.rest, self.next_rest) = (SETTLED_REST, SETTLED_REST);
    }

    /// The place in [`WAYS`] of what is in use.
    fn codec(&self) -> usize {
        match self.trial {
            Trial::Trying { codec, .. } => codec,
            Trial::None | Trial::Checking { .. } => self.chosen,
        }
    }

    /// What suits any slow line, whatever makes it slow.
    fn squeezed(&self) -> usize {
        if self.ways == WAYS.len() { self.ways - 1 } else { SHORT_WAYS - 1 }
    }

    /// Counts the time that has passed.
    fn look(&mut self) {
        let now = Instant::now();
        if self.current > 0 && self.others == 0 {
            self.busy += now - self.since;
            // More than these are requests that bring nothing.
            if self.waits.len() < WAITS_MAX {
                self.waits.push(now - self.since);
            }
        }
        self.since = now;
    }

    fn judge(&mut self) {
        let is_slow_at_first = self.harder.is_none() && self.bytes >= CRAWLING_BYTES && self.rate() < CRAWLING;
        let is_crawling = self.bytes >= ENOUGH.bytes && self.is_crawling();
        let may_jump = self.may_jump && matches!(self.trial, Trial::None);
        // Less may also be slow because everything has only begun.
        let smallest = if is_crawling && self.seems_slow { self.ways - 1 } else { SHORT_WAYS - 1 };
        if may_jump && (is_slow_at_first || is_crawling) && self.chosen < smallest {
            self.seems_slow = is_crawling;
            (self.chosen, self.harder) = (smallest, Some(true));
            (self.rest, self.next_rest) = (SETTLED_REST, SETTLED_REST);
            self.turn();
            return;
        }
        if may_jump && is_crawling && !self.seems_slow && self.chosen + 1 < self.ways {
            self.seems_slow = true;
            return self.begin_anew();
        }
        let much = self.bytes >= self.enough.bytes && self.busy >= self.enough.time;
        let long = self.bytes >= FEW_BYTES && self.busy >= LONG;
        if !much && !long {
            return;
        }
        if self.is_another_line() {
            // Packing so hard may be all that is slow: found out as if nothing was known, but for what one measurement says.
            (self.chosen, self.seems_slow) = (SHORT_WAYS - 1, true);
            return self.turn();
        }
        let (before, rate) = (self.codec(), self.rate());
        self.seems_slow = false;
        self.step(rate);
        self.begin_anew();
        if self.codec() != before {
            self.turn();
        }
    }

    fn begin_anew(&mut self) {
        (self.busy, self.bytes, self.travelled[0]) = (Duration::ZERO, 0, self.travelled[1]);
        self.waits.clear();
        self.is_shared = self.current > 1;
    }

    /// Plain bytes a second in this measurement. Of requests that came one by one the longest are taken for as long as
    /// the others: among many short ones, one that waited for a processor or a disk says more than all others and nothing
    /// of the codec. Where several share the line, only the whole time says how fast it is.
    fn rate(&mut self) -> f64 {
        if self.is_shared {
            return self.bytes as f64 / self.busy.as_secs_f64().max(1e-6);
        }
        self.waits.sort_unstable();
        let counted = self.waits.len() - self.waits.len() / OUTLIERS_SHARE;
        let busy: Duration = self.waits[..counted].iter().sum();
        let scale = self.waits.len() as f64 / counted.max(1) as f64;
        self.bytes as f64 / (busy.as_secs_f64() * scale).max(1e-6)
    }

    /// Whether the line is the slowest part of all, by what travels. Requests that come one by one say nothing of that, and
    /// others to the same source make it look faster.
    fn is_crawling(&self) -> bool {
        let travelled = self.travelled[1].saturating_sub(self.travelled[0]);
        let busy = self.busy.as_secs_f64();
        self.is_shared && (travelled as f64) < CRAWLING * busy && (self.bytes as f64) < CRAWLING_PLAIN * busy
    }

    /// Whether what was known of a slow line holds no more: it would be full again, of as much as before.
    fn is_another_line(&mut self) -> bool {
        if !self.is_shared {
            return false;
        }
        let began = self.settled.max(self.travelled[0]);
        let travels = self.travelled[1].saturating_sub(began) as f64 / self.busy.as_secs_f64().max(1e-6);
        let is_other = self.expected.take().is_some_and(|expected| !LIKE_BEFORE.contains(&(travels / expected)));
        self.fastest = if is_other { travels } else { self.fastest.max(travels) };
        is_other
    }

    /// Another codec is in use from now on: those under way are of the one before, and those of the one now were
    /// waited for long ago.
    fn turn(&mut self) {
        self.begin_anew();
        self.others += std::mem::take(&mut self.current);
    }

    fn step(&mut self, rate: f64) {
        match self.trial {
            Trial::None if self.rest > 0 => self.rest -= 1,
            // As at the beginning: on such a line a trial costs and cannot help; but packing hard may itself be what
            // looks like a slow line.
            Trial::None
                if (rate < CRAWLING || self.is_crawling())
                    && self.chosen >= self.squeezed()
                    && WAYS[self.chosen] != Way::By(Codec::Zstd6) => {}
            Trial::None => self.trial = Trial::Trying { codec: self.neighbour(rate), before: rate },
            Trial::Trying { codec, before } => self.trial = Trial::Checking { codec, before, tried: rate },
            Trial::Checking { codec, before, tried } => {
                let better = tried > CLEARLY * before.max(rate);
                if better {
                    let (was, now) = (WAYS[self.chosen], WAYS[codec]);
                    tracing::debug!(?was, ?now, before, tried, "blocks travel otherwise from now on");
                    // It was not the line that was slow.
                    self.may_jump &= codec > self.chosen;
                    self.chosen = codec;
                    let is_last = codec == 0 || codec + 1 == self.ways;
                    (self.rest, self.next_rest) = (if is_last { SETTLED_REST } else { 0 }, SETTLED_REST);
                } else {
                    self.rest = self.next_rest;
                    self.next_rest = (self.next_rest * 2).min(REST_MAX);
                    self.harder = self.harder.map(|harder| !harder);
                }
                self.trial = Trial::None;
            }
        }
    }

    /// What to try beside the chosen one: further the way that helped last, else the other way.
    fn neighbour(&mut self, rate: f64) -> usize {
        let harder = *self.harder.get_or_insert(rate < SLOW);
        match (self.chosen, harder) {
            (0, _) => 1,
            (last, _) if last + 1 == self.ways => last - 1,
            // What packs so hard is slower than this.
            (middle, true) if WAYS[middle + 1] == Way::By(Codec::Zstd6) && rate > UNHURRIED => middle - 1,
            (middle, true) => middle + 1,
            (middle, false) => middle - 1,
        }
    }
}

#[cfg(test)]
mod tests;
