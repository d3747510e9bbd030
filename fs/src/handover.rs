//! What passes from one daemon to the next: of each mount the `/dev/fuse` descriptor and the open table.
//!
//! The keeper (or systemd's descriptor store) holds both while no daemon runs. They come into a
//! daemon by inheritance, and nothing of them is believed before it was looked at.
//!
//! JUSTIFICATION for unsafe: a number on the command line or from systemd has to become a descriptor.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};

use crate::FsError;
use crate::table::{Stage, Table};

/// The descriptors of one mount, before, during and after a daemon.
#[derive(Debug)]
pub struct Handover {
    pub(crate) fuse: OwnedFd,
    pub(crate) table: OwnedFd,
}

/// `/dev/fuse` is character device 10:229 (Linux, Documentation/admin-guide/devices.txt).
const FUSE_DEVICE: (u64, u64) = (10, 229);

/// The descriptors of a daemon's mounts.
#[derive(Debug)]
pub struct Handovers {
    pub images: Handover,
    /// Mounted once there is a clone.
    pub clones: Handover,
}

/// What each is called in systemd's store: of images, then of clones.
const STORE_NAMES: [[&str; 2]; 2] = [["icbd-fuse", "icbd-open-table"], ["icbd-clones-fuse", "icbd-clones-open-table"]];

impl Handovers {
    /// New descriptors, for mounts that are still to be made.
    pub fn create() -> Result<Handovers, FsError> {
        Ok(Handovers { images: Handover::create()?, clones: Handover::create()? })
    }

    /// Takes the descriptors with these numbers, as [`Handovers::numbers`] wrote them for a child of the keeper.
    ///
    /// To be called once, early in `main`, with numbers that nobody else uses: they are owned from then on.
    pub fn from_inherited(numbers: &[RawFd]) -> Result<Handovers, FsError> {
        match numbers {
            [fuse, table, clones_fuse, clones_table] => Ok(Handovers {
                images: Handover::from_inherited(*fuse, *table)?,
                clones: Handover::from_inherited(*clones_fuse, *clones_table)?,
            }),
            _ => Err(FsError::Handover(format!("there are {} of them, and should be four", numbers.len()))),
        }
    }

    /// Takes what systemd kept, from the value of `LISTEN_FDNAMES`; `None` for a mount that it did not keep.
    ///
    /// The caller has seen that `LISTEN_PID` is this process.
    pub fn from_listen_names(names: &str) -> Result<[Option<Handover>; 2], FsError> {
        /// SD_LISTEN_FDS_START of sd_listen_fds(3).
        const FIRST: RawFd = 3;
        let at = |name| names.split(':').position(|found| found == name).and_then(|at| RawFd::try_from(at).ok());
        let [images, clones] = STORE_NAMES.map(|[fuse, table]| match (at(fuse), at(table)) {
            (Some(fuse), Some(table)) => Handover::from_inherited(FIRST + fuse, FIRST + table).map(Some),
            _ => Ok(None),
        });
        Ok([images?, clones?])
    }

    /// The names in systemd's store, of images and of clones.
    pub fn store_names() -> [[&'static str; 2]; 2] {
        STORE_NAMES
    }

    /// For a child's command line.
    pub(crate) fn numbers(&self) -> String {
        let of = |handover: &Handover| format!("{},{}", handover.fuse.as_raw_fd(), handover.table.as_raw_fd());
        format!("{},{}", of(&self.images), of(&self.clones))
    }

    /// Whether programs that this process starts get the descriptors.
    pub(crate) fn set_inherited(&self, inherited: bool) -> Result<(), FsError> {
        self.images.set_inherited(inherited)?;
        self.clones.set_inherited(inherited)
    }

    /// Whether something is mounted, or was being mounted.
    pub(crate) fn is_live(&self) -> Result<bool, FsError> {
        Ok(self.images.has_mount()? || self.clones.has_mount()?)
    }

    /// New descriptors in the place of those whose mount is lost; those of one that lives stay.
    pub fn renew(&mut self) -> Result<(), FsError> {
        for handover in [&mut self.images, &mut self.clones] {
            if handover.is_spent()? {
                *handover = Handover::create()?;
            }
        }
        Ok(())
    }
}

impl Handover {
    /// New descriptors, for a mount that is still to be made.
    pub fn create() -> Result<Handover, FsError> {
        let fuse = nix::fcntl::open("/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(
            FsError::system("open /dev/fuse", "icbd cache needs root and the kernel module: `modprobe fuse`"),
        )?;
        let table = Table::create().map_err(FsError::system("make the open table", "memfd_create must be allowed"))?;
        Ok(Handover { fuse, table })
    }

