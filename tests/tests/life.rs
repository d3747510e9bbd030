//! The life of versions as a cache server shows it: what the master deploys, and what is rolled back here alone.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, FileSystem, Lab, MIB, Master, Volume, fill, icbd, run_bounded, wait_for};

const USAGE: i32 = 2;
const ABSENT: i32 = 3;
const REFUSED: i32 = 4;

fn current(cache: &CacheServer) -> Result<String> {
    Ok(fs::read_link(cache.path("lab/current"))?.to_string_lossy().into_owned())
}

fn wait_current(cache: &CacheServer, number: &str) -> Result<()> {
    wait_for("what is current", || Ok((current(cache).ok().as_deref() == Some(number)).then_some(())))
}

/// A local rollback stands until it is cleared, whatever the master deploys, and through restarts.
///
/// A local rollback works with the master away, outlives restarts, listings and what the master deploys meanwhile, and
/// ends when it is cleared.
#[test]
fn a_local_rollback_stands_until_it_is_cleared() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    for seed in 1..=3 {
        fill(&tree.join("disk"), seed, 2 * MIB)?;
        Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    }
    icbd(["image", "rollback", "lab", "--to", "2", "--repo", repo.to_str().unwrap_or_default()])?.ok()?;
    let mut master = Master::start(&lab, &repo)?;
    let mut cache = CacheServer::start(&lab, &master.url())?;
    cache.daemon.allow_log("source is offline");
    wait_current(&cache, "2")?;
    // The master says what it keeps to go back to, whatever this cache saw.
    ensure!(cache.command(&["image", "list", "lab"])?.ok()?.contains("lab@3    fallback"), "no fallback");
    cache.command(&["image", "rollback", "lab"])?.failed_with(USAGE)?.says(&["done on a master"])?;
    cache.prefetch_all("lab@1")?;
    master.daemon.stop()?;

    let local = |args: &[&str]| cache.command(&[&["image", "rollback", "lab", "--local"], args].concat());
    local(&["--to", "9"])?.failed_with(ABSENT)?.says(&["lab@9"])?;
    local(&["--to", "2"])?.failed_with(REFUSED)?.says(&["lab@2 is what lab means here already"])?;
    local(&["--clear"])?.failed_with(REFUSED)?.says(&["nothing to clear"])?;
    local(&["--to", "1", "-m", "3 has no sound"])?.prints(&["lab@2 → lab@1 here"])?;
    wait_current(&cache, "1")?;
    fs::read(cache.path("lab/current/disk"))?;
    cache.command(&["image", "show", "lab"])?.prints(&["lab@1"])?;
    let status = cache.command(&["status"])?.ok()?;
    ensure!(status.contains("! lab is lab@1 here since") && status.contains("the master deploys lab@2"), "{status}");
    cache.command(&["log"])?.prints(&["image rollback lab --local --to 1", "3 has no sound"])?;

    cache.daemon.stop()?;
    cache.start_again(&lab)?;
    cache.daemon.allow_log("source is offline");
    ensure!(current(&cache)? == "1", "a restart undid it: {}", current(&cache)?);
    let master = Master::start_at(&lab, &repo, master.address(), &[])?;
    icbd(["image", "deploy", "lab@3", "--socket", master.socket()])?.ok()?;
    wait_for("what the master deploys", || {
        Ok(cache.command(&["status"])?.ok()?.contains("the master deploys lab@3").then_some(()))
    })?;
    ensure!(current(&cache)? == "1", "the master undid it");
    cache.command(&["image", "rollback", "lab", "--local", "--clear"])?.prints(&["lab@1 → lab@3 here"])?;
    wait_current(&cache, "3")?;
    ensure!(!cache.command(&["status"])?.ok()?.contains("here since"), "cleared, and still shown");
    cache.daemon.stop()
}

