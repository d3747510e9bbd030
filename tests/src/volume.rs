//! A small file system of its own on a loop device, for a store that has to live on one kind or be full.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::{Lab, run_bounded};

const TOOL_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
    /// In memory.
    Tmpfs,
}

/// A mounted file system. The lab unmounts it; its loop device detaches itself with the mount.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
}

impl Volume {
    pub fn new(lab: &Lab, file_system: FileSystem, bytes: u64) -> Result<Volume> {
        Volume::with_options(lab, file_system, bytes, "noatime")
    }

    /// Mounted with these options, `a,b=c`.
    pub fn with_options(lab: &Lab, file_system: FileSystem, bytes: u64, options: &str) -> Result<Volume> {
        let mkfs: &[&str] = match file_system {
            FileSystem::Ext4 => &["mkfs.ext4", "-q", "-m", "0"],
            FileSystem::Xfs => &["mkfs.xfs", "-q", "-m", "reflink=1"],
            FileSystem::Btrfs => &["mkfs.btrfs", "-q"],
            FileSystem::Tmpfs => {
                return Volume::mount(
                    lab,
                    &["-t", "tmpfs", "-o", &format!("size={bytes},{options}")],
                    "tmpfs".as_ref(),
                );
            }
        };
        let image = lab.unique("volume.raw");
        std::fs::File::create(&image)?.set_len(bytes)?;
        let mut command = Command::new(mkfs[0]);
        command.args(&mkfs[1..]).arg(&image);
        run_bounded(command, TOOL_DEADLINE)?.ok()?;
        Volume::mount(lab, &["-o", &format!("loop,{options}")], &image)
    }

    fn mount(lab: &Lab, options: &[&str], what: &Path) -> Result<Volume> {
        let path = lab.unique("volume");
        std::fs::create_dir(&path)?;
        let mut command = Command::new("mount");
        command.args(options).arg(what).arg(&path);
        run_bounded(command, TOOL_DEADLINE)?.ok()?;
        Ok(Volume { path })
    }

    /// Changes how it is mounted: `ro`, `rw`.
    pub fn remount(&self, options: &str) -> Result<()> {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,{options}")]).arg(&self.path);
        run_bounded(command, TOOL_DEADLINE)?.ok().map(drop)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
