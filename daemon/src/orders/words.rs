//! Orders in words: the table, one line, and the explanation.

use icbd_cache::{Deadline, Order, OrderStatus, Zone};
use jiff::Timestamp;

use super::{ExplainedVersion, ExplanationReport, OrderReport, Verdict, What};
use crate::output::{bit_rate, bytes, seconds, table};

/// A weekday says which day, for so many days.
const WEEKDAY_SECONDS: i64 = 6 * 86_400;

/// When and where an order is looked at: times are said so that people there understand them.
pub(crate) struct Here {
    pub now: Timestamp,
    pub zone: Zone,
}

impl Here {
    /// On this machine's clock.
    pub(crate) fn now() -> Here {
        Here { now: Timestamp::now(), zone: Zone::system() }
    }
}

/// A report of an order.
pub(crate) fn report(status: &OrderStatus, here: &Here) -> OrderReport {
    let (verdict, says) = say(status, here);
    OrderReport {
        id: status.id,
        of: status.order.of.clone(),
        what: What::from(&status.order.what),
        versions: status.versions.clone(),
        state: status.state.as_text().to_owned(),
        order: terms(&status.order, here),
        zone: status.order.zone.name().to_owned(),
        limit_bytes_per_second: status.order.limit.map(|limit| limit.get()),
        priority: status.order.priority.as_text().to_owned(),
        done_bytes: status.done_bytes,
        total_bytes: status.total_bytes,
        left_bytes: status.left_bytes,
        is_left_exact: status.is_surveyed,
        bytes_per_second: status.bytes_per_second,
        deadline: status.deadline.map(|at| at.to_string()),
        verdict,
        says,
        trouble: status.trouble.clone(),
        note: status.note.map(str::to_owned),
    }
}

fn say(status: &OrderStatus, here: &Here) -> (Verdict, String) {
    let zone = &status.order.zone;
    let named = if *zone == here.zone { String::new() } else { format!(" {}", zone.name()) };
    let clock = |at: Timestamp| format!("{}{named}", clock(at, here.now, zone));
    let end = |end: Option<Timestamp>, says: &str| end.map_or_else(String::new, |end| format!("{says}{}", clock(end)));
    match status.verdict {
        icbd_cache::Verdict::Kept { since } => {
            let word = if status.order.deadline.is_some() { "kept" } else { "done" };
            (Verdict::Kept, format!("{word} {}", clock(since)))
        }
        icbd_cache::Verdict::Missed { by, since } => {
            (Verdict::Missed, format!("MISSED {}, done {}", clock(by), clock(since)))
        }
        icbd_cache::Verdict::Late { end: at, .. } => (Verdict::Late, format!("LATE{}", end(at, ", "))),
        icbd_cache::Verdict::Runs { end: at } => (Verdict::Runs, format!("runs{}", end(at, ", done about "))),
        icbd_cache::Verdict::Stuck => (Verdict::Stuck, "stands still".to_owned()),
        icbd_cache::Verdict::Looks => (Verdict::Looks, "looks what is missing".to_owned()),
        icbd_cache::Verdict::Queued { behind: Some(id) } => (Verdict::Queued, format!("waits for order {id}")),
        icbd_cache::Verdict::Queued { behind: None } => (Verdict::Queued, "waits for its turn".to_owned()),
        icbd_cache::Verdict::Waits { until } => (Verdict::Waits, format!("waits until {}", clock(until))),
        icbd_cache::Verdict::NoVersion => (Verdict::NoVersion, "waits for a version".to_owned()),
        icbd_cache::Verdict::Paused => (Verdict::Paused, "paused".to_owned()),
        icbd_cache::Verdict::Cancelled => (Verdict::Cancelled, "cancelled".to_owned()),
    }
}

/// `mon-fri by 08:45`, `by Tue 08:45`, `at once`; the zone where it is not the machine's; and what it is limited to.
fn terms(order: &Order, here: &Here) -> String {
    let zone = if order.zone == here.zone { String::new() } else { format!(" {}", order.zone.name()) };
    let by = match order.deadline {
        None => "at once".to_owned(),
        Some(Deadline::Once(at)) => format!("by {}{zone}", clock(at, here.now, &order.zone)),
        Some(Deadline::Weekly(time, days)) => format!("{days} by {}{zone}", time.strftime("%H:%M")),
    };
    order.limit.map_or(by.clone(), |limit| format!("{by}, {}", bit_rate(limit.get())))
}

