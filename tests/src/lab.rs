//! The temporary folder of one scenario, and the promise that nothing mounted in it outlives the scenario.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

/// A scenario's folder, gone with the last that lives in it: every daemon keeps a `Lab` of its own.
#[derive(Debug, Clone)]
pub struct Lab(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    dir: TempDir,
    serial: AtomicU32,
}

impl Lab {
    /// A folder in `TMPDIR`: its path has to be short, for it holds Unix sockets.
    pub fn new() -> Result<Lab> {
        let dir = tempfile::Builder::new().prefix("icbd-lab.").tempdir().context("making the lab's folder")?;
        Ok(Lab(Arc::new(Folder { dir, serial: AtomicU32::new(0) })))
    }

    pub fn dir(&self) -> &Path {
        self.0.dir.path()
    }

    /// A path in the lab; nothing is made.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir().join(name)
    }

    /// A new folder in the lab.
    pub fn folder(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// A path that no other call returns.
    pub fn unique(&self, stem: &str) -> PathBuf {
        self.path(format!("{stem}.{}", self.0.serial.fetch_add(1, Ordering::Relaxed)))
    }

    /// Where mounts of this lab are now, the newest first.
    pub fn mounts(&self) -> Result<Vec<PathBuf>> {
        self.0.mounts()
    }
}

impl Folder {
    fn mounts(&self) -> Result<Vec<PathBuf>> {
        let table = std::fs::read("/proc/self/mountinfo").context("reading the mount table")?;
        let mut mounts: Vec<PathBuf> = table
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
            .map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path)))
            .filter(|path| path.starts_with(self.dir.path()))
            .collect();
        mounts.reverse();
        Ok(mounts)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for mount in self.mounts().unwrap_or_default() {
            // Detached, because a scenario that failed may still hold files open.
            if let Err(error) = umount2(&mount, MntFlags::MNT_DETACH) {
                eprintln!("unmounting {}: {error}", mount.display());
            }
        }
    }
}
