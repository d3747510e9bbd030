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
}

/// A mounted file system. The lab unmounts it; its loop device detaches itself with the mount.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
}

impl Volume {
    pub fn new(lab: &Lab, file_system: FileSystem, bytes: u64) -> Result<Volume> {
        let image = lab.unique("volume.raw");
        std::fs::File::create(&image)?.set_len(bytes)?;
        let mkfs: &[&str] = match file_system {
            FileSystem::Ext4 => &["mkfs.ext4", "-q", "-m", "0"],
            FileSystem::Xfs => &["mkfs.xfs", "-q", "-m", "reflink=1"],
            FileSystem::Btrfs => &["mkfs.btrfs", "-q"],
        };
        let mut command = Command::new(mkfs[0]);
        command.args(&mkfs[1..]).arg(&image);
        run_bounded(command, TOOL_DEADLINE)?.ok()?;
        let path = lab.unique("volume");
        std::fs::create_dir(&path)?;
        let mut command = Command::new("mount");
        command.args(["-o", "loop,noatime"]).arg(&image).arg(&path);
        run_bounded(command, TOOL_DEADLINE)?.ok()?;
        Ok(Volume { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
