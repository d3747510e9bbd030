//! The place in the file system where the tree is shown: checking it, mounting, unmounting.
//!
//! Mounted with mount(2) and not by fuser, whose unmount takes whatever is at the path by then. A
//! mount is told by its device number: nothing is unmounted that is not the one this daemon made.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tracing::{info, warn};

use crate::FsError;
use crate::mountinfo::{self, MountEntry};

/// What `mount` and `df` show: a FUSE file system of subtype icbd.
const KIND: &str = "fuse.icbd";
const SOURCE: &str = "icbd";
/// How long a mount that is there already may take to say whether anybody serves it.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// Device numbers of file systems without a block device have this major.
const ANONYMOUS_MAJOR: u32 = 0;

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shows {
    /// All images, for everybody to read.
    Images,
    /// Writable disks, for nobody but who mounts them.
    Clones,
}

impl Shows {
    fn flags(self) -> MsFlags {
        // Devices and set-uid files keep their modes for those who boot them; here they do nothing.
        let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        match self {
            Shows::Images => inert | MsFlags::MS_RDONLY,
            Shows::Clones => inert | MsFlags::MS_NOEXEC,
        }
    }

    fn options(self) -> &'static str {
        match self {
            Shows::Images => ",allow_other,default_permissions",
            Shows::Clones => "",
        }
    }
}

/// How an unmount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody used it.
    Cleanly,
    /// It is gone from the tree; those who have files open keep it until they close them.
    Detached,
    /// It was not mounted any more.
    Already,
}

/// Looks whether `path` can be mounted on, removes what a killed daemon left there; its canonical form.
pub(crate) fn prepare(path: &Path) -> Result<PathBuf, FsError> {
    // The last component may be a dead mount, on which canonicalize would fail with ENOTCONN.
    let path = canonical(path)?;
    while let Some(there) = on(&path)? {
        remove_leftover(&path, &there)?;
    }
    let metadata =
        std::fs::metadata(&path).map_err(FsError::system(format!("look at {}", path.display()), "check it"))?;
    if !metadata.is_dir() {
        return Err(FsError::NotDirectory(path));
    }
    let mut entries =
        std::fs::read_dir(&path).map_err(FsError::system(format!("list {}", path.display()), "check its rights"))?;
    if entries.next().is_some() {
        return Err(FsError::NotEmpty(path));
    }
    Ok(path)
}

fn canonical(path: &Path) -> Result<PathBuf, FsError> {
    let look = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => FsError::Missing(path.to_owned()),
        std::io::ErrorKind::NotADirectory => FsError::NotDirectory(path.to_owned()),
        _ => FsError::system(format!("look at {}", path.display()), "check the path and its rights")(error),
    };
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let path = parent.canonicalize().map_err(look)?.join(name);
            if on(&path)?.is_some() { Ok(path) } else { path.canonicalize().map_err(look) }
        }
        _ => path.canonicalize().map_err(look),
    }
}

fn on(path: &Path) -> Result<Option<MountEntry>, FsError> {
    mountinfo::mounted_on(path).map_err(FsError::system("read /proc/self/mountinfo", "mount /proc"))
}

fn remove_leftover(path: &Path, there: &MountEntry) -> Result<(), FsError> {
    if there.kind != KIND {
        let (kind, source_name) = (there.kind.clone(), there.source.clone());
        return Err(FsError::Foreign { path: path.to_owned(), kind, source_name });
    }
    match answer(path) {
        Some(Err(Errno::ENOTCONN)) => {}
        Some(_) => return Err(FsError::Served(path.to_owned())),
        None => return Err(FsError::Hung(path.to_owned())),
    }
    warn!(path = %path.display(), "removing the mount that a killed daemon left behind");
    umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(FsError::system(format!("unmount the dead mount {}", path.display()), "run as root"))
}

