//! Signatures that are believed no longer, under a running cache.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, Lab, MIB, Master, fill, icbd, wait_for};
use nix::errno::Errno;

const VERIFICATION: i32 = 7;
const DISK: &str = "disk";

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("paths of a lab are text")
}

/// What an image's directory shows.
fn names(cache: &CacheServer) -> Result<Vec<String>> {
    let entries = fs::read_dir(cache.path("lab"))?;
    let mut names: Vec<String> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

fn wait_names(cache: &CacheServer, expected: &[&str]) -> Result<()> {
    wait_for(&format!("a directory with {expected:?}"), || Ok((names(cache)? == expected).then_some(())))
}

fn is_absent<T>(result: std::io::Result<T>) -> bool {
    result.err().and_then(|error| error.raw_os_error()) == Some(Errno::ENOENT as i32)
}

/// A version whose signature is trusted no longer cannot be entered any more, whatever is held of it; files that are
/// open are read on, nothing is deleted, and with trust it comes back without being fetched again.
#[test]
fn a_version_that_is_trusted_no_longer_is_withheld() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, keys, key) = (lab.folder("tree")?, lab.folder("trusted")?, lab.path("sign.key"));
    fill(&tree.join(DISK), 1, 16 * MIB)?;
    icbd(["key", "create", text(&key)?])?.ok()?;
    let public = keys.join("publisher.pub");
    fs::copy(lab.path("sign.key.pub"), &public)?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--sign", text(&key)?])?;
    fill(&tree.join(DISK), 2, 16 * MIB)?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
    let mut master = Master::start(&lab, &lab.path("repo"))?;
    let lenient = format!("[trust]\nkeys = [\"{}/*.pub\"]\n", keys.display());
    let strict = format!("{lenient}require = true\n");
    let settings = CacheSettings { config: lenient.clone(), ..Default::default() };
    let mut cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
    let allow = |cache: &CacheServer| {
        ["is withheld", "no key is trusted", "offline", "unreachable"]
            .iter()
            .for_each(|words| cache.daemon.allow_log(words));
    };
    allow(&cache);
    let reload = |cache: &CacheServer, config: &str| -> Result<()> {
        cache.set_config(config)?;
        cache.command(&["config", "reload"])?.ok().map(drop)
    };
    wait_names(&cache, &["1", "2", "current"])?;
    cache.prefetch_all("lab@1")?;
    let open = File::open(cache.path("lab/current/disk"))?;
    open.read_exact_at(&mut [0; 100], 0)?;
    cache.wait_idle()?;

    // Version 2 is not signed.
    reload(&cache, &strict)?;
    wait_names(&cache, &["1"])?;
    // What the kernel remembers of it is taken back in the same moment, by another thread.
    wait_for("nobody opens it anew", || Ok(is_absent(File::open(cache.path("lab/2/disk"))).then_some(())))?;
    ensure!(is_absent(File::open(cache.path("lab/current/disk"))), "its image's name still leads to it");
    let mut last = [0; 100];
    open.read_exact_at(&mut last, 15 * MIB).context("who had it open is cut off")?;
    let mut published = [0; 100];
    File::open(tree.join(DISK))?.read_exact_at(&mut published, 15 * MIB)?;
    ensure!(last == published, "who had it open reads something else");
    let words = ["lab@2 is not signed by a trusted key", "icbd key trust", "icbd image rollback lab --local"];
    cache.command(&["status"])?.prints(&words)?;
    ensure!(
        words.iter().all(|words| cache.daemon.log().contains(words)),
        "the log does not name it:\n{}",
        cache.daemon.log()
    );
    cache.command(&["prefetch", "add", "lab@2", "--all"])?.failed_with(VERIFICATION)?.says(&["lab@2 is withheld"])?;
    cache.command(&["image", "list", "lab"])?.prints(&["deployed, withheld"])?;
    cache.command(&["image", "show", "lab@2"])?.prints(&["withheld   lab@2 is not signed by a trusted key"])?;
    // A name for what is trusted can be had meanwhile.
    cache.command(&["image", "rollback", "lab", "--local", "--to", "1"])?.ok()?;
    wait_for("the name to lead to version 1", || {
        Ok(fs::read_link(cache.path("lab/current")).ok().filter(|to| to == Path::new("1")))
    })?;
    cache.command(&["image", "rollback", "lab", "--local", "--clear"])?.ok()?;

    // The key goes, too; and a restart judges by what holds then, with nobody to ask.
    master.daemon.stop()?;
    fs::remove_file(&public)?;
    reload(&cache, &strict)?;
    wait_names(&cache, &[])?;
    drop(open);
    cache.daemon.stop()?;
    cache.start_again(&lab)?;
    allow(&cache);
    ensure!(names(&cache)?.is_empty(), "after a restart it shows {:?}", names(&cache)?);
    cache.command(&["status"])?.prints(&["lab@1 is not signed", "lab@2 is not signed"])?;

    // Trusted again, it is there as it was, the master being away.
    fs::copy(lab.path("sign.key.pub"), &public)?;
    reload(&cache, &strict)?;
    wait_names(&cache, &["1"])?;
    ensure!(cache.residency("lab@1")?.is_complete, "something of it was lost");
    fs::read(cache.path("lab/1/disk"))?;
    reload(&cache, &lenient)?;
    wait_names(&cache, &["1", "2", "current"])
}
