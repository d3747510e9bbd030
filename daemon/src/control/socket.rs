//! The socket's file: made with the right owner, a dead daemon's replaced, a live one's respected.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::unistd::{Gid, Group, Uid};

use crate::failure::{Exit, Failure};

/// Members of this group may control the daemon.
const GROUP: &str = "icbd";
/// The longest path that fits into a `sockaddr_un`.
const PATH_BYTES_MAX: usize = 107;

/// A listening socket, whose file goes when it is dropped.
#[derive(Debug)]
pub(super) struct BoundSocket {
    path: PathBuf,
    /// Locked as long as it is open: until then nobody else may remove the socket or make another one. Its file stays,
    /// or two could lock two files of that name.
    _lock: Flock<File>,
}

/// Listens at `path`.
pub(super) fn bind(path: &Path) -> anyhow::Result<(UnixListener, BoundSocket)> {
    let shown = path.display();
    if path.as_os_str().len() > PATH_BYTES_MAX {
        let message =
            format!("the socket's path {shown} is longer than {PATH_BYTES_MAX} bytes; pass a shorter --socket");
        return Err(Failure::new(Exit::Usage, message).into());
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let lock = lock(path)?;
    remove_dead(path)?;
    let failed = || format!("cannot listen at {shown}");
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).with_context(failed)?;
    UnixAddr::new(path).and_then(|at| socket::bind(listener.as_raw_fd(), &at)).with_context(failed)?;
    let socket = BoundSocket { path: path.to_owned(), _lock: lock };
    let group = Group::from_name(GROUP).ok().flatten().map_or(Gid::from_raw(0), |group| group.gid);
    // Not root: the socket stays ours alone, which is as strict.
    if Uid::effective().is_root() {
        nix::unistd::chown(path, None, Some(group)).with_context(|| format!("cannot give {shown} to {GROUP}"))?;
    }
    let mode = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(path, mode).with_context(|| format!("cannot set the mode of {shown}"))?;
    // Only now may anybody connect: not while the file still had the rights that the umask gave it.
    socket::listen(&listener, Backlog::MAXCONN).with_context(failed)?;
    Ok((listener.into(), socket))
}

/// Makes this daemon the only one that has anything to do with `path`, before it looks whether the socket is dead:
/// of two that find a dead one, the slower must not remove the quicker one's.
fn lock(path: &Path) -> anyhow::Result<Flock<File>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let shown = name.display();
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&name);
    let file = file.with_context(|| format!("cannot open {shown}"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => in_use(path).into(),
        error => anyhow::Error::from(error).context(format!("cannot lock {shown}")),
    })
}

fn in_use(path: &Path) -> Failure {
    let shown = path.display();
    Failure::new(Exit::Refused, format!("a daemon answers at {shown} already; stop it first, or pass another --socket"))
}

/// Removes the socket of a daemon that is gone; refuses where somebody answers, or where no socket is.
fn remove_dead(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        let message = format!("{shown} exists and is no socket; remove it or pass another --socket");
        return Err(Failure::new(Exit::Refused, message).into());
    }
    if UnixStream::connect(path).is_ok() {
        return Err(in_use(path).into());
    }
    std::fs::remove_file(path).with_context(|| format!("cannot remove the dead socket {shown}"))
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // Gone already, or the folder is: either way nobody connects any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/x.sock");
        let (listener, socket) = bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        assert!(bind(&path).unwrap_err().to_string().contains("answers at"));
        drop((listener, socket));
        assert!(!path.exists());
        // As a kill leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (_listener, socket) = bind(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    /// Two that found the same dead socket removed each other's, and both believed to be listening.
    #[test]
    fn of_many_that_start_at_once_one_gets_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        for _ in 0..20 {
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(4);
            let bound = std::thread::scope(|scope| {
                let rivals: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            bind(&path)
                        })
                    })
                    .collect();
                rivals.into_iter().map(|rival| rival.join().unwrap()).collect::<Vec<_>>()
            });
            let (won, lost): (Vec<_>, Vec<_>) = bound.into_iter().partition(Result::is_ok);
            assert_eq!((won.len(), lost.len()), (1, 3));
            assert!(UnixStream::connect(&path).is_ok(), "the one who has it is heard");
            assert!(lost.into_iter().all(|lost| lost.is_err_and(|error| error.to_string().contains("already"))));
        }
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(bind(&path).unwrap_err().to_string().contains("no socket"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let long = dir.path().join("x".repeat(120));
        assert!(bind(&long).unwrap_err().to_string().contains("shorter --socket"));
    }
}
