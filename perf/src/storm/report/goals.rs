//! The goals, and whether the kept results meet them.

use super::{limit_s, megabytes};
use crate::network::{LINKS, Link};
use crate::plot::figures;
use crate::storm::CASES;
use crate::storm::duties::{Bound, Duty};
use crate::storm::results::Results;
use crate::storm::run::Case;
use crate::storm::tools::{TOOLS, Tool};

const ONE: Case = Case::plain(1);
const MANY: Case = Case::plain(30);
const SCANNED: Case = Case { scan: true, ..MANY };

/// One line of the table: ours, what it is held to, and the most that the ratio may be.
struct Goal {
    what: String,
    ours: Option<f64>,
    bound: Option<(String, f64)>,
    ratio_max: f64,
}

/// Every goal as a Markdown table.
pub(super) fn table(results: &Results) -> String {
    let mut rows = String::new();
    for link in LINKS {
        for goal in known(results, link).into_iter().chain(first(results, link)).chain(many(results, link)) {
            rows.push_str(&goal.row());
        }
    }
    let duties: String = results.duties.iter().map(duty).collect();
    let heads = "| goal | icbd | held to | ratio | at most | |\n| --- | ---: | ---: | ---: | ---: | --- |";
    let duty_heads = "| duty | measured | held to | |\n| --- | ---: | ---: | --- |";
    format!(
        "\n### Goals\n\n{heads}\n{rows}\n### Duties\n\nThe median of three; images that grow are measured once.\n\n{duty_heads}\n{duties}"
    )
}

fn duty(duty: &Duty) -> String {
    let (held_to, verdict) = match duty.bound {
        None => ("–".to_owned(), ""),
        Some(bound) => {
            let held_to = match bound {
                Bound::AtMost(most) => format!("≤ {}", figures(most)),
                Bound::AtLeast(least) => format!("≥ {}", figures(least)),
            };
            (held_to, if bound.is_met(duty.value) { "met" } else { "**missed**" })
        }
    };
    format!("| {} | {} {} | {held_to} | {verdict} |\n", duty.what, figures(duty.value), duty.unit)
}

impl Goal {
    fn row(&self) -> String {
        let ours = self.ours.map_or_else(|| "–".to_owned(), figures);
        let (held_to, ratio) = match (&self.bound, self.ours) {
            (Some((name, value)), Some(ours)) => (format!("{name} {}", figures(*value)), Some(ours / value)),
            (Some((name, value)), None) => (format!("{name} {}", figures(*value)), None),
            (None, _) => ("–".to_owned(), None),
        };
        let verdict = match ratio {
            Some(ratio) if ratio <= self.ratio_max => "met",
            Some(_) => "**missed**",
            None => "not measured",
        };
        let ratio = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        format!("| {} | {ours} | {held_to} | {ratio} | {:.2} | {verdict} |\n", self.what, self.ratio_max)
    }
}

fn seconds(results: &Results, link: Link, case: Case, tool: Tool) -> Option<f64> {
    results.cell(link.name, case, &tool.name()).map(|cell| cell.median(|round| round.last_s))
}

/// The fastest rival.
fn best(results: &Results, link: Link, case: Case) -> Option<(String, f64)> {
    let rivals = TOOLS.into_iter().filter(|tool| tool.is_rival());
    let times = rivals.filter_map(|tool| Some((tool.name(), seconds(results, link, case, tool)?)));
    times.min_by(|a, b| a.1.total_cmp(&b.1))
}

/// The larger of two, if both were measured.
fn larger(a: (&str, Option<f64>), b: (&str, Option<f64>)) -> Option<(String, f64)> {
    let (a, b) = ((a.0, a.1?), (b.0, b.1?));
    let larger = if a.1 > b.1 { a } else { b };
    Some((larger.0.to_owned(), larger.1))
}

/// What the goals are about: an emulated machine is too uneven to be held to one.
fn replayed() -> impl Iterator<Item = Case> {
    CASES.into_iter().filter(|case| !case.machine)
}

/// With a profile: as fast as the line or a local disk allows.
fn known(results: &Results, link: Link) -> Vec<Goal> {
    let goal = |case: Case| Goal {
        what: format!("{}: profile known, {}", link.name, case.name()),
        ours: seconds(results, link, case, Tool::IcbdProfile),
        bound: larger(
            ("local disk", seconds(results, link, case, Tool::Local)),
            ("limit", Some(limit_s(results, link))),
        ),
        ratio_max: 1.10,
    };
    replayed().filter(|case| case.clients == 1).map(goal).collect()
}

/// Without: ahead of everybody else, in every cell.
fn first(results: &Results, link: Link) -> Vec<Goal> {
    let goal = |case: Case| Goal {
        what: format!("{}: first boot ever, {}", link.name, case.name()),
        ours: seconds(results, link, case, Tool::Icbd),
        bound: best(results, link, case),
        ratio_max: 1.0,
    };
    let mut goals: Vec<Goal> = replayed().map(goal).collect();
    if link.round_trip_ms > 0 {
        goals.push(Goal {
            what: format!("{}: first boot ever, against the line", link.name),
            ours: seconds(results, link, ONE, Tool::Icbd),
            bound: Some(("limit".to_owned(), limit_s(results, link))),
            ratio_max: 1.4,
        });
    }
    goals
}

/// Thirty at once: each block crosses once, nobody waits for the others.
fn many(results: &Results, link: Link) -> [Goal; 3] {
    let sent = |case| results.cell(link.name, case, &Tool::Icbd.name()).map(megabytes);
    let last = |case| seconds(results, link, case, Tool::Icbd);
    [
        Goal {
            what: format!("{}: MB over the line, 30 clients", link.name),
            ours: sent(MANY),
            bound: sent(ONE).map(|sent| ("one client's".to_owned(), sent)),
            ratio_max: 1.02,
        },
        Goal {
            what: format!("{}: last of 30 clients", link.name),
            ours: last(MANY),
            bound: larger(
                ("30 on a local disk", seconds(results, link, MANY, Tool::Local)),
                ("one client's", last(ONE)),
            ),
            ratio_max: 1.25,
        },
        Goal {
            what: format!("{}: last of 30 clients beside a scan", link.name),
            ours: last(SCANNED),
            bound: last(MANY).map(|last| ("without the scan".to_owned(), last)),
            ratio_max: 1.3,
        },
    ]
}
