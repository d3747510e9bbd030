//! What keeps icbd from working is found before it is started.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use icbd_tests::{Dnsmasq, Lab, Lan, Master, Output, SERVER, icbd, set_address};
use serde_json::Value;

const FAILED: i32 = 1;

fn nft(rules: &str) -> Result<()> {
    let done = Command::new("nft").arg(rules).status().context("starting nft; install the package nftables")?;
    ensure!(done.success(), "nft {rules}");
    Ok(())
}

/// The doctor finds what others hold, close and give on this machine and its network, names each with what to do, and is content
/// once it is mended.
#[test]
fn what_is_wrong_is_found_and_mended() -> Result<()> {
    let (lan, lab) = (Lan::new()?, Lab::new()?);
    let other = lan.machine(9)?;
    let (config, hook, repo) = (lab.path("icbd.toml"), lab.path("hook"), lab.path("repo"));
    let tree = lab.folder("tree")?;
    fs::write(tree.join("disk.raw"), [7; 4096])?;
    Master::publish_offline(&repo, "lab", &tree, &[])?;
    let write = |url: &str| {
        let store = lab.folder("store")?;
        let text = format!(
            "role = \"cache\"\n[[source]]\nurl = \"{url}\"\n[store]\npath = \"{}\"\nmin_free = \"1MiB\"\n[mount]\npath = \"{}\"\n\
             [serve]\nlisten = [\"{SERVER}:7071\"]\n[clone]\nhook = \"{}\"\n[export]\niscsi = \"off\"\nnfs = \"off\"\n\
             [[network]]\ninterface = \"lan\"\ndhcp = \"full\"\npool = \"10.88.0.100-10.88.0.150\"\n",
            store.display(),
            lab.path("mount").display(),
            hook.display()
        );
        anyhow::Ok(fs::write(&config, text)?)
    };
    let doctor = |more: &[&str]| -> Result<Output> {
        let config = config.to_str().context("a path of text")?;
        icbd([&["doctor", "--config", config], more].concat())
    };
    // A port on which nobody listens.
    write("http://127.0.0.1:9")?;
    let (dhcp, syslog) = (UdpSocket::bind(("0.0.0.0", 67))?, UdpSocket::bind(("0.0.0.0", 514))?);
    let says = [
        "udp port 67 of DHCP is held by",
        "unless that shares it, icbd's dnsmasq cannot start",
        "udp port 514 of what workstations say when they boot is taken by",
    ];
    doctor(&[])?.prints(&says)?.failed_with(FAILED)?;
    drop((dhcp, syslog));
    let taken = TcpListener::bind((SERVER, 7071))?;
    let rival = Dnsmasq::start(&lab, Some(&other), &["--interface=card", "--dhcp-range=10.88.0.200,10.88.0.220"])?;
    nft("add table inet lab; add chain inet lab input { type filter hook input priority 0; policy drop; }; \
         add rule inet lab input iifname lo accept; add rule inet lab input udp dport { 67, 68 } accept")?;
    let says = [
        "WRONG    source    http://127.0.0.1:9",
        "hook cannot be run: No such file",
        "mount does not exist",
        "10.88.0.9 gives addresses on lan, too",
        "end that one, or write dhcp = \"proxy\"",
        "tcp port 7071 of the cache server's HTTP is taken by",
        "nftables lets nobody reach tcp 7071 (the cache server's HTTP)",
        "nftables lets nobody reach udp 69 (TFTP)",
        "add to its chain of input: tcp dport { 7071 } accept",
    ];
    let found = doctor(&[])?.prints(&says)?.failed_with(FAILED)?;
    ensure!(found.stderr.contains("7 things to mend"), "{}", found.stdout);
    let report: Value = serde_json::from_str(&doctor(&["--json"])?.failed_with(FAILED)?.stdout)?;
    let wrong =
        report["findings"].as_array().context("findings")?.iter().filter(|finding| finding["verdict"] == "wrong");
    ensure!(wrong.clone().count() == 7 && wrong.clone().all(|finding| finding["remedy"].is_string()), "{report}");

    drop(taken);
    drop(rival);
    nft("delete table inet lab")?;
    fs::write(&hook, "#!/bin/sh\n")?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
    let master = Master::start(&lab, &repo)?;
    write(&master.url())?;
    fs::create_dir(lab.path("mount"))?;
    let says = ["answers", "can be run", "nobody else gives addresses on lan", "no rule of nftables closes", "0 wrong"];
    doctor(&[])?.prints(&says)?.ok()?;
    ensure!(fs::read_dir(lab.path("mount"))?.next().is_none(), "it made something");
    set_address("lan", None)?;
    doctor(&[])?.prints(&["WRONG    network   lan has no IPv4 address"])?.failed_with(FAILED)?;
    Ok(())
}

/// Where nobody says what a machine is to be, what every server needs is looked at; a configuration with a typing error is told by its
/// line.
#[test]
fn a_machine_without_a_configuration_is_looked_at() -> Result<()> {
    let lab = Lab::new()?;
    let config = lab.path("icbd.toml");
    let path = config.to_str().context("a path of text")?;
    fs::write(&config, "[store]\npath = \"/s\"\n")?;
    let report = icbd(["doctor", "--config", path])?.failed_with(FAILED)?;
    report.prints(&["rights", "kernel", "has no role; write role = \"cache\""])?;
    fs::write(&config, "role = \"cache\"\n[stor]\npath = \"/s\"\n")?;
    let report = icbd(["doctor", "--config", path])?.failed_with(FAILED)?;
    report.prints(&["rights", "kernel", "icbd.toml:2: unknown key \"stor\"", "\"store\""]).map(drop)
}
