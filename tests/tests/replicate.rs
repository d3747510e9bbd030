//! Versions that go from one master to another: whole, by their difference, and never half.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    CacheServer, CacheSettings, Fault, FileSystem, Lab, MIB, Master, Output, Proxy, Volume, compare_trees, icbd,
    sample_tree, solid, wait_for,
};
use serde_json::Value;

const USAGE: i32 = 2;
const ABSENT: i32 = 3;
const REFUSED: i32 = 4;
const UNREACHABLE: i32 = 6;
const VERIFICATION: i32 = 7;
const DISK: u64 = 24 * MIB;

/// Blocks that are all different.
fn content(version: u64) -> Vec<u8> {
    let mut content = solid(version, DISK);
    for (at, block) in content.chunks_mut(65_536).enumerate() {
        block[..8].copy_from_slice(&(at as u64 + 1).to_le_bytes());
    }
    content
}

/// A master of two versions of a tree with everything in it, which differ in 3 MiB of their disk.
fn first(lab: &Lab) -> Result<Master> {
    let (tree, repo) = (lab.folder("tree")?, lab.path("first"));
    sample_tree(&tree)?;
    fs::write(tree.join("disk.raw"), content(1))?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy", "-m", "the first"])?;
    File::options().write(true).open(tree.join("disk.raw"))?.write_all_at(&solid(77, 2 * MIB), 5 * MIB)?;
    File::options().write(true).open(tree.join("disk.raw"))?.write_all_at(&vec![0; MIB as usize], 9 * MIB)?;
    fs::remove_file(tree.join("usr/share/link"))?;
    Master::publish_offline(&repo, "lab", &tree, &[])?;
    Master::start(lab, &repo)
}

/// A master without any version, on a file system of its own.
fn second(lab: &Lab, file_system: FileSystem) -> Result<Master> {
    let volume = Volume::new(lab, file_system, 512 * MIB)?;
    Master::start(lab, &volume.path().join("second"))
}

fn replicate(to: &Master, version: &str, from: &str) -> Result<Output> {
    replicate_at(to.socket(), version, from)
}

fn replicate_at(socket: &str, version: &str, from: &str) -> Result<Output> {
    icbd(["image", "replicate", version, "--from", from, "--json", "--socket", socket])
}

fn number(done: &str, name: &str) -> Result<u64> {
    serde_json::from_str::<Value>(done)?[name].as_u64().with_context(|| format!("no {name} in {done}"))
}

fn tree(master: &Master, number: u32) -> std::path::PathBuf {
    master.repo().join(format!("versions/lab/{number}"))
}

/// A version that is replicated is the same to its last attribute, and only what no version there has is fetched.
#[test]
fn what_is_replicated_is_the_same_and_costs_its_difference() -> Result<()> {
    for file_system in [FileSystem::Btrfs, FileSystem::Xfs, FileSystem::Ext4] {
        let lab = Lab::new()?;
        let from = first(&lab)?;
        let to = second(&lab, file_system)?;
        let done = replicate(&to, "lab", &from.url())?.ok()?;
        ensure!(number(&done, "fetched_bytes")? >= DISK, "{file_system:?}: {done}");
        compare_trees(&tree(&from, 1), &tree(&to, 1))?;
        let done = replicate(&to, "lab@2", &from.url())?.ok()?;
        let fetched = number(&done, "fetched_bytes")?;
        ensure!((2 * MIB..4 * MIB).contains(&fetched), "{file_system:?}: {done}");
        compare_trees(&tree(&from, 2), &tree(&to, 2))?;
        ensure!(!to.repo().join("receiving/lab/2").exists(), "{file_system:?}: something is left behind");
        let socket = to.socket();
        for version in ["lab@1", "lab@2"] {
            icbd(["image", "verify", version, "--socket", socket])?.ok()?;
        }
        icbd(["image", "list", "lab", "--socket", socket])?.prints(&["lab@1    ready", "the first"])?;
        icbd(["image", "deploy", "lab@2", "--socket", socket])?.ok()?;
        icbd(["log", "--socket", socket])?.prints(&[&format!("image replicate lab@2 --from {}", from.url())])?;

        // What is published there next has a number of its own, and caches may have either of them as a source.
        fs::write(lab.path("tree/usr/small"), "new")?;
        ensure!(to.publish("lab", &lab.path("tree"), &[])? == "lab@3");
        let cache = CacheServer::start_with(&lab, &[&from.url(), &to.url()], &Default::default())?;
        ensure!(fs::read(cache.path("lab/1/disk.raw"))? == content(1), "{file_system:?}: wrong bytes");
    }
    Ok(())
}

