//! A master: a repository, and a daemon that serves it on loopback.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{Daemon, Lab, Output, icbd};

/// A running master with its repository in the lab.
#[derive(Debug)]
pub struct Master {
    pub daemon: Daemon,
    repo: PathBuf,
    socket: PathBuf,
    address: SocketAddr,
}

impl Master {
    /// Serves `repo`, which is made if it is missing, on a port of the system's choice.
    pub fn start(lab: &Lab, repo: &Path) -> Result<Master> {
        Master::start_at(lab, repo, "127.0.0.1:0".parse()?, &[])
    }

    /// The same on `listen`, with more arguments: a master that comes back is found where it was.
    pub fn start_at(lab: &Lab, repo: &Path, listen: SocketAddr, args: &[&str]) -> Result<Master> {
        let socket = lab.unique("master.sock");
        let mut all: Vec<String> =
            ["master", "--repo", text(repo), "--socket", text(&socket)].map(str::to_owned).to_vec();
        all.extend(["--listen".to_owned(), listen.to_string()]);
        all.extend(args.iter().map(|arg| arg.to_string()));
        let daemon = Daemon::start(lab, "master", &all)?;
        let mut master = Master { daemon, repo: repo.to_owned(), socket, address: listen };
        let status = master.status()?;
        let address = status["listen"][0].as_str().with_context(|| format!("no address in {status}"))?;
        master.address = address.parse()?;
        Ok(master)
    }

    /// Publishes `path` into a repository that no daemon serves. Returns what was printed, such as `lab@1`.
    pub fn publish_offline(repo: &Path, image: &str, path: &Path, args: &[&str]) -> Result<String> {
        let mut all = vec!["image", "publish", image, text(path), "--repo", text(repo)];
        all.extend(args);
        Ok(icbd(all)?.ok()?.trim().to_owned())
    }

    /// Publishes `path` through the daemon's socket.
    pub fn publish(&self, image: &str, path: &Path, args: &[&str]) -> Result<String> {
        let mut all = vec!["image", "publish", image, text(path), "--socket", text(&self.socket)];
        all.extend(args);
        Ok(icbd(all)?.ok()?.trim().to_owned())
    }

    /// Runs a command that talks to this daemon.
    pub fn command(&self, args: &[&str]) -> Result<Output> {
        icbd([args, &["--socket", self.socket()]].concat())
    }

    pub fn repo(&self) -> &Path {
        &self.repo
    }

    pub fn socket(&self) -> &str {
        text(&self.socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&icbd(["status", "--json", "--socket", text(&self.socket)])?.ok()?)?)
    }

    /// How many blocks it has sent since it started, over block requests.
    pub fn blocks_sent(&self) -> Result<u64> {
        let status = self.status()?;
        status["sent"]["blocks"].as_u64().with_context(|| format!("no sent blocks in {status}"))
    }
}

/// Paths of a lab are plain text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("the harness makes its paths from text")
}
