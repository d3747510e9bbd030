//! A new version taken from one that is here in part: what was held of the old one is not fetched again, and all else is.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, FileSystem, Lab, MIB, Master, Proxy, Random, Volume, block_of, fill};

const BLOCK_BYTES: u64 = 64 * 1024;
/// Of more than one page of hashes (128 MiB): the second page of the old version is never asked for.
const FILE_BYTES: u64 = 140 * MIB;
/// Only so much of the old version is read from.
const READ_BYTES: u64 = 120 * MIB;
const READS: u64 = 150;

#[test]
fn a_part_of_the_old_version_saves_that_part_on_ext4() -> Result<()> {
    upgrade_on(FileSystem::Ext4)
}

#[test]
fn a_part_of_the_old_version_saves_that_part_on_btrfs() -> Result<()> {
    upgrade_on(FileSystem::Btrfs)
}

/// Exactly those blocks of version 2 are asked for whose content is neither zero nor held of version 1, each once.
fn upgrade_on(file_system: FileSystem) -> Result<()> {
    let lab = Lab::new()?;
    let volume = Volume::new(&lab, file_system, 700 * MIB)?;
    let (one, two, repo) = (lab.folder("one")?, lab.folder("two")?, lab.path("repo"));
    fill(&one.join("disk"), 1, FILE_BYTES)?;
    fs::copy(one.join("disk"), two.join("disk"))?;
    let changed = File::options().write(true).open(two.join("disk"))?;
    for block in (0..FILE_BYTES / BLOCK_BYTES).step_by(7) {
        // A third of what changes becomes zero.
        let bytes = if block % 3 == 0 { vec![0; BLOCK_BYTES as usize] } else { block_of(99, block) };
        changed.write_all_at(&bytes, block * BLOCK_BYTES)?;
    }
    Master::publish_offline(&repo, "lab", &one, &[])?;
    Master::publish_offline(&repo, "lab", &two, &["--deploy"])?;
    let master = Master::start(&lab, &repo)?;
    let proxy = Proxy::start(master.address())?;
    let settings = CacheSettings { store: Some(volume.path().join("store")), ..Default::default() };
    let mut cache = CacheServer::start_with(&lab, &[&proxy.url()], &settings)?;

    let file = File::open(cache.path("lab/1/disk"))?;
    let mut random = Random::new(5);
    for _ in 0..READS {
        file.read_exact_at(&mut [0; 1000], random.below(READ_BYTES - 1000))?;
    }
    drop(file);
    cache.wait_idle()?;
    let asked = proxy.requests();
    let held = blocks_asked(&asked)?;
    let (held, sent_before) = (held.iter().copied().collect::<BTreeSet<u64>>(), master.blocks_sent()?);
    ensure!(held.len() as u64 >= READS / 2, "only {} blocks are held of version 1", held.len());

    // What is durable is taken over, also by another daemon.
    cache.daemon.stop()?;
    cache.start_again(&lab)?;
    cache.prefetch_all("lab@2")?;
    let fetched = blocks_asked(&proxy.requests().split_off(asked.len()))?;
    let expected = to_fetch(&one.join("disk"), &two.join("disk"), &held)?;
    println!("{} blocks held of version 1, {} fetched for version 2", held.len(), fetched.len());
    ensure!(fetched == expected, "fetched {} blocks, expected {}", fetched.len(), expected.len());
    ensure!(master.blocks_sent()? - sent_before == expected.len() as u64, "the master counts otherwise");
    ensure!(fs::read(cache.path("lab/2/disk"))? == fs::read(two.join("disk"))?, "wrong bytes");
    cache.command(&["image", "verify", "lab@2"])?.ok()?;
    cache.daemon.stop()
}

/// The blocks of all requests for blocks, in order; twice what was asked for twice.
fn blocks_asked(paths: &[String]) -> Result<Vec<u64>> {
    let mut blocks = Vec::new();
    for path in paths.iter().filter(|path| path.contains("/blocks/")) {
        let run = path.rsplit('/').next().and_then(|last| last.split('.').next()).and_then(|run| run.split_once('-'));
        let (first, last) = run.with_context(|| format!("no run in {path}"))?;
        blocks.extend(first.parse::<u64>()?..=last.parse()?);
    }
    blocks.sort_unstable();
    Ok(blocks)
}

/// The blocks of `new` that are neither zero nor, at the same place of `old`, the same and held.
fn to_fetch(old: &std::path::Path, new: &std::path::Path, held: &BTreeSet<u64>) -> Result<Vec<u64>> {
    let (old, new) = (fs::read(old)?, fs::read(new)?);
    let pairs = (0..).zip(old.chunks(BLOCK_BYTES as usize).zip(new.chunks(BLOCK_BYTES as usize)));
    let is_wanted = |(block, (old, new)): &(u64, (&[u8], &[u8]))| {
        new.iter().any(|byte| *byte != 0) && (old != new || !held.contains(block))
    };
    Ok(pairs.filter(is_wanted).map(|(block, _)| block).collect())
}
