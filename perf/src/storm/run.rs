//! One storm on one tool: fresh caches, the clients let go, what passed the line counted, the bytes checked.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use icbd_tests::{BOOT_DEADLINE, Vm};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::depot::Depot;
use super::tools::{Ready, Tool};
use crate::load::{Work, drop_caches};
use crate::network::{Network, Side};

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) clients: u32,
    pub(crate) scan: bool,
    pub(crate) think: bool,
    /// A virtual machine boots to its login prompt; else a recorded boot is replayed.
    #[serde(default)]
    pub(crate) machine: bool,
}

impl Case {
    /// Clients that replay the boot as fast as they are answered, and nothing beside them.
    pub(crate) const fn plain(clients: u32) -> Case {
        Case { clients, scan: false, think: false, machine: false }
    }

    /// Whether the clients have more to do than to read, so that the line alone is no limit.
    pub(crate) fn thinks(self) -> bool {
        self.think || self.machine
    }

    /// What the command line calls it: `30`, `30+scan`, `1+think`, `machine`.
    pub(crate) fn key(self) -> String {
        if self.machine {
            return "machine".to_owned();
        }
        let (scan, think) = (if self.scan { "+scan" } else { "" }, if self.think { "+think" } else { "" });
        format!("{}{scan}{think}", self.clients)
    }

    pub(crate) fn name(self) -> String {
        if self.machine {
            return "a virtual machine".to_owned();
        }
        let clients = if self.clients == 1 { "1 client".to_owned() } else { format!("{} clients", self.clients) };
        let scan = if self.scan { " and a scan" } else { "" };
        let think = if self.think { ", with think time" } else { "" };
        format!("{clients}{scan}{think}")
    }
}

/// One round. Times in seconds from when the clients could first have been let go.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) first_s: f64,
    pub(crate) median_s: f64,
    pub(crate) last_s: f64,
    /// What passed the line, in bytes, headers included.
    pub(crate) sent: u64,
    /// How long the reads took; nobody times those of a virtual machine.
    #[serde(flatten)]
    pub(crate) latency: Option<Latency>,
    /// Processors at work meanwhile, of master, site and clients together.
    #[serde(default)]
    pub(crate) busy_cores: Option<f64>,
}

/// Quantiles, in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p100_us: f64,
}

/// When the first, the median and the last client were done, in seconds; and how long their reads took.
struct Boots {
    done_s: [f64; 3],
    latency: Option<Latency>,
}

/// A storm of no icbd may take so long; with the think time of the slowest.
const STORM_DEADLINE: Duration = Duration::from_secs(300);

/// Starts `tool` anew and lets the clients of `case` boot once.
pub(crate) fn round(depot: &Depot<'_>, network: &Network, tool: Tool, case: Case, trace: &Path) -> Result<Round> {
    // Not a part of what is measured.
    tool.prepare(depot, network)?;
    drop_caches()?;
    let before = network.sent()?;
    let ready = tool.start(depot, network)?;
    // A prefetched boot set is there before the clients are; a whole copy is what they wait for.
    let work = Work::begin()?;
    let boots = if case.machine { machine(depot, network, &ready)? } else { replays(network, &ready, case, trace)? };
    let busy_cores = Some(work.cores()?);
    let sent = network.sent()? - before;
    let [first_s, median_s, last_s] = boots.done_s.map(|done| done + ready.before.as_secs_f64());
    let round = Round { first_s, median_s, last_s, sent, latency: boots.latency, busy_cores };
    let given = storm(network, &ready, Case::plain(1), trace, &["--digest"])?;
    let right = digest(network, depot, trace)?;
    ensure!(given["digest"] == right, "{} gave wrong bytes", tool.name());
    Ok(round)
}

/// What the image itself gives for the trace.
fn digest(network: &Network, depot: &Depot<'_>, trace: &Path) -> Result<Value> {
    let ready = Ready::new(depot.disk.display(), ());
    Ok(storm(network, &ready, Case::plain(1), trace, &["--digest"])?["digest"].clone())
}

/// The clients of `case`, let go together.
fn replays(network: &Network, ready: &Ready, case: Case, trace: &Path) -> Result<Boots> {
    let shown = storm(network, ready, case, trace, &[])?;
    let number = |name: &str| shown[name].as_f64().with_context(|| format!("no {name} in {shown}"));
    let latency = Latency {
        p50_us: number("latency_p50_us")?,
        p99_us: number("latency_p99_us")?,
        p100_us: number("latency_p100_us")?,
    };
    let done_s = [number("first_done_s")?, number("median_done_s")?, number("last_done_s")?];
    Ok(Boots { done_s, latency: Some(latency) })
}

/// A real machine, from power on to its login prompt.
fn machine(depot: &Depot<'_>, network: &Network, ready: &Ready) -> Result<Boots> {
    let disk = ready.machine_disk();
    let took = network.inside(Side::Site, || Vm::boot(depot.lab, &disk)?.wait_for("login:", BOOT_DEADLINE))?;
    Ok(Boots { done_s: [took.as_secs_f64(); 3], latency: None })
}

/// Runs `icbd bench storm` on the clients' side.
pub(crate) fn storm(network: &Network, ready: &Ready, case: Case, trace: &Path, more: &[&str]) -> Result<Value> {
    let clients = case.clients.to_string();
    let mut args = vec!["bench", "storm", "--json", "--quiet", "--clients", &clients, "--trace"];
    let trace = trace.to_str().context("the trace's path is text")?;
    args.push(trace);
    args.extend(case.scan.then_some("--scan"));
    args.extend(case.think.then_some("--think"));
    args.extend(more);
    args.push(&ready.target);
    let output = network.inside(Side::Site, || {
        let mut command = std::process::Command::new(icbd_tests::icbd_path()?);
        command.args(&args);
        icbd_tests::run_bounded(command, STORM_DEADLINE)
    })?;
    if output.code != 0 {
        bail!("icbd {}: {}", args.join(" "), output.stderr.trim());
    }
    Ok(serde_json::from_str(&output.stdout)?)
}
