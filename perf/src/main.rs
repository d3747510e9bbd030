//! Benchmarks: icbd beside what it is compared with, both in one run, medians and ratios.
//!
//! `make bench` runs it (`make bench-short`: smaller files and fewer rounds). Absolute times depend on the machine and
//! are never a gate; the ratios are what counts, and the goals are printed beside them.

mod boots;
mod clone;
mod cold;
mod complete;
mod http;
mod kept;
mod load;
mod memory;
mod miss;
mod netboot;
mod network;
mod page;
mod plot;
mod process;
mod replicate;
mod site;
mod stats;

mod storm;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

/// How much work a run is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Size of the file that is read whole, in bytes.
    file_bytes: u64,
    /// Size of the file that streams through while memory is watched, in bytes.
    stream_bytes: u64,
    /// Rounds of each comparison; a median needs at least 5.
    rounds: usize,
    /// Random 4 KiB reads a round.
    random_reads: u64,
    /// Single misses timed on each side.
    misses: u64,
}

const FULL: Scale =
    Scale { file_bytes: 2 << 30, stream_bytes: 4 << 30, rounds: 9, random_reads: 64 * 1024, misses: 1000 };
const SHORT: Scale =
    Scale { file_bytes: 256 << 20, stream_bytes: 512 << 20, rounds: 3, random_reads: 16 * 1024, misses: 200 };

/// Gives a Markdown table.
type Benchmark = fn(&Scale) -> Result<String>;

/// The parts of `files`, which read and write single files, each of which can be run alone.
const FILES: [(&str, Benchmark); 8] = [
    ("complete", complete::run),
    ("sealed", complete::sealed),
    ("cold", cold::run),
    ("miss", miss::run),
    ("memory", memory::run),
    ("clone", clone::run),
    ("boots", boots::run),
    ("netboot", netboot::run),
];

/// Whether all of `names` are among those there are: a name that is nobody's would measure nothing.
fn check_names(what: &str, names: &[String], there_are: impl IntoIterator<Item = String>) -> Result<()> {
    let there_are: Vec<String> = there_are.into_iter().collect();
    let unknown = names.iter().find(|name| !there_are.contains(name));
    unknown.map_or(Ok(()), |name| anyhow::bail!("there is no {what} {name:?}; there are {}", there_are.join(", ")))
}

/// Rounds of each storm.
const STORM_ROUNDS: usize = 3;
const USAGE: &str = "usage: icbd-perf [--short] [files | complete | sealed | cold | miss | memory | clone | boots | netboot]… [storms] [duties] [replicate] \
    [record] [report] [--rounds N] [--link NAME]… [--tool NAME]… [--case NAME]… [--way NAME]…";

fn main() -> Result<()> {
    let mut selection = storm::Selection::default();
    let (mut scale, mut rounds, mut parts, mut ways) = (FULL, STORM_ROUNDS, Vec::new(), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().context(USAGE);
        match argument.as_str() {
            "--short" => {
                scale = SHORT;
                rounds = 1;
                // The strongest rival, one that is simple, and a line of each kind.
                selection.tools = ["local", "icbd", "icbd-profile", "qemu-256k", "nbdkit"].map(str::to_owned).into();
                selection.links = ["100M+10ms", "1G"].map(str::to_owned).into();
                selection.cases = ["1", "30"].map(str::to_owned).into();
                ways = ["icbd", "rsync, zstd", "btrfs stream, protocol 2, zstd"].map(str::to_owned).into();
            }
            "--rounds" => {
                rounds = value()?.parse().context(USAGE)?;
                scale.rounds = rounds;
            }
            "--link" => selection.links.push(value()?),
            "--tool" => selection.tools.push(value()?),
            "--case" => selection.cases.push(value()?),
            "--way" => ways.push(value()?),
            "files" | "storms" | "duties" | "replicate" | "record" | "report" => parts.push(argument),
            _ if FILES.iter().any(|(name, _)| *name == argument) => parts.push(argument),
            _ => anyhow::bail!(USAGE),
        }
    }
    selection.check()?;
    let is_chosen = |part: &str| parts.iter().any(|chosen| chosen == part);
    if is_chosen("replicate") {
        replicate::check(&selection.links, &ways)?;
    }
    if is_chosen("record") {
        storm::record()?;
    }
    // The tables that were made so far, by the name of the part.
    let mut files: BTreeMap<String, String> = kept::load(&kept::path("files.json"))?;
    for (name, run) in FILES {
        if is_chosen(name) || is_chosen("files") || parts.is_empty() {
            let table = run(&scale)?;
            println!("\n{table}");
            files.insert(name.to_owned(), table);
            kept::save(&kept::path("files.json"), &files)?;
        }
    }
    if is_chosen("storms") || parts.is_empty() {
        let mut results = storm::Results::load(&kept::path("storms.json"))?;
        storm::run(&selection, rounds, &mut results)?;
    }
    if is_chosen("duties") || parts.is_empty() {
        storm::run_duties(&mut storm::Results::load(&kept::path("storms.json"))?)?;
    }
    if is_chosen("replicate") || parts.is_empty() {
        let mut trips = replicate::Trips::load(&kept::path("replicate.json"))?;
        replicate::run(&selection.links, &ways, rounds, &mut trips)?;
    }
    if is_chosen("report") || parts.is_empty() {
        let tables = FILES.iter().filter_map(|(name, _)| files.get(*name)).map(String::as_str);
        let trips = replicate::Trips::load(&kept::path("replicate.json"))?;
        let storms = storm::Results::load(&kept::path("storms.json"))?;
        page::write(tables, &storms, &trips, Path::new(env!("CARGO_MANIFEST_DIR")))?;
    }
    Ok(())
}
