//! Random moves through the life of an image's versions, on its master and on a cache, with readers: what is done and what
//! is refused is what the pure model says, and nothing goes that somebody reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use icbd_image::{Force, Lifecycle, Move, Stage, VersionNumber};
use icbd_tests::{CacheServer, Lab, MIB, Master, Output, Random, icbd, solid, wait_for};
use serde_json::Value;

const ABSENT: i32 = 3;
const REFUSED: i32 = 4;
const STEPS: u64 = 100;
/// From this size on it is known what programs have open.
const DISK: u64 = MIB;
const VERSIONS_MAX: usize = 8;
const OPEN_MAX: usize = 6;

struct Site {
    lab: Lab,
    master: Master,
    cache: CacheServer,
    model: Lifecycle,
    open: Vec<(VersionNumber, File)>,
    pinned: BTreeSet<VersionNumber>,
    random: Random,
    /// What was done how often, to see that all of it was.
    done: BTreeMap<&'static str, u32>,
}

fn id(number: VersionNumber) -> String {
    format!("lab@{number}")
}

fn content(number: VersionNumber) -> Vec<u8> {
    solid(number.get().into(), DISK)
}

impl Site {
    fn new(seed: u64) -> Result<Site> {
        let lab = Lab::new()?;
        lab.folder("tree")?;
        // Nothing is kept for its age or number.
        let config = lab.path("master.toml");
        fs::write(&config, "[retain]\nlast = 0\nyounger_than = \"0s\"\n")?;
        let config = ["--config", config.to_str().context("a path of text")?];
        let master = Master::start_at(&lab, &lab.path("repo"), "127.0.0.1:0".parse()?, &config)?;
        let cache = CacheServer::start(&lab, &master.url())?;
        let (open, pinned, done) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        let model = Lifecycle::new("lab".parse()?);
        let mut site = Site { lab, master, cache, model, open, pinned, random: Random::new(seed), done };
        site.publish()?;
        site.made(&Move::Deploy(VersionNumber::FIRST), &["deploy", "lab@1"])?;
        // One reader stays from beginning to end.
        site.open(VersionNumber::FIRST)?;
        Ok(site)
    }

    fn on_master(&self, args: &[&str]) -> Result<Output> {
        icbd([args, &["--socket", self.master.socket()]].concat())
    }

    /// Versions whose content is there.
    fn there(&self) -> Vec<VersionNumber> {
        self.model.versions().filter(|(_, stage)| *stage != Stage::Removed).map(|(number, _)| number).collect()
    }

    /// Any number that was given, or one that was not.
    fn any(&mut self) -> VersionNumber {
        let last = self.model.last().map_or(1, VersionNumber::get);
        VersionNumber::new(1 + self.random.below(u64::from(last) + 1) as u32).unwrap_or(VersionNumber::FIRST)
    }

