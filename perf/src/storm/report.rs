//! The comparison as a chapter: tables, plots, and each goal with whether it was met. All of it from kept results.

mod goals;

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use super::CASES;
use super::results::{Cell, Results};
use super::run::{Case, Latency, Round};
use super::tools::{TOOLS, Tool};
use crate::network::{LINKS, Link};
use crate::page::{row, table};
use crate::plot::{Bar, Bars, Group, figures};

const STORMS: &str = "
## Boot storms over slow lines

A recorded BIOS boot of the lab's Debian image is replayed by light clients
(`icbd bench storm`) against each tool, and a virtual machine boots it to its login prompt, on lines made of network namespaces and `tbf`. Everything starts with empty
caches. The tools are Debian's packages, each set up as well as was found (`perf/src/storm/tools/`), and each gave the
right bytes. Master, site and clients share one machine, so absolute times are its own; what counts are the ratios.

A cell is *seconds until the last client was done / MB over the line*, the median of the rounds; – was not measured.
Whole copies count from their start. The bytes include headers; big segments on the 1G line make them a little low.
";

/// From how many rounds on a median is one.
const ROUNDS_MIN: usize = 3;

/// The chapter; its charts go to the folder `plots`.
pub(crate) fn chapter(results: &Results, plots: &Path) -> Result<String> {
    let mut page = STORMS.to_owned();
    let rounds = results.cells.iter().map(|cell| cell.rounds.len());
    let (least, most) = (rounds.clone().min().unwrap_or(0), rounds.max().unwrap_or(0));
    writeln!(page, "\nRounds a cell: {least} to {most}.")?;
    if least < ROUNDS_MIN {
        writeln!(page, "Cells of fewer than {ROUNDS_MIN} rounds are a first look: one stall of a tool decides them.")?;
    }
    let set = results.boot_set_bytes as f64 / 1e6;
    writeln!(
        page,
        "The boot's blocks take {set:.1} MB in zstd clusters of 64 KiB: the *limit* is that over the line."
    )?;
    page.push_str(&goals::table(results));
    for link in LINKS {
        page.push_str(&times(results, link));
        page.push_str(&latencies(results, link));
        page.push_str(&work(results, link));
    }
    page.push_str(&troubles(results));
    for case in CASES {
        for (what, chart) in [("time", time_chart(results, case)), ("bytes", bytes_chart(results, case))] {
            let name = format!("{what}-{}", case.key().replace('+', "-"));
            page.push_str(&chart.written(plots, &name)?);
        }
    }
    Ok(page)
}

/// Least time that the boot's bytes take on `link`, in seconds.
fn limit_s(results: &Results, link: Link) -> f64 {
    results.boot_set_bytes as f64 / link.rate()
}

fn times(results: &Results, link: Link) -> String {
    let headings = CASES.map(Case::name);
    let mut rows: Vec<String> = TOOLS.map(|tool| times_row(results, link, tool)).into();
    let limit = figures(limit_s(results, link));
    rows.push(row("*limit*", CASES.into_iter().map(|case| (!case.thinks()).then(|| limit.clone()))));
    table(&format!("{}: time and bytes", link.name), &headings, rows)
}

fn times_row(results: &Results, link: Link, tool: Tool) -> String {
    let cell = |case| {
        results.cell(link.name, case, &tool.name()).map(|cell| {
            let (seconds, megabytes) = (cell.median(|round| round.last_s), megabytes(cell));
            if tool == Tool::Local { figures(seconds) } else { format!("{} / {megabytes:.1}", figures(seconds)) }
        })
    };
    row(&tool.name(), CASES.into_iter().map(cell))
}

fn megabytes(cell: &Cell) -> f64 {
    cell.median(|round| round.sent as f64) / 1e6
}

/// What a column takes from a round.
type Quantity = fn(&Latency) -> f64;

fn latencies(results: &Results, link: Link) -> String {
    let cases = &CASES[..2];
    let quantiles: [(&str, Quantity); 3] =
        [("p50", |reads| reads.p50_us), ("p99", |reads| reads.p99_us), ("p100", |reads| reads.p100_us)];
    let headings: Vec<String> =
        cases.iter().flat_map(|case| quantiles.map(|(name, _)| format!("{}, {name}", case.name()))).collect();
    let tools = TOOLS.into_iter().filter(|tool| !matches!(tool, Tool::Curl | Tool::Rsync));
    let rows = tools.map(|tool| {
        let cells = cases.iter().flat_map(|case| {
            let cell = results.cell(link.name, *case, &tool.name());
            quantiles.map(|(_, of)| {
                let of = |round: &Round| round.latency.as_ref().map_or(f64::NAN, of);
                cell.map(|cell| figures(cell.median(of) / 1000.0))
            })
        });
        row(&tool.name(), cells)
    });
    table(&format!("{}: how long a read takes, in ms", link.name), &headings, rows.collect())
}

/// How busy the one machine was that all share: where it is as busy as it can be, it is the limit, and not the line.
fn work(results: &Results, link: Link) -> String {
    let headings = CASES.map(Case::name);
    let rows = TOOLS.map(|tool| {
        let cores = |case: Case| {
            let cell = results.cell(link.name, case, &tool.name())?;
            cell.rounds.iter().all(|round| round.busy_cores.is_some()).then_some(())?;
            Some(figures(cell.median(|round| round.busy_cores.unwrap_or_default())))
        };
        row(&tool.name(), CASES.into_iter().map(cores))
    });
    table(&format!("{}: processors at work", link.name), &headings, rows.into())
}

/// The end of what a tool said: what comes before names sockets and folders that are gone.
fn last_cause(trouble: &str) -> &str {
    let said = trouble.lines().find_map(|line| line.trim().strip_prefix("\"message\": \"")).unwrap_or(trouble);
    let cause = said.lines().next().unwrap_or_default().trim_end_matches('"');
    cause.split_once(".sock: ").map_or(cause, |(_, cause)| cause)
}

fn troubles(results: &Results) -> String {
    let mut text = String::new();
    for cell in &results.cells {
        if let Some(trouble) = &cell.trouble {
            let trouble = last_cause(trouble);
            text.push_str(&format!("- {}, {}, {}: {trouble}\n", cell.link, cell.case.name(), cell.tool));
        }
    }
    if text.is_empty() { text } else { format!("\n### Rounds that could not be measured\n\n{text}") }
}

fn time_chart(results: &Results, case: Case) -> Bars {
    let title = format!("Seconds until the last client is done: {}", case.name());
    chart(results, case, title, "s", |cell| cell.median(|round| round.last_s), |link| limit_s(results, link))
}

fn bytes_chart(results: &Results, case: Case) -> Bars {
    let title = format!("MB over the line: {}", case.name());
    chart(results, case, title, "MB", megabytes, |_| results.boot_set_bytes as f64 / 1e6)
}

fn chart(
    results: &Results,
    case: Case,
    title: String,
    unit: &'static str,
    value: impl Fn(&Cell) -> f64,
    limit: impl Fn(Link) -> f64,
) -> Bars {
    let group = |link: Link| {
        let bars: Vec<Bar> = TOOLS
            .into_iter()
            .filter_map(|tool| {
                let cell = results.cell(link.name, case, &tool.name())?;
                Some(Bar { name: tool.name(), value: value(cell), is_ours: tool.is_ours() })
            })
            .collect();
        let limit = (!case.thinks()).then(|| limit(link));
        (!bars.is_empty()).then(|| Group { name: link.name.to_owned(), bars, limit })
    };
    Bars { title, unit, groups: LINKS.into_iter().filter_map(group).collect() }
}
