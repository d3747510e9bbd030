//! A workstation's own disk against a plain file, both served by one tgtd, to one client by iSCSI.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use icbd_tests::{BootTarget, CacheServer, CacheSettings, PLAIN, Tgtd, run_bounded};

use crate::Scale;
use crate::site::{IMAGE, Site};
use crate::stats::{self, Goal, Row, Samples};

const DEADLINE: Duration = Duration::from_secs(600);
const REQUEST_BYTES: u64 = 4096;
/// From one request to the next: far, and each time to another piece.
const STEP_BYTES: u64 = (1 << 20) + REQUEST_BYTES;

/// What is done to a disk.
#[derive(Clone, Copy)]
struct Work {
    name: &'static str,
    writes: bool,
    depth: u32,
}

const WORKS: [Work; 4] = [
    Work { name: "4 KiB reads far apart, depth 1", writes: false, depth: 1 },
    Work { name: "4 KiB reads far apart, depth 8", writes: false, depth: 8 },
    Work { name: "4 KiB writes far apart, depth 1", writes: true, depth: 1 },
    Work { name: "4 KiB writes far apart, depth 8", writes: true, depth: 8 },
];

pub(crate) fn run(scale: &Scale) -> Result<String> {
    let site = Site::publish(scale.file_bytes / 8)?;
    let tgtd = Tgtd::start(&site.lab)?;
    let env = vec![("TGT_IPC_SOCKET", tgtd.socket().to_owned())];
    let config = "[serve]\nlisten = [\"127.0.0.1:0\"]\n".to_owned();
    let settings = CacheSettings { env, config, ..CacheSettings::default() };
    let cache = CacheServer::start_with(&site.lab, &[&site.master.url()], &settings)?;
    cache.command(&["export", "add", IMAGE, "--iscsi", "--clients", "127.0.0.0/8", "--clone"])?.ok()?;
    let clone = BootTarget::ask(&cache, IMAGE, "pc-1")?;
    let plain = plain(&site, &tgtd)?;
    // Both are in memory from here on.
    std::fs::read(site.mounted(&cache))?;
    let mut rows = Vec::new();
    for work in WORKS {
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        for _ in 0..scale.rounds {
            theirs.push(measure(&plain.options(), work, scale.random_reads / 4)?);
            ours.push(measure(&clone.options(), work, scale.random_reads / 4)?);
        }
        rows.push(Row {
            work: work.name.to_owned(),
            unit: "/s",
            ours: ours.median(),
            theirs: theirs.median(),
            ratio: stats::ratio_of_rounds(&ours, &theirs),
            goal: Goal::AtLeast(0.5),
        });
    }
    Ok(stats::table("A clone", "a clone through iSCSI", "a plain file through iSCSI", &rows))
}

/// The published file itself, copied, as a disk that the same server serves.
fn plain(site: &Site, tgtd: &Tgtd) -> Result<BootTarget> {
    let plain = site.lab.path("plain.raw");
    std::fs::copy(site.original(), &plain)?;
    tgtd.serve_plain(&plain, None, ["-I", "ALL"])?;
    Ok(BootTarget { portal: tgtd.address().to_string(), name: PLAIN.to_owned(), initiator: "iqn.x:perf".to_owned() })
}

/// Requests a second.
fn measure(disk: &str, work: Work, count: u64) -> Result<f64> {
    let mut bench = Command::new("qemu-img");
    let numbers = [("-c", count), ("-d", u64::from(work.depth)), ("-s", REQUEST_BYTES), ("-S", STEP_BYTES)];
    bench
        .args(["bench", "-t", "none"])
        .args(numbers.iter().flat_map(|(option, value)| [(*option).to_owned(), value.to_string()]));
    if work.writes {
        bench.arg("-w");
    }
    bench.args(["--image-opts", disk]);
    let said = run_bounded(bench, DEADLINE)?.ok()?;
    let seconds = said.split_once("completed in ").and_then(|(_, rest)| rest.split_whitespace().next());
    let seconds: f64 = seconds.context("no time")?.parse().with_context(|| format!("no time in {said:?}"))?;
    Ok(count as f64 / seconds)
}
