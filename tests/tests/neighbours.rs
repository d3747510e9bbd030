//! Workstations on a network of their own: what they are given, and what becomes of one that is switched off.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use icbd_tests::{
    BootTarget, CacheServer, CacheSettings, LAN, Lab, Lan, LanMachine, MIB, Master, SERVER, Tgtd, listens, solid,
    wait_for,
};
use icbd_wire::Resource;
use serde_json::Value;

const DISK: u64 = 4 * MIB;
const FORBIDDEN: u16 = 403;

struct Site {
    _lab: Lab,
    cache: CacheServer,
    _tgtd: Tgtd,
    _master: Master,
    lan: Lan,
}

impl Site {
    /// `lab@1`, deployed, exported to the network with a clone for each client.
    fn new() -> Result<Site> {
        let lan = Lan::new()?;
        let lab = Lab::new()?;
        let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
        fs::write(tree.join("disk.raw"), solid(1, DISK))?;
        Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
        let master = Master::start(&lab, &repo)?;
        let tgtd = Tgtd::start_on(&lab, SERVER)?;
        let env = vec![("TGT_IPC_SOCKET", tgtd.socket().to_owned())];
        let config = format!("[serve]\nlisten = [\"{SERVER}:0\"]\n");
        let cache =
            CacheServer::start_with(&lab, &[&master.url()], &CacheSettings { env, config, ..Default::default() })?;
        cache.command(&["export", "add", "lab", "--iscsi", "--clients", LAN, "--clone"])?.ok()?;
        Ok(Site { _lab: lab, cache, _tgtd: tgtd, _master: master, lan })
    }

    fn boot(&self, machine: &LanMachine) -> Result<BootTarget> {
        let answer = machine.get(listens(&self.cache)?, "/boot/lab?client=pc-1")?;
        let text = String::from_utf8(answer.body)?;
        ensure!(answer.status == 200, "{}: {text}", answer.status);
        BootTarget::of(&text)
    }

    fn clone(&self) -> Result<Value> {
        let list: Value = serde_json::from_str(&self.cache.command(&["clone", "list", "--json"])?.ok()?)?;
        Ok(list["clones"][0].clone())
    }
}

/// A workstation gets its boot script, and nothing of what cache servers and masters read of each other.
#[test]
fn a_workstation_is_refused_what_nodes_read() -> Result<()> {
    let site = Site::new()?;
    let (workstation, server) = (site.lan.machine(2)?, listens(&site.cache)?);
    site.boot(&workstation)?;
    let list = Resource::Images.to_string();
    for path in [&*list, "/metrics"] {
        let refused = workstation.get(server, path)?;
        ensure!(refused.status == FORBIDDEN, "{path}: {}", refused.status);
    }
    // Unless it is named as a node.
    site.cache.set_config(&format!("[serve]\nlisten = [\"{server}\"]\nallow = [\"{}/32\"]\n", workstation.address))?;
    site.cache.command(&["config", "reload"])?.prints(&["serve.allow"])?;
    for path in [&*list, "/metrics"] {
        ensure!(workstation.get(server, path)?.status == 200, "a node is refused {path}");
    }
    let stranger = site.lan.machine(3)?;
    let refused = stranger.get(server, &list)?;
    ensure!(refused.status == FORBIDDEN, "{}", refused.status);
    Ok(())
}

/// A workstation that was switched off has gone soon, though it logged out nowhere: its next boot has its disk reset.
#[test]
fn who_was_switched_off_has_gone() -> Result<()> {
    let site = Site::new()?;
    let workstation = site.lan.machine(2)?;
    let disk = site.boot(&workstation)?;
    let mut io = Command::new("qemu-io");
    io.args(["--image-opts", &disk.options(), "-c", "write -P 0x11 0 64k", "-c", "flush", "-c", "sleep 600000"]);
    let mut running = workstation.spawn({
        io.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        io
    })?;
    let runs = || -> Result<bool> {
        let clone = site.clone()?;
        Ok(clone["written_bytes"] == 64 << 10 && clone["sessions"].as_array().is_some_and(|all| all.len() == 1))
    };
    wait_for("that it runs", || Ok(runs()?.then_some(())))?;
    // The cable first: nobody hears that it ends.
    site.lan.unplug(2)?;
    running.kill()?;
    running.wait()?;
    drop(workstation);
    ensure!(runs()?, "somebody heard: {}", site.clone()?);
    let workstation = wait_for("the socket in the wall", || Ok(site.lan.machine(2).ok()))?;
    site.boot(&workstation)?;
    ensure!(site.clone()?["written_bytes"] == 0, "it was not reset: {}", site.clone()?);
    Ok(())
}
