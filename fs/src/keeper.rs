//! The keeper: a small parent process that holds a mount's descriptors while daemons come and go.
//!
//! It starts the daemon with the descriptors open, starts it again when it dies while a mount is
//! live, passes SIGTERM, SIGINT, SIGHUP and SIGUSR2 on, and ends with the daemon's exit code. It opens, maps
//! and serves nothing, so there is little in it that could fail. No threads, no tokio.
//!
//! If the keeper itself is killed, the kernel sends the daemon SIGTERM (see [`settle`]): without a
//! keeper a later crash would strand every reader, so it unmounts and stops, and whoever supervises
//! the keeper starts both again.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use tracing::{info, warn};

use crate::{FsError, Handovers};

/// The exit code by which a daemon asks for new descriptors: the old mount could not be taken over.
/// (EX_TEMPFAIL of sysexits.h.)
pub const RENEW_EXIT_CODE: i32 = 75;
/// What a shell reports for a program that a signal ended, plus the signal.
const SIGNALLED_EXIT_CODE: i32 = 128;
/// A daemon that lived so long had started well: the next start is not delayed.
const LIVED_WELL: Duration = Duration::from_secs(1);
const DELAY_MIN: Duration = Duration::from_millis(20);
/// Readers wait meanwhile, so not longer.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// Fruitless restarts are reported one by one up to this number, then every so-many-th.
const REPORTED_MAX: u32 = 10;

/// The daemon to keep.
#[derive(Debug, Clone)]
pub struct KeeperSettings {
    /// The program, usually `/proc/self/exe`.
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// The option that gets the descriptors' numbers, as `OPTION FUSE,TABLE,…`: [`Handovers::from_inherited`] takes them.
    pub option: OsString,
}

/// Keeps a daemon until it ends on purpose; the exit code for this process.
///
/// Call it before any thread is started: it blocks signals for the whole process.
pub fn run(settings: &KeeperSettings) -> Result<i32, FsError> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block().map_err(FsError::system("block signals", "this is a bug"))?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&signals, flags).map_err(FsError::system("receive signals", "this is a bug"))?;
    Keeper { settings, signals, handovers: Handovers::create()?, stopping: false, restarting: false, fruitless: 0 }
        .run()
}

/// What a daemon under a keeper does first: signals are let through again, and the keeper's death is a SIGTERM.
pub fn settle() -> Result<(), FsError> {
    SigSet::all().thread_unblock().map_err(FsError::system("unblock signals", "this is a bug"))?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)
        .map_err(FsError::system("ask to be told of the keeper's end", "this is a bug"))
}

struct Keeper<'a> {
    settings: &'a KeeperSettings,
    signals: SignalFd,
    handovers: Handovers,
    /// Told to stop: the daemon's end is then the end.
    stopping: bool,
    /// Told to start the daemon anew (SIGUSR2): its next end is meant.
    restarting: bool,
    /// Starts in a row after which the daemon did not live long.
    fruitless: u32,
}

impl Keeper<'_> {
    fn run(mut self) -> Result<i32, FsError> {
        loop {
            let started = Instant::now();
            let mut child = self.start()?;
            let status = self.watch(&mut child)?;
            let renew = status.code() == Some(RENEW_EXIT_CODE);
            // A daemon that fails before it mounts has nobody waiting for it: its message counts.
            if self.stopping || !(renew || self.handovers.is_live()?) {
                return Ok(exit_code(status));
            }
            self.fruitless = if started.elapsed() > LIVED_WELL { 0 } else { self.fruitless + 1 };
            match std::mem::take(&mut self.restarting) && status.success() {
                true => info!("the daemon left its mount as it was told to; starting it again"),
                false => self.report(status),
            }
            if renew {
                self.handovers.renew()?;
            }
            if self.pause()? {
                return Ok(exit_code(status));
            }
        }
    }

    fn start(&self) -> Result<Child, FsError> {
        self.handovers.set_inherited(true)?;
        Command::new(&self.settings.program)
            // Lists of processes say what somebody started.
            .arg0(std::env::args_os().next().unwrap_or_else(|| self.settings.program.clone().into()))
            .args(&self.settings.arguments)
            .arg(&self.settings.option)
            .arg(self.handovers.numbers())
            .spawn()
            .map_err(FsError::system(format!("start {}", self.settings.program.display()), "reinstall icbd"))
    }

    /// Until the child ends; signals are passed on meanwhile.
    fn watch(&mut self, child: &mut Child) -> Result<ExitStatus, FsError> {
        loop {
            let ended = child.try_wait().map_err(FsError::system("wait for the daemon", "this is a bug"))?;
            if let Some(status) = ended {
                return Ok(status);
            }
            self.wait_for_signal(PollTimeout::NONE)?;
            while let Some(signal) = self.next_signal()? {
                if signal != Signal::SIGCHLD {
                    self.stopping |= matches!(signal, Signal::SIGTERM | Signal::SIGINT);
                    self.restarting |= signal == Signal::SIGUSR2;
                    // The child is not reaped yet, so the number is still its own.
                    let _ = kill(Pid::from_raw(child.id() as i32), signal);
                }
            }
        }
    }

    /// Waits before the next start; whether it was told to stop meanwhile.
    fn pause(&mut self) -> Result<bool, FsError> {
        let doublings = self.fruitless.saturating_sub(1).min(16);
        let delay = (DELAY_MIN * 2u32.pow(doublings)).min(DELAY_MAX);
        let until = Instant::now() + delay;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.wait_for_signal(PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO))?;
            while let Some(signal) = self.next_signal()? {
                self.stopping |= matches!(signal, Signal::SIGTERM | Signal::SIGINT);
            }
            if self.stopping {
                break;
            }
        }
        Ok(self.stopping)
    }

    fn wait_for_signal(&self, timeout: PollTimeout) -> Result<(), FsError> {
        match poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(FsError::system("wait for signals", "this is a bug")(error)),
        }
    }

    fn next_signal(&self) -> Result<Option<Signal>, FsError> {
        let info = self.signals.read_signal().map_err(FsError::system("receive signals", "this is a bug"))?;
        Ok(info.and_then(|info| Signal::try_from(info.ssi_signo as i32).ok()))
    }

    fn report(&self, status: ExitStatus) {
        if self.fruitless <= REPORTED_MAX {
            warn!(%status, "the daemon ended while its mount is in use; starting it again, readers wait");
        } else if self.fruitless.is_multiple_of(REPORTED_MAX) {
            warn!(%status, starts = self.fruitless, "the daemon does not stay up; readers of the mount hang, see its log");
        } else {
            info!(%status, "starting the daemon again");
        }
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| SIGNALLED_EXIT_CODE + status.signal().unwrap_or(0))
}