/// `08:12`, `Tue 22:10`, `2026-03-01 08:45`: as much as is needed to know when.
fn clock(at: Timestamp, now: Timestamp, zone: &Zone) -> String {
    let (local, today) = (at.to_zoned(zone.time_zone().clone()), now.to_zoned(zone.time_zone().clone()));
    let is_near = at.duration_since(now).as_secs().abs() < WEEKDAY_SECONDS;
    let format = match (local.date() == today.date(), is_near) {
        (true, _) => "%H:%M",
        (false, true) => "%a %H:%M",
        (false, false) => "%F %H:%M",
    };
    local.strftime(format).to_string()
}

/// One order in a line.
pub(crate) fn one(order: &OrderReport) -> String {
    let OrderReport { id, of, what, order: terms, says, .. } = order;
    let trouble = order.trouble.as_deref().map_or(String::new(), |why| format!(": {why}"));
    let note = order.note.as_deref().map_or(String::new(), |note| format!("\n{note}"));
    format!("{id}  {of} {what}  {terms}  {says}{trouble}{note}")
}

/// The table of orders, and how many that have ended are not in it.
pub(crate) fn list(orders: &[OrderReport], left_out: usize) -> String {
    let row = |order: &OrderReport| {
        let rate = if order.bytes_per_second > 0 { bit_rate(order.bytes_per_second) } else { "-".to_owned() };
        let trouble = order.trouble.as_deref().map_or(String::new(), |why| format!(": {why}"));
        let verdict = format!("{}{trouble}", order.says);
        let what = format!("{} {}", order.of, order.what);
        vec![order.id.to_string(), what, order.order.clone(), done(order.done_bytes, order.total_bytes), rate, verdict]
    };
    let mut text = table(&["ID", "WHAT", "ORDER", "DONE", "RATE", "VERDICT"], orders.iter().map(row));
    let noted = orders.iter().filter(|order| !order.has_ended());
    for (id, note) in noted.filter_map(|order| Some((order.id, order.note.as_ref()?))) {
        text.push_str(&format!("\n! {id}: {note}"));
    }
    if left_out > 0 {
        text.push_str(&format!("\n{left_out} that have ended are shown by `icbd prefetch list --ended`"));
    }
    text
}

/// `70/70 MiB`, `900 KiB/2.0 GiB`.
fn done(done_bytes: u64, total_bytes: u64) -> String {
    let (done, total) = (bytes(done_bytes), bytes(total_bytes));
    match (done.split_once(' '), total.split_once(' ')) {
        (Some((number, unit)), Some((_, other))) if unit == other => format!("{number}/{total}"),
        _ => format!("{done}/{total}"),
    }
}

