//! Workstations without a disk are switched on, and boot by the network: real DHCP, a real iPXE, a real Debian.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    BOOT_DEADLINE, CacheServer, CacheSettings, Ganesha, Lab, Lan, Master, SERVER, Tgtd, Vm, netboot_image, wait_for,
};
use serde_json::Value;

const NETWORK: &str = "10.88.0.0/24";
const REFUSED: i32 = 4;
const SERVE: &str = "[serve]\nlisten = [\"10.88.0.1:7071\"]\n";
const FULL: &str = "[[network]]\ninterface = \"lan\"\ndhcp = \"full\"\npool = \"10.88.0.100-10.88.0.150\"\n";
const MENU: &str = "[netboot]\ndefault = \"debian\"\nmenu_timeout = \"1s\"\n";

struct Site {
    lab: Lab,
    cache: CacheServer,
    _tgtd: Tgtd,
    _ganesha: Option<Ganesha>,
    master: Master,
    lan: Lan,
}

/// What the image is published from.
enum Of {
    Disk,
    Tree,
}

impl Site {
    /// `debian@1`, deployed, at a cache server that workstations of a network of its own reach.
    fn new(of: Of) -> Result<Site> {
        let lan = Lan::new()?;
        let lab = Lab::new()?;
        let ganesha = matches!(of, Of::Tree).then(|| Ganesha::start_in(&lab, "", &lan)).transpose()?;
        let (image, repo) = (netboot_image()?, lab.path("repo"));
        Master::publish_offline(&repo, "debian", &published(&image, of), &["--deploy"])?;
        let master = Master::start_at(&lab, &repo, ([127, 0, 0, 1], 0).into(), &[])?;
        let tgtd = Tgtd::start_on(&lab, SERVER)?;
        let settings = ganesha.as_ref().map_or_else(CacheSettings::default, Ganesha::cache_settings);
        let env = vec![("TGT_IPC_SOCKET", tgtd.socket().to_owned())];
        let config = format!("{}{SERVE}{FULL}{MENU}", settings.config);
        let settings = CacheSettings { env, config, ..settings };
        let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
        Ok(Site { lab, cache, _tgtd: tgtd, _ganesha: ganesha, master, lan })
    }

    fn export(&self, by: &[&str]) -> Result<()> {
        self.cache.command(&[&["export", "add", "debian", "--clients", NETWORK], by].concat())?.ok().map(drop)
    }

    fn enable(&self) -> Result<()> {
        self.cache.command(&["netboot", "enable"])?.ok()?;
        Ok(())
    }

    fn clones(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.cache.command(&["clone", "list", "--json"])?.ok()?)?)
    }
}

fn published(image: &std::path::Path, of: Of) -> PathBuf {
    match of {
        Of::Disk => image.join("disk.raw"),
        Of::Tree => image.join("tree"),
    }
}

/// A diskless workstation that is switched on gets its address, its menu and its own disk, and boots to its login from a cold
/// cache.
#[test]
fn a_workstation_boots_by_the_network_from_its_clone() -> Result<()> {
    let site = Site::new(Of::Disk)?;
    let (card, mac) = site.lan.card(17)?;
    let list = site.lab.path("clients.csv");
    fs::write(&list, format!("name,mac\npc-17,{mac}\n"))?;
    site.cache.command(&["client", "import", list.to_str().context("a path of text")?])?.ok()?;
    site.export(&["--iscsi", "--clone"])?;
    site.enable()?;
    let mut vm = Vm::boot_network(&site.lab, &card, &mac, 512)?;
    vm.wait_for("login:", BOOT_DEADLINE)?;
    ensure!(vm.said().contains("Machine images for pc-17"), "no menu: {}", vm.said());
    let clones = site.clones()?;
    ensure!(
        clones["clones"][0]["client"] == "pc-17" && clones["clones"][0]["written_bytes"].as_u64() > Some(0),
        "{clones}"
    );
    Ok(())
}

/// The same from a folder, for which a boot package was made.
#[test]
fn a_workstation_boots_by_the_network_from_a_folder() -> Result<()> {
    let site = Site::new(Of::Tree)?;
    let refused = site.cache.command(&["export", "add", "debian", "--nfs", "--clients", NETWORK])?;
    refused.failed_with(REFUSED)?.says(&["%include"])?;
    let ganesha = site._ganesha.as_ref().context("it was started")?;
    ganesha.set(&ganesha.include())?;
    site.export(&["--nfs"])?;
    let made = site.master.command(&["image", "boot-package", "debian", "--cmdline", "console=ttyS0 quiet"])?;
    ensure!(made.ok()?.trim() == "debian@2", "not the next version");
    site.master.command(&["image", "deploy", "debian@2"])?.ok()?;
    site.enable()?;
    wait_for("that it is deployed here", || {
        Ok(fs::exists(site.cache.path("debian/current/icbd/vmlinuz"))?.then_some(()))
    })?;
    let (card, mac) = site.lan.card(17)?;
    let mut vm = Vm::boot_network(&site.lab, &card, &mac, 768)?;
    vm.wait_for("login:", BOOT_DEADLINE)?;
    let _ = Duration::ZERO;
    Ok(())
}
