//! A daemon of the binary under test: started until it says it is ready, its log watched, ended by process id.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::{Lab, icbd_path};

/// Readiness and a clean end come within this, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often a wait for readiness looks whether the daemon ended instead.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(50);

/// A running `icbd master` or `icbd cache`.
///
/// Dropping it kills its process group, and fails the scenario if its log has a warning or an error that nobody
/// allowed.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
    notify: UnixDatagram,
    allowed: Mutex<Vec<String>>,
    ready_after: Duration,
    is_over: bool,
    /// What it writes to is there until it has ended.
    _lab: Lab,
}

/// icbd with what its unit lets it do, and no more: a scenario is one of a packaged server.
fn as_under_its_unit(args: &[String]) -> Result<Command> {
    // Scenarios that go to another machine take it along.
    let unit = match args.first().context("the role")?.as_str() {
        "master" => include_str!("../../mount-helpers/icbd-master.service"),
        _ => include_str!("../../mount-helpers/icbd-cache.service"),
    };
    let lines = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let capabilities: Vec<String> = lines
        .flat_map(str::split_whitespace)
        .filter_map(|name| name.strip_prefix("CAP_"))
        .map(|name| format!("+{}", name.to_lowercase()))
        .collect();
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set=-all,{}", capabilities.join(","))).arg("--no-new-privs").arg(icbd_path()?);
    Ok(command)
}

impl Daemon {
    /// Starts `icbd ARGS` and waits until it says `READY=1`. `name` names its log.
    pub fn start(lab: &Lab, name: &str, args: &[String]) -> Result<Daemon> {
        Daemon::start_in(lab, name, args, &[])
    }

    /// The same with more in its environment.
    pub fn start_in(lab: &Lab, name: &str, args: &[String], env: &[(&str, PathBuf)]) -> Result<Daemon> {
        let address = lab.unique("notify");
        let notify = UnixDatagram::bind(&address).with_context(|| format!("binding {}", address.display()))?;
        notify.set_read_timeout(Some(LIVENESS_INTERVAL))?;
        let log = lab.unique(&format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let started = Instant::now();
        let child = as_under_its_unit(args)?
            .args(args)
            .env("NOTIFY_SOCKET", &address)
            .env_remove("RUST_LOG")
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A group of its own: what the daemon starts ends with it.
            .process_group(0)
            .spawn()
            .context("starting the daemon")?;
        let (allowed, ready_after, is_over) = (Mutex::default(), Duration::ZERO, false);
        let mut daemon = Daemon { child, log, notify, allowed, ready_after, is_over, _lab: lab.clone() };
        daemon.wait_ready()?;
        daemon.ready_after = started.elapsed();
        Ok(daemon)
    }

    /// Waits for the next `READY=1`: the first, or that of a daemon which its keeper restarted.
    pub fn wait_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        let mut message = [0; 4096];
        while started.elapsed() < DEADLINE {
            if let Ok(count) = self.notify.recv(&mut message)
                && message[..count].split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                self.is_over = true;
                bail!("the daemon ended with {status} instead of getting ready:\n{}", self.log());
            }
        }
        bail!("the daemon was not ready within {DEADLINE:?}:\n{}", self.log())
    }

    /// How long the start took until it was ready.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The process that was started: the keeper, if the daemon has one.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The process that does the work: the keeper's child, or the process itself where there is no keeper.
    pub fn worker(&self) -> Result<Pid> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        match children.split_whitespace().next() {
            Some(child) => Ok(Pid::from_raw(child.parse()?)),
            None => Ok(pid),
        }
    }

    /// Resident memory of the working process now and at its highest, in bytes.
    pub fn resident_memory(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.worker()?))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
            Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// Everything it has said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Warnings and errors that contain `words` are part of this scenario.
    pub fn allow_log(&self, words: &str) {
        self.allowed.lock().expect("no test thread panics with this lock").push(words.to_owned());
    }

    /// Ends it by SIGTERM and waits; it has to end with code 0.
    pub fn stop(&mut self) -> Result<()> {
        if self.is_over {
            return Ok(());
        }
        kill(self.pid(), Signal::SIGTERM).context("sending SIGTERM")?;
        let status = self.wait(DEADLINE)?;
        ensure!(status.success(), "after SIGTERM the daemon ended with {status}:\n{}", self.log());
        Ok(())
    }

    /// Kills it and all it started, as a power cut would, and waits.
    pub fn kill_all(&mut self) -> Result<()> {
        // They are not this process's children: the end of each, with which its locks are free and its last write is
        // done, is awaited by itself.
        let others = self.others()?;
        if !self.is_over {
            killpg(self.pid(), Signal::SIGKILL).context("killing the daemon's process group")?;
            self.child.wait()?;
            self.is_over = true;
        }
        for other in others {
            let mut ended = [PollFd::new(other.as_fd(), PollFlags::POLLIN)];
            let count = poll(&mut ended, PollTimeout::try_from(DEADLINE)?).context("awaiting a process's end")?;
            ensure!(count == 1, "what the daemon started outlived it by {DEADLINE:?}");
        }
        Ok(())
    }

    /// The processes of its group, without itself.
    fn others(&self) -> Result<Vec<OwnedFd>> {
        let is_other = |pid: &i32| {
            *pid != self.pid().as_raw() && getpgid(Some(Pid::from_raw(*pid))).is_ok_and(|group| group == self.pid())
        };
        let entries = std::fs::read_dir("/proc")?.map_while(Result::ok);
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_other);
        let open = |pid| pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()).ok();
        Ok(pids.filter_map(open).collect())
    }

    /// Waits for the process that was started to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        while started.elapsed() < deadline {
            if let Some(status) = self.child.try_wait()? {
                self.is_over = true;
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("the daemon did not end within {deadline:?}:\n{}", self.log())
    }

    fn unlisted(&self) -> Vec<String> {
        let allowed = self.allowed.lock().expect("no test thread panics with this lock");
        self.log()
            .lines()
            .filter(|line| [" WARN ", " ERROR ", "panicked"].iter().any(|level| line.contains(level)))
            .filter(|line| !allowed.iter().any(|words| line.contains(words.as_str())))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.kill_all() {
            eprintln!("{error:#}");
        }
        let unlisted = self.unlisted();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        } else if !unlisted.is_empty() {
            panic!(
                "{} has warnings or errors that this scenario does not list:\n{}",
                self.log.display(),
                unlisted.join("\n")
            );
        }
    }
}
