//! A program of somebody else's that runs beside: its words in a log, its end with its owner's.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// No tool takes longer to get ready or to end.
const DEADLINE: Duration = Duration::from_secs(30);

/// A running program and all it started.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, which must stay in the foreground; `log` takes what it says.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Process> {
        let output = File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {command:?} (tests/lab/packages.sh --rivals installs it)"))?;
        Ok(Process { child, log: log.to_owned() })
    }

    /// Waits until `is_ready`.
    pub(crate) fn wait_ready(&mut self, mut is_ready: impl FnMut() -> bool) -> Result<()> {
        let started = Instant::now();
        while !is_ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status} instead of getting ready:\n{}", self.last_words());
            }
            if started.elapsed() > DEADLINE {
                bail!("it was not ready within {DEADLINE:?}:\n{}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let tail: Vec<&str> = log.lines().rev().take(15).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    /// Asks it to end, so that it unmounts what it mounted; then kills what is left.
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        let _ = killpg(group, Signal::SIGTERM);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(3) && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = killpg(group, Signal::SIGKILL);
        drop(self.child.wait());
    }
}

/// Runs `command` to its end; it has to succeed.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
