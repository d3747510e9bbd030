//! Prefetch orders as an administrator gives them: what is promised, what is said, what survives.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    CacheServer, CacheSettings, Fault, FileSystem, Lab, MIB, Master, Proxy, Volume, fill, solid, wait_for,
};
use serde_json::Value;

const USAGE: i32 = 2;
const ABSENT: i32 = 3;
const REFUSED: i32 = 4;
const MISSED: i32 = 5;
const FILE_BYTES: u64 = 24 * MIB;

/// A tree with one file of [`FILE_BYTES`], published as `win11-lab@1`, and its master.
fn site(lab: &Lab) -> Result<Master> {
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    std::fs::write(tree.join("disk.raw"), solid(1, FILE_BYTES))?;
    std::fs::write(tree.join("vmlinuz"), solid(2, MIB))?;
    Master::publish_offline(&repo, "win11-lab", &tree, &["--deploy"])?;
    Master::start(lab, &repo)
}

fn order(cache: &CacheServer, id: u64) -> Result<Value> {
    let orders: Vec<Value> = serde_json::from_str(&cache.command(&["prefetch", "list", "--ended", "--json"])?.ok()?)?;
    orders.into_iter().find(|order| order["id"] == id).with_context(|| format!("no order {id}"))
}

fn add(cache: &CacheServer, args: &[&str]) -> Result<u64> {
    let json = cache.command(&[&["prefetch", "add"], args, &["--json"]].concat())?.ok()?;
    serde_json::from_str::<Value>(&json)?["id"].as_u64().context("an order without a number")
}

fn wait_verdict(cache: &CacheServer, id: u64, verdict: &str) -> Result<Value> {
    wait_for(&format!("order {id} is {verdict}"), || {
        Ok(Some(order(cache, id)?).filter(|order| order["verdict"] == verdict))
    })
}

/// A standing order has a new version here before it is deployed; it is listed, explained, and nobody changed it unnamed.
#[test]
fn a_new_version_is_here_before_it_is_deployed() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    let explained = cache.command(&["prefetch", "explain", "win11-lab@1", "--all"])?.ok()?;
    ensure!(
        explained.contains("25.0 MiB of 25.0 MiB are not here") && explained.contains(&master.url()),
        "{explained}"
    );
    let terms = ["--by", "08:45", "--days", "mon-fri", "--zone", "Europe/Madrid", "--limit", "800mbit"];
    let id = add(&cache, &[&["win11-lab", "--all"][..], &terms].concat())?;
    // It has time; nothing is fetched before.
    let text = cache.command(&["prefetch", "list"])?.ok()?;
    ensure!(
        text.contains("win11-lab all  mon-fri by 08:45 Europe/Madrid, 800 Mbit/s") && text.contains("0 B/25.0 MiB"),
        "{text}"
    );
    let id_text = id.to_string();
    cache.command(&["prefetch", "set", &id_text, "--by", "off", "--limit", "off"])?.ok()?;
    wait_verdict(&cache, id, "kept")?;

    std::fs::write(lab.path("tree").join("disk.raw"), solid(3, FILE_BYTES))?;
    master.publish("win11-lab", &lab.path("tree"), &[])?;
    wait_for("version 2 is here", || {
        Ok(cache.residency("win11-lab@2").is_ok_and(|held| held.is_complete).then_some(()))
    })?;
    ensure!(cache.residency("win11-lab@1")?.is_complete, "the deployed version was given up");
    let explained = cache.command(&["prefetch", "explain", &id_text])?.ok()?;
    ensure!(explained.contains("win11-lab@2 all: 0 B of 25.0 MiB are not here"), "{explained}");

    cache.command(&["prefetch", "pause", &id_text])?.ok()?;
    ensure!(order(&cache, id)?["verdict"] == "paused", "not paused");
    cache.command(&["prefetch", "resume", &id_text])?.ok()?;
    cache.command(&["prefetch", "cancel", &id_text])?.ok()?;
    cache.command(&["prefetch", "resume", &id_text])?.failed_with(REFUSED)?.says(&["cancelled"])?;
    let log = cache.command(&["log"])?.ok()?;
    let added = "prefetch add win11-lab --all --by 08:45 --days mon-fri --zone Europe/Madrid --limit 800mbit";
    for what in
        [added, "prefetch set 1 --by off --limit off", "prefetch pause 1", "prefetch resume 1", "prefetch cancel 1"]
    {
        ensure!(
            log.lines().any(|line| line.contains(what) && line.contains("root")),
            "{what} is not in the log:\n{log}"
        );
    }
    Ok(())
}

