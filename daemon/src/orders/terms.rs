//! The terms of an order: from what was typed to what the cache understands. Pure but for the caller's clock.

use std::num::NonZeroU64;
use std::str::FromStr;

use icbd_cache::{Deadline, Order, OrderChange, Priority, Weekdays, Zone};
use jiff::Timestamp;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;

use super::Terms;
use crate::failure::{Exit, Failure};
use crate::settings::{BitRate, OFF};

/// A time as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// `08:45`: of the day.
    Daily(Time),
    /// `2026-03-01T08:45`: on the zone's clocks.
    Local(DateTime),
    /// `2026-03-01T08:45:00+01:00`
    Exact(Timestamp),
}

impl FromStr for When {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<When, jiff::Error> {
        if text.len() <= "08:45:00".len() {
            return text.parse().map(When::Daily);
        }
        // The first says more about what is wrong with most times.
        text.parse().map(When::Exact).or_else(|error| text.parse().map(When::Local).map_err(|_| error))
    }
}

/// A time that no clock shows.
fn never(_: jiff::Error) -> Failure {
    usage("there is no such time on this machine's clock; name one of the years to come".to_owned())
}

impl When {
    /// The next such time from now on.
    pub(crate) fn next(self, zone: &TimeZone) -> anyhow::Result<Timestamp> {
        let now = Timestamp::now();
        let at = match self {
            When::Exact(at) => at,
            When::Local(local) => zone.to_ambiguous_timestamp(local).earlier().map_err(never)?,
            When::Daily(time) => {
                let today = now.to_zoned(zone.clone()).date();
                let at = zone.to_ambiguous_timestamp(today.to_datetime(time)).earlier()?;
                let tomorrow = || zone.to_ambiguous_timestamp(today.tomorrow()?.to_datetime(time)).earlier();
                if at > now { at } else { tomorrow()? }
            }
        };
        if at <= now {
            let shown = now.to_zoned(zone.clone()).strftime("%F %H:%M");
            return Err(usage(format!("this time is in the past (it is {shown}); name one to come")).into());
        }
        Ok(at)
    }

    /// The last such time before now.
    pub(crate) fn last(self, zone: &TimeZone) -> anyhow::Result<Timestamp> {
        let now = Timestamp::now();
        Ok(match self {
            When::Exact(at) => at,
            When::Local(local) => zone.to_ambiguous_timestamp(local).earlier()?,
            When::Daily(time) => {
                let today = now.to_zoned(zone.clone()).date();
                let at = zone.to_ambiguous_timestamp(today.to_datetime(time)).earlier()?;
                let yesterday = || zone.to_ambiguous_timestamp(today.yesterday()?.to_datetime(time)).earlier();
                if at <= now { at } else { yesterday()? }
            }
        })
    }
}

impl Terms {
    /// What an order on these terms is.
    pub(crate) fn apply(&self, order: Order, now: Timestamp) -> Result<Order, Failure> {
        let OrderChange { deadline, zone, limit, priority } = self.change(&order, now)?;
        if self.zone.is_some() && self.by.is_none() && deadline.flatten().is_none() {
            return Err(usage("--zone is the zone of --by; add --by HH:MM, or leave it out"));
        }
        Ok(Order {
            deadline: deadline.unwrap_or(order.deadline),
            zone: zone.unwrap_or(order.zone),
            limit: limit.unwrap_or(order.limit),
            priority: priority.unwrap_or(order.priority),
            ..order
        })
    }

    /// What is different on these terms about an order.
    pub(crate) fn change(&self, order: &Order, now: Timestamp) -> Result<OrderChange, Failure> {
        let zone = self.zone.as_deref().map(Zone::named).transpose().map_err(usage)?;
        let limit = match self.limit.as_deref() {
            None => None,
            Some(OFF) => Some(None),
            Some(text) => Some(NonZeroU64::new(text.parse::<BitRate>().map_err(usage)?.bytes_per_second())),
        };
        let priority = self.priority.as_deref().map(|text| {
            Priority::from_text(text)
                .ok_or_else(|| usage(format!("{text:?} is no priority; write low, normal or high")))
        });
        let deadline = self.deadline(order, zone.as_ref().unwrap_or(&order.zone), now)?;
        Ok(OrderChange { deadline, zone, limit, priority: priority.transpose()? })
    }

