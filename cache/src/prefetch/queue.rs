//! Who goes first: which orders are fetched for now, when each has to begin, and when it would be done.

use icbd_image::Serial;
use jiff::{SignedDuration, Timestamp};

use super::Orders;
use super::book::{Entry, Here, after};
use super::order::{OrderId, OrderState};
use super::outlook::{Speed, latest_starts};

/// Orders with a limit that are fetched at once.
const LIMITED_MAX: usize = 8;

/// What to do for which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) id: OrderId,
    pub(super) serial: Serial,
    pub(super) step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Finding out what is missing.
    Look,
    Fetch,
}

/// How much of the line an order takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// All that there is.
    All,
    /// What it was limited to.
    Limited,
    /// What the window leaves to all background fill together.
    Background,
}

impl Orders {
    /// What is to be done now. First all are looked at, for nothing can be promised before. Then the orders go whose
    /// time has come, up to the first that takes all of the line: one that was limited keeps nobody waiting.
    pub(super) fn next(&self) -> Vec<Task> {
        let (now, learned, book) = (self.clock.now(), self.core.profiles.changes_so_far(), self.lock());
        let open = book.iter().filter(|(_, entry)| entry.state == OrderState::Active && entry.stuck.is_none());
        let mut open: Vec<_> = open.collect();
        open.sort_by_key(|(_, entry)| entry.rank());
        let look = open.iter().find_map(|(id, entry)| {
            let leg = entry.to_look_at(learned, now)?;
            Some(Task { id: **id, serial: leg.serial, step: Step::Look })
        });
        if let Some(look) = look {
            return vec![look];
        }
        let (mut tasks, mut has_background) = (Vec::new(), false);
        for (id, entry) in open.iter().filter(|(_, entry)| entry.is_due(now)) {
            let Some(leg) = entry.legs.iter().find(|leg| !leg.is_complete()) else { continue };
            let share = self.share(entry);
            let is_one_too_many = match share {
                Share::All => false,
                Share::Limited => tasks.len() >= LIMITED_MAX,
                Share::Background => std::mem::replace(&mut has_background, true) || tasks.len() >= LIMITED_MAX,
            };
            if is_one_too_many {
                continue;
            }
            tasks.push(Task { id: **id, serial: leg.serial, step: Step::Fetch });
            if share == Share::All {
                break;
            }
        }
        tasks
    }

    pub(super) fn share(&self, entry: &Entry) -> Share {
        match (entry.order.is_background() && self.background.rate().is_some(), entry.order.limit) {
            (true, _) => Share::Background,
            (false, Some(_)) => Share::Limited,
            (false, None) => Share::All,
        }
    }

    /// Works out when each order has to begin, and when it would be done.
    pub(super) fn foresee(&self, now: Timestamp, mut entries: Vec<&mut Entry>) {
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
        let is_measured = self.line.rate(&self.core).is_measured;
        // When the whole line is free, and when what the window leaves is.
        let (mut free, mut background_free) = (Some(now), Some(now));
        for (entry, takes) in entries.into_iter().zip(takes) {
            let (is_due, share) = (entry.is_due(now), self.share(entry));
            let turn = if share == Share::Background { free.zip(background_free).map(|(a, b)| a.max(b)) } else { free };
            let begin = if is_due { turn } else { turn.max(entry.start) };
            entry.end = begin.and_then(|begin| after(begin, takes)).filter(|_| !entry.is_damaged());
            entry.earliest = match is_measured || entry.has_pace() {
                true => entry.end,
                false => after(now, self.speed_on(entry, u64::MAX).time_for(entry.left_bytes(), now)),
            };
            match share {
                _ if !is_due || entry.stuck.is_some() => {}
                Share::All => free = entry.end,
                Share::Background => background_free = entry.end,
                Share::Limited => {}
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
        self.speed_on(entry, self.line.rate(&self.core).bytes_per_second)
    }

    /// On a line that gives so many bytes a second.
    fn speed_on(&self, entry: &Entry, line: u64) -> Speed<'_> {
        let window = self.core.window.as_ref().filter(|_| entry.order.is_background());
        let limit = entry.order.limit.map(|limit| self.line.block_bytes(limit.get()).max(1));
        Speed {
            line,
            limit: limit.and_then(std::num::NonZeroU64::new),
            window: window.map(|window| (window, &self.zone)),
        }
    }
}
