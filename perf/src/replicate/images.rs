//! What is sent: the same three disks as versions of a repository and as btrfs snapshots.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use icbd_tests::{FileSystem, Lab, Master, Volume, debian_image, run_bounded, upgraded_image};

use super::STEPS;
use crate::process::run;

pub(super) const IMAGE: &str = "lab";
const VOLUME_BYTES: u64 = 6 << 30;
/// What differs is found, and written, in pieces of the file systems inside.
const PIECE: usize = 4096;
const BUFFER: usize = 1 << 20;
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// The master's side, made once.
#[derive(Debug)]
pub(super) struct Sender {
    /// The three disks.
    disks: [PathBuf; STEPS.len()],
    hashes: [blake3::Hash; STEPS.len()],
    /// One on each of these file systems.
    repositories: [PathBuf; 2],
    plain: Volume,
    packed: Volume,
}

impl Sender {
    pub(super) fn new(lab: &Lab) -> Result<Sender> {
        let debian = debian_image()?;
        let disks = [debian.join("v1/disk.raw"), debian.join("v2/disk.raw"), upgraded_image()?.join("disk.raw")];
        eprintln!("making the versions that are sent");
        let plain = Volume::new(lab, FileSystem::Btrfs, VOLUME_BYTES)?;
        let packed = Volume::with_options(lab, FileSystem::Btrfs, VOLUME_BYTES, "noatime,compress-force=zstd")?;
        let repositories = [&plain, &packed].map(|volume| volume.path().join("repository"));
        for (volume, repository) in [&plain, &packed].into_iter().zip(&repositories) {
            snapshots(volume.path(), &disks)?;
            for at in 0..disks.len() {
                Master::publish_offline(repository, IMAGE, &volume.path().join(format!("v{}", at + 1)), &[])?;
            }
        }
        let hashes = disks.iter().map(|disk| hash(disk)).collect::<Result<Vec<_>>>()?;
        let hashes = hashes.try_into().ok().context("a hash for each disk")?;
        Ok(Sender { disks, hashes, repositories, plain, packed })
    }

    /// The snapshot of a version; `as_stored`: on a file system that packs.
    pub(super) fn snapshot(&self, step: usize, as_stored: bool) -> PathBuf {
        let volume = if as_stored { &self.packed } else { &self.plain };
        volume.path().join(format!("v{}", step + 1))
    }

    /// A repository of the versions; `as_stored`: on a file system that packs.
    pub(super) fn repository(&self, as_stored: bool) -> &Path {
        &self.repositories[usize::from(as_stored)]
    }

    pub(super) fn folder(&self) -> &Path {
        self.plain.path()
    }

    /// Has what is sent, and what it is compared with, in the page cache.
    pub(super) fn warm(&self, step: usize) -> Result<()> {
        for step in step.saturating_sub(1)..=step {
            hash(&self.snapshot(step, false).join("disk.raw"))?;
        }
        Ok(())
    }

    /// Whether `disk` is what was sent.
    pub(super) fn check(&self, step: usize, disk: &Path) -> Result<()> {
        ensure!(hash(disk)? == self.hashes[step], "{} came otherwise than it was sent", self.disks[step].display());
        Ok(())
    }
}

/// Snapshots `v1`, `v2`, `v3` of one file that is changed in place.
fn snapshots(volume: &Path, disks: &[PathBuf]) -> Result<()> {
    let work = volume.join("work");
    btrfs(&["subvolume", "create"], &[&work])?;
    let file = File::options().create_new(true).read(true).write(true).open(work.join("disk.raw"))?;
    for (at, disk) in disks.iter().enumerate() {
        change(&file, disk)?;
        file.sync_all()?;
        btrfs(&["subvolume", "snapshot", "-r"], &[&work, &volume.join(format!("v{}", at + 1))])?;
    }
    btrfs(&["subvolume", "delete", "-c"], &[&work])
}

/// Makes `file` the same as `disk`: what differs is written, and what became zero a hole.
fn change(file: &File, disk: &Path) -> Result<()> {
    let disk = File::open(disk)?;
    let bytes = disk.metadata()?.len();
    file.set_len(bytes)?;
    let (mut new, mut old) = (vec![0; BUFFER], vec![0; BUFFER]);
    for at in (0..bytes).step_by(BUFFER) {
        let count = BUFFER.min((bytes - at) as usize);
        disk.read_exact_at(&mut new[..count], at)?;
        file.read_exact_at(&mut old[..count], at)?;
        for piece in (0..count).step_by(PIECE) {
            let range = piece..count.min(piece + PIECE);
            let (new, offset) = (&new[range.clone()], at + piece as u64);
            if new == &old[range] {
                continue;
            }
            if new.iter().all(|byte| *byte == 0) {
                let flags =
                    nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
                nix::fcntl::fallocate(file, flags, offset as i64, new.len() as i64)?;
            } else {
                file.write_all_at(new, offset)?;
            }
        }
    }
    Ok(())
}

pub(super) fn btrfs(words: &[&str], paths: &[&Path]) -> Result<()> {
    let mut command = Command::new("btrfs");
    command.arg("-q").args(words).args(paths);
    run(command)
}

/// Makes all of a file system durable.
pub(super) fn sync(path: &Path) -> Result<()> {
    let mut sync = Command::new("sync");
    sync.arg("--file-system").arg(path);
    run_bounded(sync, DEADLINE)?.ok().map(drop)
}

fn hash(disk: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(disk).with_context(|| format!("opening {}", disk.display()))?)?;
    Ok(hasher.finalize())
}