    /// Takes the descriptors with these numbers, which a keeper left open for its child.
    ///
    /// To be called once, early in `main`, with numbers that nobody else uses: they are owned from then on.
    pub fn from_inherited(fuse: RawFd, table: RawFd) -> Result<Handover, FsError> {
        check_fuse(fuse)?;
        check_open(table)?;
        // SAFETY: both numbers are open descriptors (just checked) and by this function's contract
        // nobody else in this process owns them.
        let (fuse, table) = unsafe { (OwnedFd::from_raw_fd(fuse), OwnedFd::from_raw_fd(table)) };
        let handover = Handover { fuse, table };
        handover.set_inherited(false)?;
        Table::map(&handover.table).map_err(|error| FsError::Handover(error.to_string()))?;
        Ok(handover)
    }

    /// The descriptors, for systemd's store.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.fuse.as_fd(), self.table.as_fd()]
    }

    /// Whether it has had a mount that is lost: nothing can be mounted with it.
    pub fn is_spent(&self) -> Result<bool, FsError> {
        Ok(matches!(self.stage()?, Stage::Mounting | Stage::Gone))
    }

    /// Whether something is mounted with it, or was being mounted.
    pub fn has_mount(&self) -> Result<bool, FsError> {
        Ok(matches!(self.stage()?, Stage::Mounting | Stage::Live))
    }

    fn stage(&self) -> Result<Stage, FsError> {
        Table::peek_stage(&self.table).map_err(FsError::system("read the open table", "this is a bug"))
    }

    /// Whether programs that this process starts get the descriptors.
    pub(crate) fn set_inherited(&self, inherited: bool) -> Result<(), FsError> {
        let flags = if inherited { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
        for fd in [&self.fuse, &self.table] {
            fcntl(fd, FcntlArg::F_SETFD(flags)).map_err(FsError::system("pass a descriptor on", "this is a bug"))?;
        }
        Ok(())
    }

    /// The same descriptors once more.
    pub fn try_clone(&self) -> Result<Handover, FsError> {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(FsError::system("copy a descriptor", "raise `ulimit -n`"));
        Ok(Handover { fuse: copy(&self.fuse)?, table: copy(&self.table)? })
    }
}

fn check_fuse(fd: RawFd) -> Result<(), FsError> {
    let stat = check_open(fd)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    let is_fuse = kind == SFlag::S_IFCHR && (major(stat.st_rdev), minor(stat.st_rdev)) == FUSE_DEVICE;
    is_fuse.then_some(()).ok_or_else(|| FsError::Handover(format!("descriptor {fd} is not /dev/fuse")))
}

fn check_open(fd: RawFd) -> Result<nix::sys::stat::FileStat, FsError> {
    if fd <= 2 {
        return Err(FsError::Handover(format!("descriptor {fd} is a standard stream")));
    }
    // SAFETY: the number is only looked at during this call; fstat fails with EBADF if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fstat(borrowed).map_err(|error| FsError::Handover(format!("descriptor {fd}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn descriptors_that_are_no_mount_are_refused() {
        let other = || tempfile::tempfile().unwrap().into_raw_fd();
        let message = Handover::from_inherited(other(), other()).unwrap_err().to_string();
        assert!(message.contains("not /dev/fuse"), "{message}");
        assert!(Handover::from_inherited(0, 1).unwrap_err().to_string().contains("standard stream"));
        assert!(Handover::from_inherited(1_000_000, 1_000_001).unwrap_err().to_string().contains("EBADF"));
        assert!(Handovers::from_listen_names("http:metrics").unwrap().iter().all(Option::is_none));
        assert!(Handovers::from_inherited(&[7, 8]).unwrap_err().to_string().contains("should be four"));
    }
}
