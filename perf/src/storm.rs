//! Boot storms over slow lines: icbd beside what a user would pick instead, in one run.
//!
//! Every cell of the comparison is a tool on a line with some clients: `run::round` measures it with fresh caches,
//! and `results` keeps what came out, so that a long run can be made in pieces and reported as one.

mod boot;
mod depot;
mod duties;
mod report;
mod results;
mod run;
mod tools;

use std::path::Path;

use anyhow::{Context, Result};
use icbd_tests::{Lab, debian_image};

use crate::check_names;
use crate::network::{LINKS, Link, Network};

pub(crate) use boot::record;
use depot::{Depot, TRACE};
pub(crate) use report::chapter;
pub(crate) use results::Results;
use run::Case;
use tools::{TOOLS, Tool};

/// What the clients do, on every line.
const CASES: [Case; 5] = [
    Case::plain(1),
    Case::plain(30),
    Case { scan: true, ..Case::plain(30) },
    Case { think: true, ..Case::plain(1) },
    Case { machine: true, ..Case::plain(1) },
];

/// Which cells to measure.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// Names; an empty list has all.
    pub(crate) links: Vec<String>,
    pub(crate) tools: Vec<String>,
    pub(crate) cases: Vec<String>,
}

impl Selection {
    /// Whether all names are known.
    pub(crate) fn check(&self) -> Result<()> {
        check_names("line", &self.links, LINKS.map(|link| link.name.to_owned()))?;
        check_names("tool", &self.tools, TOOLS.map(Tool::key))?;
        check_names("case", &self.cases, CASES.map(Case::key))
    }

    fn has(of: &[String], name: &str) -> bool {
        of.is_empty() || of.iter().any(|part| part == name)
    }
}

/// Measures every cell of `selection` with the lab's Debian image, `rounds` times each.
pub(crate) fn run(selection: &Selection, rounds: usize, results: &mut Results) -> Result<()> {
    with_depot(results, |depot, trace, results| cells(depot, trace, selection, rounds, results))
}

/// Measures what icbd promises on these lines besides boots.
pub(crate) fn run_duties(results: &mut Results) -> Result<()> {
    with_depot(results, duties::measure)
}

/// Does `what` with the Debian image published and its boot at hand.
fn with_depot(results: &mut Results, what: impl FnOnce(&Depot<'_>, &Path, &mut Results) -> Result<()>) -> Result<()> {
    let lab = Lab::new()?;
    let disk = debian_image()?.join("v1/disk.raw").canonicalize()?;
    let trace = boot::trace_of(&disk)?;
    results.boot_set_bytes = boot::compressed_bytes(&disk, &trace)?;
    let path = lab.path(TRACE);
    std::fs::write(&path, trace.to_string())?;
    what(&Depot::new(&lab, &disk)?, &path, results)
}

/// Measures the cells and keeps the results as they come.
fn cells(depot: &Depot<'_>, trace: &Path, selection: &Selection, rounds: usize, results: &mut Results) -> Result<()> {
    for link in LINKS.into_iter().filter(|link| Selection::has(&selection.links, link.name)) {
        let network = Network::new(link)?;
        for case in CASES.into_iter().filter(|case| Selection::has(&selection.cases, &case.key())) {
            for round in 0..rounds {
                // Tool after tool, round after round, so that a slow minute of the machine hits all.
                for tool in TOOLS.into_iter().filter(|tool| Selection::has(&selection.tools, &tool.key())) {
                    measure(depot, &network, (link, case, tool), trace, round, results)?;
                }
            }
        }
    }
    Ok(())
}

fn measure(
    depot: &Depot<'_>,
    network: &Network,
    (link, case, tool): (Link, Case, Tool),
    trace: &Path,
    round: usize,
    results: &mut Results,
) -> Result<()> {
    let outcome = run::round(depot, network, tool, case, trace);
    match &outcome {
        Ok(round) => eprintln!(
            "{} · {} · {}: {:.2} s, {:.1} MB",
            link.name,
            case.name(),
            tool.name(),
            round.last_s,
            round.sent as f64 / 1e6
        ),
        Err(error) => eprintln!("{} · {} · {}: not measured: {error:#}", link.name, case.name(), tool.name()),
    }
    results.keep(link.name, case, &tool.name(), round, outcome.map_err(|error| format!("{error:#}")));
    results.save().context("keeping the results")
}

#[cfg(test)]
mod tests {
    use super::*;
    use icbd_tests::fill;

    /// The machinery of the comparison on a small disk: namespaces, line, master, cache, clients, counters, report.
    /// Needs root and the built `icbd`.
    #[test]
    fn a_small_storm_is_measured_from_end_to_end() -> Result<()> {
        let lab = Lab::new()?;
        let disk = lab.folder("image")?.join("disk.raw");
        fill(&disk, 7, 16 << 20)?;
        let trace = lab.path(TRACE);
        let reads: String = (0..64u64).map(|at| format!("0 {} 4096\n", (at * 37 % 64) << 18)).collect();
        std::fs::write(&trace, format!("icbd-trace 1\ndisk-bytes {}\n{reads}", 16 << 20))?;
        let mut results = Results::load(&lab.path("results.json"))?;
        results.boot_set_bytes = 64 << 16;
        let chosen = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        for (link, case) in [("1G", "30"), ("100M+10ms", "1")] {
            let selection =
                Selection { links: chosen(&[link]), tools: chosen(&["local", "icbd"]), cases: chosen(&[case]) };
            cells(&Depot::new(&lab, &disk)?, &trace, &selection, 1, &mut results)?;
            std::fs::remove_dir_all(lab.path("repository"))?;
        }
        let results = Results::load(&lab.path("results.json"))?;
        let troubles: Vec<_> = results.cells.iter().filter_map(|cell| cell.trouble.as_deref()).collect();
        assert_eq!(troubles, [""; 0]);
        let far = results.cell("100M+10ms", CASES[0], &Tool::Icbd.name()).context("not measured")?;
        // A block at a time has to wait for the round trip; 52 of the 64 blocks hold data.
        assert!(
            far.rounds[0].sent > 1 << 20 && far.rounds[0].latency.is_some_and(|latency| latency.p100_us >= 10_000.0),
            "{:?}",
            far.rounds
        );
        let page = chapter(&results, &lab.folder("plots")?)?;
        assert!(page.contains("| icbd, first boot ever |") && lab.path("plots/time-30.svg").exists());
        Ok(())
    }
}
