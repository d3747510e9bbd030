//! SIGKILL at random moments while a store is being filled.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, FileSystem, Lab, MIB, Master, Random, Volume, fill, pattern};

const ROUNDS: u64 = 200;
const FILE_BYTES: u64 = 160 * MIB;
const READERS: u64 = 4;
/// A version is replaced by the next when it has seen so many rounds, so that there is always something to fill.
const ROUNDS_PER_VERSION: u64 = 50;

/// Killed with SIGKILL at random moments while filling, 200 times: never a wrong byte after the restart, and blocks
/// that were synced are still there.
#[test]
fn kills_while_filling_lose_nothing_that_was_synced() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    for version in 1..=ROUNDS / ROUNDS_PER_VERSION {
        // Every version differs from the one before in every other MiB.
        fill(&tree.join("disk"), 1, FILE_BYTES)?;
        let disk = File::options().write(true).open(tree.join("disk"))?;
        for mib in (0..FILE_BYTES / MIB).step_by(2) {
            disk.write_all_at(&pattern(version, mib * MIB, MIB as usize), mib * MIB)?;
        }
        Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    }
    let master = Master::start(&lab, &repo)?;
    let volume = Volume::new(&lab, FileSystem::Btrfs, 2048 * MIB)?;
    let settings = CacheSettings { store: Some(volume.path().join("store")), ..Default::default() };
    let mut cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
    let mut random = Random::new(7);
    for round in 0..ROUNDS {
        let version = 1 + round / ROUNDS_PER_VERSION;
        let durable = kill_while_filling(&mut cache, version, &mut random)?;
        cache.start_again(&lab).with_context(|| format!("round {round}"))?;
        cache.daemon.allow_log("a killed daemon left behind");
        // Opening it makes the daemon look at what it has.
        drop(open(&cache, version)?);
        // Losing a bit that is on its way to the disk is allowed; losing one that the daemon called durable is not.
        let residency = cache.residency(&format!("lab@{version}"))?;
        ensure!(
            residency.resident_blocks >= durable,
            "round {round}: {durable} blocks were durable, {} are here",
            residency.resident_blocks
        );
        check_some(&cache, version, &mut random).with_context(|| format!("round {round}"))?;
    }
    for version in 1..=ROUNDS / ROUNDS_PER_VERSION {
        cache.command(&["image", "verify", &format!("lab@{version}")])?.ok()?;
        let mut bytes = vec![0; MIB as usize];
        let file = open(&cache, version)?;
        for mib in 0..FILE_BYTES / MIB {
            file.read_exact_at(&mut bytes, mib * MIB)?;
            ensure!(bytes == expected(version, mib * MIB, bytes.len()), "MiB {mib} of version {version}");
        }
    }
    cache.daemon.stop()
}

/// Reads at random places for a random time, then kills the daemon. Returns how many blocks it had called durable.
fn kill_while_filling(cache: &mut CacheServer, version: u64, random: &mut Random) -> Result<u64> {
    let file = open(cache, version)?;
    let life = Duration::from_millis(random.below(60));
    let (sender, receiver) = mpsc::channel();
    let durable = std::thread::scope(|scope| -> Result<u64> {
        for _ in 0..READERS {
            let (file, mut random, sender) = (&file, Random::new(random.word()), sender.clone());
            scope.spawn(move || {
                let mut bytes = vec![0; 300_000];
                // The kill ends the reads, and what is read meanwhile is right.
                while let Ok(count) = file.read_at(&mut bytes, random.below(FILE_BYTES)) {
                    let _ = sender.send(count);
                }
            });
        }
        // Alive for a moment after the first read, whenever that comes.
        receiver.recv_timeout(Duration::from_secs(20)).context("the first read")?;
        let until = std::time::Instant::now() + life;
        while receiver.recv_timeout(until.saturating_duration_since(std::time::Instant::now())).is_ok() {}
        let durable = cache.residency(&format!("lab@{version}"))?.durable_blocks;
        cache.daemon.kill_all()?;
        Ok(durable)
    })?;
    Ok(durable)
}

/// Compares a few random pieces.
fn check_some(cache: &CacheServer, version: u64, random: &mut Random) -> Result<()> {
    let file = open(cache, version)?;
    for _ in 0..8 {
        let offset = random.below(FILE_BYTES - 100_000);
        let mut bytes = vec![0; 100_000];
        file.read_exact_at(&mut bytes, offset)?;
        ensure!(bytes == expected(version, offset, bytes.len()), "wrong bytes at {offset} of version {version}");
    }
    Ok(())
}

fn open(cache: &CacheServer, version: u64) -> Result<File> {
    File::open(cache.path(format!("lab/{version}/disk"))).with_context(|| format!("opening version {version}"))
}

/// What version `version` has at `offset`: even MiBs are its own, odd ones are version 1's.
fn expected(version: u64, offset: u64, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count);
    let end = offset + count as u64;
    let mut at = offset;
    while at < end {
        let next = ((at / MIB + 1) * MIB).min(end);
        let seed = if (at / MIB).is_multiple_of(2) { version } else { 1 };
        bytes.extend(pattern(seed, at, (next - at) as usize));
        at = next;
    }
    bytes
}
