//! The mount outlives the daemon.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, Lab, MIB, Master, Random, fill, pattern};

const READERS: u64 = 16;
const FILE_BYTES: u64 = 48 * MIB;

/// Kills the daemon `kills` times under readers.
fn readers_survive_kills(kills: u64, settings: &CacheSettings) -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    for (name, seed) in [("a", 1), ("b", 2)] {
        fill(&tree.join(name), seed, FILE_BYTES)?;
    }
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    let master = Master::start(&lab, &repo)?;
    let mut cache = CacheServer::start_with(&lab, &[&master.url()], settings)?;
    // One file starts complete, the other is filled by the readers.
    std::fs::read(cache.path("lab/1/a"))?;

    // Kills that follow each other fast look like a daemon that cannot start.
    cache.daemon.allow_log("the daemon does not stay up");
    let is_over = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    let mount = cache.mount().to_owned();
    std::thread::scope(|scope| -> Result<()> {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let (mount, is_over, reads) = (&mount, &is_over, &reads);
                scope.spawn(move || -> Result<()> {
                    let mut random = Random::new(reader + 1);
                    let (name, seed) = if reader % 2 == 0 { ("lab/1/a", 1) } else { ("lab/current/b", 2) };
                    let path = mount.join(name);
                    let kept = File::open(&path)?;
                    while !is_over.load(Ordering::Relaxed) {
                        let fresh = (random.below(4) == 0).then(|| File::open(&path)).transpose().context("opening")?;
                        let file = fresh.as_ref().unwrap_or(&kept);
                        let offset = random.below(FILE_BYTES);
                        let count = (1 + random.below(200_000)).min(FILE_BYTES - offset) as usize;
                        let mut bytes = vec![0; count];
                        file.read_exact_at(&mut bytes, offset).context("reading")?;
                        ensure!(bytes == pattern(seed, offset, count), "wrong bytes at {offset} of {name}");
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let killed = (0..kills).try_for_each(|_| -> Result<()> {
            let seen = reads.load(Ordering::Relaxed);
            // The readers have to get somewhere between two kills.
            icbd_tests::wait_for("reads between kills", || {
                ensure!(!readers.iter().any(|reader| reader.is_finished()), "a reader ended early");
                Ok((reads.load(Ordering::Relaxed) >= seen + 2 * READERS).then_some(()))
            })?;
            cache.kill_worker()
        });
        is_over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("readers return their failures")?;
        }
        killed
    })?;
    cache.daemon.stop()
}

/// The daemon is killed and restarted 20 times under 16 readers: no reader sees an error or a wrong byte, only a pause.
#[test]
fn readers_survive_kills_of_the_daemon() -> Result<()> {
    readers_survive_kills(20, &CacheSettings::default())
}

/// The same where complete files are read through the daemon.
#[test]
fn readers_survive_kills_of_the_daemon_without_passthrough() -> Result<()> {
    readers_survive_kills(6, &CacheSettings { no_passthrough: true, ..Default::default() })
}
