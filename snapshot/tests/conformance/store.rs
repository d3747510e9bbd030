//! A store on a file system of its own, gone with the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use icbd_snapshot::{Kind, Tree, Trees, Writable};
use icbd_tests::{FileSystem, Lab, MIB, Random, Volume, run_bounded};

/// What a store stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ground {
    Btrfs,
    /// With everything compressed.
    BtrfsPacked,
    ReflinkXfs,
    ReflinkBtrfs,
    PlainExt4,
    PlainTmpfs,
}

impl Ground {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Ground::Btrfs | Ground::BtrfsPacked => Kind::Btrfs,
            Ground::ReflinkXfs | Ground::ReflinkBtrfs => Kind::Reflink,
            Ground::PlainExt4 | Ground::PlainTmpfs => Kind::Plain,
        }
    }

    /// Whether trees share blocks.
    pub(crate) fn shares(self) -> bool {
        self.kind() != Kind::Plain
    }

    fn volume(self, lab: &Lab) -> Result<Volume> {
        // The least that xfs takes.
        let bytes = if self == Ground::ReflinkXfs { 320 * MIB } else { 256 * MIB };
        let (file_system, options) = match self {
            Ground::Btrfs | Ground::ReflinkBtrfs => (FileSystem::Btrfs, "noatime"),
            Ground::BtrfsPacked => (FileSystem::Btrfs, "noatime,compress-force=zstd"),
            Ground::ReflinkXfs => (FileSystem::Xfs, "noatime"),
            Ground::PlainExt4 => (FileSystem::Ext4, "noatime"),
            Ground::PlainTmpfs => (FileSystem::Tmpfs, "noatime"),
        };
        Volume::with_options(lab, file_system, bytes, options)
    }
}

// In this order: what is open, the mount, the folder.
pub(crate) struct Store {
    pub(crate) trees: Trees,
    pub(crate) ground: Ground,
    pub(crate) volume: Volume,
    pub(crate) lab: Lab,
}

impl Store {
    pub(crate) fn new(ground: Ground) -> Result<Store> {
        let lab = Lab::new()?;
        let volume = ground.volume(&lab)?;
        let path = volume.path().join("store");
        std::fs::create_dir(&path)?;
        Ok(Store { trees: Trees::open(&path, ground.kind())?, ground, volume, lab })
    }

    /// The same store as a new process opens it.
    pub(crate) fn again(&self) -> Result<Trees> {
        Ok(Trees::open(&self.trees.path(), self.ground.kind())?)
    }

    pub(crate) fn path(&self, at: &str) -> PathBuf {
        self.trees.path().join(at)
    }

    /// A writable tree with one file in it.
    pub(crate) fn tree(&self, at: &str, bytes: &[u8]) -> Result<Writable> {
        let tree = self.trees.create(Path::new(at))?;
        std::fs::write(tree.path().join("disk"), bytes)?;
        Ok(tree)
    }

    /// What the file in a tree holds.
    pub(crate) fn bytes(&self, at: &str) -> Result<Vec<u8>> {
        Ok(std::fs::read(self.path(at).join("disk"))?)
    }

    /// The places of all trees.
    pub(crate) fn places(&self) -> Result<Vec<String>> {
        let places = self.again()?.list(Path::new(""))?;
        Ok(places.into_iter().map(|found| found.at.display().to_string()).collect())
    }

    /// How many things are half made.
    pub(crate) fn half_made(&self) -> Result<usize> {
        Ok(std::fs::read_dir(self.path("making"))?.count())
    }
}

/// Bytes that cannot be packed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..bytes.div_ceil(8)).flat_map(|_| random.word().to_ne_bytes()).take(bytes).collect()
}

/// Runs a program that must succeed; what it printed.
pub(crate) fn run(program: &str, args: &[&str], path: &Path) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).arg(path);
    run_bounded(command, Duration::from_secs(60))?.ok()
}

/// Fails unless the error has each of `words` in it.
pub(crate) fn says<T>(result: Result<T, icbd_snapshot::SnapshotError>, words: &[&str]) -> Result<()> {
    let error = match result {
        Ok(_) => anyhow::bail!("it succeeded, and should say {words:?}"),
        Err(error) => error.to_string(),
    };
    for word in words {
        anyhow::ensure!(error.contains(word), "the message lacks {word:?}: {error}");
    }
    Ok(())
}