/// A master that is restored from last week's backup and publishes another version under a number that was given since: the cache keeps serving its own, deletes nothing, and says so.
#[test]
fn a_restored_master_changes_no_version_that_a_cache_has() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo, backup) = (lab.folder("tree")?, lab.path("repo"), lab.path("backup"));
    let publish = |seed: u64| -> Result<String> {
        fill(&tree.join("disk"), seed, 2 * MIB)?;
        Master::publish_offline(&repo, "lab", &tree, &["--deploy"])
    };
    ensure!(publish(1)? == "lab@1");
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(&repo).arg(&backup);
    run_bounded(copy, Duration::from_secs(20))?.ok()?;
    ensure!(publish(2)? == "lab@2");
    let served = fs::read(tree.join("disk"))?;
    let mut master = Master::start(&lab, &repo)?;
    let mut cache = CacheServer::start(&lab, &master.url())?;
    cache.prefetch_all("lab@2")?;
    cache.command(&["image", "verify", "lab@2"])?.ok()?;
    master.daemon.stop()?;

    fs::remove_dir_all(&repo)?;
    fs::rename(&backup, &repo)?;
    ensure!(publish(3)? == "lab@2", "the restored master knows of the other lab@2");
    ["source is offline", "is another one on", "is gone from"].iter().for_each(|words| cache.daemon.allow_log(words));
    let master = Master::start_at(&lab, &repo, master.address(), &[])?;
    wait_for("that the cache says so", || {
        let status = cache.command(&["status"])?.ok()?;
        Ok(status.contains("lab@2 is another one on").then_some(()))
    })?;
    let mine = |cache: &CacheServer| -> Result<()> {
        ensure!(cache.residency("lab@2")?.is_complete, "something of it was deleted");
        ensure!(fs::read(cache.path("lab/2/disk"))? == served, "another lab@2 is served");
        ensure!(fs::read(cache.path("lab/current/disk"))? == served, "another lab@2 is current");
        Ok(())
    };
    mine(&cache)?;
    cache.command(&["image", "verify", "lab@2"])?.ok()?;
    cache.daemon.stop()?;
    cache.start_again(&lab)?;
    cache.daemon.allow_log("is another one on");
    mine(&cache)?;
    // What is published next is new to everybody, and comes.
    fill(&tree.join("disk"), 4, 2 * MIB)?;
    ensure!(master.publish("lab", &tree, &["--deploy"])? == "lab@3");
    wait_current(&cache, "3")?;
    ensure!(fs::read(cache.path("lab/current/disk"))? == fs::read(tree.join("disk"))?, "wrong bytes");
    ensure!(fs::read(cache.path("lab/2/disk"))? == served, "another lab@2 is served now");
    Ok(())
}

/// A deployment that needs caches to be ready is made when the last of them is, says which ones it waits for, and can be called off.
#[test]
fn a_deployment_waits_until_caches_are_ready() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    for seed in 1..=3 {
        fill(&tree.join("disk"), seed, 2 * MIB)?;
        Master::publish_offline(&repo, "lab", &tree, if seed == 1 { &["--deploy"] } else { &[] })?;
    }
    let master = Master::start(&lab, &repo)?;
    let store = Volume::new(&lab, FileSystem::Btrfs, 512 * MIB)?.path().join("store");
    let config = "[store]\nseal_when = \"never\"\n".to_owned();
    let settings = CacheSettings { store: Some(store), config, ..CacheSettings::default() };
    let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
    wait_current(&cache, "1")?;
    wait_for("the master to know its cache", || {
        let nodes = icbd(["node", "list", "--json", "--socket", master.socket()])?.ok()?;
        Ok((nodes.trim() != "[]").then_some(()))
    })?;

    let deploy = |args: &[&str]| icbd([&["image", "deploy", "--socket", master.socket()], args].concat());
    let plan = deploy(&["lab@2", "--needs", "complete"])?;
    plan.prints(&[
        "lab@2 will be deployed when every cache server has all of it",
        "waits for",
        "(it has too little of it)",
    ])?;
    icbd(["status", "--socket", master.socket()])?.prints(&["lab@2 will be deployed when every cache server"])?;
    deploy(&["lab@2", "--needs", "ready"])?.failed_with(USAGE)?.says(&["boot, complete or sealed"])?;
    deploy(&["lab@9", "--needs", "boot"])?.failed_with(ABSENT)?.says(&["lab@9"])?;
    ensure!(current(&cache)? == "1", "deployed to caches that are not ready");
    cache.prefetch_all("lab@2")?;
    wait_current(&cache, "2")?;

    deploy(&["lab@3", "--needs", "sealed"])?.prints(&["has it sealed"])?;
    cache.prefetch_all("lab@3")?;
    wait_for("that it is complete is heard", || {
        let status = icbd(["status", "--socket", master.socket()])?.ok()?;
        Ok(status.contains("(it has all of it)").then_some(()))
    })?;
    cache.command(&["image", "seal", "lab@3"])?.ok()?;
    wait_current(&cache, "3")?;

    deploy(&["lab@1", "--needs", "boot"])?.prints(&["has what boots read of it"])?;
    deploy(&["lab@1", "--cancel"])?.prints(&["lab@1 is no longer to be deployed when"])?;
    // What is there already is not waited for.
    ensure!(deploy(&["lab@2", "--needs", "complete"])?.ok()?.trim() == "lab@2");
    wait_current(&cache, "2")
}
