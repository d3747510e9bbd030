//! Random operations by many threads on the mount and on a plain copy: every answer is the same.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, Lab, MIB, Master, Random, files_below, fill, read_mapped, sample_tree};

const THREADS: u64 = 8;
const OPERATIONS: u64 = 400;

/// One operation on a path, and what it found.
#[derive(Debug, Clone, Copy)]
enum Op {
    Open,
    Read { offset: u64, count: usize },
    Map { offset: u64, count: usize },
    Stat,
    List,
    SeekData { offset: u64 },
    Attribute,
}

impl Op {
    fn random(random: &mut Random, bytes: u64) -> Op {
        let offset = random.below(bytes.max(1));
        let count = match random.below(3) {
            0 => 1 + random.below(100),
            1 => 1 + random.below(9000),
            _ => 1 + random.below(2 * MIB),
        };
        match random.below(16) {
            0 | 1 => Op::Open,
            2..=8 => Op::Read { offset: random.below(bytes + 100), count: count as usize },
            9..=11 if offset < bytes => Op::Map { offset, count: count.min(bytes - offset) as usize },
            12 => Op::SeekData { offset },
            13 => Op::List,
            14 => Op::Attribute,
            _ => Op::Stat,
        }
    }

    /// What the operation finds, as bytes that compare.
    fn run(self, file: &File, path: &Path) -> Result<Vec<u8>> {
        let found = match self {
            Op::Open => Vec::from_iter(File::open(path)?.metadata()?.len().to_le_bytes()),
            Op::Read { offset, count } => read_all(file, offset, count)?,
            Op::Map { offset, count } => read_mapped(file, offset, count)?,
            Op::Stat => {
                let of = fs::symlink_metadata(path)?;
                format!("{:o} {} {} {}.{}", of.mode(), of.uid(), of.len(), of.mtime(), of.mtime_nsec()).into_bytes()
            }
            Op::List => {
                let folder = path.parent().context("files lie in folders")?;
                let mut names: Vec<_> = fs::read_dir(folder)?
                    .map(|entry| entry.map(|entry| entry.file_name()))
                    .collect::<Result<_, _>>()?;
                names.sort();
                format!("{names:?}").into_bytes()
            }
            // Where data begins may differ, for holes are a matter of the file system; what is skipped is zeros.
            Op::SeekData { offset } => {
                let data = nix::unistd::lseek(file, offset.cast_signed(), nix::unistd::Whence::SeekData);
                let data = data.map_or(file.metadata()?.len(), i64::cast_unsigned);
                let skipped = read_all(file, offset, (data.saturating_sub(offset)).min(MIB) as usize)?;
                vec![u8::from(skipped.iter().all(|byte| *byte == 0))]
            }
            Op::Attribute => xattr::get(path, "user.colour")?.unwrap_or_default(),
        };
        Ok(found)
    }
}

fn read_all(file: &File, offset: u64, count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    // A read is short only at the end of a file, so one call is enough.
    let read = file.read_at(&mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn mount_is_like_a_plain_copy(settings: &CacheSettings) -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.path("tree"), lab.path("repo"));
    sample_tree(&tree)?;
    fill(&tree.join("large"), 7, 40 * MIB + 4097)?;
    fill(&tree.join("page"), 8, 4096)?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    let master = Master::start(&lab, &repo)?;
    let mut cache = CacheServer::start_with(&lab, &[&master.url()], settings)?;
    let files = files_below(&tree)?;
    let mounted = cache.path("lab/1");
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (tree, mounted, files) = (&tree, &mounted, &files);
                scope.spawn(move || compare_randomly(tree, mounted, files, thread + 1))
            })
            .collect();
        // Files become complete, and are read another way, while the threads are at it.
        cache.prefetch_all("lab@1")?;
        threads.into_iter().try_for_each(|thread| thread.join().expect("threads return their failures"))
    })?;
    ensure!(cache.residency("lab@1")?.is_complete, "not complete after prefetching all");
    compare_randomly(&tree, &mounted, &files, 99)?;
    cache.daemon.stop()
}

fn compare_randomly(tree: &Path, mounted: &Path, files: &[PathBuf], seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut open: Vec<Option<(File, File)>> = files.iter().map(|_| None).collect();
    for step in 0..OPERATIONS {
        let index = random.below(files.len() as u64) as usize;
        let (plain, path) = (tree.join(&files[index]), mounted.join(&files[index]));
        // Handles live for a while, so that old and new ones are open side by side.
        if open[index].is_none() || random.below(10) == 0 {
            open[index] = Some((File::open(&plain)?, File::open(&path)?));
        }
        let (plain_file, file) = open[index].as_ref().expect("it was just opened");
        let op = Op::random(&mut random, plain_file.metadata()?.len());
        let what = || format!("seed {seed} step {step}: {op:?} of {}", path.display());
        let expected = op.run(plain_file, &plain)?;
        let found = op.run(file, &path).with_context(what)?;
        ensure!(expected == found, "{} differs ({} and {} bytes)", what(), expected.len(), found.len());
    }
    Ok(())
}

/// Reads, mappings, opens, lists and looks by many threads find in the mount what a plain copy has, while files go
/// from absent to complete.
#[test]
fn the_mount_is_like_a_plain_copy() -> Result<()> {
    mount_is_like_a_plain_copy(&CacheSettings::default())
}

/// The same where complete files are read through the daemon, as on kernels without passthrough.
#[test]
fn the_mount_is_like_a_plain_copy_without_passthrough() -> Result<()> {
    mount_is_like_a_plain_copy(&CacheSettings { no_passthrough: true, ..Default::default() })
}
