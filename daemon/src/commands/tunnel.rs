//! A way through SSH to a master that is not reachable otherwise, open as long as the command runs.
//!
//! The command opens it, not the daemon: it is whoever runs the command who may log in there, with that user's keys, agent
//! and configuration of SSH. The daemon is told the path of a socket, whose name nobody guesses.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::failure::{Exit, Failure};
use crate::replicas::Via;

/// What SSH has a local shell say once the way is open.
const READY: &str = "ready";

/// Of the folders' names, before the process that made one.
const PREFIX: &str = "icbd-ssh-";

/// An open way.
#[derive(Debug)]
pub(crate) struct Tunnel {
    ssh: Child,
    _folder: Folder,
    /// Where the far end is reached.
    pub(crate) socket: PathBuf,
}

impl Tunnel {
    /// Opens a way through `via` to `target`, a host and a port as they are known there.
    pub(crate) async fn open(via: &Via, target: &str) -> anyhow::Result<Tunnel> {
        let folder = Folder::make()?;
        let socket = folder.0.join(random()?);
        // It ends with this process, whatever ends that.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "ssh", "-NTax"]);
        let options = [
            "ControlMaster=no",
            "ControlPath=none",
            "ExitOnForwardFailure=yes",
            "ServerAliveInterval=15",
            // The daemon may be somebody else; the folder's name is what keeps others out.
            "StreamLocalBindMask=0000",
            "PermitLocalCommand=yes",
        ];
        for option in options {
            command.args(["-o", option]);
        }
        command.args(["-o", &format!("LocalCommand=echo {READY}")]);
        command.args(["-L", &format!("{}:{target}", socket.display())]);
        if let Some(port) = via.port {
            command.args(["-p", &port.to_string()]);
        }
        command.args(["--", &via.login]);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut ssh = spawned.map_err(|error| {
            let missing = "--via needs the programs ssh and setpriv (Debian's openssh-client and util-linux)";
            Failure::new(Exit::Failed, format!("cannot start ssh: {error}; {missing}"))
        })?;
        let said = ssh.stdout.take().map(|out| BufReader::new(out).lines());
        let mut is_open = false;
        if let Some(mut lines) = said {
            while let (false, Some(line)) = (is_open, lines.next_line().await?) {
                is_open = line.trim() == READY;
            }
        }
        if !is_open {
            let status = ssh.wait().await?;
            let message = format!(
                "no way to {target} through {via} ({status}): what ssh says is above; `ssh {} true` has to work without icbd",
                via.login
            );
            return Err(Failure::new(Exit::Unreachable, message).into());
        }
        Ok(Tunnel { ssh, _folder: folder, socket })
    }

    /// Closes it, and waits until it is. Dropping it closes it as well.
    pub(crate) async fn close(mut self) {
        // It may have ended already.
        let _ = self.ssh.kill().await;
    }
}

/// A new folder that others can pass and not list: what is in it is found by who is told its name.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn make() -> anyhow::Result<Folder> {
        let name = format!("{PREFIX}{}-{}", std::process::id(), random()?);
        // A daemon under systemd has a /tmp of its own.
        let make = |base: &Path| {
            remove_left(base);
            let path = base.join(&name);
            DirBuilder::new().mode(0o711).create(&path).map(|()| path)
        };
        let made = make(Path::new("/run")).or_else(|_| make(&std::env::temp_dir()));
        let path = made.context("there is no place for a socket, neither in /run nor in a temporary folder")?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o711))?;
        Ok(Folder(path))
    }
}

/// Removes what commands left that were killed.
fn remove_left(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists()) {
            // Somebody else's stays.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is an empty socket in a folder of temporary things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn random() -> anyhow::Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
