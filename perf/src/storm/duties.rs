//! What icbd promises on these lines besides fast boots: a full link, quick demand, an idle daemon, little memory.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use icbd_tests::{CacheServer, Daemon, Lab};
use serde::{Deserialize, Serialize};

use super::depot::{Depot, IMAGE};
use super::results::Results;
use super::run::{Case, storm};
use super::tools::{Ready, site};
use crate::load::TICKS_PER_SECOND;
use crate::network::{LINKS, Link, Network};
use crate::process::run;

const ONE: Case = Case::plain(1);
const MANY: Case = Case::plain(30);
/// Sizes to which the image is grown by holes, in GiB. The last is the one whose memory is watched.
const GROWN_GIB: [u64; 2] = [10, 100];

/// One promise and what came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Duty {
    pub(crate) what: String,
    pub(crate) unit: String,
    pub(crate) value: f64,
    /// What it is held to, in the same unit; nothing where a number is only shown.
    pub(crate) bound: Option<Bound>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Bound::AtMost(most) => value <= most,
            Bound::AtLeast(least) => value >= least,
        }
    }
}

/// How often each is measured that has a bound; the median is kept.
const ROUNDS: usize = 3;

/// Measures every duty and keeps it.
pub(super) fn measure(depot: &Depot<'_>, trace: &Path, results: &mut Results) -> Result<()> {
    let mut keep = |duty: Duty| {
        eprintln!("{}: {:.2} {}", duty.what, duty.value, duty.unit);
        results.duties.retain(|kept| kept.what != duty.what);
        results.duties.push(duty);
        results.save()
    };
    for link in LINKS {
        let network = Network::new(link)?;
        keep(median(|| link_share(depot, &network, link))?)?;
        keep(median(|| demand(depot, &network, link, trace))?)?;
    }
    let network = Network::new(LINKS[2])?;
    keep(median(|| idle_daemon(depot, &network, trace))?)?;
    for gib in GROWN_GIB {
        grown(depot, trace, gib)?.into_iter().try_for_each(&mut keep)?;
    }
    Ok(())
}

/// The round with the median.
fn median(mut measure: impl FnMut() -> Result<Duty>) -> Result<Duty> {
    let mut rounds = (0..ROUNDS).map(|_| measure()).collect::<Result<Vec<_>>>()?;
    rounds.sort_by(|a, b| a.value.total_cmp(&b.value));
    Ok(rounds.swap_remove(ROUNDS / 2))
}

/// How much of the line a whole prefetch fills.
fn link_share(depot: &Depot<'_>, network: &Network, link: Link) -> Result<Duty> {
    let (cache, _master) = site(depot, network)?;
    let (before, started) = (network.sent()?, Instant::now());
    cache.prefetch_all(&format!("{IMAGE}@1"))?;
    let sent = network.sent()? - before;
    let value = sent as f64 / started.elapsed().as_secs_f64() / link.rate();
    let what = format!("{}: share of the line that `prefetch --all` fills", link.name);
    Ok(Duty { what, unit: "of it".to_owned(), value, bound: Some(Bound::AtLeast(0.95)) })
}

/// How much longer demand waits while everything is prefetched.
fn demand(depot: &Depot<'_>, network: &Network, link: Link, trace: &Path) -> Result<Duty> {
    let p99 = |is_prefetching: bool| -> Result<f64> {
        let (cache, _master) = site(depot, network)?;
        if is_prefetching {
            cache.command(&["prefetch", "add", &format!("{IMAGE}@1"), "--all"])?.ok()?;
        }
        let shown = storm(network, &mounted(depot, &cache)?, ONE, trace, &[])?;
        shown["latency_p99_us"].as_f64().context("no latency")
    };
    let alone = p99(false)?;
    let what = format!("{}: p99 of demand reads while all is prefetched, against without", link.name);
    Ok(Duty { what, unit: "times".to_owned(), value: p99(true)? / alone, bound: Some(Bound::AtMost(2.0)) })
}

/// What the daemon does while thirty clients read what was read before, through the page cache as an NFS server does.
fn idle_daemon(depot: &Depot<'_>, network: &Network, trace: &Path) -> Result<Duty> {
    let (cache, _master) = site(depot, network)?;
    let ready = mounted(depot, &cache)?;
    storm(network, &ready, MANY, trace, &["--page-cache"])?;
    let before = cpu_seconds(&cache.daemon)?;
    let started = Instant::now();
    storm(network, &ready, MANY, trace, &["--page-cache"])?;
    let value = (cpu_seconds(&cache.daemon)? - before) / started.elapsed().as_secs_f64();
    let what = "30 clients read a warm boot set, not complete: the daemon's CPU".to_owned();
    Ok(Duty { what, unit: "cores".to_owned(), value, bound: Some(Bound::AtMost(0.05)) })
}

/// The same boot from the same image, grown to `gib` GiB by holes.
fn grown(depot: &Depot<'_>, trace: &Path, gib: u64) -> Result<Vec<Duty>> {
    let lab = Lab::new()?;
    let disk = lab.folder("image")?.join("disk.raw");
    let mut copy = Command::new("cp");
    copy.args(["--sparse=always", "--reflink=auto"]).arg(&depot.disk).arg(&disk);
    run(copy)?;
    OpenOptions::new().write(true).open(&disk)?.set_len(gib << 30)?;
    let started = Instant::now();
    let depot = Depot::new(&lab, &disk)?;
    let published = started.elapsed().as_secs_f64();
    let network = Network::new(LINKS[2])?;
    let (cache, _master) = site(&depot, &network)?;
    let shown = storm(&network, &mounted(&depot, &cache)?, MANY, trace, &[])?;
    let peak = cache.daemon.resident_memory()?.1 as f64 / f64::from(1 << 20);
    let shown = shown["last_done_s"].as_f64().context("no time")?;
    let duty = |what: &str, unit: &str, value, bound| Duty {
        what: format!("1G, image of {gib} GiB, sparse: {what}"),
        unit: unit.to_owned(),
        value,
        bound,
    };
    Ok(vec![
        duty("publishing it", "s", published, None),
        duty("last of 30 clients", "s", shown, None),
        duty("the daemon's memory at 30 clients", "MiB", peak, Some(Bound::AtMost(200.0))),
    ])
}

fn mounted(depot: &Depot<'_>, cache: &CacheServer) -> Result<Ready> {
    Ok(Ready::new(cache.path(IMAGE).join("1").join(depot.name()?).display(), ()))
}

/// What the working process has used so far, in user and system.
fn cpu_seconds(daemon: &Daemon) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.worker()?))?;
    // The name may hold spaces; what follows its bracket is counted from field 3.
    let (_, fields) = stat.rsplit_once(')').context("an odd stat line")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / TICKS_PER_SECOND)
}
