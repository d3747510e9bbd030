//! Benchmarks: icbd beside what it is compared with, both in one run, medians and ratios.
//!
//! `make bench` runs it (`make bench-short`: smaller files and fewer rounds). Absolute times depend on the machine and
//! are never a gate; the ratios are what counts, and the goals are printed beside them.

mod cold;
mod complete;
mod http;
mod load;
mod memory;
mod miss;
mod site;
mod stats;

use anyhow::Result;

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
    Scale { file_bytes: 2 << 30, stream_bytes: 4 << 30, rounds: 5, random_reads: 64 * 1024, misses: 1000 };
const SHORT: Scale =
    Scale { file_bytes: 256 << 20, stream_bytes: 512 << 20, rounds: 3, random_reads: 16 * 1024, misses: 200 };

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let scale = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => FULL,
        ["--short"] => SHORT,
        _ => anyhow::bail!("usage: icbd-perf [--short]"),
    };
    complete::run(&scale)?;
    cold::run(&scale)?;
    miss::run(&scale)?;
    memory::run(&scale)
}