/// Whoever receives a version and is killed goes on where it stopped, as often as that happens.
#[test]
fn what_was_interrupted_goes_on() -> Result<()> {
    let lab = Lab::new()?;
    let from = first(&lab)?;
    let proxy = Proxy::start(from.address())?;
    let mut to = second(&lab, FileSystem::Btrfs)?;
    let (address, repo) = (to.address(), to.repo().to_owned());
    // Before anything came, then twice with all but one run of the disk here.
    for filter in ["/blocks/", "/64-", "/64-"] {
        proxy.set(Fault::StallInBody, filter);
        let (url, socket) = (proxy.url(), to.socket().to_owned());
        std::thread::scope(|scope| -> Result<()> {
            let running = scope.spawn(|| replicate_at(&socket, "lab@1", &url));
            proxy.wait_stalled(1);
            if filter != "/blocks/" {
                let disk = repo.join("receiving/lab/1/disk.raw");
                wait_for("the other runs", || {
                    Ok(disk.metadata().is_ok_and(|found| found.blocks() * 512 >= DISK * 3 / 4).then_some(()))
                })?;
            }
            to.daemon.kill_all()?;
            drop(running.join().expect("no panic"));
            Ok(())
        })?;
        ensure!(!repo.join("versions/lab/1").exists(), "half a version was published");
        proxy.set(Fault::None, "");
        to = Master::start_at(&lab, &repo, address, &[])?;
        icbd(["image", "list", "lab", "--socket", to.socket()])?.failed_with(ABSENT)?;
    }
    let done = replicate(&to, "lab@1", &proxy.url())?.ok()?;
    ensure!(number(&done, "fetched_bytes")? < DISK / 2, "{done}");
    compare_trees(&tree(&from, 1), &tree(&to, 1)).map(drop)
}

/// What cannot be received says why, and leaves nothing that looks like a version.
#[test]
fn what_cannot_be_received_says_why() -> Result<()> {
    let lab = Lab::new()?;
    let from = first(&lab)?;
    let to = second(&lab, FileSystem::Ext4)?;
    let url = from.url();
    replicate(&to, "lap@1", &url)?.failed_with(ABSENT)?.says(&["has no image lap", "did you mean"])?;
    replicate(&to, "lab@9", &url)?.failed_with(ABSENT)?.says(&["no version lab@9"])?;
    replicate(&to, "lab@1", "ftp://x")?.failed_with(2)?.says(&["ftp://x"])?;
    replicate(&to, "lab@1", &url)?.ok()?;
    let again = replicate(&to, "lab@1", &url)?.ok()?;
    ensure!(again.contains("\"is_new\": false") && number(&again, "fetched_bytes")? == 0, "{again}");

    // Where signatures are required, one without is not taken.
    let config = lab.path("strict.toml");
    fs::write(&config, format!("[trust]\nrequire = true\nkeys = [\"{}/*.pub\"]\n", lab.folder("trusted")?.display()))?;
    let config = config.to_str().context("a path")?;
    let strict = Master::start_at(&lab, &lab.path("strict"), "127.0.0.1:0".parse()?, &["--config", config])?;
    replicate(&strict, "lab@1", &url)?.failed_with(VERIFICATION)?.says(&["lab@1 is not signed by a trusted key"])?;
    ensure!(!strict.repo().join("receiving").exists(), "something was received");

    // A repository with versions of its own never becomes a copy.
    let own = lab.path("own");
    Master::publish_offline(&own, "other", &lab.path("tree"), &[])?;
    let own = Master::start(&lab, &own)?;
    replicate(&own, "lab@1", &url)?
        .failed_with(REFUSED)?
        .says(&["belongs to the repository", "replicate it to a repository that is empty"])?;

    // Blocks that are not what they should be are never kept.
    let proxy = Proxy::start(from.address())?;
    proxy.set(Fault::Corrupt, "/versions/");
    to.daemon.allow_log("wrong block");
    to.daemon.allow_log("image replicate");
    let failed = replicate(&to, "lab@2", &proxy.url())?;
    ensure!([UNREACHABLE, VERIFICATION].contains(&failed.code), "code {}: {}", failed.code, failed.stderr);
    ensure!(!tree(&to, 2).exists());
    drop(proxy);

    // A version here that was altered by hand gives nothing wrong to the next.
    File::options().write(true).open(tree(&to, 1).join("disk.raw"))?.write_all_at(b"x", 20 * MIB)?;
    to.daemon.allow_log("altered behind the master's back");
    let done = replicate(&to, "lab@2", &url)?;
    let done = if done.code == VERIFICATION { replicate(&to, "lab@2", &url)? } else { done };
    done.ok()?;
    compare_trees(&tree(&from, 2), &tree(&to, 2)).map(drop)
}

