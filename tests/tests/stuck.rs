//! Reads that wait for a master that does not answer.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, Fault, Lab, MIB, Master, Proxy, block_of, fill, pattern};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

const BLOCK_BYTES: u64 = 64 * 1024;
const STUCK: u64 = 200;
/// What must not wait takes far less than this even on a busy machine, and what waits takes for ever.
const AT_ONCE: Duration = Duration::from_secs(2);

/// 200 stuck misses in one image delay neither a resident read nor a lookup in another, and the status says at once
/// which file and block they wait for.
#[test]
fn stuck_misses_delay_nobody_else() -> Result<()> {
    let lab = Lab::new()?;
    let (slow, fast, repo) = (lab.folder("slow")?, lab.folder("fast")?, lab.path("repo"));
    fill(&slow.join("disk.raw"), 1, 256 * MIB)?;
    fill(&fast.join("file"), 2, MIB)?;
    fs::write(fast.join("other"), "x")?;
    Master::publish_offline(&repo, "slow", &slow, &[])?;
    Master::publish_offline(&repo, "fast", &fast, &[])?;
    let master = Master::start(&lab, &repo)?;
    let proxy = Proxy::start(master.address())?;
    let cache = CacheServer::start(&lab, &proxy.url())?;
    ensure!(fs::read(cache.path("fast/1/file"))? == pattern(2, 0, MIB as usize), "wrong bytes");
    let stuck = File::open(cache.path("slow/1/disk.raw"))?;
    stuck.read_exact_at(&mut [0; 1], 255 * MIB).context("the first page of hashes")?;
    stuck.read_exact_at(&mut [0; 1], 0)?;
    proxy.set(Fault::Stall, "/blocks/");
    cache.daemon.allow_log("waiting");

    let missing: Vec<u64> = (1..=STUCK).map(missing_block).collect();
    std::thread::scope(|scope| -> Result<()> {
        let readers: Vec<_> = missing
            .iter()
            .map(|block| {
                let stuck = &stuck;
                scope.spawn(move || -> Result<()> {
                    let offset = block * BLOCK_BYTES + 3;
                    let mut bytes = [0; 100];
                    stuck.read_exact_at(&mut bytes, offset)?;
                    ensure!(bytes[..] == pattern(1, offset, 100), "wrong bytes at {offset}");
                    Ok(())
                })
            })
            .collect();
        let checks = (|| -> Result<()> {
            proxy.wait_stalled(1);
            let status = cache.wait_status("every one of the reads that wait", |status| {
                let waiting = status["waiting"].as_array().into_iter().flatten();
                let blocks: BTreeSet<u64> = waiting.filter_map(|waiting| waiting["block"].as_u64()).collect();
                missing.iter().all(|block| blocks.contains(block))
            })?;
            let first = status["waiting"][0].to_string();
            ensure!(first.contains("slow@1") && first.contains("disk.raw") && first.contains("block"), "{first}");
            at_once("a resident read", || {
                let mut bytes = vec![0; 70_000];
                File::open(cache.path("fast/1/file"))?.read_exact_at(&mut bytes, 12_345)?;
                ensure!(bytes == pattern(2, 12_345, 70_000), "wrong bytes");
                Ok(())
            })?;
            at_once("a lookup", || Ok(fs::metadata(cache.path("fast/1/other"))?))?;
            at_once("a listing", || Ok(fs::read_dir(cache.path("slow/1"))?.count()))?;
            at_once("the status", || cache.command(&["status"])?.ok()).map(drop)
        })();
        proxy.set(Fault::None, "");
        for reader in readers {
            reader.join().expect("readers return their failures")?;
        }
        checks
    })
}

/// A demanded block that no source can give waits `offline_wait`, then the read fails; meanwhile the log and the
/// status name file and block. What is resident stays readable.
#[test]
fn a_read_without_a_source_waits_and_then_fails() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    fill(&tree.join("disk.raw"), 1, 8 * MIB)?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    let mut master = Master::start(&lab, &repo)?;
    let settings = CacheSettings { config: "[mount]\noffline_wait = \"1500ms\"\n".to_owned(), ..Default::default() };
    let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
    for words in ["offline", "waiting", "unreachable", "disk.raw"] {
        cache.daemon.allow_log(words);
    }
    let file = File::open(cache.path("lab/1/disk.raw"))?;
    let mut bytes = [0; 10];
    file.read_exact_at(&mut bytes, 70_000)?;
    master.daemon.stop()?;

    let started = Instant::now();
    let error = file.read_exact_at(&mut bytes, 7 * MIB).expect_err("no source has the block");
    let waited = started.elapsed();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}");
    ensure!(waited >= Duration::from_millis(1400), "it gave up after {waited:?}");
    ensure!(waited < Duration::from_secs(20), "it gave up only after {waited:?}");
    file.read_exact_at(&mut bytes, 70_000).context("a resident block")?;
    ensure!(bytes[..] == pattern(1, 70_000, 10), "wrong bytes");
    let log = cache.daemon.log();
    ensure!(log.contains("disk.raw"), "the log does not name the file:\n{log}");
    Ok(())
}

/// What the kernel reads ahead for a program that is gone keeps no daemon from ending, though nobody has the blocks.
#[test]
fn a_stop_waits_for_no_read_whose_reader_is_gone() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    fill(&tree.join("disk.raw"), 1, 8 * MIB)?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    let master = Master::start(&lab, &repo)?;
    let proxy = Proxy::start(master.address())?;
    let mut cache = CacheServer::start(&lab, &proxy.url())?;
    for words in ["source", "offline", "waiting", "listing"] {
        cache.daemon.allow_log(words);
    }
    let file = File::open(cache.path("lab/1/disk.raw"))?;
    file.read_exact_at(&mut [0; 10], 70_000).context("the first page of hashes")?;
    proxy.set(Fault::Refuse, "");
    posix_fadvise(&file, 4 * MIB as i64, MIB as i64, PosixFadviseAdvice::POSIX_FADV_WILLNEED)?;
    cache.wait_status("reads ahead that wait", |status| status["mount"]["waiting_requests"].as_u64() > Some(0))?;
    drop(file);
    cache.daemon.stop()
}

/// A block of MiB `mib` that has to be fetched: blocks of zeros are known without asking.
fn missing_block(mib: u64) -> u64 {
    let mut blocks = (mib * MIB / BLOCK_BYTES)..((mib + 1) * MIB / BLOCK_BYTES);
    let has_data = |block: &u64| block_of(1, *block).iter().any(|byte| *byte != 0);
    blocks.find(has_data).expect("not all blocks of a MiB are zero")
}

fn at_once<T>(what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let result = act().with_context(|| what.to_owned())?;
    let took = started.elapsed();
    println!("{what}: {took:?}");
    ensure!(took < AT_ONCE, "{what} took {took:?}");
    Ok(result)
}