    fn deadline(&self, order: &Order, zone: &Zone, now: Timestamp) -> Result<Option<Option<Deadline>>, Failure> {
        let days = self.days.as_deref().map(str::parse::<Weekdays>).transpose().map_err(usage)?;
        let when = match (self.by.as_deref(), order.deadline) {
            (Some(OFF), _) if days.is_none() => return Ok(Some(None)),
            (Some(OFF), _) => return Err(usage("--days says when, and --by off says never; leave one of them out")),
            (Some(text), _) => text.parse::<When>().map_err(usage)?,
            (None, Some(Deadline::Weekly(time, _))) if days.is_some() => When::Daily(time),
            (None, _) if days.is_some() => return Err(usage("--days needs a time of day; add --by HH:MM")),
            (None, _) => return Ok(None),
        };
        let at = match (when, days) {
            (When::Daily(time), Some(days)) => return Ok(Some(Some(Deadline::Weekly(time, days)))),
            (When::Daily(time), None) => {
                // A standing order stands every day; one version is due once.
                let days = match order.deadline {
                    Some(Deadline::Weekly(_, days)) => days,
                    _ => Weekdays::ALL,
                };
                let weekly = Deadline::Weekly(time, days);
                let is_once = order.of.number.is_some() && !matches!(order.deadline, Some(Deadline::Weekly(..)));
                let next = weekly.next(now, zone).filter(|_| is_once).map(Deadline::Once);
                return Ok(Some(Some(next.unwrap_or(weekly))));
            }
            (_, Some(_)) => return Err(usage("--days needs a time of day in --by, such as 08:45, and not a date")),
            (When::Exact(at), None) => at,
            (When::Local(local), None) => zone.time_zone().to_ambiguous_timestamp(local).earlier().map_err(usage)?,
        };
        if at <= now {
            let text = self.by.as_deref().unwrap_or_default();
            let shown = now.to_zoned(zone.time_zone().clone()).strftime("%F %H:%M");
            let message = format!(
                "--by {text} is in the past (it is {shown} in {}); name a time to come, or leave it out \
                to fetch at once",
                zone.name()
            );
            return Err(usage(message));
        }
        Ok(Some(Some(Deadline::Once(at))))
    }
}

fn usage(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, error.to_string())
}

#[cfg(test)]
mod tests {
    use icbd_cache::What;

    use super::*;

    fn terms(by: Option<&str>, days: Option<&str>) -> Terms {
        let (by, days) = (by.map(str::to_owned), days.map(str::to_owned));
        Terms { by, days, zone: Some("Europe/Madrid".into()), ..Terms::default() }
    }

    fn deadline(of: &str, by: &str, days: Option<&str>) -> Result<String, String> {
        let order = Order::new(of.parse().unwrap(), What::All);
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        let order = terms(Some(by), days).apply(order, now).map_err(|failure| {
            assert_eq!(failure.exit, Exit::Usage);
            failure.message
        });
        order.map(|order| order.deadline.map_or("none".into(), |deadline| deadline.to_string()))
    }

    #[test]
    fn times_mean_what_people_mean() {
        let check = |of: &str, by: &str, days, expected: &str| assert_eq!(deadline(of, by, days).unwrap(), expected);
        check("lab", "08:45", Some("mon-fri"), "mon-fri 08:45");
        check("lab", "08:45", None, "mon-sun 08:45");
        check("lab@7", "08:45", None, "2026-11-23T07:45:00Z");
        check("lab@7", "11:30", None, "2026-11-22T10:30:00Z");
        check("lab@7", "2026-11-23T08:45", None, "2026-11-23T07:45:00Z");
        check("lab@7", "2026-11-23T08:45:00Z", None, "2026-11-23T08:45:00Z");
        check("lab@7", "off", None, "none");
    }

    #[test]
    fn times_that_cannot_be_promised_are_refused() {
        let check = |by: &str, days, says: &str| {
            let message = deadline("lab@7", by, days).unwrap_err();
            assert!(message.contains(says), "{message}");
        };
        check("2026-11-22T09:59:59Z", None, "is in the past (it is 2026-11-22 11:00 in Europe/Madrid)");
        check("2026-11-22T10:59", None, "is in the past");
        check("2026-11-23T08:45", Some("mon"), "time of day");
        check("off", Some("mon"), "leave one of them out");
        let order = Order::new("lab".parse().unwrap(), What::All);
        let failure = terms(None, None).apply(order.clone(), Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(failure.message.contains("--zone is the zone of --by"));
        let failure = terms(None, Some("mon")).apply(order, Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(failure.message.contains("--by HH:MM"));
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        let order = Order::new("lab@7".parse().unwrap(), What::Boot);
        let order = terms(Some("08:45"), Some("mon-fri")).apply(order, now).unwrap();
        let terms = Terms { limit: Some("8mbit".into()), priority: Some("high".into()), ..Terms::default() };
        let change = terms.change(&order, now).unwrap();
        assert!(change.deadline.is_none() && change.zone.is_none());
        assert_eq!((change.limit, change.priority), (Some(NonZeroU64::new(1_000_000)), Some(Priority::High)));
        let change = Terms { by: Some("09:00".into()), ..Terms::default() }.change(&order, now).unwrap();
        assert_eq!(change.deadline.unwrap().unwrap().to_string(), "mon-fri 09:00");
        let change = Terms { limit: Some("off".into()), ..Terms::default() }.change(&order, now).unwrap();
        assert_eq!(change.limit, Some(None));
    }
}
