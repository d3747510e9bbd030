//! Whole versions from one site to another: icbd beside rsync and btrfs streams, on the lines of the storms.
//!
//! The thesis' table (§5.2): a real Debian image, the same after some packages were installed, and after an upgrade to the
//! next release. Each way begins with nothing at the receiver and takes one version after the other; the clock stops when
//! what came is durable. What came is compared with what was sent.

mod images;
mod report;
mod ways;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use icbd_tests::Lab;
use serde::{Deserialize, Serialize};

use crate::check_names;
use crate::kept;
use crate::load::{Work, drop_caches};
use crate::network::{LINKS, Link, Network};
use crate::stats::Samples;
use images::Sender;
pub(crate) use report::chapter;
use ways::{WAYS, Way};

/// What is sent after what.
const STEPS: [&str; 3] = ["v1", "v1→v2", "v2→v3"];
/// The lines without a round trip: streams do not feel it.
const LINKS_USED: [usize; 2] = [0, 2];

/// One version on its way, once.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Trip {
    seconds: f64,
    /// Over the line, in bytes, headers included.
    sent: u64,
    /// Seconds of processors, at both ends.
    work: f64,
}

/// All trips so far, kept between the pieces of a long run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Trips {
    cells: Vec<Cell>,
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Cell {
    link: String,
    step: usize,
    way: String,
    trips: Vec<Trip>,
    trouble: Option<String>,
}

impl Cell {
    fn median(&self, of: impl Fn(&Trip) -> f64) -> f64 {
        let mut samples = Samples::default();
        self.trips.iter().for_each(|trip| samples.push(of(trip)));
        samples.median()
    }
}

impl Trips {
    pub(crate) fn load(path: &Path) -> Result<Trips> {
        Ok(Trips { path: path.to_owned(), ..kept::load(path)? })
    }

    fn keep(&mut self, (link, step, way): (&str, usize, &str), round: usize, trip: Result<Trip, String>) -> Result<()> {
        let is_it = |cell: &Cell| (&*cell.link, cell.step, &*cell.way) == (link, step, way);
        if round == 0 {
            self.cells.retain(|cell| !is_it(cell));
        }
        let at = self.cells.iter().position(is_it).unwrap_or_else(|| {
            let (link, way) = (link.to_owned(), way.to_owned());
            self.cells.push(Cell { link, step, way, trips: Vec::new(), trouble: None });
            self.cells.len() - 1
        });
        match trip {
            Ok(trip) => self.cells[at].trips.push(trip),
            Err(trouble) => self.cells[at].trouble = Some(trouble),
        }
        kept::save(&self.path, self)
    }

    fn cell(&self, link: &str, step: usize, way: &str) -> Option<&Cell> {
        let is_it = |cell: &&Cell| (&*cell.link, cell.step, &*cell.way) == (link, step, way);
        self.cells.iter().find(is_it).filter(|cell| !cell.trips.is_empty())
    }
}

/// Whether there is something to measure, and all ways are known.
pub(crate) fn check(links: &[String], ways: &[String]) -> Result<()> {
    // Some of the storms' lines are not for versions; but one of those that were named has to be.
    let used = LINKS_USED.map(|at| LINKS[at].name);
    ensure!(
        links.is_empty() || links.iter().any(|link| used.contains(&&**link)),
        "versions go over {}",
        used.join(", ")
    );
    check_names("way", ways, WAYS.map(Way::name))
}

/// Measures every way on every line, `rounds` times; `links` and `ways` are names, none for all.
pub(crate) fn run(links: &[String], ways: &[String], rounds: usize, trips: &mut Trips) -> Result<()> {
    let has = |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
    let lab = Lab::new()?;
    let sender = Sender::new(&lab)?;
    for link in LINKS_USED.map(|at| LINKS[at]).into_iter().filter(|link| has(links, link.name)) {
        let network = Network::new(link)?;
        for round in 0..rounds {
            for way in WAYS.into_iter().filter(|way| has(ways, &way.name())) {
                one(&sender, &network, link, way, round, trips)?;
            }
        }
    }
    Ok(())
}

/// All versions by one way.
fn one(sender: &Sender, network: &Network, link: Link, way: Way, round: usize, trips: &mut Trips) -> Result<()> {
    let name = way.name();
    let lab = Lab::new()?;
    let mut receiver = match way.start(&lab, sender, network) {
        Ok(receiver) => receiver,
        Err(error) => {
            eprintln!("{} · {name}: not measured: {error:#}", link.name);
            return trips.keep((link.name, 0, &name), round, Err(format!("{error:#}")));
        }
    };
    for (step, what) in STEPS.into_iter().enumerate() {
        let trip = measured(sender, network, step, &mut *receiver);
        match &trip {
            Ok(trip) => {
                eprintln!("{} · {what} · {name}: {:.2} s, {:.1} MB", link.name, trip.seconds, trip.sent as f64 / 1e6);
            }
            Err(error) => eprintln!("{} · {what} · {name}: not measured: {error:#}", link.name),
        }
        let failed = trip.is_err();
        trips.keep((link.name, step, &name), round, trip.map_err(|error| format!("{error:#}")))?;
        if failed {
            break;
        }
    }
    Ok(())
}

fn measured(sender: &Sender, network: &Network, step: usize, receiver: &mut dyn ways::Receiver) -> Result<Trip> {
    drop_caches()?;
    // The sender has just published it.
    sender.warm(step)?;
    let (before, work) = (network.sent()?, Work::begin()?);
    let started = std::time::Instant::now();
    receiver.take(network, step)?;
    let seconds = started.elapsed().as_secs_f64();
    let trip = Trip { seconds, sent: network.sent()? - before, work: work.cores()? * seconds };
    sender.check(step, &receiver.disk(step))?;
    Ok(trip)
}
