//! One mount, from the question to the answer: attach to the daemon that runs, or start the only one.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::failure::{Exit, Failure};
use crate::icbd::{self, Started, UNIT};
use crate::mounts::MountTable;
use crate::plan::{Plan, Running};

/// What a daemon that was told to end may take for it: it tidies its mount up.
const END_MAX: Duration = Duration::from_secs(30);
/// Longer than what a daemon says at once.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Sees to it that the mount is there; `say` is told what is done.
pub(crate) fn mount(plan: &Plan, program: &Path, say: &dyn Fn(String)) -> Result<(), Failure> {
    // Before anything is started: whoever ends this program does not leave half a mount.
    let mut waiting = Waiting::begin(plan)?;
    // Of several at once one starts the daemon, and the others find it.
    let _alone = waiting.for_turn(plan)?;
    if let Some(running) = icbd::look(program, plan)? {
        return waiting.attach(plan, &running, say);
    }
    if icbd::has_unit(plan) {
        say(format!("starting {UNIT}, which is enabled"));
        icbd::start_unit()?;
        waiting.for_table(
            plan,
            &format!("see `systemctl status {UNIT}`, and write _netdev into the line of /etc/fstab"),
        )?;
        let running = icbd::look(program, plan)?;
        let running = running.ok_or_else(|| Failure::new(Exit::Mount, format!("{UNIT} has ended; see its log")))?;
        return waiting.attach(plan, &running, say);
    }
    say(format!("starting {} {}", program.display(), shown(plan)));
    let notify = Notify::bind(plan)?;
    let mut started = Started::new(program, plan, &notify.path)?;
    match waiting.for_start(&mut started, &notify) {
        Ok(None) => Ok(()),
        Ok(Some(status)) => {
            let said = started.last_words();
            Err(Failure::new(Exit::Mount, format!("icbd ended with {status}: {said}")))
        }
        Err(failure) => {
            waiting.end(&mut started);
            let said = started.last_words();
            Err(Failure::new(failure.exit, format!("{failure}; icbd was ended: {said}")))
        }
    }
}

/// The words of a command line, for people.
pub(crate) fn shown(plan: &Plan) -> String {
    let words: Vec<String> = plan.arguments().iter().map(|word| word.display().to_string()).collect();
    words.join(" ")
}

/// Waiting for several things at once, as long as the plan allows.
#[derive(Debug)]
struct Waiting {
    signals: SignalFd,
    table: MountTable,
    until: Instant,
    timeout: Duration,
}