/// Asks whoever serves `path`; `None` if nobody answers in time. The question waits in a thread of
/// its own, because it cannot be taken back.
fn answer(path: &Path) -> Option<Result<(), Errno>> {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let path = path.to_owned();
    let ask = move || {
        let _ = tell.send(nix::sys::statvfs::statvfs(&path).map(drop));
    };
    std::thread::Builder::new().name("icbd-ask-mount".into()).spawn(ask).ok()?;
    told.recv_timeout(ANSWER_WAIT).ok()
}

/// Mounts the connection `fuse` on `path`; the minor number of the new mount's device.
pub(crate) fn attach(path: &Path, fuse: &OwnedFd, shows: Shows) -> Result<u32, FsError> {
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0{}", fuse.as_raw_fd(), shows.options());
    mount(Some(SOURCE), path, Some(KIND), shows.flags(), Some(options.as_str()))
        .map_err(FsError::system(format!("mount on {}", path.display()), "icbd cache needs root (CAP_SYS_ADMIN)"))?;
    let ours = on(path)?.filter(|there| there.kind == KIND && there.device.0 == ANONYMOUS_MAJOR);
    ours.map(|there| there.device.1).ok_or_else(|| FsError::NotOurs(path.to_owned()))
}

/// Sets the kernel's readahead for this mount; best effort.
pub(crate) fn set_readahead(device: u32, kib: u32) {
    let knob = format!("/sys/class/bdi/{ANONYMOUS_MAJOR}:{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&knob, kib.to_string()) {
        info!(%error, knob, "cannot set the readahead; boots may fetch more than they read");
    }
}

/// Whether the mount with `device` is what shows at `path`.
pub(crate) fn shows(path: &Path, device: u32) -> Result<bool, FsError> {
    Ok(on(path)?.is_some_and(|there| there.is_ours(device)))
}

impl MountEntry {
    fn is_ours(&self, device: u32) -> bool {
        self.kind == KIND && self.device == (ANONYMOUS_MAJOR, device)
    }
}

/// Unmounts `path` if what shows there is the mount with `device`.
pub(crate) fn detach(path: &Path, device: u32) -> Result<Unmounted, FsError> {
    match on(path)? {
        Some(there) if there.is_ours(device) => {}
        Some(_) => return Err(FsError::NotOurs(path.to_owned())),
        None => return Ok(Unmounted::Already),
    }
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(Unmounted::Cleanly),
        Err(Errno::EBUSY) => {
            umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .map_err(FsError::system(format!("detach {}", path.display()), "run `umount -l` on it"))?;
            warn!(path = %path.display(), "the mount is in use: detached; programs with open files can read until this daemon has ended");
            Ok(Unmounted::Detached)
        }
        Err(error) => Err(FsError::system(format!("unmount {}", path.display()), "run `umount` on it")(error)),
    }
}

/// Ends a connection whose daemon is gone: everybody who waits for it gets an error.
pub(crate) fn abort(device: u32) {
    let knob = format!("/sys/fs/fuse/connections/{device}/abort");
    if let Err(error) = std::fs::write(&knob, "1") {
        info!(%error, knob, "cannot abort the connection of the earlier daemon");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &Path, says: &str) {
        let message = prepare(path).unwrap_err().to_string();
        assert!(message.contains(says) && message.contains(&*path.to_string_lossy()), "{message}");
    }

    /// A mount point that will not do is refused with a message that names it and the remedy.
    #[test]
    fn bad_mount_points_are_named_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::write(folder.join("file"), "").unwrap();
        check(&folder.join("none"), "mkdir -p");
        check(&folder.join("none/below"), "mkdir -p");
        check(&folder.join("file"), "not a directory");
        check(&folder, "not empty");
        check(Path::new("/proc"), "something else (proc");
        let empty = folder.join("empty");
        std::fs::create_dir(&empty).unwrap();
        assert_eq!(prepare(&empty).unwrap(), empty);
    }
}
