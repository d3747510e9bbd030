//! Owners, modes, times and extended attributes: read from a source, given to a stored copy.
//!
//! Which extended attributes are read is the caller's choice ([`Keep`]). What belongs to the file system a file
//! lies on alone (`system.nfs4_acl`, `ceph.*` …) never is.

use std::os::fd::BorrowedFd;

use icbd_image::Metadata;
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::beneath::{Stat, proc_path};

/// Names and values, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Everything about a node but its kind and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    pub metadata: Metadata,
    pub xattrs: Xattrs,
}

/// Which attribute could not be kept, and why.
#[derive(Debug)]
pub struct Refused {
    pub what: String,
    pub source: Errno,
}

impl Attributes {
    /// Those of `name` in `directory`, of which `stat` was read; of extended attributes what `keep` says.
    pub fn read(directory: BorrowedFd<'_>, name: &[u8], stat: &Stat, keep: Keep) -> rustix::io::Result<Attributes> {
        let (uid, gid) = stat.owner();
        let metadata = Metadata { mode: stat.mode(), uid, gid, mtime: stat.mtime() };
        Ok(Attributes { metadata, xattrs: read_xattrs(&proc_path(directory, name), keep)? })
    }

    /// Gives them to `name` in `directory` (to the directory itself when `name` is empty).
    pub fn apply(&self, directory: BorrowedFd<'_>, name: &[u8], is_symlink: bool) -> Result<(), Refused> {
        let refused = |what: &str| {
            let what = what.to_owned();
            move |source| Refused { what, source }
        };
        let path = proc_path(directory, name);
        let Metadata { mode, uid, gid, mtime } = self.metadata;
        let owner = Stat::at(directory, name).map_err(refused("the owner"))?.owner();
        if owner != (uid, gid) {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
            rustix::fs::chownat(directory, name, uid, gid, flags).map_err(refused("the owner"))?;
        }
        // In this order: a change of owner clears set-uid bits and capabilities, a change of mode rewrites an ACL's mask.
        if !is_symlink {
            rustix::fs::chmod(&*path, Mode::from_raw_mode(u32::from(mode))).map_err(refused("the mode"))?;
        }
        for (name, value) in &self.xattrs {
            let what = || format!("the extended attribute {}", String::from_utf8_lossy(name));
            rustix::fs::lsetxattr(&*path, &**name, value, XattrFlags::empty())
                .map_err(|source| Refused { what: what(), source })?;
        }
        let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &*path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(refused("the time"))
    }
}

/// Which extended attributes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Those that belong to a file's meaning: `user.*`, `trusted.*` (seen by root alone), `security.*` with
    /// capabilities, and POSIX ACLs. Not what a mount or a store of ours notes in `user.icbd.*`.
    Meaning,
    /// Those, what icbd noted, and properties of btrfs: a copy on the same disk is to be no other than its original.
    All,
}

impl Keep {
    fn has(self, name: &[u8]) -> bool {
        let of = |prefix: &[u8]| name.starts_with(prefix);
        let meaning = of(b"user.") || of(b"trusted.") || of(b"security.") || of(b"system.posix_acl_");
        match self {
            Keep::Meaning => meaning && !of(b"user.icbd."),
            Keep::All => meaning || of(b"btrfs."),
        }
    }
}

fn read_xattrs(path: &[u8], keep: Keep) -> rustix::io::Result<Xattrs> {
    let list = match grow(|buffer| rustix::fs::llistxattr(path, buffer)) {
        // A file system without extended attributes has none to keep.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        list => list?,
    };
    let mut xattrs = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| keep.has(name)) {
        match grow(|buffer| rustix::fs::lgetxattr(path, name, buffer)) {
            Ok(value) => xattrs.push((name.to_vec(), value)),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Calls `read` with a buffer that is large enough; the kernel's limit for lists and values is 64 KiB.
fn grow(mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 256];
    match read(&mut small) {
        Err(Errno::RANGE) => {}
        read => return read.map(|len| small[..len].to_vec()),
    }
    let mut large = vec![0; 64 * 1024];
    let len = read(&mut large)?;
    large.truncate(len);
    Ok(large)
}