/// What its source cannot read is told soon, by what it is and where; asking for longer would not help.
#[test]
fn what_is_damaged_at_its_source_is_told_soon() -> Result<()> {
    for is_hidden in [true, false] {
        let lab = Lab::new()?;
        let (from, to) = (first(&lab)?, second(&lab, FileSystem::Ext4)?);
        let disk = File::options().write(true).open(tree(&from, 1).join("disk.raw"))?;
        let modified = disk.metadata()?.modified()?;
        disk.write_all_at(b"altered", 12 * MIB)?;
        if is_hidden {
            disk.set_modified(modified)?;
        }
        for said in ["altered", "cannot serve", "not what was published"] {
            from.daemon.allow_log(said);
        }
        for said in ["image replicate", "wrong block", "source"] {
            to.daemon.allow_log(said);
        }
        let started = std::time::Instant::now();
        let failed = replicate(&to, "lab@1", &from.url())?.failed_with(VERIFICATION)?;
        failed.says(&["block 192", "`icbd image verify` there says what is wrong"])?;
        ensure!(started.elapsed() < Duration::from_secs(20), "it was asked for {:?}", started.elapsed());
    }
    Ok(())
}

/// A repository that receives its first version is a copy of that one's repository from then on: nothing of a third one
/// comes in between.
#[test]
fn an_identity_is_taken_over_once() -> Result<()> {
    let lab = Lab::new()?;
    let from = first(&lab)?;
    let mut to = second(&lab, FileSystem::Ext4)?;
    let third = lab.path("third");
    Master::publish_offline(&third, "other", &lab.path("tree"), &["--deploy"])?;
    let third = Master::start(&lab, &third)?;
    let proxy = Proxy::start(from.address())?;
    proxy.set(Fault::StallInBody, "/blocks/");
    std::thread::scope(|scope| -> Result<()> {
        let running = scope.spawn(|| replicate(&to, "lab@1", &proxy.url()));
        proxy.wait_stalled(1);
        let refused = replicate(&to, "other", &third.url())?.failed_with(REFUSED)?;
        refused.says(&["other@1 belongs to the repository"])?;
        let twice = replicate(&to, "lab@1", &from.url())?.failed_with(REFUSED)?;
        twice.says(&["lab@1 is being received by somebody else now"])?;
        proxy.set(Fault::None, "");
        running.join().expect("no panic")?.ok().map(drop)
    })?;
    to.daemon.stop()?;
    let to = Master::start_at(&lab, to.repo(), to.address(), &[])?;
    icbd(["image", "verify", "lab@1", "--socket", to.socket()])?.ok()?;
    ensure!(to.publish("lab", &lab.path("tree"), &[])? == "lab@2", "what is published next is no next version");
    Ok(())
}

/// What was written by hand where a version here has nothing is in no version that is received after it.
#[test]
fn a_hole_that_was_filled_by_hand_is_a_hole_in_the_next_version() -> Result<()> {
    let lab = Lab::new()?;
    let from = first(&lab)?;
    let disk = File::options().write(true).open(lab.path("tree/disk.raw"))?;
    disk.write_all_at(&solid(78, MIB), 20 * MIB)?;
    ensure!(from.publish("lab", &lab.path("tree"), &[])? == "lab@3");
    let to = second(&lab, FileSystem::Xfs)?;
    replicate(&to, "lab@2", &from.url())?.ok()?;
    let kept = File::options().write(true).open(tree(&to, 2).join("disk.raw"))?;
    let modified = kept.metadata()?.modified()?;
    kept.write_all_at(b"by hand", 9 * MIB + 70_000)?;
    // By its time it is the file that was published.
    kept.set_modified(modified)?;
    let done = replicate(&to, "lab@3", &from.url())?.ok()?;
    ensure!(number(&done, "fetched_bytes")? < 4 * MIB, "{done}");
    compare_trees(&tree(&from, 3), &tree(&to, 3)).map(drop)
}

