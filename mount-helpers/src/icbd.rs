//! The program `icbd`, from outside: who answers at a socket, the unit that may start it, and starting it ourselves.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::failure::{Exit, Failure};
use crate::plan::{Plan, Running};

/// The exit code of a command that found no daemon.
const UNREACHABLE: i32 = 6;
/// The unit that the package brings.
pub(crate) const UNIT: &str = "icbd-cache.service";
/// There is only where systemd runs the machine.
const SYSTEMD: &str = "/run/systemd/system";
const LOG: &str = "/var/log/icbd-cache.log";
/// As much of a log as is worth repeating.
const LAST_WORDS_BYTES: u64 = 4096;
/// What says to a daemon who waits for it: each is set anew or belongs to somebody else.
const FOREIGN: &[&str] = &["WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "RUST_LOG"];

/// Where the program is: beside this one, where it was built or installed, else where all programs are. mount(8) passes no `PATH` on.
pub(crate) fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap_or_default();
    let beside = this.ancestors().skip(1).take(2).flat_map(|folder| [folder.join("icbd"), folder.join("bin/icbd")]);
    let local = [PathBuf::from("/usr/local/bin/icbd")];
    beside.chain(local).find(|path| path.is_file()).unwrap_or_else(|| "icbd".into())
}

/// Who answers at the plan's socket, if anybody does.
pub(crate) fn look(program: &Path, plan: &Plan) -> Result<Option<Running>, Failure> {
    let mut command = Command::new(program);
    command.args(["status", "--json", "--socket"]).arg(plan.options.socket());
    if let Some(config) = &plan.options.config {
        command.arg("--config").arg(config);
    }
    let output = command.stdin(Stdio::null()).output().map_err(cannot_run(program))?;
    match output.status.code() {
        Some(0) => serde_json::from_slice(&output.stdout).map(Some).map_err(|error| {
            Failure::new(
                Exit::System,
                format!("cannot understand `icbd status`: {error}; is {} another release?", program.display()),
            )
        }),
        Some(UNREACHABLE) => Ok(None),
        _ => Err(Failure::new(Exit::Mount, words(&output.stderr))),
    }
}

/// Whether the unit is to serve the usual socket on this machine.
pub(crate) fn has_unit(plan: &Plan) -> bool {
    let mut systemctl = Command::new("systemctl");
    systemctl.args(["is-enabled", "--quiet", UNIT]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let is_usual = plan.options.socket.is_none();
    is_usual && Path::new(SYSTEMD).is_dir() && systemctl.status().is_ok_and(|status| status.success())
}

/// Has systemd start the unit, and does not wait for it.
pub(crate) fn start_unit() -> Result<(), Failure> {
    let mut systemctl = Command::new("systemctl");
    let output = systemctl.args(["start", "--no-block", UNIT]).stdin(Stdio::null()).output();
    let output = output.map_err(Failure::system("run systemctl"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Failure::new(Exit::Mount, format!("cannot start {UNIT}: {}", words(&output.stderr)))),
    }
}

/// A daemon that was started, and what it has written.
#[derive(Debug)]
pub(crate) struct Started {
    pub child: Child,
    /// Without one it writes where this program does.
    log: Option<Log>,
}

#[derive(Debug)]
struct Log {
    file: File,
    path: PathBuf,
    /// Where its words begin.
    from: u64,
}

impl Started {
    /// Starts the daemon in a session of its own; it says to the socket at `notify` when it is ready.
    pub(crate) fn new(program: &Path, plan: &Plan, notify: &Path) -> Result<Started, Failure> {
        let log = Log::open(plan)?;
        let mut command = Command::new(program);
        command.args(plan.arguments()).env("NOTIFY_SOCKET", notify).current_dir("/").stdin(Stdio::null());
        for name in FOREIGN {
            command.env_remove(name);
        }
        if let Some(log) = &log {
            let handle = || log.file.try_clone().map_err(Failure::system("write the log"));
            // The journal has the time of each line, this file has not.
            command.env_remove("JOURNAL_STREAM").stdout(handle()?).stderr(handle()?);
        }
        apart(&mut command);
        let child = command.spawn().map_err(cannot_run(program))?;
        Ok(Started { child, log })
    }

    /// What it has said, for an error message.
    pub(crate) fn last_words(&mut self) -> String {
        match &mut self.log {
            Some(log) => log.last_words(),
            None => "its words are above".to_owned(),
        }
    }
}

impl Log {
    /// The file that the plan names, or the usual one; none where the journal hears what this program says.
    fn open(plan: &Plan) -> Result<Option<Log>, Failure> {
        if plan.options.log.is_none() && std::env::var_os("JOURNAL_STREAM").is_some() {
            return Ok(None);
        }
        let path = plan.options.log.clone().unwrap_or_else(|| LOG.into());
        let failed = |error| {
            Failure::new(
                Exit::Mount,
                format!("cannot write the log {}: {error}; name another with -o log=FILE", path.display()),
            )
        };
        let mut file = File::options().read(true).append(true).create(true).mode(0o640).open(&path).map_err(failed)?;
        let from = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Some(Log { file, path, from }))
    }

    fn last_words(&mut self) -> String {
        let mut said = Vec::new();
        let end = self.file.seek(SeekFrom::End(0)).unwrap_or(self.from);
        let from = self.from.max(end.saturating_sub(LAST_WORDS_BYTES));
        let read = self.file.seek(SeekFrom::Start(from)).and_then(|_| self.file.read_to_end(&mut said));
        match read {
            Ok(_) => format!("{} (log: {})", words(&said), self.path.display()),
            Err(error) => format!("and its log {} cannot be read: {error}", self.path.display()),
        }
    }
}

/// What a program of ours said in the end: its error, or all of it.
fn words(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    match said.rsplit_once("icbd: ") {
        Some((before, error)) if before.is_empty() || before.ends_with('\n') => error.trim().to_owned(),
        _ => said.trim().to_owned(),
    }
}

fn cannot_run(program: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let message = format!("cannot run {}", program.display());
    move |error| Failure::new(Exit::System, format!("{message}: {error}; install icbd, to /usr/bin or /usr/local/bin"))
}

/// Whoever closes the terminal on which this runs is not to end the daemon, which hears all signals, whatever this program does.
///
/// JUSTIFICATION for unsafe: `Command` has no safe way to begin a session, and none to let signals through.
#[allow(unsafe_code)]
fn apart(command: &mut Command) {
    let settle = || {
        nix::sys::signal::SigSet::all().thread_unblock()?;
        Ok(nix::unistd::setsid().map(drop)?)
    };
    // SAFETY: sigprocmask(2) and setsid(2) may be called between fork and exec: they allocate nothing and take no lock.
    unsafe {
        command.pre_exec(settle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_found_behind_what_was_logged() {
        assert_eq!(words(b"WARN something icbd: no\nicbd: store x is in use; stop it\n"), "store x is in use; stop it");
        assert_eq!(words(b"icbd: first line\nsecond line\n"), "first line\nsecond line");
        assert_eq!(words(b"panicked\n"), "panicked");
    }
}
