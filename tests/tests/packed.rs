//! A master that packs ahead of its use what it publishes.

use std::fs;

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, Lab, MIB, Master, compare_trees, icbd, sample_tree, solid, wait_for};

/// So much of which shrinks.
const DISK: u64 = 8 * MIB;

/// A master packs ahead what is published, in the room it was given, says so, and gives it to caches and masters as it is;
/// what is not wanted any more goes.
#[test]
fn what_is_packed_ahead_is_given_to_all() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo, config) = (lab.folder("tree")?, lab.path("repo"), lab.path("packed.toml"));
    sample_tree(&tree)?;
    for version in 1..=2 {
        fs::write(tree.join("disk.raw"), solid(version, DISK))?;
        Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    }
    fs::write(&config, "[master]\nkeep_packed = \"64MiB\"\n")?;
    let with_config = ["--config", config.to_str().context("a path of text")?];
    let mut from = Master::start_at(&lab, &repo, ([127, 0, 0, 1], 0).into(), &with_config)?;
    let all_is_packed = |master: &Master| {
        let status = || -> Result<_> { Ok((master.status()?["packed"]["is_complete"] == true).then_some(())) };
        wait_for("all is packed", status)
    };
    all_is_packed(&from)?;
    let kept = from.status()?["packed"]["bytes"].as_u64().context("no bytes")?;
    ensure!((1..64 * MIB).contains(&kept), "{kept} bytes are kept");
    icbd(["status", "--socket", from.socket()])?.prints(&["packed ahead of use", "of at most 64.0 MiB"])?;

    let to = Master::start(&lab, &lab.path("to"))?;
    for version in ["lab@1", "lab@2"] {
        icbd(["image", "replicate", version, "--from", &from.url(), "--socket", to.socket()])?.ok()?;
    }
    let mut cache = CacheServer::start(&lab, &from.url())?;
    cache.prefetch_all("lab@2")?;
    for at in [to.repo().join("versions/lab/2"), cache.path("lab/2")] {
        compare_trees(&repo.join("versions/lab/2"), &at)?;
    }
    // Before its master, which it would miss.
    cache.daemon.stop()?;

    // A new version is packed as it comes, and all goes with the wish.
    fs::write(tree.join("disk.raw"), solid(3, DISK))?;
    from.publish("lab", &tree, &[])?;
    wait_for("the third is packed", || Ok((from.status()?["packed"]["bytes"].as_u64() > Some(kept)).then_some(())))?;
    all_is_packed(&from)?;
    fs::write(&config, "[master]\n")?;
    icbd(["config", "reload", "--socket", from.socket()])?.prints(&["master.keep_packed"])?;
    wait_for("nothing is kept", || Ok(fs::read_dir(repo.join("packed"))?.next().is_none().then_some(())))?;
    ensure!(from.status()?["packed"].is_null(), "it still says what is packed");
    from.daemon.stop()
}
