//! Nothing in the mount can be changed, and what cannot be there is refused as on any file system.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};
use icbd_tests::{CacheServer, Lab, Master, sample_tree};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open, readlink, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, mknod, stat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, mkdir, mkfifo, truncate, unlinkat};

struct Site {
    cache: CacheServer,
    _master: Master,
    _lab: Lab,
}

fn site() -> Result<Site> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.path("tree"), lab.path("repo"));
    sample_tree(&tree)?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    let master = Master::start(&lab, &repo)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    Ok(Site { cache, _master: master, _lab: lab })
}

/// Every system call that would change something ends with EROFS, at every level of the mount.
#[test]
fn every_change_is_refused() -> Result<()> {
    let site = site()?;
    let path = |below: &str| site.cache.path(below);
    for folder in ["", "lab", "lab/1", "lab/current", "lab/1/usr/share"] {
        let new = path(folder).join("new");
        refused(&new, "create", open(&new, OFlag::O_CREAT | OFlag::O_WRONLY, Mode::S_IRWXU).map(drop))?;
        refused(&new, "mkdir", mkdir(&new, Mode::S_IRWXU))?;
        refused(&new, "mkfifo", mkfifo(&new, Mode::S_IRWXU))?;
        refused(&new, "mknod", mknod(&new, SFlag::S_IFREG, Mode::S_IRWXU, 0))?;
        refused(
            &new,
            "symlink",
            symlink("x", &new).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0))),
        )?;
        refused(&path(folder), "chmod", chmod(&path(folder)))?;
        refused(&path(folder), "chown", chown(&path(folder)))?;
        refused(&path(folder), "utimens", touch(&path(folder)))?;
    }
    for file in ["lab/1/usr/small", "lab/1/usr/share/medium", "lab/1/empty", "lab/1/usr/share/hard"] {
        let file = path(file);
        for (what, flags) in
            [("write", OFlag::O_WRONLY), ("both", OFlag::O_RDWR), ("truncating open", OFlag::O_TRUNC | OFlag::O_WRONLY)]
        {
            refused(&file, what, open(&file, flags, Mode::empty()).map(drop))?;
        }
        refused(&file, "truncate", truncate(&file, 0))?;
        refused(&file, "unlink", unlinkat(AT_FDCWD, &file, UnlinkatFlags::NoRemoveDir))?;
        refused(&file, "rename", renameat(AT_FDCWD, &file, AT_FDCWD, &path("lab/1/usr/new")))?;
        refused(&file, "link", linkat(AT_FDCWD, &file, AT_FDCWD, &path("lab/1/usr/new"), LinkatFlags::empty()))?;
        refused(&file, "chmod", chmod(&file))?;
        refused(&file, "chown", chown(&file))?;
        refused(&file, "utimens", touch(&file))?;
        refused(&file, "setxattr", attribute(xattr::set(&file, "user.x", b"1")))?;
        refused(&file, "removexattr", attribute(xattr::remove(&file, "user.icbd.root")))?;
    }
    for folder in ["lab/1/usr/share/deep/er", "lab/1", "lab"] {
        refused(&path(folder), "rmdir", unlinkat(AT_FDCWD, &path(folder), UnlinkatFlags::RemoveDir))?;
        refused(&path(folder), "rename", renameat(AT_FDCWD, &path(folder), AT_FDCWD, &path("lab/moved")))?;
    }
    refused(&path("lab/current"), "unlink", unlinkat(AT_FDCWD, &path("lab/current"), UnlinkatFlags::NoRemoveDir))?;
    Ok(())
}

/// Names that are absent, too long, not folders or go round in circles get the errors that any file system gives.
#[test]
fn impossible_names_get_their_errors() -> Result<()> {
    let site = site()?;
    let long = "x".repeat(256);
    let check = |below: &str, expected: Errno| -> Result<()> {
        let found = stat(&site.cache.path(below)).map(drop);
        ensure!(found == Err(expected), "{below}: {found:?}, expected {expected}");
        Ok(())
    };
    for folder in ["", "lab", "lab/1", "lab/1/usr"] {
        check(format!("{folder}/absent").trim_start_matches('/'), Errno::ENOENT)?;
        check(format!("{folder}/{long}").trim_start_matches('/'), Errno::ENAMETOOLONG)?;
    }
    for absent in
        ["lab/0", "lab/01", "lab/2", "lab/99999999999999999999", "lab/-1", "LAB", "lab/1/usr/SMALL", "lab/1/dangling"]
    {
        check(absent, Errno::ENOENT)?;
    }
    check("lab/1/loop", Errno::ELOOP)?;
    check("lab/1/usr/small/below", Errno::ENOTDIR)?;
    check(&"lab/1/usr/../../1/".repeat(300), Errno::ENAMETOOLONG)?;
    ensure!(readlink(&site.cache.path("lab/1/usr/small")) == Err(Errno::EINVAL), "a file is no link");
    ensure!(
        open(&site.cache.path("lab/1/loop"), OFlag::O_NOFOLLOW, Mode::empty()).map(drop) == Err(Errno::ELOOP),
        "followed"
    );
    Ok(())
}

/// A file's holes, its size in use and the attributes of the mount can be asked for.
#[test]
fn residency_is_told_by_attributes() -> Result<()> {
    let site = site()?;
    let file = site.cache.path("lab/1/usr/share/medium");
    let get = |name: &str| -> Result<String> {
        Ok(String::from_utf8_lossy(&xattr::get(&file, name)?.unwrap_or_default()).into_owned())
    };
    let before = get("user.icbd.resident")?;
    std::fs::read(&file)?;
    let after = get("user.icbd.resident")?;
    ensure!(before != after, "user.icbd.resident is {after:?} before and after reading");
    ensure!(get("user.icbd.root")?.len() == 64, "user.icbd.root is {:?}", get("user.icbd.root")?);
    let statfs = nix::sys::statvfs::statvfs(site.cache.mount())?;
    ensure!(statfs.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY), "the mount does not say it is read-only");
    Ok(())
}

/// A file that is open for reading cannot be written, allocated or punched through any descriptor.
#[test]
fn descriptors_cannot_write() -> Result<()> {
    use std::os::unix::fs::FileExt;
    let site = site()?;
    let file = File::open(site.cache.path("lab/1/usr/share/medium"))?;
    let error = file.write_at(b"x", 0).expect_err("a write");
    ensure!(error.raw_os_error() == Some(nix::libc::EBADF), "{error}");
    ensure!(file.set_len(0).is_err() && file.sync_all().is_ok(), "truncate or sync");
    Ok(())
}

fn refused(path: &Path, what: &str, result: Result<(), Errno>) -> Result<()> {
    ensure!(result == Err(Errno::EROFS), "{what} of {}: {result:?}, expected EROFS", path.display());
    Ok(())
}

fn chmod(path: &Path) -> Result<(), Errno> {
    fchmodat(AT_FDCWD, path, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)
}

fn chown(path: &Path) -> Result<(), Errno> {
    fchownat(AT_FDCWD, path, Some(Uid::from_raw(1)), Some(Gid::from_raw(1)), AtFlags::empty())
}

fn touch(path: &Path) -> Result<(), Errno> {
    utimensat(AT_FDCWD, path, &TimeSpec::new(1, 1), &TimeSpec::new(1, 1), UtimensatFlags::FollowSymlink)
}

fn attribute(result: std::io::Result<()>) -> Result<(), Errno> {
    result.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}
