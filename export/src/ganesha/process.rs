//! The running `ganesha.nfsd`, as the kernel tells of it: what it reads, has open and is connected to, in its own namespaces.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{NAME, UNIT, refused};
use crate::ServerError;
use crate::proc::{self, Mount, Sockets};

const COMMAND: &[u8] = b"ganesha.nfsd\n";
/// Where `/proc/PID/stat` says when it was started; counted from what follows the command.
const STARTED: usize = 19;

#[derive(Debug)]
pub(super) struct Process {
    /// It stands for this process, and for no other that gets its number.
    handle: OwnedFd,
    proc: PathBuf,
    identity: Identity,
}

/// No other process ever had the same number and began at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pid: i32,
    /// In clock ticks since the machine started.
    started: u64,
}

/// The mounts on which a process has something open.
#[derive(Debug)]
pub(super) struct OpenMounts {
    /// By their ids.
    pub(super) there: BTreeSet<u64>,
    /// Whether it has the root of one open that was unmounted.
    pub(super) has_gone: bool,
}

impl Process {
    /// The one that a file names; `None` if there is no such file, or no such process.
    pub(super) fn find(pid_file: &Path) -> Result<Option<Process>, ServerError> {
        let text = match std::fs::read_to_string(pid_file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|source| ServerError::Io { doing: "read", path: pid_file.to_owned(), source })?,
        };
        // It writes over what was there, which may have had more lines.
        let number = text.lines().next().and_then(|line| line.trim().parse().ok());
        let number = number.filter(|number| *number > 0);
        let Some(pid) = number.and_then(Pid::from_raw) else { return Ok(None) };
        let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        // A number that is somebody else's by now.
        if std::fs::read(proc.join("comm")).ok().as_deref() != Some(COMMAND) {
            return Ok(None);
        }
        let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map(|(_, fields)| fields);
        let started = fields.and_then(|fields| fields.split(' ').nth(STARTED)?.parse().ok());
        let identity = Identity { pid: pid.as_raw_nonzero().get(), started: started.unwrap_or_default() };
        Ok(Some(Process { handle, proc, identity }))
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Which file it was told to read; `None` for the usual one.
    pub(super) fn settings(&self) -> Result<Option<PathBuf>, ServerError> {
        let line = self.read("cmdline")?;
        let mut arguments = line.split(|byte| *byte == 0).skip(1);
        while let Some(argument) = arguments.next() {
            let named = match argument.strip_prefix(b"-f") {
                Some([]) => arguments.next(),
                named => named,
            };
            if let Some(named) = named {
                return Ok(Some(PathBuf::from(std::ffi::OsStr::from_bytes(named))));
            }
        }
        Ok(None)
    }

