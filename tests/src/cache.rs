//! A cache server: a store, a mount, and the daemon that ties them to a master.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::master::text;
use crate::{Daemon, Lab, Output, icbd};

/// A new version is seen, a source's return noticed and a job done within this.
const DEADLINE: Duration = Duration::from_secs(60);

/// How a scenario's cache server differs from the plain one.
#[derive(Debug, Default, Clone)]
pub struct CacheSettings {
    /// The store; a folder of the lab if unnamed.
    pub store: Option<PathBuf>,
    pub no_passthrough: bool,
    /// Lines for its configuration file.
    pub config: String,
    /// What is in its environment.
    pub env: Vec<(&'static str, PathBuf)>,
}

/// A running cache server.
#[derive(Debug)]
pub struct CacheServer {
    pub daemon: Daemon,
    args: Vec<String>,
    env: Vec<(&'static str, PathBuf)>,
    store: PathBuf,
    mount: PathBuf,
    socket: PathBuf,
    config: PathBuf,
}

/// How much of a version is here, in blocks. Zero blocks are always here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residency {
    pub blocks: u64,
    pub resident_blocks: u64,
    pub durable_blocks: u64,
    pub is_complete: bool,
}

impl CacheServer {
    /// A cache server of the master at `url`, ready.
    pub fn start(lab: &Lab, url: &str) -> Result<CacheServer> {
        CacheServer::start_with(lab, &[url], &CacheSettings::default())
    }

    pub fn start_with(lab: &Lab, urls: &[&str], settings: &CacheSettings) -> Result<CacheServer> {
        let store = settings.store.clone().unwrap_or_else(|| lab.unique("store"));
        let mount = lab.unique("icbd");
        std::fs::create_dir(&mount)?;
        let socket = lab.unique("cache.sock");
        let config = lab.unique("icbd.toml");
        std::fs::write(&config, with_little_reserve(&settings.config))?;
        let mut args: Vec<String> =
            ["cache", "--store", text(&store), "--mount", text(&mount)].map(str::to_owned).to_vec();
        args.extend(["--socket", text(&socket), "--config", text(&config)].map(str::to_owned));
        urls.iter().for_each(|url| args.extend(["--master".to_owned(), url.to_string()]));
        if settings.no_passthrough {
            args.push("--no-passthrough".to_owned());
        }
        let env = settings.env.clone();
        let daemon = Daemon::start_in(lab, "cache", &args, &env)?;
        Ok(CacheServer { daemon, args, env, store, mount, socket, config })
    }

    /// Starts again what was stopped or killed, with the same arguments. What the old log may hold stays allowed
    /// only for the old log.
    pub fn start_again(&mut self, lab: &Lab) -> Result<()> {
        self.daemon = Daemon::start_in(lab, "cache", &self.args, &self.env)?;
        Ok(())
    }

    /// Kills the working process only, by SIGKILL; its keeper starts another. Waits until that one is ready.
    pub fn kill_worker(&mut self) -> Result<()> {
        self.daemon.allow_log("the daemon ended while its mount is in use");
        kill(self.daemon.worker()?, Signal::SIGKILL).context("killing the worker")?;
        self.daemon.wait_ready()
    }

    pub fn store(&self) -> &Path {
        &self.store
    }

    pub fn mount(&self) -> &Path {
        &self.mount
    }

    pub fn socket(&self) -> &str {
        text(&self.socket)
    }

    /// Gives it another configuration file, which it has yet to read.
    pub fn set_config(&self, config: &str) -> Result<()> {
        Ok(std::fs::write(&self.config, with_little_reserve(config))?)
    }

    /// Its configuration file.
    pub fn config(&self) -> Result<&str> {
        self.config.to_str().context("a path of text")
    }

    /// The arguments it was started with.
    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// A path below the mount.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.mount.join(below)
    }

    /// Runs a command that talks to this daemon.
    pub fn command(&self, args: &[&str]) -> Result<Output> {
        icbd([args, &["--socket", text(&self.socket)]].concat())
    }

    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.command(&["status", "--all", "--json"])?.ok()?)?)
    }

    /// How much of `version`, such as `lab@1`, is here; none of it if the daemon has never looked at it.
    pub fn residency(&self, version: &str) -> Result<Residency> {
        let status = self.status()?;
        let versions = status["versions"].as_array().with_context(|| format!("no versions in {status}"))?;
        let of = versions.iter().find(|of| of["version"] == version);
        let of = of.with_context(|| format!("no {version} in {status}"))?;
        let count = |key: &str| of[key].as_u64().unwrap_or(0);
        Ok(Residency {
            blocks: count("blocks"),
            resident_blocks: count("resident_blocks"),
            durable_blocks: count("durable_blocks"),
            is_complete: of["complete"].as_bool().unwrap_or(false),
        })
    }

    /// Fetches all of `version` and waits until it is done.
    pub fn prefetch_all(&self, version: &str) -> Result<()> {
        self.command(&["prefetch", "add", version, "--all", "--wait"])?.ok().map(drop)
    }

    /// Waits until nothing is under way: readers have their answers before neighbours that the kernel or the cache
    /// read ahead have come, and before anything of it is durable.
    pub fn wait_idle(&self) -> Result<Value> {
        self.wait_status("a cache with nothing under way", |status| {
            let is_durable = |version: &Value| version["durable_blocks"] == version["resident_blocks"];
            status["mount"]["waiting_requests"] == 0
                && status["in_flight_bytes"] == 0
                && status["versions"].as_array().is_some_and(|versions| versions.iter().all(is_durable))
        })
    }

    /// Waits until the status satisfies `is_so`; fails, naming `what`, if it does not in time.
    pub fn wait_status(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(what, || {
            let status = self.status()?;
            Ok(is_so(&status).then_some(status))
        })
    }
}

/// A configuration with which prefetch goes on however full the machine's disk is, if it says nothing of that itself.
fn with_little_reserve(config: &str) -> String {
    const LITTLE: &str = "[store]\nmin_free = \"1MiB\"\n";
    if config.contains("min_free") {
        config.to_owned()
    } else if config.contains("[store]\n") {
        config.replacen("[store]\n", LITTLE, 1)
    } else {
        // Keys outside of sections come first.
        format!("{config}\n{LITTLE}")
    }
}

/// Asks `ask` again and again until it answers: for things that announce themselves to nobody.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    while started.elapsed() < DEADLINE {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("{what}: not within {DEADLINE:?}")
}

impl Drop for CacheServer {
    fn drop(&mut self) {
        drop(self.daemon.kill_all());
        // Gone already if the daemon was stopped; another scenario's never, for it is below this lab.
        let _ = umount2(&self.mount, MntFlags::MNT_DETACH);
    }
}