/// A disk whose content has moved by some bytes, as in an upgrade: no block of it is one of the version before.
fn moved() -> Vec<u8> {
    let mut content = solid(5, 96 * MIB);
    content.rotate_left(12_345);
    content
}

/// Two masters that have the same version, of 96 MiB, the first of them a second one, in which every byte has moved.
fn upgraded(lab: &Lab) -> Result<(Master, Master)> {
    let (tree, repo) = (lab.folder("tree")?, lab.path("first"));
    fs::write(tree.join("disk.raw"), solid(5, 96 * MIB))?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    fs::write(tree.join("disk.raw"), moved())?;
    Master::publish_offline(&repo, "lab", &tree, &[])?;
    let (from, to) = (Master::start(lab, &repo)?, second(lab, FileSystem::Xfs)?);
    replicate(&to, "lab@1", &from.url())?.ok()?;
    Ok((from, to))
}

/// Over a line that crawls: what is asked for without a base comes late.
fn crawling(from: &Master) -> Result<Proxy> {
    let proxy = Proxy::start(from.address())?;
    proxy.set(Fault::Delay(Duration::from_millis(2500)), "/blocks/");
    Ok(proxy)
}

fn asked_against(proxy: &Proxy) -> usize {
    proxy.requests().iter().filter(|path| path.contains("/against/")).count()
}

/// Over a slow line an upgrade travels as what differs from the version that both have, wherever it lies there.
#[test]
fn over_a_slow_line_an_upgrade_travels_as_its_difference() -> Result<()> {
    let lab = Lab::new()?;
    let (from, to) = upgraded(&lab)?;
    let proxy = crawling(&from)?;
    let done = replicate(&to, "lab@2", &proxy.url())?.ok()?;
    ensure!(asked_against(&proxy) > 8, "{:?}", proxy.requests());
    let (fetched, received) = (number(&done, "fetched_bytes")?, number(&done, "received_bytes")?);
    ensure!(fetched >= 95 * MIB && received < 56 * MIB, "{done}");
    ensure!(fs::read(tree(&to, 2).join("disk.raw"))? == moved(), "wrong bytes");
    Ok(())
}

/// A version that is not as it was published, at either end, is no base: blocks travel by themselves.
#[test]
fn a_damaged_base_costs_bytes_and_nothing_else() -> Result<()> {
    for damaged_here in [true, false] {
        let lab = Lab::new()?;
        let (from, to) = upgraded(&lab)?;
        let damaged = if damaged_here { &to } else { &from };
        let disk = File::options().write(true).open(tree(damaged, 1).join("disk.raw"))?;
        let modified = disk.metadata()?.modified()?;
        (0..96 * 16).try_for_each(|block| disk.write_all_at(b"altered", block * 65_536))?;
        disk.set_modified(modified)?;
        let proxy = crawling(&from)?;
        for daemon in [&to.daemon, &from.daemon] {
            daemon.allow_log("altered behind the master's back");
            daemon.allow_log("nothing is packed against it");
            daemon.allow_log("nothing of this version is taken for granted");
            daemon.allow_log("wrong block");
        }
        replicate(&to, "lab@2", &proxy.url())?.ok()?;
        ensure!(asked_against(&proxy) > 0, "{:?}", proxy.requests());
        ensure!(fs::read(tree(&to, 2).join("disk.raw"))? == moved(), "wrong bytes");
    }
    Ok(())
}

