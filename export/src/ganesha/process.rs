//! The running `ganesha.nfsd`, as the kernel tells of it: what it reads, has open and is connected to, in its own namespaces.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{NAME, UNIT, refused};
use crate::ServerError;

const COMMAND: &[u8] = b"ganesha.nfsd\n";
/// Where `/proc/PID/stat` says when it was started; counted from what follows the command.
const STARTED: usize = 19;
/// TCP states of the kernel.
const ESTABLISHED: &str = "01";
const LISTENING: &str = "0A";

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

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    point: PathBuf,
    is_fuse: bool,
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
            let over = table.iter().filter(|mount| folder.starts_with(&mount.point));
            // Of those at the same point the last one shows.
            let mount = over.max_by_key(|mount| mount.point.as_os_str().len()).filter(|mount| mount.is_fuse);
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
            // Whatever is closed meanwhile is not open.
            let Ok(path) = std::fs::read_link(entry.path()) else { continue };
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
        let sockets = self.sockets(ESTABLISHED)?;
        let there = sockets.into_iter().filter(|(local, _)| local.port() == port);
        let clients: BTreeSet<IpAddr> = there.map(|(_, remote)| remote.ip()).collect();
        Ok(clients.into_iter().collect())
    }

    /// Where it listens at a port.
    pub(super) fn portals(&self, port: u16) -> Result<Vec<SocketAddr>, ServerError> {
        let sockets = self.sockets(LISTENING)?.into_iter();
        Ok(sockets.map(|(local, _)| local).filter(|local| local.port() == port).collect())
    }

    /// Both ends of what is in a state.
    fn sockets(&self, state: &str) -> Result<Vec<(SocketAddr, SocketAddr)>, ServerError> {
        let tables = [self.read("net/tcp")?, self.read("net/tcp6").unwrap_or_default()];
        let lines = tables.iter().flat_map(|table| table.split(|byte| *byte == b'\n'));
        Ok(lines.filter_map(|line| sockets_in(std::str::from_utf8(line).ok()?, state)).collect())
    }

    fn mount_table(&self) -> Result<Vec<Mount>, ServerError> {
        let table = self.read("mountinfo")?;
        Ok(table.split(|byte| *byte == b'\n').filter_map(mount_in).collect())
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

/// A line of `/proc/PID/mountinfo`.
fn mount_in(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let mut point = Vec::new();
    let mut rest = fields.nth(3)?;
    // Spaces and the like are written as three octal digits behind a backslash.
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        let digits = std::str::from_utf8(rest.get(at + 1..at + 4)?).ok()?;
        point.extend_from_slice(&rest[..at]);
        point.push(u8::from_str_radix(digits, 8).ok()?);
        rest = &rest[at + 4..];
    }
    point.extend_from_slice(rest);
    // Behind a list that may be empty.
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { id, point: PathBuf::from(std::ffi::OsStr::from_bytes(&point)), is_fuse: kind.starts_with(b"fuse") })
}

/// A line of `/proc/PID/net/tcp` or `tcp6`, if it is in a state: both ends.
fn sockets_in(line: &str, state: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote) = (fields.next()?, fields.next()?);
    (fields.next()? == state).then_some((socket(local)?, socket(remote)?))
}

/// The address is in words of the machine's own order, the port is a number.
fn socket(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(bytes) => IpAddr::V4(Ipv4Addr::from(bytes)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    // What is of IPv4 may be written as IPv6.
    Some(SocketAddr::new(address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        let v4 = "   1: 0201A8C0:0801 1101A8C0:03E7 01 00000000:00000000 02:000003E8 00000000     0        0 41 2 0 20 4 30 10 -1";
        let ends = |local: &str, remote: &str| Some((local.parse().unwrap(), remote.parse().unwrap()));
        if cfg!(target_endian = "little") {
            assert_eq!(sockets_in(v4, ESTABLISHED), ends("192.168.1.2:2049", "192.168.1.17:999"));
            let v6 = "   0: 0000000000000000FFFF00000201A8C0:0801 00000000000000000000000001000000:03E7 0A 0:0";
            assert_eq!(sockets_in(v6, LISTENING), ends("192.168.1.2:2049", "[::1]:999"));
        }
        assert_eq!(sockets_in(v4, LISTENING), None);
        assert_eq!(sockets_in("  sl  local_address rem_address   st", ESTABLISHED), None);
        let mount = b"44 96 0:40 / /srv/a\\040b ro,nosuid master:2 - fuse.icbd icbd ro";
        assert_eq!(mount_in(mount), Some(Mount { id: 44, point: "/srv/a b".into(), is_fuse: true }));
        let root = mount_in(b"1 0 254:0 / / rw - ext4 /dev/vda rw");
        assert_eq!(root, Some(Mount { id: 1, point: "/".into(), is_fuse: false }));
        assert_eq!((mount_in(b""), mount_in(b"44 96 0:40 / /srv/\\0 ro - fuse.icbd icbd ro")), (None, None));
    }

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
