//! Nothing can be changed through a mount, in the manner of pjdfstest. Needs root and FUSE.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::lab::both_ways;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, open, renameat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, mkdirat, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{LinkatFlags, UnlinkatFlags, fchownat, linkat, symlinkat, truncate, unlinkat};

fn refused<T: std::fmt::Debug>(what: &str, path: &Path, result: nix::Result<T>) {
    assert_eq!(result.err(), Some(Errno::EROFS), "{what} {}", path.display());
}

/// Whoever tries to change anything, root included, is told EROFS, and nothing changes.
#[test]
fn every_change_is_refused() {
    both_ways(|lab| {
        let folders = ["", "disk", "tree/1", "tree/1/etc"].map(|below| lab.path(below));
        let things =
            ["disk/1/notes", "tree/1/big", "tree/1/etc/deep", "disk/current", "tree/1/etc/null"].map(|it| lab.path(it));
        for folder in &folders {
            let new = folder.join("new");
            refused("mkdir", &new, mkdirat(AT_FDCWD, &new, Mode::S_IRWXU));
            refused("mknod", &new, mknod(&new, SFlag::S_IFIFO, Mode::S_IRWXU, 0));
            refused("create", &new, open(&new, OFlag::O_CREAT | OFlag::O_WRONLY, Mode::S_IRWXU));
            refused("symlink", &new, symlinkat("target", AT_FDCWD, &new));
            refused("link", &new, linkat(AT_FDCWD, &things[0], AT_FDCWD, &new, LinkatFlags::empty()));
            refused("rename", &new, renameat2(AT_FDCWD, &things[0], AT_FDCWD, &new, RenameFlags::empty()));
            refused("rmdir", folder, unlinkat(AT_FDCWD, &lab.path("tree/1/etc/deep/er"), UnlinkatFlags::RemoveDir));
        }
        for thing in &things {
            let before = std::fs::symlink_metadata(thing).unwrap();
            let time = TimeSpec::new(1, 1);
            let nofollow = UtimensatFlags::NoFollowSymlink;
            refused("utimens", thing, utimensat(AT_FDCWD, thing, &time, &time, nofollow));
            let no_follow = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            refused("chown", thing, fchownat(AT_FDCWD, thing, Some(1.into()), None, no_follow));
            if !before.is_dir() {
                refused("unlink", thing, unlinkat(AT_FDCWD, thing, UnlinkatFlags::NoRemoveDir));
            }
            if !before.is_symlink() {
                refused("chmod", thing, fchmodat(AT_FDCWD, thing, Mode::S_IRWXU, FchmodatFlags::FollowSymlink));
            }
            if before.is_file() {
                refused("truncate", thing, truncate(thing, 0));
                for flags in
                    [OFlag::O_WRONLY, OFlag::O_RDWR, OFlag::O_WRONLY | OFlag::O_TRUNC, OFlag::O_RDWR | OFlag::O_APPEND]
                {
                    refused("open to write", thing, open(thing, flags, Mode::empty()));
                }
                let set = xattr::set(thing, "user.icbd.complete", b"1").unwrap_err();
                assert_eq!(set.raw_os_error(), Some(Errno::EROFS as i32));
                let removed = xattr::remove(thing, "user.icbd.root").unwrap_err();
                assert_eq!(removed.raw_os_error(), Some(Errno::EROFS as i32));
            }
            let after = std::fs::symlink_metadata(thing).unwrap();
            assert_eq!((before.mtime(), before.mode(), before.size()), (after.mtime(), after.mode(), after.size()));
        }
    });
}

/// Requests that a file system on a disk refuses are refused here with the same errors.
#[test]
fn errors_are_those_of_a_disk() {
    both_ways(|lab| {
        let errno = |path: &str, flags: OFlag| open(&lab.path(path), flags, Mode::empty()).err();
        assert_eq!(errno("nobody", OFlag::O_RDONLY), Some(Errno::ENOENT));
        assert_eq!(errno("disk/3", OFlag::O_RDONLY), Some(Errno::ENOENT));
        assert_eq!(errno("disk/01", OFlag::O_RDONLY), Some(Errno::ENOENT));
        assert_eq!(errno("disk/1/notes/x", OFlag::O_RDONLY), Some(Errno::ENOTDIR));
        assert_eq!(errno("disk/1/notes", OFlag::O_DIRECTORY), Some(Errno::ENOTDIR));
        assert_eq!(errno("disk/current", OFlag::O_NOFOLLOW), Some(Errno::ELOOP));
        assert_eq!(errno(&"n".repeat(256), OFlag::O_RDONLY), Some(Errno::ENAMETOOLONG));
        assert_eq!(std::fs::read(lab.path("disk/1")).unwrap_err().raw_os_error(), Some(Errno::EISDIR as i32));
        let file = std::fs::File::open(lab.path("disk/1/notes")).unwrap();
        let mut size = 0u64;
        // SAFETY: the ioctl writes at most a u64 through the pointer.
        #[allow(unsafe_code)]
        let got = unsafe { nix::libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), 0x8008_1272, &mut size) };
        assert_eq!(Errno::result(got), Err(Errno::ENOTTY));
        file.sync_all().unwrap();
    });
}

/// The mount is not world-readable: others than root do not get in.
#[test]
fn the_mount_is_not_for_everybody() {
    both_ways(|lab| {
        let stat = std::fs::metadata(lab.mount()).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o750, 0, 0));
        // The folder above must let others through for the mount's own mode to decide.
        let open_up = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        std::fs::set_permissions(lab.folder.path(), open_up).unwrap();
        let mut ls = std::process::Command::new("ls");
        let ls = std::os::unix::process::CommandExt::uid(&mut ls, 65534);
        let ls = std::os::unix::process::CommandExt::gid(ls, 65534).arg(lab.mount()).output().unwrap();
        assert!(!ls.status.success() && String::from_utf8_lossy(&ls.stderr).contains("denied"));
    });
}