/// An explanation for people.
pub(crate) fn explain(report: &ExplanationReport) -> String {
    let mut lines = Vec::new();
    if report.versions.is_empty() {
        let withheld = match report.withheld {
            0 => String::new(),
            count => format!("; {count} are withheld, `icbd image list {}` says why", report.of.image),
        };
        lines.push(format!("{} {}: no version of it is deployed or ready{withheld}", report.of, report.what));
    }
    for ExplainedVersion { version, total_bytes, left_bytes, is_left_exact, note } in &report.versions {
        let most = if *is_left_exact || *left_bytes == 0 { "" } else { "at most " };
        let (left, total) = (bytes(*left_bytes), bytes(*total_bytes));
        lines.push(format!("{version} {}: {most}{left} of {total} are not here", report.what));
        lines.extend(note.iter().map(|note| format!("! {note}")));
    }
    if report.versions.iter().any(|version| version.left_bytes > 0) {
        let how = if report.is_rate_measured { "measured" } else { "a guess, nothing was measured yet" };
        let takes =
            report.takes_seconds.map_or("more than a year".to_owned(), |takes| format!("about {}", seconds(takes)));
        lines.push(format!(
            "from {} at {} ({how}): {takes}, about {} on the wire",
            report.source.as_deref().unwrap_or("no source"),
            bit_rate(report.bytes_per_second),
            bytes(report.wire_bytes)
        ));
    }
    lines.extend(report.hindrances.iter().map(|why| format!("! {why}")));
    // What is noted of its versions was said.
    let order = report.order.clone().map(|order| OrderReport { note: None, ..order });
    lines.extend(order.map(|order| format!("order {}", one(&order))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use icbd_cache::{OrderState, Priority};

    use super::*;

    fn status(verdict: icbd_cache::Verdict) -> OrderStatus {
        let zone = Zone::named("Europe/Madrid").unwrap();
        let deadline = Some("mon-fri 08:45".parse().unwrap());
        let what = icbd_cache::What::Boot;
        let (of, limit) = ("debian-lab".parse().unwrap(), std::num::NonZeroU64::new(6_250_000));
        OrderStatus {
            id: 3,
            order: Order { of, what, deadline, zone, limit, priority: Priority::Normal },
            state: OrderState::Active,
            versions: vec!["debian-lab@3".parse().unwrap()],
            total_bytes: 70 << 20,
            done_bytes: 70 << 20,
            left_bytes: 0,
            is_surveyed: true,
            bytes_per_second: 0,
            deadline: None,
            verdict,
            trouble: None,
            note: None,
        }
    }

    fn madrid(now: Timestamp) -> Here {
        Here { now, zone: Zone::named("Europe/Madrid").unwrap() }
    }

    #[test]
    fn verdicts_are_short_and_say_when() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-23T08:00:00Z");
        let check = |verdict, says: &str| assert_eq!(report(&status(verdict), &madrid(now)).says, says);
        check(icbd_cache::Verdict::Kept { since: at("2026-11-23T07:12:00Z") }, "kept 08:12");
        check(icbd_cache::Verdict::Kept { since: at("2026-11-17T21:10:00Z") }, "kept Tue 22:10");
        check(icbd_cache::Verdict::Kept { since: at("2026-03-01T07:12:00Z") }, "kept 2026-03-01 08:12");
        check(icbd_cache::Verdict::Late { by: now, end: Some(at("2026-11-24T01:37:00Z")) }, "LATE, Tue 02:37");
        check(icbd_cache::Verdict::Late { by: now, end: None }, "LATE");
        check(icbd_cache::Verdict::Queued { behind: Some(12) }, "waits for order 12");
        check(icbd_cache::Verdict::Waits { until: at("2026-11-23T10:40:00Z") }, "waits until 11:40");
        check(
            icbd_cache::Verdict::Missed { by: at("2026-11-23T07:45:00Z"), since: at("2026-11-23T07:50:00Z") },
            "MISSED 08:45, done 08:50",
        );
    }

    #[test]
    fn the_table_is_the_one_that_was_promised() {
        let now: Timestamp = "2026-11-23T08:00:00Z".parse().unwrap();
        let status = status(icbd_cache::Verdict::Kept { since: now });
        let kept = report(&status, &madrid(now));
        let elsewhere = Here { now, zone: Zone::named("UTC").unwrap() };
        assert_eq!(report(&status, &elsewhere).order, "mon-fri by 08:45 Europe/Madrid, 50 Mbit/s");
        let late = OrderReport {
            id: 7,
            of: "win11-lab@9".parse().unwrap(),
            what: What::All,
            order: "at once".into(),
            done_bytes: 18 << 30,
            total_bytes: 31 << 30,
            bytes_per_second: 5_125_000,
            says: "LATE, 02:37".into(),
            trouble: Some("the master is gone".into()),
            note: Some("no boot recorded".into()),
            ..kept.clone()
        };
        let expected = "\
ID  WHAT             ORDER                        DONE           RATE       VERDICT
3   debian-lab boot  mon-fri by 08:45, 50 Mbit/s  70.0/70.0 MiB  -          kept 09:00
7   win11-lab@9 all  at once                      18.0/31.0 GiB  41 Mbit/s  LATE, 02:37: the master is gone
! 7: no boot recorded";
        assert_eq!(list(&[kept.clone(), late], 0), expected);
        let left_out = list(&[kept], 2);
        assert!(left_out.ends_with("\n2 that have ended are shown by `icbd prefetch list --ended`"), "{left_out}");
    }
}