    /// Sends SIGHUP, which ends a Ganesha that has but begun to start: until it holds it back, none is sent.
    pub(super) fn reload(&self) -> Result<(), ServerError> {
        const HANGUP: u64 = 1;
        let status = self.read("status")?;
        let status = String::from_utf8_lossy(&status);
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).map(str::trim);
        let blocked = blocked.and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or_default();
        if blocked & HANGUP == 0 {
            return Err(self.not_running("it is only starting"));
        }
        let sent = rustix::process::pidfd_send_signal(&self.handle, Signal::HUP);
        sent.map_err(|error| self.not_running(&format!("it has just ended: {error}")))
    }

    /// Whether it has loaded what serves folders.
    pub(super) fn has_vfs(&self) -> Result<bool, ServerError> {
        let maps = self.read("maps")?;
        Ok(maps.windows(b"libfsalvfs".len()).any(|part| part == b"libfsalvfs"))
    }

    /// The ids of the mounts of FUSE on which folders lie; fails with the first folder that it sees on none.
    pub(super) fn mounts<'a>(&self, folders: impl Iterator<Item = &'a Path>) -> Result<BTreeSet<u64>, ServerError> {
        let table = self.mount_table()?;
        let mount_of = |folder: &Path| {
            let mount = Mount::over(&table, folder).filter(|mount| mount.is_fuse);
            let what = || format!("the folder {}", folder.display());
            mount.map(|mount| mount.id).ok_or_else(|| refused(what(), "it sees nothing mounted there"))
        };
        folders.map(mount_of).collect()
    }

    pub(super) fn open_mounts(&self) -> Result<OpenMounts, ServerError> {
        let folder = self.proc.join("fd");
        let table: BTreeSet<u64> = self.mount_table()?.into_iter().map(|mount| mount.id).collect();
        let mut open = OpenMounts { there: BTreeSet::new(), has_gone: false };
        let entries = std::fs::read_dir(&folder).map_err(|source| self.failed("fd", source))?;
        for entry in entries.map_while(Result::ok) {
            let path = match std::fs::read_link(entry.path()) {
                Ok(path) => path,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let said = "this cache server may not look at them: its unit lacks CAP_SYS_PTRACE";
                    return Err(refused("the files that it has open".to_owned(), said));
                }
                // Whatever is closed meanwhile is not open.
                Err(_) => continue,
            };
            let Ok(info) = std::fs::read_to_string(self.proc.join("fdinfo").join(entry.file_name())) else { continue };
            let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
            match id {
                Some(id) if table.contains(&id) => drop(open.there.insert(id)),
                // Pipes and sockets are on no mount either, but have no such path.
                Some(_) => open.has_gone |= path == Path::new("/"),
                None => {}
            }
        }
        Ok(open)
    }

    /// The other ends of connections to a port; in order, each once.
    pub(super) fn clients(&self, port: u16) -> Result<Vec<IpAddr>, ServerError> {
        Ok(self.sockets()?.clients(|local| local == port).into_iter().collect())
    }

    /// Where it listens at a port.
    pub(super) fn portals(&self, port: u16) -> Result<Vec<SocketAddr>, ServerError> {
        Ok(self.sockets()?.portals(|local| local == port))
    }

    fn sockets(&self) -> Result<Sockets, ServerError> {
        Ok(Sockets::of([&self.read("net/tcp")?, &self.read("net/tcp6").unwrap_or_default()]))
    }

    fn mount_table(&self) -> Result<Vec<Mount>, ServerError> {
        Ok(proc::mounts_in(&self.read("mountinfo")?))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ServerError> {
        std::fs::read(self.proc.join(name)).map_err(|source| self.failed(name, source))
    }

    fn failed(&self, name: &str, source: io::Error) -> ServerError {
        match source.kind() {
            io::ErrorKind::NotFound => self.not_running(&format!("it has just ended: {source}")),
            _ => ServerError::Io { doing: "read", path: self.proc.join(name), source },
        }
    }

    fn not_running(&self, said: &str) -> ServerError {
        ServerError::NotRunning { server: NAME, unit: UNIT, said: format!("process {}: {said}", self.identity.pid) }
    }
}

/// Sees that somebody reads a file.
#[derive(Debug)]
pub(super) struct Watch {
    events: OwnedFd,
    path: PathBuf,
}

impl Watch {
    pub(super) fn new(path: &Path) -> Result<Watch, ServerError> {
        let begin = || {
            let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&events, path, inotify::WatchFlags::CLOSE_NOWRITE)?;
            Ok(events)
        };
        let path = path.to_owned();
        match begin() {
            Ok(events) => Ok(Watch { events, path }),
            Err(error) => Err(failed_watch(path, error)),
        }
    }

    /// Whether somebody had read it since, or does within `within`.
    pub(super) fn is_read(&self, within: Duration) -> Result<bool, ServerError> {
        let timeout = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: 0 };
        let mut events = [PollFd::new(&self.events, PollFlags::IN)];
        let count = loop {
            match rustix::event::poll(&mut events, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                count => break count.map_err(|error| failed_watch(self.path.clone(), error))?,
            }
        };
        let mut buffer = [MaybeUninit::uninit(); 512];
        Ok(count > 0 && inotify::Reader::new(&self.events, &mut buffer).next().is_ok())
    }
}

fn failed_watch(path: PathBuf, error: rustix::io::Errno) -> ServerError {
    ServerError::Io { doing: "watch", path, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_is_taken_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        assert!(Process::find(&file).unwrap().is_none());
        for text in [String::new(), "0".into(), "-1".into(), std::process::id().to_string(), i32::MAX.to_string()] {
            std::fs::write(&file, &text).unwrap();
            assert!(Process::find(&file).unwrap().is_none(), "{text}");
        }
    }
}
