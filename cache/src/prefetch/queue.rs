//! Who goes first: which orders are fetched for now, when each has to begin, and when it would be done.

use icbd_image::Serial;
use jiff::{SignedDuration, Timestamp};

use super::Orders;
use super::book::{Entry, Here, Leg, after};
use super::order::{OrderId, OrderState, What};
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

/// What the orders that go first bring: of a version that two are for, no block comes twice.
#[derive(Debug, Default)]
struct Ahead(Vec<(Serial, What, u64)>);

impl Ahead {
    fn add(&mut self, entry: &Entry) {
        for leg in &entry.legs {
            if !self.0.iter().any(|(serial, what, _)| *serial == leg.serial && *what == entry.order.what) {
                self.0.push((leg.serial, entry.order.what.clone(), leg.left_bytes()));
            }
        }
    }

    /// Bytes that are left for an order; what a boot reads of a file that another one is for counts for both.
    fn left_for(&self, entry: &Entry) -> u64 {
        let of_leg = |leg: &Leg| {
            let ahead = self.0.iter().filter(|(serial, ..)| *serial == leg.serial);
            ahead.fold(leg.left_bytes(), |left, (_, what, brings)| match (what, &entry.order.what) {
                (What::All, _) => 0,
                (what, own) if what == own => 0,
                (_, What::All) => left.saturating_sub(*brings),
                _ => left,
            })
        };
        entry.legs.iter().map(of_leg).sum()
    }
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
        let time = |entry: &&mut Entry| self.time_for(entry, entry.left_bytes(), now);
        let takes: Vec<Option<SignedDuration>> = entries.iter().map(time).collect();
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
        let (mut free, mut background_free, mut ahead) = (Some(now), Some(now), Ahead::default());
        for entry in entries {
            let (is_due, share) = (entry.is_due(now), self.share(entry));
            let left = ahead.left_for(entry);
            let takes = self.time_for(entry, left, now);
            let turn = if share == Share::Background { free.zip(background_free).map(|(a, b)| a.max(b)) } else { free };
            let begin = if is_due { turn } else { turn.max(entry.start) };
            entry.end = begin.and_then(|begin| after(begin, takes)).filter(|_| !entry.is_damaged());
            entry.earliest = match is_measured || entry.has_pace() {
                true => entry.end,
                false => after(now, self.speed_on(entry, u64::MAX).time_for(left, now)),
            };
            match share {
                _ if !is_due || entry.stuck.is_some() => {}
                Share::All => {
                    free = entry.end;
                    ahead.add(entry);
                }
                Share::Background => background_free = entry.end,
                Share::Limited => {}
            }
        }
    }

    /// How long an order takes for so many bytes, by its own pace where it has one.
    fn time_for(&self, entry: &Entry, left: u64, now: Timestamp) -> Option<SignedDuration> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefetch::book::Promise;
    use crate::prefetch::order::Order;
    use crate::version::Residency;

    fn entry(what: What, left: &[(u64, u64)]) -> Entry {
        let order = Order::new("lab".parse().unwrap(), what);
        let mut entry = Entry::new(order, OrderState::Active, Promise::new(Timestamp::UNIX_EPOCH));
        entry.legs.extend(left.iter().map(|(serial, bytes)| Leg {
            serial: Serial::new(*serial).unwrap(),
            id: format!("lab@{serial}").parse().unwrap(),
            plan: None,
            learned: 0,
            failed: None,
            held: Residency { total_bytes: bytes + 5, resident_bytes: 5, durable_bytes: 0 },
        }));
        entry
    }

    #[test]
    fn what_two_orders_are_for_is_reckoned_once() {
        let file = |name: &str| What::File(name.to_owned());
        let mut ahead = Ahead::default();
        assert_eq!(ahead.left_for(&entry(What::All, &[(1, 90), (2, 50)])), 140);
        ahead.add(&entry(What::Boot, &[(1, 30)]));
        assert_eq!(ahead.left_for(&entry(What::Boot, &[(1, 30), (2, 7)])), 7);
        assert_eq!(ahead.left_for(&entry(What::All, &[(1, 90), (2, 50)])), 110);
        assert_eq!(ahead.left_for(&entry(file("a"), &[(1, 40)])), 40, "nobody knows what of it is in the boot set");
        ahead.add(&entry(file("a"), &[(1, 40)]));
        ahead.add(&entry(file("a"), &[(1, 40)]));
        assert_eq!(ahead.left_for(&entry(What::All, &[(1, 90)])), 20);
        assert_eq!(ahead.left_for(&entry(file("b"), &[(1, 10)])), 10);
        ahead.add(&entry(What::All, &[(1, 90)]));
        assert_eq!(ahead.left_for(&entry(file("b"), &[(1, 10), (2, 8)])), 8);
    }
}