    fn step(&mut self) -> Result<()> {
        let number = self.any();
        let version = id(number);
        match self.random.below(24) {
            0..=3 if self.there().len() < VERSIONS_MAX => self.publish(),
            0..=7 => self.made(&Move::Deploy(number), &["deploy", &version]),
            8 => self.made(&Move::Rollback { to: None }, &["rollback", "lab"]),
            9 => self.made(&Move::Rollback { to: Some(number) }, &["rollback", "lab", "--to", &number.to_string()]),
            10 | 11 => self.made(&Move::Retire { number, force: Force::No }, &["retire", &version]),
            12 => self.made(&Move::Retire { number, force: Force::Yes }, &["retire", &version, "--force"]),
            13 => self.made(&Move::Restore(number), &["restore", &version]),
            14 => self.prune().map(drop),
            15..=17 => self.evict(),
            18..=20 if self.open.len() < OPEN_MAX && self.there().contains(&number) => self.open(number),
            18..=21 if self.open.len() > 1 => {
                let at = 1 + self.random.below(self.open.len() as u64 - 1) as usize;
                drop(self.open.swap_remove(at));
                self.count("closed");
                self.uses_are_heard()
            }
            22 if self.there().contains(&number) => self.pin(number),
            23 if self.random.below(2) == 0 => {
                self.count("killed");
                self.cache.kill_worker()
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    fn publish(&mut self) -> Result<()> {
        self.model = self.model.after(&Move::Publish)?;
        let number = self.model.last().context("a version was published")?;
        fs::write(self.lab.path("tree/disk"), content(number))?;
        let said = self.master.publish("lab", &self.lab.path("tree"), &[])?;
        ensure!(said == id(number), "{said} instead of {}", id(number));
        self.count("published");
        Ok(())
    }

    /// A move is made, or refused, as the model says.
    fn made(&mut self, made: &Move, args: &[&str]) -> Result<()> {
        let output = self.on_master(&[&["image"], args].concat())?;
        match self.model.after(made) {
            Ok(next) => {
                output.ok()?;
                self.model = next;
                self.count("moved");
            }
            Err(refusal) => {
                let is_refused = [ABSENT, REFUSED].contains(&output.code);
                ensure!(is_refused, "{args:?} should be refused ({refusal}): {output:?}");
                self.count("refused");
            }
        }
        Ok(())
    }

    /// Whatever goes may go, by the model, and nobody has it open. How many versions wait for who uses them.
    fn prune(&mut self) -> Result<usize> {
        let report = self.on_master(&["image", "prune", "--yes", "--json"])?.ok()?;
        let report: Value = serde_json::from_str(&report)?;
        let mut waiting = 0;
        for verdict in report["versions"].as_array().context("no versions")? {
            let number: VersionNumber = number_of(verdict)?;
            let is_open = self.open.iter().any(|(open, _)| *open == number);
            let life = &self.model;
            ensure!(life.deployed() != Some(number) && life.fallback() != Some(number) || verdict["fate"] == "stays");
            match verdict["fate"].as_str() {
                Some("archived" | "removed") if is_open => bail!("{verdict}: somebody reads it: {:?}", self.open),
                Some("removed") => {
                    self.model = gone(life, number).with_context(|| verdict.to_string())?;
                    self.count("removed");
                }
                // Retired, it waits until every node was heard since then; what is used is not even retired.
                Some("waits") => {
                    waiting += 1;
                    let is_used = verdict["reason"].as_str().is_some_and(|reason| reason.starts_with("used by"));
                    if life.stage(number) == Some(Stage::Ready) && !is_used {
                        ensure!(!is_open, "{verdict}: somebody reads it: {:?}", self.open);
                        self.model = life.after(&Move::Retire { number, force: Force::No })?;
                    }
                }
                Some("stays") => {}
                _ => bail!("{verdict}"),
            }
        }
        Ok(waiting)
    }

    /// Whatever goes from the cache is not needed there, and nobody has it open.
    fn evict(&mut self) -> Result<()> {
        let current = self.current()?;
        let report = self.cache.command(&["store", "evict", "--yes", "--json"])?;
        // A daemon that was killed has to find out what is open first.
        if report.code == REFUSED {
            return Ok(());
        }
        let report: Value = serde_json::from_str(&report.ok()?)?;
        for held in report["versions"].as_array().context("no versions")? {
            let number = number_of(held)?;
            let is_open = self.open.iter().any(|(open, _)| *open == number);
            let is_in_service = current == Some(number) || self.model.fallback() == Some(number);
            let is_needed = is_open || is_in_service || self.pinned.contains(&number);
            ensure!(held["fate"] == if is_needed { "stays" } else { "went" }, "{held}");
            self.count(if held["fate"] == "went" { "evicted" } else { "kept" });
        }
        Ok(())
    }

    fn open(&mut self, number: VersionNumber) -> Result<()> {
        let path = self.cache.path(format!("lab/{number}/disk"));
        let file = wait_for("the version", || Ok(File::open(&path).ok()))?;
        self.open.push((number, file));
        self.count("opened");
        self.uses_are_heard()
    }

    /// Waits until the master knows what is open on the cache, and what is not.
    fn uses_are_heard(&self) -> Result<()> {
        let open: BTreeSet<String> = self.open.iter().map(|(number, _)| id(*number)).collect();
        wait_for("that the master hears of it", || {
            let nodes: Value = serde_json::from_str(&self.on_master(&["node", "list", "--json"])?.ok()?)?;
            let uses = nodes.pointer("/0/uses").and_then(Value::as_array).cloned().unwrap_or_default();
            let used = uses.iter().filter(|used| used["clients"] != 0).filter_map(|used| used["version"].as_str());
            Ok((used.map(str::to_owned).collect::<BTreeSet<_>>() == open).then_some(()))
        })
    }

    fn pin(&mut self, number: VersionNumber) -> Result<()> {
        let path = self.cache.path(format!("lab/{number}"));
        wait_for("the version", || Ok(path.exists().then_some(())))?;
        let was = self.pinned.contains(&number);
        self.cache.command(&["image", if was { "unpin" } else { "pin" }, &id(number)])?.ok()?;
        if was {
            self.pinned.remove(&number)
        } else {
            self.pinned.insert(number)
        };
        self.count("pinned");
        Ok(())
    }

    /// What the bare name means on the cache, once it has heard.
    fn current(&self) -> Result<Option<VersionNumber>> {
        let wanted = self.model.deployed().map(|number| number.to_string());
        let link = self.cache.path("lab/current");
        wait_for("what is current", || {
            let found = fs::read_link(&link).ok().map(|to| to.to_string_lossy().into_owned());
            Ok((found == wanted).then_some(()))
        })?;
        Ok(self.model.deployed())
    }

    /// The master lists what the model says, and whoever reads gets what was published.
    fn check(&mut self) -> Result<()> {
        let images: Value = serde_json::from_str(&self.on_master(&["image", "list", "--json"])?.ok()?)?;
        let image = &images[0];
        let listed: Vec<(VersionNumber, &str)> = image["versions"]
            .as_array()
            .with_context(|| format!("no versions in {image}"))?
            .iter()
            .map(|version| Ok((number_of(version)?, version["state"].as_str().unwrap_or_default())))
            .collect::<Result<_>>()?;
        let states: Vec<(VersionNumber, String)> = self
            .model
            .versions()
            .filter(|(_, stage)| *stage != Stage::Removed)
            .map(|(number, stage)| (number, stage.state().to_string()))
            .collect();
        ensure!(listed.iter().map(|(n, s)| (*n, (*s).to_owned())).eq(states.iter().cloned()), "{listed:?}, {states:?}");
        let number = |of: &Value| of.as_u64().and_then(|number| VersionNumber::new(number as u32));
        ensure!(
            (number(&image["deployed"]), number(&image["fallback"])) == (self.model.deployed(), self.model.fallback())
        );
        for (number, file) in &self.open {
            let offset = self.random.below(DISK - 5000);
            let mut read = vec![0; 5000];
            file.read_exact_at(&mut read, offset).with_context(|| format!("reading {}", id(*number)))?;
            ensure!(read == content(*number)[offset as usize..][..5000], "wrong bytes of {} at {offset}", id(*number));
        }
        Ok(())
    }
}

fn number_of(of: &Value) -> Result<VersionNumber> {
    let name = of["version"].as_str().with_context(|| format!("no version in {of}"))?;
    let number = name.strip_prefix("lab@").and_then(|number| number.parse().ok());
    number.and_then(VersionNumber::new).with_context(|| format!("an odd version: {name}"))
}

/// What pruning leads to, which goes step by step.
fn gone(life: &Lifecycle, number: VersionNumber) -> Result<Lifecycle> {
    let steps = [
        (Stage::Ready, Move::Retire { number, force: Force::No }),
        (Stage::Retiring, Move::Archive { number, users: Vec::new() }),
        (Stage::Archived, Move::Remove { number, users: Vec::new() }),
    ];
    steps.into_iter().try_fold(life.clone(), |life, (stage, made)| {
        if life.stage(number) == Some(stage) { Ok(life.after(&made)?) } else { Ok(life) }
    })
}

/// Whatever is done in whatever order, by administrators of a master and a cache, and whenever the daemon is killed: nothing goes that is deployed, pinned or open, and who reads gets what was published.
#[test]
fn nothing_goes_that_somebody_reads() -> Result<()> {
    let mut site = Site::new(20)?;
    site.cache.daemon.allow_log("");
    for step in 0..STEPS {
        site.step().and_then(|()| site.check()).with_context(|| format!("step {step}, after {:?}", site.done))?;
    }
    // When nobody reads any more, everything goes but what is in service.
    site.open.clear();
    site.uses_are_heard()?;
    wait_for("what nobody reads is gone", || Ok((site.prune()? == 0).then_some(())))?;
    site.check()?;
    let left: BTreeSet<_> = site.there().into_iter().collect();
    ensure!(left == site.model.deployed().into_iter().chain(site.model.fallback()).collect(), "{left:?}");
    for what in ["moved", "refused", "removed", "evicted", "kept", "closed", "pinned", "killed"] {
        ensure!(site.done.contains_key(what), "nothing was {what}: {:?}", site.done);
    }
    println!("{:?}", site.done);
    Ok(())
}