/// A cache server gives what it holds of versions: a new, empty master is filled from it when the old one is lost, and so is
/// another cache server; what it does not hold it says so.
#[test]
fn a_cache_fills_an_empty_master() -> Result<()> {
    let lab = Lab::new()?;
    let mut lost = first(&lab)?;
    let listening = CacheSettings { config: "[serve]\nlisten = [\"127.0.0.1:0\"]\n".into(), ..Default::default() };
    let cache = CacheServer::start_with(&lab, &[&lost.url()], &listening)?;
    for version in ["lab@1", "lab@2"] {
        cache.command(&["prefetch", "add", version, "--all", "--wait"])?.ok()?;
    }
    fs::write(lab.path("tree/usr/small"), "new")?;
    ensure!(lost.publish("lab", &lab.path("tree"), &[])? == "lab@3");
    wait_for("the third version is listed", || Ok(cache.residency("lab@3").is_ok().then_some(())))?;
    lost.daemon.stop()?;
    cache.daemon.allow_log("source");
    let status: Value = serde_json::from_str(&cache.command(&["status", "--json"])?.ok()?)?;
    let url = format!("http://{}", status["listen"][0].as_str().context("it listens nowhere")?);

    let new = second(&lab, FileSystem::Btrfs)?;
    new.daemon.allow_log("image replicate");
    let streamed = ["image", "replicate", "lab@1", "--from", &url, "--stream", "btrfs", "--socket", new.socket()];
    icbd(streamed)?.failed_with(ABSENT)?.says(&["a cache server gives no streams"])?;
    for version in ["lab@1", "lab@2"] {
        replicate(&new, version, &url)?.ok()?;
        icbd(["image", "verify", version, "--socket", new.socket()])?.ok()?;
    }
    compare_trees(&tree(&lost, 1), &tree(&new, 1))?;
    compare_trees(&tree(&lost, 2), &tree(&new, 2))?;
    replicate(&new, "lab@3", &url)?.failed_with(ABSENT)?.says(&["a cache server gives only what it holds"])?;

    // Another cache server has nobody else either.
    let other = CacheServer::start_with(&lab, &[&lost.url(), &url], &CacheSettings::default())?;
    other.daemon.allow_log("source");
    ensure!(fs::read(other.path("lab/2/disk.raw"))? == fs::read(cache.path("lab/2/disk.raw"))?, "wrong bytes");
    // What is spoilt on the cache's disk is noticed there, and never taken for the version.
    let disk = cache.store().join("filling/lab/1/disk.raw");
    File::options().write(true).open(disk)?.write_all_at(b"spoilt", 12 * MIB)?;
    ["spoilt", "does not match", "reading block"].iter().for_each(|words| cache.daemon.allow_log(words));
    ["wrong block", "cannot be fetched", "could not be read"].iter().for_each(|words| other.daemon.allow_log(words));
    let read = fs::read(other.path("lab/1/disk.raw"));
    ensure!(read.is_err() || read? == content(1), "wrong bytes");
    Ok(())
}

/// What is damaged on a master is mended from a cache server that holds it, and served again.
#[test]
fn a_master_is_mended_from_its_caches() -> Result<()> {
    let lab = Lab::new()?;
    let master = first(&lab)?;
    let listening = CacheSettings { config: "[serve]\nlisten = [\"127.0.0.1:0\"]\n".into(), ..Default::default() };
    let cache = CacheServer::start_with(&lab, &[&master.url()], &listening)?;
    cache.command(&["prefetch", "add", "lab@1", "--all", "--wait"])?.ok()?;
    let status: Value = serde_json::from_str(&cache.command(&["status", "--json"])?.ok()?)?;
    let url = format!("http://{}", status["listen"][0].as_str().context("it listens nowhere")?);
    let scrub = |from: &[&str]| icbd([&["store", "scrub", "--socket", master.socket()], from].concat());
    scrub(&[])?.ok()?;

    for (version, at) in [(1, 12 * MIB), (2, 13 * MIB)] {
        let disk = File::options().write(true).open(tree(&master, version).join("disk.raw"))?;
        let modified = disk.metadata()?.modified()?;
        disk.write_all_at(b"altered", at)?;
        disk.set_modified(modified)?;
    }
    fs::remove_file(tree(&master, 1).join("usr/share/link"))?;
    for said in ["altered", "cannot serve", "not what was published", "store scrub", "damaged", "source is offline"] {
        master.daemon.allow_log(said);
    }
    scrub(&[])?.failed_with(VERIFICATION)?.prints(&["disk.raw, block 192", "usr/share/link is missing"])?;
    scrub(&["--from", "http://127.0.0.1:1"])?.failed_with(VERIFICATION)?.prints(&["lab@1 could not be mended"])?;
    scrub(&["--from", "cache"])?.failed_with(USAGE)?.says(&["cache"])?;
    let on_cache = cache.command(&["store", "scrub", "--from", &url])?;
    on_cache.failed_with(USAGE)?.says(&["--from is for a master"])?;
    // The cache does not hold the second version.
    let mended = scrub(&["--from", &url])?.failed_with(VERIFICATION)?;
    mended.prints(&["lab@2 could not be mended", "lab@2: disk.raw, block 208", "4 bad, 3 mended"])?;
    icbd(["image", "verify", "lab@1", "--socket", master.socket()])?.ok()?;
    compare_trees(&tree(&master, 1), &cache.path("lab/1"))?;
    cache.command(&["store", "scrub"])?.ok()?;
    let other = CacheServer::start(&lab, &master.url())?;
    ensure!(fs::read(other.path("lab/1/disk.raw"))? == content(1), "wrong bytes");
    icbd(["log", "--socket", master.socket()])?.prints(&[&format!("store scrub --from {url}")])?;

    // One that is gone as a whole keeps nobody from reading the others.
    fs::remove_dir_all(tree(&master, 1))?;
    scrub(&[])?.failed_with(VERIFICATION)?.prints(&["lab@1: the top directory is missing", "lab@2: disk.raw"])?;
    let again = icbd(["image", "replicate", "lab@1", "--from", &url, "--socket", master.socket()])?;
    again.failed_with(VERIFICATION)?.says(&["lab@1", "icbd store scrub --from"])?;
    scrub(&["--from", &url])?.failed_with(VERIFICATION)?.prints(&["2 bad, 1 mended"])?;
    icbd(["image", "verify", "lab@1", "--socket", master.socket()])?.ok()?;
    Ok(())
}

