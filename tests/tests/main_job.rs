//! The main job with a small tree: publish, serve, mount, read, prefetch, verify, publish again.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use icbd_tests::{CacheServer, Lab, Master, compare_trees, icbd, sample_tree, wait_for};

/// A version in the mount is the published tree: names, kinds, modes, owners, times, links, attributes and bytes.
#[test]
fn a_mounted_version_is_the_published_tree() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.path("tree"), lab.path("repo"));
    sample_tree(&tree)?;
    assert_eq!(Master::publish_offline(&repo, "debian-lab", &tree, &["--deploy"])?, "debian-lab@1");
    let mut master = Master::start(&lab, &repo)?;
    let mut cache = CacheServer::start(&lab, &master.url())?;

    let entries = compare_trees(&tree, &cache.path("debian-lab/1"))?;
    ensure!(entries >= 20, "only {entries} entries");
    assert_eq!(fs::read_link(cache.path("debian-lab/current"))?.as_os_str(), "1");
    assert_eq!(names(cache.mount())?, ["debian-lab"]);
    assert_eq!(names(&cache.path("debian-lab"))?, ["1", "current"]);

    cache.prefetch_all("debian-lab")?;
    let residency = cache.residency("debian-lab@1")?;
    ensure!(residency.is_complete && residency.durable_blocks == residency.blocks, "{residency:?}");
    cache.command(&["image", "verify", "debian-lab@1"])?.ok()?;
    icbd(["image", "verify", "debian-lab@1", "--socket", master.socket()])?.ok()?;
    compare_trees(&tree, &cache.path("debian-lab/current/"))?;

    master.daemon.stop()?;
    cache.daemon.stop()?;
    ensure!(lab.mounts()?.is_empty(), "still mounted: {:?}", lab.mounts()?);
    ensure!(names(cache.mount())?.is_empty(), "the mount point is not empty after a clean end");
    Ok(())
}

/// A version that is published while everything runs appears on caches within seconds; the old one does not change.
#[test]
fn a_second_version_appears_within_seconds() -> Result<()> {
    let lab = Lab::new()?;
    let tree = lab.folder("tree")?;
    fs::write(tree.join("file"), "one")?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    let cache = CacheServer::start(&lab, &master.url())?;
    assert_eq!(names(cache.mount())?, [""; 0]);

    assert_eq!(master.publish("lab", &tree, &["--deploy"])?, "lab@1");
    let started = Instant::now();
    wait_for("version 1 on the cache", || Ok(fs::read(cache.path("lab/current/file")).ok()))?;
    fs::write(tree.join("file"), "two")?;
    assert_eq!(master.publish("lab", &tree, &["-m", "not deployed yet"])?, "lab@2");
    wait_for("version 2 on the cache", || Ok(fs::read(cache.path("lab/2/file")).ok()))?;
    let took = started.elapsed();
    ensure!(took < Duration::from_secs(15), "two versions took {took:?} to appear");

    assert_eq!(fs::read(cache.path("lab/2/file"))?, b"two");
    assert_eq!(fs::read(cache.path("lab/current/file"))?, b"one");
    icbd(["image", "deploy", "lab@2", "--socket", master.socket()])?.ok()?;
    wait_for(
        "the deployment on the cache",
        || Ok((fs::read(cache.path("lab/current/file"))? == b"two").then_some(())),
    )?;
    assert_eq!(fs::read(cache.path("lab/1/file"))?, b"one");
    Ok(())
}

/// One file published alone is a version with that file.
#[test]
fn a_single_file_is_a_version() -> Result<()> {
    let lab = Lab::new()?;
    let (file, repo) = (lab.path("disk.raw"), lab.path("repo"));
    icbd_tests::fill(&file, 4, 300_000)?;
    Master::publish_offline(&repo, "disk", &file, &[])?;
    let master = Master::start(&lab, &repo)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    assert_eq!(names(&cache.path("disk"))?, ["1"], "nothing was deployed");
    assert_eq!(names(&cache.path("disk/1"))?, ["disk.raw"]);
    assert_eq!(fs::read(cache.path("disk/1/disk.raw"))?, fs::read(&file)?);
    Ok(())
}

/// Lists and details are for people and, with `--json`, for scripts.
#[test]
fn images_and_versions_are_listed() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    fs::write(tree.join("file"), "x")?;
    Master::publish_offline(&repo, "win11-lab", &tree, &["-m", "first note"])?;
    Master::publish_offline(&repo, "win11-lab", &tree, &["--deploy"])?;
    let master = Master::start(&lab, &repo)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    for socket in [master.socket(), cache.socket()] {
        for args in [&["image", "list"][..], &["image", "list", "win11-lab"], &["image", "show", "win11-lab@2"]] {
            let text = icbd([args, &["--socket", socket]].concat())?.ok()?;
            ensure!(text.contains("win11-lab"), "{args:?} says {text:?}");
            let json = icbd([args, &["--json", "--socket", socket]].concat())?.ok()?;
            serde_json::from_str::<serde_json::Value>(&json)?;
        }
        let missing = icbd(["image", "show", "win11-lap@1", "--socket", socket])?;
        missing.failed_with(3)?.says(&["win11-lap", "win11-lab"])?;
        icbd(["image", "show", "win11-lab@9", "--socket", socket])?.failed_with(3)?.says(&["win11-lab@9"])?;
        icbd(["status", "--socket", socket])?.ok()?;
    }
    Ok(())
}

fn names(dir: &std::path::Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