#[test]
fn what_cannot_be_ordered_is_refused_with_the_remedy() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    let check = |args: &[&str], code: i32, says: &[&str]| -> Result<()> {
        cache.command(&[&["prefetch", "add"], args].concat())?.failed_with(code)?.says(says).map(drop)
    };
    check(&["win11-lab", "--all", "--by", "2020-01-01T08:45:00Z"], USAGE, &["in the past", "name a time to come"])?;
    check(&["win11-lab", "--all", "--by", "08:45", "--zone", "Europe/Madird"], USAGE, &["Europe/Madrid"])?;
    check(&["win11-lab", "--all", "--by", "08:45", "--days", "mon-fry"], USAGE, &["fry", "mon-fri"])?;
    check(&["win11-lab", "--all", "--limit", "0"], USAGE, &["above zero", "50mbit"])?;
    check(&["win11-lab", "--all", "--limit", "50"], USAGE, &["50mbit"])?;
    check(&["win11-lab", "--all", "--days", "mon"], USAGE, &["--by HH:MM"])?;
    check(&["win11-lab"], USAGE, &["--boot", "--all", "--file"])?;
    check(&["win11-lap", "--all"], ABSENT, &["win11-lap", "win11-lab"])?;
    check(&["win11-lab@7", "--boot"], ABSENT, &["win11-lab@1"])?;
    check(&["win11-lab@1", "--file", "disk.rwa"], ABSENT, &["disk.rwa", "did you mean \"disk.raw\"?"])?;
    cache.command(&["prefetch", "cancel", "99"])?.failed_with(ABSENT)?.says(&["99", "prefetch list"])?;
    cache.command(&["prefetch", "set", "1"])?.failed_with(USAGE)?.says(&["--limit"])?;
    cache.command(&["prefetch", "explain", "win11-lap", "--all"])?.failed_with(ABSENT)?.says(&["win11-lab"])?;
    ensure!(cache.command(&["prefetch", "list", "--ended", "--json"])?.ok()?.trim() == "[]", "something was ordered");
    Ok(())
}

/// A version that never booted here: kernel and disk's ends are fetched, and the list says that it is a guess.
#[test]
fn a_boot_without_a_record_is_guessed_and_said() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    cache.command(&["prefetch", "add", "win11-lab@1", "--boot", "--wait"])?.ok()?;
    let held = cache.residency("win11-lab@1")?;
    // The kernel's 16 blocks and 16 at each end of the disk.
    ensure!(held.resident_blocks >= 48 && held.resident_blocks < 64, "{held:?}");
    let explained = cache.command(&["prefetch", "explain", "win11-lab@1", "--boot"])?.ok()?;
    ensure!(explained.contains("no boot recorded yet"), "{explained}");
    Ok(())
}

/// A promise that cannot be kept is said when it is made; who waits for it is told by exit code 5, and it goes on.
#[test]
fn a_promise_that_is_missed_is_said_and_ends_with_five() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let proxy = Proxy::start(master.address())?;
    let cache = CacheServer::start(&lab, &proxy.url())?;
    ["source", "offline", "prefetch", "waits"].iter().for_each(|words| cache.daemon.allow_log(words));
    proxy.set(Fault::Stall, "/blocks/");
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(4);
    let by = soon.to_string();
    let args = ["prefetch", "add", "win11-lab@1", "--all", "--by", &by, "--limit", "8mbit", "--wait"];
    let missed = cache.command(&args)?.failed_with(MISSED)?;
    missed.says(&["cannot be kept", "at best it is done", "was missed", "the order goes on"])?;
    let status = cache.command(&["status"])?.ok()?;
    ensure!(status.contains("is late"), "the status does not say so:\n{status}");
    cache.command(&["prefetch", "set", "1", "--limit", "off"])?.ok()?;
    proxy.set(Fault::None, "");
    wait_verdict(&cache, 1, "missed")?;
    ensure!(cache.residency("win11-lab@1")?.is_complete, "not complete");
    Ok(())
}

