//! A version whose manifest was deleted behind the master's back: the master says so from its start on, and a cache
//! that holds the version does not need it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use icbd_tests::{CacheServer, Lab, MIB, Master, fill, get, icbd, wait_for};

const CRITICAL: i32 = 2;
const VERIFICATION: i32 = 7;

/// A master names a version that has lost its manifest wherever versions are listed, refuses to deploy it, and caches
/// that hold it serve it.
#[test]
fn a_lost_manifest_is_told_of_and_caches_go_on() -> Result<()> {
    let lab = Lab::new()?;
    let tree = lab.folder("tree")?;
    fill(&tree.join("disk"), 1, 4 * MIB)?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
    fill(&tree.join("disk"), 2, 4 * MIB)?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &[])?;
    let mut master = Master::start(&lab, &lab.path("repo"))?;
    let cache = CacheServer::start(&lab, &master.url())?;
    ["unreachable", "offline"].iter().for_each(|words| cache.daemon.allow_log(words));
    cache.prefetch_all("lab@2")?;

    let address = master.address();
    master.daemon.stop()?;
    let shown = icbd(["image", "show", "lab@2", "--json", "--socket", cache.socket()])?.ok()?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let root = shown["root"].as_str().unwrap_or_default();
    let head = format!("{root}.head");
    fs::remove_file(master.repo().join("manifests").join(&head))?;
    let master = Master::start_at(&lab, &lab.path("repo"), address, &[])?;
    master.daemon.allow_log(&head);
    let ask = |args: &[&str]| icbd([args, &["--socket", master.socket()]].concat());
    ask(&["image", "list", "lab"])?.prints(&["ready, damaged"])?;
    ask(&["image", "show", "lab@2"])?.prints(&["damaged", &head, "is missing"])?;
    ask(&["status"])?.prints(&["lab@2 is damaged", &head])?;
    ask(&["check"])?.failed_with(CRITICAL)?.prints(&["lab@2 is damaged"])?;
    ask(&["image", "verify", "lab@2"])?.failed_with(VERIFICATION)?.says(&[&head, "publish the version again"])?;
    ask(&["image", "deploy", "lab@2"])?.failed_with(VERIFICATION)?.says(&["lab@2", &head])?;
    ask(&["image", "verify", "lab@1"])?.failed_with(0)?;

    // Who needs it asks again and again.
    for _ in 0..3 {
        ensure!(get(address, &format!("/v1/heads/{root}"))?.status == 500, "it was served");
    }
    let log = master.daemon.log();
    ensure!(log.matches("cannot serve").count() == 1, "not said once:\n{log}");

    wait_for("the cache to be online again", || Ok((cache.status()?["sources"][0]["online"] == true).then_some(())))?;
    let (mut got, mut published) = ([0; 100], [0; 100]);
    File::open(cache.path("lab/2/disk"))?.read_exact_at(&mut got, 3 * MIB)?;
    File::open(tree.join("disk"))?.read_exact_at(&mut published, 3 * MIB)?;
    ensure!(got == published, "the cache serves something else");
    Ok(())
}

/// A head that was cut short while the master was away is told of soon after its start, before anybody needs it.
#[test]
fn a_head_that_was_cut_short_is_told_of() -> Result<()> {
    let lab = Lab::new()?;
    let tree = lab.folder("tree")?;
    fill(&tree.join("disk"), 1, 4 * MIB)?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &[])?;
    let mut heads =
        fs::read_dir(lab.path("repo/manifests"))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    heads.retain(|path| path.extension().is_some_and(|of| of == "head"));
    ensure!(heads.len() == 1, "{heads:?}");
    File::options().write(true).open(&heads[0])?.set_len(100)?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    master.daemon.allow_log("lab@1");
    let ask = |args: &[&str]| icbd([args, &["--socket", master.socket()]].concat());
    wait_for("a check that says so", || Ok((ask(&["check"])?.code == CRITICAL).then_some(())))?;
    ask(&["image", "list", "lab"])?.prints(&["ready, damaged"]).map(drop)
}
