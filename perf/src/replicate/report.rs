//! The trips as a chapter of the page: a table for each line, and the goals.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use super::ways::{WAYS, Way};
use super::{LINKS_USED, STEPS, Trips};
use crate::network::LINKS;
use crate::page::{row, table};
use crate::plot::{Bar, Bars, Group, figures};

const PREFACE: &str = "
## Versions on their way to another site

The Debian image (v1), the same after six packages were installed (v2), and after an upgrade to the next release (v3), each
with its free space trimmed; between two btrfs file systems over the lines of the storms. A cell is *seconds until it is
durable / MB over the line / seconds of processors at both ends*, the median of the rounds. icbd compares what came with its
manifest, the others do not; both ends share one machine.

";

/// The best of the others, and icbd, in a cell.
struct Rivalry {
    ours: (String, f64),
    best: (String, f64),
}

/// The chapter, whose charts go to the folder `plots`; nothing if nothing was measured.
pub(crate) fn chapter(trips: &Trips, plots: &Path) -> Result<String> {
    if trips.cells.is_empty() {
        return Ok(String::new());
    }
    let mut page = PREFACE.to_owned();
    let rounds = trips.cells.iter().map(|cell| cell.trips.len());
    let (least, most) = (rounds.clone().min().unwrap_or(0), rounds.max().unwrap_or(0));
    writeln!(page, "Rounds a cell: {least} to {most}.")?;
    page.push_str(&goals(trips));
    for link in LINKS_USED.map(|at| LINKS[at].name) {
        let cell = |way: Way, step| {
            let cell = trips.cell(link, step, &way.name())?;
            let (seconds, work) = (cell.median(|trip| trip.seconds), cell.median(|trip| trip.work));
            Some(format!(
                "{} / {:.1} / {}",
                figures(seconds),
                cell.median(|trip| trip.sent as f64) / 1e6,
                figures(work)
            ))
        };
        let rows = WAYS.map(|way| row(&way.name(), (0..STEPS.len()).map(|step| cell(way, step))));
        page.push_str(&table(&format!("{link}: replication"), &STEPS.map(str::to_owned), rows.into()));
    }
    for cell in &trips.cells {
        if let Some(trouble) = &cell.trouble {
            let trouble = trouble.lines().next().unwrap_or_default();
            writeln!(page, "\n{}, {}, {}: {trouble}", cell.link, STEPS[cell.step], cell.way)?;
        }
    }
    for step in 0..STEPS.len() {
        page.push_str(&chart(trips, step).written(plots, &format!("replication-{}", step + 1))?);
    }
    Ok(page)
}

fn goals(trips: &Trips) -> String {
    let mut text =
        "\n| goal | icbd | best other | ratio | at most | |\n| --- | ---: | ---: | ---: | ---: | --- |\n".to_owned();
    for link in LINKS_USED.map(|at| LINKS[at]) {
        for (step, what) in STEPS.into_iter().enumerate() {
            let Some(Rivalry { ours, best }) = rivalry(trips, link.name, step) else { continue };
            let most = if step == 2 && link.megabits == 100 { 0.80 } else { 1.05 };
            let (our_name, ours) = ours;
            let (ratio, verdict) = (ours / best.1, if ours / best.1 <= most { "met" } else { "**missed**" });
            let (name, best) = (best.0, figures(best.1));
            let line = format!(
                "| {}: {what} | {our_name} {} | {name} {best} | {ratio:.2} | {most:.2} | {verdict} |",
                link.name,
                figures(ours)
            );
            text.push_str(&line);
            text.push('\n');
            if let Some(((our_name, ours), (name, best))) = streams(trips, link.name, step) {
                let (ratio, verdict) = (ours / best, if ours / best <= 1.05 { "met" } else { "**missed**" });
                let (link, ours, best) = (link.name, figures(ours), figures(best));
                writeln!(text, "| {link}: {what}, by btrfs streams | {our_name} {ours} | {name} {best} | {ratio:.2} | 1.05 | {verdict} |")
                    .expect("a string takes everything");
            }
        }
    }
    text
}

fn seconds(trips: &Trips, link: &str, step: usize, way: Way) -> Option<(String, f64)> {
    Some((way.name(), trips.cell(link, step, &way.name())?.median(|trip| trip.seconds)))
}

fn rivalry(trips: &Trips, link: &str, step: usize) -> Option<Rivalry> {
    let others = WAYS.into_iter().filter(|way| !way.is_ours());
    let best = others.filter_map(|way| seconds(trips, link, step, way)).min_by(|a, b| a.1.total_cmp(&b.1))?;
    // From a master as it comes, or one that packs ahead: what it costs is in its table.
    let ours = [Way::Icbd, Way::IcbdPacked].into_iter().filter_map(|way| seconds(trips, link, step, way));
    Some(Rivalry { ours: ours.min_by(|a, b| a.1.total_cmp(&b.1))?, best })
}

/// The faster one of our streams, and of the others'.
fn streams(trips: &Trips, link: &str, step: usize) -> Option<((String, f64), (String, f64))> {
    let best = |ours: bool| {
        let ways = WAYS.into_iter().filter(|way| way.is_stream() && way.is_ours() == ours);
        ways.filter_map(|way| seconds(trips, link, step, way)).min_by(|a, b| a.1.total_cmp(&b.1))
    };
    Some((best(true)?, best(false)?))
}

/// Seconds of each way, by line.
fn chart(trips: &Trips, step: usize) -> Bars {
    let group = |link: &str| {
        let bars: Vec<Bar> = WAYS
            .into_iter()
            .filter_map(|way| {
                let value = trips.cell(link, step, &way.name())?.median(|trip| trip.seconds);
                Some(Bar { name: way.name(), value, is_ours: way.is_ours() })
            })
            .collect();
        (!bars.is_empty()).then(|| Group { name: link.to_owned(), bars, limit: None })
    };
    let groups = LINKS_USED.into_iter().filter_map(|at| group(LINKS[at].name)).collect();
    Bars { title: format!("Seconds until a version is durable elsewhere: {}", STEPS[step]), unit: "s", groups }
}
