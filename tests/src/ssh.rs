//! A server of SSH that lets in who has one key, and the `ssh` that knows it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Lab, run_bounded};

const DEADLINE: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub struct Ssh {
    server: Child,
    host: IpAddr,
    port: u16,
    /// Holds an `ssh` that knows this server and the key.
    bin: PathBuf,
    config: PathBuf,
}

impl Ssh {
    /// One on `host` that forwards to `open` only, `HOST:PORT` or `any`.
    pub fn start(lab: &Lab, host: IpAddr, open: &str) -> Result<Ssh> {
        // The user that unprivileged children run as wants this, which a boot makes elsewhere.
        fs::create_dir_all("/run/sshd")?;
        let key = |name: &str| -> Result<PathBuf> {
            let path = lab.path(name);
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path);
            run_bounded(command, DEADLINE)?.ok()?;
            Ok(path)
        };
        let (identity, user) = (key("ssh.host")?, key("ssh.user")?);
        let public = |path: &PathBuf| fs::read_to_string(format!("{}.pub", path.display()));
        let port = TcpListener::bind((host, 0))?.local_addr()?.port();
        let server = lab.path("sshd.conf");
        fs::write(
            &server,
            format!(
                "ListenAddress {host}:{port}\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\nStrictModes no\n\
                 UsePAM no\nPermitRootLogin prohibit-password\nPermitOpen {open}\n",
                identity.display(),
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
        fs::write(&known, format!("[{host}]:{port} {}", public(&identity)?))?;
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
        let bin = lab.folder("ssh.bin")?;
        let ssh = bin.join("ssh");
        fs::write(&ssh, format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", config.display()))?;
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755))?;
        Ok(Ssh { server, host, port, bin, config })
    }

    /// As `--via` takes it.
    pub fn via(&self) -> String {
        format!("ssh:root@{}:{}", self.host, self.port)
    }

    /// PATH with this `ssh` before any other.
    pub fn path(&self) -> Result<std::ffi::OsString> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Ok(std::env::join_paths([self.bin.clone()].into_iter().chain(std::env::split_paths(&path)))?)
    }

    /// What runs `command` at the other end, for a shell.
    pub fn shell(&self, command: &str) -> String {
        format!("{} -p {} root@{} '{command}'", self.bin.join("ssh").display(), self.port, self.host)
    }

    /// Whether somebody is connected by this `ssh`.
    pub fn is_open(&self) -> Result<bool> {
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