impl Waiting {
    fn begin(plan: &Plan) -> Result<Waiting, Failure> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
            signals.add(signal);
        }
        signals.thread_block().map_err(Failure::system("block signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals, flags).map_err(Failure::system("receive signals"))?;
        let table = MountTable::open().map_err(Failure::system("read /proc/self/mountinfo"))?;
        let timeout = plan.options.timeout();
        Ok(Waiting { signals, table, until: Instant::now() + timeout, timeout })
    }

    /// Until nobody else is at mounting with the same control socket; nobody is until the lock is let go of.
    fn for_turn(&mut self, plan: &Plan) -> Result<Flock<File>, Failure> {
        let mut path = plan.options.socket().as_os_str().to_owned();
        path.push(".mount-lock");
        let failed = |error: io::Error| {
            let message = format!("cannot lock {}: {error}; name another place with -o socket=PATH", path.display());
            Failure::new(Exit::Mount, message)
        };
        fs::create_dir_all(folder_of(plan)).map_err(failed)?;
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        let (tell, told) = UnixDatagram::pair().map_err(failed)?;
        // Nothing tells when a lock is free but waiting for it; a thread that still does ends with this program.
        let waiter = std::thread::spawn(move || {
            let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| io::Error::from(error));
            // Heard, or nobody waits any more.
            let _ = tell.send(b"locked");
            lock
        });
        while !waiter.is_finished() {
            if !self.wait(Some(&told))? {
                return Err(self.late("another mount with the same control socket did not end"));
            }
        }
        waiter.join().map_err(|_| failed(io::Error::other("the thread that waited for it panicked")))?.map_err(failed)
    }

    /// A daemon runs: it is the right one, and its mount comes.
    fn attach(&mut self, plan: &Plan, running: &Running, say: &dyn Fn(String)) -> Result<(), Failure> {
        plan.is_served_by(running).map_err(|differs| Failure::new(Exit::Mount, differs.to_string()))?;
        if let Running::Cache { pid, .. } = running {
            say(format!("icbd runs already, as process {pid}"));
        }
        let unheeded = plan.options.of_a_start();
        if !unheeded.is_empty() {
            say(format!("what it was started with holds, not {}", unheeded.join(", ")));
        }
        self.for_table(plan, "its log says why, and `icbd status` how it is")
    }

    /// Until the mount shows.
    fn for_table(&mut self, plan: &Plan, remedy: &str) -> Result<(), Failure> {
        while !self.table.shows_icbd(&plan.mount).map_err(Failure::system("read /proc/self/mountinfo"))? {
            if !self.wait(None)? {
                return Err(self.late(&format!("nothing is mounted on {}; {remedy}", plan.mount.display())));
            }
        }
        Ok(())
    }

    /// Until the daemon is ready (`None`), or has ended.
    fn for_start(&mut self, started: &mut Started, notify: &Notify) -> Result<Option<ExitStatus>, Failure> {
        loop {
            if notify.is_ready() {
                return Ok(None);
            }
            if let Some(status) = started.child.try_wait().map_err(Failure::system("wait for icbd"))? {
                return Ok(Some(status));
            }
            if !self.wait(Some(&notify.socket))? {
                return Err(self.late("icbd did not get ready; -o timeout=SECONDS gives it more time"));
            }
        }
    }

    /// Ends what was started, by SIGTERM, and waits for that, not for ever.
    fn end(&mut self, started: &mut Started) {
        self.until = Instant::now() + END_MAX;
        // It is not reaped yet, so that the number is still its own. Gone already is as good.
        let _ = kill(Pid::from_raw(started.child.id().cast_signed()), Signal::SIGTERM);
        while matches!(started.child.try_wait(), Ok(None)) {
            match self.wait(None) {
                // A second Ctrl-C does not make it quicker.
                Ok(true) | Err(Failure { exit: Exit::Interrupted, .. }) => {}
                Ok(false) | Err(_) => break,
            }
        }
    }

    /// Until something happens (`true`) or there is no time left. The end of a child, a change of the table, a message.
    fn wait(&mut self, socket: Option<&UnixDatagram>) -> Result<bool, Failure> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut polled = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.table.as_fd(), PollFlags::POLLPRI),
        ];
        polled.extend(socket.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        // Rounded up, or the last millisecond would be spent in a busy loop.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::system("wait")(error)),
        }
        while let Some(signal) = self.signals.read_signal().map_err(Failure::system("receive signals"))? {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                return Err(Failure::new(Exit::Interrupted, "interrupted"));
            }
        }
        Ok(true)
    }

    fn late(&self, what: &str) -> Failure {
        Failure::new(Exit::Mount, format!("within {} s {what}", self.timeout.as_secs()))
    }
}

/// Where the control socket is.
fn folder_of(plan: &Plan) -> &Path {
    plan.options.socket().parent().unwrap_or(Path::new("/"))
}

/// Where the daemon that is started says that it is ready.
#[derive(Debug)]
struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Notify {
    fn bind(plan: &Plan) -> Result<Notify, Failure> {
        let path = folder_of(plan).join(format!("mount.{}", std::process::id()));
        let failed = |error: io::Error| {
            let message =
                format!("cannot listen at {}: {error}; name another place with -o socket=PATH", path.display());
            Failure::new(Exit::Mount, message)
        };
        // One of that name is of a process that is gone: this one has its number now.
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Notify { socket, path })
    }

    fn is_ready(&self) -> bool {
        let mut message = [0; MESSAGE_BYTES_MAX];
        let mut is_ready = false;
        while let Ok(count) = self.socket.recv(&mut message) {
            is_ready |= message[..count].split(|byte| *byte == b'\n').any(|line| line == b"READY=1");
        }
        is_ready
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.path);
    }
}
