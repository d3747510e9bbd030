//! The binary under test, and one-shot commands with it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// No command of a scenario takes longer, also on a busy machine; one that does hangs.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);

/// What a command did.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that was expected to succeed.
    pub fn ok(self) -> Result<String> {
        self.failed_with(0).map(|output| output.stdout)
    }

    /// The whole output of a command that was expected to end with `code`.
    pub fn failed_with(self, code: i32) -> Result<Output> {
        ensure!(self.code == code, "exit code {}, expected {code}\n{}{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// Fails unless standard output has each of `words`.
    pub fn prints(self, words: &[&str]) -> Result<Output> {
        for word in words {
            ensure!(self.stdout.contains(word), "the output lacks {word:?}:\n{}", self.stdout);
        }
        Ok(self)
    }

    /// Fails unless standard error has each of `words`: a message names the thing and the remedy.
    pub fn says(self, words: &[&str]) -> Result<Output> {
        for word in words {
            ensure!(self.stderr.contains(word), "the message lacks {word:?}:\n{}", self.stderr);
        }
        Ok(self)
    }
}

/// The binary under test: `ICBD_BIN`, or `icbd` in the profile's folder that holds this executable.
pub fn icbd_path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ICBD_BIN") {
        return Ok(PathBuf::from(path));
    }
    let this = std::env::current_exe().context("finding this executable")?;
    match this.ancestors().skip(1).take(2).map(|dir| dir.join("icbd")).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!(
            "no binary `icbd` beside {}: build it with `cargo build -p icbd-daemon`, or name one in ICBD_BIN",
            this.display()
        ),
    }
}

/// What mount(8) runs for the type icbd, built beside the binary under test.
pub fn mount_icbd_path() -> Result<PathBuf> {
    let path = icbd_path()?.with_file_name("mount-icbd");
    ensure!(path.is_file(), "no {}: build it with `cargo build -p icbd-mount-helpers`", path.display());
    Ok(path)
}

/// Runs `icbd` with `args` to its end.
pub fn icbd<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Output> {
    let mut command = Command::new(icbd_path()?);
    command.args(args);
    run_bounded(command, COMMAND_DEADLINE)
}

/// Runs `command` to its end; kills it and fails when that takes longer than `deadline`.
pub fn run_bounded(mut command: Command, deadline: Duration) -> Result<Output> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let (sender, receiver) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        // The receiver is gone only after the deadline, when nobody wants the output any more.
        drop(sender.send(child.wait_with_output()));
    });
    let output = match receiver.recv_timeout(deadline) {
        Ok(output) => output.with_context(|| format!("waiting for {command:?}"))?,
        Err(_) => {
            kill(pid, Signal::SIGKILL).ok();
            bail!("{command:?} did not end within {deadline:?}");
        }
    };
    waiter.join().ok();
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