/// Two nodes that receive retired versions get them whole, while the source prunes: what is being sent stays until it was.
#[test]
fn two_nodes_replicate_while_the_source_prunes() -> Result<()> {
    let lab = Lab::new()?;
    let mut from = first(&lab)?;
    from.daemon.stop()?;
    let config = lab.path("prune.toml");
    fs::write(&config, "[retain]\nlast = 1\nyounger_than = \"1s\"\n")?;
    let config = config.to_str().context("a path of text")?;
    let from = Master::start_at(&lab, from.repo(), from.address(), &["--config", config])?;
    let order = |args: &[&str]| icbd([&["image"], args, &["--socket", from.socket()]].concat());
    for number in [3, 4] {
        fs::write(lab.path("tree/usr/small"), number.to_string())?;
        from.publish("lab", &lab.path("tree"), &["--deploy"])?;
    }
    for version in ["lab@1", "lab@2"] {
        order(&["retire", version])?.ok()?;
    }
    let nodes = [("lab@1", FileSystem::Btrfs), ("lab@2", FileSystem::Ext4)];
    let nodes = nodes.map(|(version, file_system)| {
        let proxy = Proxy::start(from.address())?;
        proxy.set(Fault::StallInBody, "/blocks/");
        Ok((version, second(&lab, file_system)?, proxy))
    });
    let nodes = nodes.into_iter().collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| -> Result<()> {
        let running: Vec<_> =
            nodes.iter().map(|(version, to, proxy)| scope.spawn(|| replicate(to, version, &proxy.url()))).collect();
        nodes.iter().for_each(|(_, _, proxy)| proxy.wait_stalled(1));
        let pruned = order(&["prune", "--yes"])?;
        ensure!(pruned.stdout.matches("somebody to whom it is being sent").count() == 2, "{}", pruned.stdout);
        nodes.iter().for_each(|(_, _, proxy)| proxy.set(Fault::None, ""));
        running.into_iter().try_for_each(|node| node.join().expect("no panic")?.ok().map(drop))
    })?;
    for (version, to, _) in &nodes {
        icbd(["image", "verify", version, "--socket", to.socket()])?.ok()?;
    }
    // Nobody is sent anything any more.
    wait_for("both to be removed", || {
        order(&["prune", "--yes"])?;
        Ok((!tree(&from, 1).exists() && !tree(&from, 2).exists()).then_some(()))
    })?;
    // What is gone is said, and what was received stays.
    let (_, to, _) = &nodes[1];
    to.daemon.allow_log("image replicate");
    replicate(to, "lab@1", &from.url())?.failed_with(ABSENT)?.says(&["lab@1"])?;
    icbd(["image", "verify", "lab@2", "--socket", to.socket()])?.ok().map(drop)
}