/// What keeps an order from getting on is said where it is looked for, with what to do: damage on the master, no master.
#[test]
fn what_keeps_an_order_waiting_is_said() -> Result<()> {
    let lab = Lab::new()?;
    let mut master = site(&lab)?;
    let disk = master.repo().join("versions/win11-lab/1/disk.raw");
    File::options().write(true).open(disk)?.write_all_at(b"altered", 12 * MIB)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    ["altered", "cannot serve", "not what was published"].iter().for_each(|words| master.daemon.allow_log(words));
    ["prefetch order", "source", "wrong block"].iter().for_each(|words| cache.daemon.allow_log(words));
    let id = add(&cache, &["win11-lab@1", "--all"])?;
    wait_for("the damage is told", || Ok(order(&cache, id)?["trouble"].as_str().map(|_| ())))?;
    let says =
        ["1 blocks of win11-lab@1 are damaged at the source", "`icbd image verify win11-lab@1` there", "block 192"];
    for args in [&["prefetch", "list"][..], &["prefetch", "explain", &id.to_string()], &["status"]] {
        let text = cache.command(args)?.ok()?;
        ensure!(says.iter().all(|words| text.contains(words)), "{args:?}:\n{text}");
    }
    let held = cache.residency("win11-lab@1")?;
    ensure!(held.resident_blocks + 1 == held.blocks, "the rest did not come: {held:?}");
    master.daemon.stop()?;
    let text = cache.command(&["prefetch", "explain", "win11-lab@1", "--all"])?.ok()?;
    ensure!(!text.contains("offline"), "nobody asked yet:\n{text}");
    cache.command(&["prefetch", "resume", &id.to_string()])?.ok()?;
    wait_for("the master is missed", || {
        let text = cache.command(&["prefetch", "explain", "win11-lab@1", "--all"])?.ok()?;
        Ok(text.contains(&format!("{} is offline", master.url())).then_some(()))
    })
}

/// A daemon that is killed in the middle of an order goes on with it, and asks for little twice.
#[test]
fn a_kill_in_the_middle_of_an_order() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let proxy = Proxy::start(master.address())?;
    let mut cache = CacheServer::start(&lab, &proxy.url())?;
    let id = add(&cache, &["win11-lab@1", "--all", "--limit", "60mbit"])?;
    wait_for("a part is durable", || Ok((cache.residency("win11-lab@1")?.durable_blocks >= 64).then_some(())))?;
    cache.kill_worker()?;
    let held = cache.residency("win11-lab@1")?;
    ensure!(!held.is_complete && held.durable_blocks >= 64, "{held:?}");
    cache.command(&["prefetch", "set", &id.to_string(), "--limit", "off"])?.ok()?;
    wait_verdict(&cache, id, "kept")?;
    let asked: u64 = proxy.requests().iter().filter_map(|path| blocks_of(path)).sum();
    // A batch that was not synced yet may be asked for again.
    let twice = asked.saturating_sub(held.blocks);
    ensure!(twice <= held.blocks - 64 && asked >= held.blocks - 1, "{asked} blocks were asked for, of {}", held.blocks);
    Ok(())
}

/// How many blocks a request asks for: `…/blocks/FILE/FIRST-LAST.CODEC`.
fn blocks_of(path: &str) -> Option<u64> {
    let run = path.split_once("/blocks/")?.1.split('/').nth(1)?;
    let (first, last) = run.split_once('.')?.0.split_once('-')?;
    Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
}

