//! Versions that come through SSH: the way is opened for the command and closed after it, however that ends.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use icbd_tests::{
    Fault, FileSystem, Lab, MIB, Master, Output, Proxy, Ssh, Volume, icbd_path, run_bounded, solid, wait_for,
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const USAGE: i32 = 2;
const REFUSED: i32 = 4;
const UNREACHABLE: i32 = 6;
const DEADLINE: Duration = Duration::from_secs(60);

fn command(ssh: &Ssh, to: &Master, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(icbd_path()?);
    command.args(["image", "replicate", "lab@1", "--socket", to.socket(), "--via", &ssh.via()]).args(args);
    command.env("PATH", ssh.path()?);
    Ok(command)
}

fn replicate(ssh: &Ssh, to: &Master, args: &[&str]) -> Result<Output> {
    run_bounded(command(ssh, to, args)?, DEADLINE)
}

fn master(lab: &Lab, name: &str, seed: u64) -> Result<Master> {
    let (tree, volume) = (lab.folder(format!("{name}.tree"))?, Volume::new(lab, FileSystem::Btrfs, 512 * MIB)?);
    fs::write(tree.join("disk.raw"), solid(seed, 8 * MIB))?;
    Master::publish_offline(&volume.path().join(name), "lab", &tree, &[])?;
    Master::start(lab, &volume.path().join(name))
}

fn empty(lab: &Lab) -> Result<Master> {
    Master::start(lab, &Volume::new(lab, FileSystem::Btrfs, 512 * MIB)?.path().join("to"))
}

/// A version comes through SSH from where nobody else gets to, by blocks and as a stream, and nothing of the way is left.
#[test]
fn a_version_comes_through_a_tunnel() -> Result<()> {
    let lab = Lab::new()?;
    let (from, other) = (master(&lab, "from", 1)?, master(&lab, "other", 2)?);
    let ssh = Ssh::start(&lab, LOOPBACK, &from.address().to_string())?;
    for kind in ["blocks", "btrfs"] {
        let to = empty(&lab)?;
        to.daemon.allow_log("image replicate");
        to.daemon.allow_log("source is offline");
        // The far end lets nobody through to this one, which is reached well without it.
        replicate(&ssh, &to, &["--from", &other.url()])?.failed_with(UNREACHABLE)?.says(&["via ssh:root@127.0.0.1"])?;
        replicate(&ssh, &to, &["--from", &from.url(), "--stream", kind])?.ok()?;
        let disk = to.repo().join("versions/lab/1/disk.raw");
        ensure!(fs::read(disk)? == solid(1, 8 * MIB), "{kind}: wrong bytes");
        let log = icbd_tests::icbd(["log", "--socket", to.socket()])?.ok()?;
        ensure!(log.contains(&format!("--via {}", ssh.via())), "{log}");
        ensure!(!ssh.is_open()?, "{kind}: the way is open still");
    }
    let to = empty(&lab)?;
    let no_way = |via: &str| icbd_tests::icbd(["image", "replicate", "lab", "--from", "http://a", "--via", via]);
    no_way("tls:host")?.failed_with(USAGE)?.says(&["ssh:USER@HOST"])?;
    no_way("ssh:-oProxyCommand=true")?.failed_with(USAGE)?;
    // Nobody listens there, and ssh says so.
    let nobody = icbd_tests::icbd([
        "image",
        "replicate",
        "lab",
        "--from",
        "http://a",
        "--via",
        "ssh:127.0.0.1:1",
        "--socket",
        to.socket(),
    ])?;
    nobody.failed_with(UNREACHABLE)?.says(&["Connection refused", "no way to a:80 through ssh:127.0.0.1:1"])?;
    Ok(())
}

/// Whoever is killed while a version comes takes the way with it.
#[test]
fn a_killed_command_takes_its_tunnel_with_it() -> Result<()> {
    let lab = Lab::new()?;
    let from = master(&lab, "from", 1)?;
    let proxy = Proxy::start(from.address())?;
    let (ssh, to) = (Ssh::start(&lab, LOOPBACK, &proxy.address().to_string())?, empty(&lab)?);
    to.daemon.allow_log("image replicate");
    to.daemon.allow_log("source is offline");
    proxy.set(Fault::StallInBody, "/blocks/");
    let mut running = command(&ssh, &to, &["--from", &proxy.url()])?.stdout(Stdio::null()).spawn()?;
    proxy.wait_stalled(1);
    ensure!(ssh.is_open()?, "it came past the tunnel");
    running.kill()?;
    running.wait()?;
    wait_for("the way is closed", || Ok((!ssh.is_open()?).then_some(())))?;
    proxy.set(Fault::None, "");
    wait_for("the daemon gave it up", || {
        let again = replicate(&ssh, &to, &["--from", &proxy.url()])?;
        let is_busy = again.code == REFUSED && again.stderr.contains("being received by somebody else");
        if is_busy { Ok(None) } else { again.ok().map(Some) }
    })?;
    let left = fs::read_dir("/run")?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with(&format!("icbd-ssh-{}-", running.id())));
    ensure!(!left, "something of the killed one is left");
    Ok(())
}
