//! A disk as LIO opens it: the loop device that is the file, and the backstore that has it open.
//!
//! The backstore says which loop device before there is one, so that one is never left of which nobody knows. Once the backstore has
//! it open it is given back, to end with the backstore, whoever removes that.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::step::{Step, run, write};
use super::{entries, refused};
use crate::ServerError;

/// Where the kernel tells of block devices.
const DEVICES: &str = "/sys/block";
/// The first loop device that is tried: whoever looks for a free one begins at 0.
const FIRST: u32 = 20_000;
/// More than disks are offered.
const COUNT_MAX: u32 = 10_000;
const PROGRAM: &str = "losetup";
const PACKAGE: &str = "mount";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    pub(super) hba: PathBuf,
    pub(super) backstore: PathBuf,
    pub(super) disk: PathBuf,
    pub(super) is_read_only: bool,
}

impl Backing {
    /// From nothing to an open disk.
    pub(super) fn steps(&self) -> [Step; 4] {
        [Step::Choose, Step::Attach, Step::Open, Step::Tie].map(|step| step(self.clone()))
    }

    /// Whether nobody can write, as it is set up so far.
    pub(super) fn is_read_only_now(&self) -> bool {
        let Ok(info) = std::fs::read_to_string(self.backstore.join("info")) else { return self.is_read_only };
        match info.contains("UDEV PATH: ") {
            true => info.contains("  readonly: 1"),
            false => self.is_read_only,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        std::fs::read(self.backstore.join("enable")).is_ok_and(|enabled| enabled.trim_ascii() == b"1")
    }

    /// Whether the backstore names a loop device that is its own, or can become that.
    pub(super) fn is_chosen(&self) -> bool {
        self.is_open() || self.device().is_some_and(|device| !is_used(&device) || self.is_attached())
    }

    pub(super) fn is_attached(&self) -> bool {
        self.device().and_then(|device| file_of(&device)).is_some_and(|file| file == self.disk)
    }

    pub(super) fn is_tied(&self) -> bool {
        let clears = |device: String| std::fs::read(told(&device, "autoclear"));
        self.is_open() && self.device().is_some_and(|device| clears(device).is_ok_and(|is| is.trim_ascii() == b"1"))
    }

    /// Whether nothing of it would be left without the backstore.
    pub(super) fn is_free(&self) -> bool {
        !self.is_attached() || self.is_tied()
    }

    pub(super) fn choose(&self) -> Result<(), ServerError> {
        let mut taken = Vec::new();
        for backstore in entries(&self.hba)?.into_iter().filter(|backstore| *backstore != self.backstore) {
            taken.extend(device_of(&backstore));
        }
        let devices = (FIRST..FIRST + COUNT_MAX).map(|number| format!("loop{number}"));
        let free = devices.into_iter().find(|device| !taken.contains(device) && !is_used(device));
        let free = free.ok_or_else(|| {
            refused("one more disk".to_owned(), format!("there are {COUNT_MAX} loop devices of icbd's already"))
        })?;
        let read_only = u8::from(self.is_read_only);
        write(&self.backstore.join("control"), format!("udev_path=/dev/{free},readonly={read_only}").as_bytes())
    }

    pub(super) fn attach(&self) -> Result<(), ServerError> {
        let device = self.node()?;
        let mut args: Vec<&OsStr> = Vec::new();
        if self.is_read_only {
            args.push("--read-only".as_ref());
        }
        args.extend([device.as_os_str(), self.disk.as_os_str()]);
        run(PROGRAM, PACKAGE, &args, &format!("the disk {}", self.disk.display()))
    }

    pub(super) fn open(&self) -> Result<(), ServerError> {
        write(&self.backstore.join("enable"), b"1")
    }

    /// Has the loop device end as soon as nobody has it open.
    pub(super) fn detach(&self) -> Result<(), ServerError> {
        let device = self.node()?;
        run(
            PROGRAM,
            PACKAGE,
            &["--detach".as_ref(), device.as_os_str()],
            &format!("to give back the disk {}", self.disk.display()),
        )
    }

    fn device(&self) -> Option<String> {
        device_of(&self.backstore)
    }

    fn node(&self) -> Result<PathBuf, ServerError> {
        let none = || refused(format!("the disk {}", self.disk.display()), "somebody took its loop device".to_owned());
        self.device().map(|device| Path::new("/dev").join(device)).ok_or_else(none)
    }
}

/// The loop device that a backstore names.
fn device_of(backstore: &Path) -> Option<String> {
    let info = std::fs::read_to_string(backstore.join("info")).ok()?;
    device_in(&info).map(str::to_owned)
}

fn device_in(info: &str) -> Option<&str> {
    let (_, after) = info.split_once("UDEV PATH: /dev/")?;
    let device = after.split_whitespace().next()?;
    device.strip_prefix("loop")?.parse::<u32>().ok().map(|_| device)
}

/// What the kernel tells of a loop device.
fn told(device: &str, what: &str) -> PathBuf {
    Path::new(DEVICES).join(device).join("loop").join(what)
}

/// Whether a loop device is a file now.
fn is_used(device: &str) -> bool {
    file_of(device).is_some()
}

fn file_of(device: &str) -> Option<PathBuf> {
    let file = std::fs::read(told(device, "backing_file")).ok()?;
    let file = file.strip_suffix(b"\n").unwrap_or(&file);
    Some(Path::new(OsStr::from_bytes(file)).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_of_a_backstore_is_known() {
        let open = "Status: ACTIVATED  Max Queue Depth: 128  SectorSize: 512  HwMaxSectors: 2560\n        \
                    iBlock device: loop20003  UDEV PATH: /dev/loop20003  readonly: 1\n        Major: 7 Minor: 20003  CLAIMED: IBLOCK\n";
        let made = "Status: DEACTIVATED  Max Queue Depth: 0  SectorSize: 0  HwMaxSectors: 0\n          readonly: 0\n";
        let others = "  UDEV PATH: /dev/sda  readonly: 0\n";
        assert_eq!([open, made, others].map(device_in), [Some("loop20003"), None, None]);
    }
}