/// Prefetch leaves room on the disk, says so, and readers are served and kept meanwhile.
#[test]
fn a_disk_that_fills_stops_prefetch_before_demand() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let volume = Volume::new(&lab, FileSystem::Ext4, 96 * MIB)?;
    let config = "[store]\nmin_free = \"48MiB\"\n".to_owned();
    let settings = CacheSettings { store: Some(volume.path().join("store")), config, ..CacheSettings::default() };
    let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
    ["prefetch", "min_free"].iter().for_each(|words| cache.daemon.allow_log(words));
    // Something else fills the disk.
    fill(&volume.path().join("other"), 9, 40 * MIB)?;
    let id = add(&cache, &["win11-lab@1", "--all"])?;
    let stuck =
        wait_for("the order stops", || Ok(Some(order(&cache, id)?).filter(|order| !order["trouble"].is_null())))?;
    let why = stuck["trouble"].as_str().unwrap_or_default();
    ensure!(why.contains("MiB are free") && why.contains("store.min_free"), "{why}");
    let status = cache.command(&["status"])?.ok()?;
    ensure!(status.contains("prefetch leaves 48 MiB"), "the status does not say so:\n{status}");
    let kernel = std::fs::read(cache.path("win11-lab/1/vmlinuz"))?;
    ensure!(kernel == solid(2, MIB), "wrong bytes");
    wait_for("what was read is kept", || Ok((cache.residency("win11-lab@1")?.durable_blocks >= 16).then_some(())))?;
    std::fs::remove_file(volume.path().join("other"))?;
    wait_for("there is room again", || {
        let order = order(&cache, id)?;
        Ok((order["done_bytes"].as_u64() > Some(8 * MIB)).then_some(()))
    })?;
    Ok(())
}

/// Prefetch stops at the reserve however fast it comes, and what was ordered can be changed then.
#[test]
fn prefetch_never_takes_the_reserve() -> Result<()> {
    for file_system in [FileSystem::Ext4, FileSystem::Btrfs] {
        let lab = Lab::new()?;
        let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
        fill(&tree.join("disk.raw"), 5, 300 * MIB)?;
        Master::publish_offline(&repo, "win11-lab", &tree, &[])?;
        let master = Master::start(&lab, &repo)?;
        let volume = Volume::new(&lab, file_system, 256 * MIB)?;
        let config = "[store]\nmin_free = \"24MiB\"\n".to_owned();
        let settings = CacheSettings { store: Some(volume.path().join("store")), config, ..CacheSettings::default() };
        let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
        ["prefetch", "min_free"].iter().for_each(|words| cache.daemon.allow_log(words));
        let id = add(&cache, &["win11-lab@1", "--all"])?;
        let stuck = wait_verdict(&cache, id, "stuck")?;
        let disk = nix::sys::statvfs::statvfs(volume.path())?;
        let free = disk.blocks_available() as u64 * disk.fragment_size() as u64;
        // btrfs takes room for its metadata a chunk at a time, and says so afterwards.
        let least = if file_system == FileSystem::Btrfs { 16 * MIB } else { 23 * MIB };
        ensure!(free >= least, "{file_system:?}: {} MiB are left; {stuck}", free / MIB);
        ensure!(stuck["done_bytes"].as_u64() > Some(32 * MIB), "{file_system:?}: {stuck}");
        cache.command(&["prefetch", "set", "1", "--priority", "low"])?.ok()?;
        cache.command(&["prefetch", "cancel", "1"])?.ok()?;
    }
    Ok(())
}

/// `image replicate` at a cache server has all of a version here, from a source that it has, and from no other.
#[test]
fn a_cache_replicates_from_its_sources() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    let replicate = |args: &[&str]| cache.command(&[&["image", "replicate"], args].concat());
    let (url, other) = (master.url(), "http://127.0.0.1:9");
    replicate(&["win11-lab", "--from", other])?.failed_with(USAGE)?.says(&["no source", &url, "[[source]]"])?;
    replicate(&["win11-lab", "--from", &url, "--stream", "btrfs"])?.failed_with(USAGE)?.says(&["--stream"])?;
    replicate(&["win11-lab@9", "--from", &url])?.failed_with(ABSENT)?.says(&["win11-lab@1"])?;
    replicate(&["win11-lab", "--from", &format!("{url}/")])?.prints(&["win11-lab@1: 25.0 MiB of 25.0 MiB"])?;
    ensure!(cache.residency("win11-lab@1")?.is_complete, "not all is here");
    replicate(&["win11-lab", "--from", &url])?.prints(&["is here already"])?;
    cache.command(&["log"])?.prints(&["image replicate win11-lab --from"])?;
    Ok(())
}
