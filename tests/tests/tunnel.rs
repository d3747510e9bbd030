//! Versions that come through SSH: the way is opened for the command and closed after it, however that ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{Fault, FileSystem, Lab, MIB, Master, Output, Proxy, Volume, icbd_path, run_bounded, solid, wait_for};

const USAGE: i32 = 2;
const REFUSED: i32 = 4;
const UNREACHABLE: i32 = 6;
const DEADLINE: Duration = Duration::from_secs(60);

/// A server of SSH on loopback that lets in who has one key, and through to one address.
struct Ssh {
    server: Child,
    port: u16,
    /// Holds an `ssh` that knows this server and the key, for PATH.
    bin: PathBuf,
    config: PathBuf,
}

impl Ssh {
    fn start(lab: &Lab, open: SocketAddr) -> Result<Ssh> {
        // The user that unprivileged children run as wants this, which a boot makes elsewhere.
        fs::create_dir_all("/run/sshd")?;
        let key = |name: &str| -> Result<PathBuf> {
            let path = lab.path(name);
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path);
            run_bounded(command, DEADLINE)?.ok()?;
            Ok(path)
        };
        let (host, user) = (key("host")?, key("user")?);
        let public = |path: &PathBuf| fs::read_to_string(path.with_extension("pub"));
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let server = lab.path("sshd.conf");
        fs::write(
            &server,
            format!(
                "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\nStrictModes no\n\
                 UsePAM no\nPermitRootLogin prohibit-password\nPermitOpen {open}\n",
                host.display(),
                user.display()
            ),
        )?;
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(&server).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut server = command.spawn().context("starting sshd")?;
        let mut said = BufReader::new(server.stderr.take().context("no standard error")?).lines();
        ensure!(said.any(|line| line.is_ok_and(|line| line.contains("Server listening"))), "sshd does not listen");
        std::thread::spawn(move || said.for_each(drop));

        let known = lab.path("known_hosts");
        fs::write(&known, format!("[127.0.0.1]:{port} {}", public(&host)?))?;
        let config = lab.path("ssh.conf");
        fs::write(
            &config,
            format!(
                "Host *\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n\
                 StrictHostKeyChecking yes\n  BatchMode yes\n",
                user.display(),
                known.display()
            ),
        )?;
        let bin = lab.folder("bin")?;
        let ssh = bin.join("ssh");
        fs::write(&ssh, format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", config.display()))?;
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755))?;
        Ok(Ssh { server, port, bin, config })
    }

    fn replicate(&self, to: &Master, args: &[&str]) -> Result<Command> {
        let path = std::env::join_paths(
            [self.bin.clone()].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        )?;
        let mut command = Command::new(icbd_path()?);
        command.args(["image", "replicate", "lab@1", "--socket", to.socket()]).args(args).env("PATH", path);
        command.args(["--via", &format!("ssh:root@127.0.0.1:{}", self.port)]);
        Ok(command)
    }

    fn run(&self, to: &Master, args: &[&str]) -> Result<Output> {
        run_bounded(self.replicate(to, args)?, DEADLINE)
    }

    /// Whether a way that was opened with this configuration is open still.
    fn is_open(&self) -> Result<bool> {
        let mut command = Command::new("pgrep");
        command.arg("-f").arg(format!("ssh -F {}", self.config.display()));
        Ok(run_bounded(command, DEADLINE)?.code == 0)
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn master(lab: &Lab, name: &str, seed: u64) -> Result<Master> {
    let (tree, volume) = (lab.folder(&format!("{name}.tree"))?, Volume::new(lab, FileSystem::Btrfs, 512 * MIB)?);
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
    let ssh = Ssh::start(&lab, from.address())?;
    for kind in ["blocks", "btrfs"] {
        let to = empty(&lab)?;
        to.daemon.allow_log("image replicate");
        to.daemon.allow_log("source is offline");
        // The far end lets nobody through to this one, which is reached well without it.
        ssh.run(&to, &["--from", &other.url()])?.failed_with(UNREACHABLE)?.says(&["via ssh:root@127.0.0.1"])?;
        ssh.run(&to, &["--from", &from.url(), "--stream", kind])?.ok()?;
        let disk = to.repo().join("versions/lab/1/disk.raw");
        ensure!(fs::read(disk)? == solid(1, 8 * MIB), "{kind}: wrong bytes");
        let log = icbd_tests::icbd(["log", "--socket", to.socket()])?.ok()?;
        ensure!(log.contains(&format!("--via ssh:root@127.0.0.1:{}", ssh.port)), "{log}");
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
    let (ssh, to) = (Ssh::start(&lab, proxy.address())?, empty(&lab)?);
    to.daemon.allow_log("image replicate");
    to.daemon.allow_log("source is offline");
    proxy.set(Fault::StallInBody, "/blocks/");
    let mut running = ssh.replicate(&to, &["--from", &proxy.url()])?.stdout(Stdio::null()).spawn()?;
    proxy.wait_stalled(1);
    ensure!(ssh.is_open()?, "it came past the tunnel");
    running.kill()?;
    running.wait()?;
    wait_for("the way is closed", || Ok((!ssh.is_open()?).then_some(())))?;
    proxy.set(Fault::None, "");
    wait_for("the daemon gave it up", || {
        let again = ssh.run(&to, &["--from", &proxy.url()])?;
        let is_busy = again.code == REFUSED && again.stderr.contains("being received by somebody else");
        if is_busy { Ok(None) } else { again.ok().map(Some) }
    })?;
    let left = fs::read_dir("/run")?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with(&format!("icbd-ssh-{}-", running.id())));
    ensure!(!left, "something of the killed one is left");
    Ok(())
}
