//! dnsmasq as it runs: what it says, and its end.

use std::process::Stdio;
use std::time::Duration;

use icbd_export::Dnsmasq;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// It says so once it has taken its ports.
const STARTED: &str = ": started, version ";
/// Somebody else has one of its ports.
const TAKEN: &str = "Address already in use";
/// It ends at once when it is told to.
const ENDED_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Running {
    /// What it was told.
    pub(super) text: String,
    pub(super) is_serving: bool,
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    last: String,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Said {
    Serving,
    Ended(String),
}

impl Running {
    pub(super) fn start(dnsmasq: &Dnsmasq, text: &str) -> Result<Running, String> {
        let mut command = Command::from(dnsmasq.command());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "dnsmasq is not here; install the package dnsmasq-base".to_owned(),
            _ => format!("cannot start dnsmasq: {error}"),
        })?;
        let said = child.stderr.take().ok_or("dnsmasq says nothing")?;
        let lines = BufReader::new(said).lines();
        Ok(Running { text: text.to_owned(), is_serving: false, child, lines, last: String::new() })
    }

    /// Ends it. Who cannot be ended runs on.
    pub(super) async fn end(&mut self) -> Result<(), String> {
        let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) else { return Ok(()) };
        let cannot = |error: &dyn std::fmt::Display| format!("dnsmasq (process {pid}) cannot be ended: {error}");
        // Not waited for yet, so the number is still its own.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)
            .map_err(|error| cannot(&error))?;
        match tokio::time::timeout(ENDED_MAX, self.child.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => self.child.kill().await.map_err(|error| cannot(&error)),
        }
    }

    /// `hear` gets each line; a boot has dozens of them.
    async fn next(&mut self, hear: impl Fn(&str)) -> Said {
        loop {
            match self.lines.next_line().await {
                Ok(Some(line)) if line.contains(STARTED) && !self.is_serving => {
                    self.is_serving = true;
                    return Said::Serving;
                }
                Ok(Some(line)) => {
                    tracing::debug!(line, "dnsmasq");
                    hear(&line);
                    self.last = line;
                }
                Ok(None) | Err(_) => {
                    let how =
                        self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
                    let who = if self.last.contains(TAKEN) { "; `icbd doctor` says who has it" } else { "" };
                    return Said::Ended(match self.last.trim() {
                        "" => format!("dnsmasq ended ({how})"),
                        last => format!("dnsmasq ended ({how}): {last}{who}"),
                    });
                }
            }
        }
    }
}

/// What becomes next of the one that runs, as `hear` gets what it says; never anything, if none does.
pub(super) async fn next(running: &mut Option<Running>, hear: impl Fn(&str)) -> Said {
    match running {
        Some(running) => running.next(hear).await,
        None => std::future::pending().await,
    }
}
