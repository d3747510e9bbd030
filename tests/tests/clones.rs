//! Workstations write to disks of their own, from a cold cache on: by iSCSI, to a real tgtd.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    BootTarget, CacheServer, CacheSettings, FileSystem, Lab, MIB, Master, Tgtd, Volume, boot_script, scsi_failures,
    solid, wait_for,
};
use serde_json::Value;

const DISK: u64 = 16 * MIB;
const USAGE: i32 = 2;
const ABSENT: i32 = 3;
const REFUSED: i32 = 4;
const NETWORK: &str = "127.0.0.0/8";

struct Site {
    lab: Lab,
    // Ends before its tgtd, or it would say in its log that this is gone.
    cache: CacheServer,
    tgtd: Tgtd,
    master: Master,
}

/// The disk of a version.
fn disk(version: u64) -> Vec<u8> {
    solid(version, DISK)
}

/// A program that is ended with its scenario.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of text")
}

impl Site {
    fn new() -> Result<Site> {
        Site::with(|_, _| Ok(()))
    }

    /// `lab@1`, deployed, exported with a clone for each client.
    fn with(set: impl FnOnce(&Lab, &mut CacheSettings) -> Result<()>) -> Result<Site> {
        let lab = Lab::new()?;
        let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
        fs::write(tree.join("disk.raw"), disk(1))?;
        Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
        let config = lab.path("master.toml");
        fs::write(&config, "[retain]\nlast = 0\nyounger_than = \"0s\"\n")?;
        let config = ["--config", config.to_str().context("a path of text")?];
        let master = Master::start_at(&lab, &repo, ([127, 0, 0, 1], 0).into(), &config)?;
        let tgtd = Tgtd::start(&lab)?;
        let env = vec![("TGT_IPC_SOCKET", tgtd.socket().to_owned())];
        let serve = "[serve]\nlisten = [\"127.0.0.1:0\"]\n".to_owned();
        let mut settings = CacheSettings { env, config: serve, ..CacheSettings::default() };
        set(&lab, &mut settings)?;
        let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
        let site = Site { lab, tgtd, master, cache };
        site.cache.command(&["export", "add", "lab", "--iscsi", "--clients", NETWORK, "--clone"])?.ok()?;
        Ok(site)
    }

    fn boot(&self, client: &str) -> Result<BootTarget> {
        BootTarget::ask(&self.cache, "lab", client)
    }

    fn clones(&self) -> Result<Vec<Value>> {
        let report: Value = serde_json::from_str(&self.cache.command(&["clone", "list", "--json"])?.ok()?)?;
        Ok(report["clones"].as_array().cloned().unwrap_or_default())
    }

    /// Which there are, and how many are logged in to each.
    fn uses(&self) -> Result<Vec<(String, usize)>> {
        let name = |clone: &Value| {
            format!("{} {}", clone["version"].as_str().unwrap_or("?"), clone["client"].as_str().unwrap_or("?"))
        };
        let clones = self.clones()?;
        Ok(clones.iter().map(|clone| (name(clone), clone["sessions"].as_array().map_or(0, Vec::len))).collect())
    }

    fn wait_for_use(&self, of: &str, count: usize) -> Result<()> {
        let wanted = (of.to_owned(), count);
        wait_for("a clone's use", || Ok(self.uses()?.contains(&wanted).then_some(())))
            .with_context(|| format!("{wanted:?}, not {:?}", self.uses()))
    }

    fn publish(&self, version: u64, args: &[&str]) -> Result<()> {
        fs::write(self.lab.path("tree/disk.raw"), disk(version))?;
        self.master.publish("lab", &self.lab.path("tree"), args).map(drop)
    }

    fn version_is_what_was_published(&self) -> Result<()> {
        ensure!(fs::read(self.cache.path("lab/1/disk.raw"))? == disk(1), "the version changed");
        Ok(())
    }
}

/// What a workstation writes is on its own disk, at once and from a cold cache: not in the version, nor on anybody else's,
/// whom its disk is not served to.
#[test]
fn a_workstation_writes_to_a_disk_of_its_own() -> Result<()> {
    let site = Site::new()?;
    let (one, two) = (site.boot("pc-1")?, site.boot("pc-2")?);
    one.io(&["write -P 0x11 0 1M", "write -P 0x12 5000k 4k", "write -P 0x13 6000000 512", "flush"])?.ok()?;
    two.io(&["write -P 0x21 512k 1M", "flush"])?.ok()?;
    let mut expected = disk(1);
    expected[..1 << 20].fill(0x11);
    expected[5000 << 10..(5000 << 10) + 4096].fill(0x12);
    expected[6_000_000..6_000_512].fill(0x13);
    ensure!(one.read(&site.lab)? == expected, "it is not what it wrote");
    let mut expected = disk(1);
    expected[512 << 10..(512 << 10) + (1 << 20)].fill(0x21);
    ensure!(two.read(&site.lab)? == expected, "it is not what it wrote");
    site.version_is_what_was_published()?;
    let stranger = BootTarget { initiator: two.initiator.clone(), ..one.clone() };
    ensure!(stranger.io(&["read 0 512"])?.code != 0, "another one's disk was served");
    let clones = site.clones()?;
    let written: Vec<u64> = clones.iter().filter_map(|clone| clone["written_bytes"].as_u64()).collect();
    ensure!(written == [(1 << 20) + 2 * 4096, 1 << 20], "{written:?}");
    site.cache.command(&["clone", "list"])?.prints(&["lab@1", "pc-1", "reset at boot", "clones take"])?.ok()?;
    Ok(())
}

/// How much is here of what a workstation would get is said before the first has its disk.
#[test]
fn what_is_here_is_said_before_anybody_boots() -> Result<()> {
    let site = Site::new()?;
    let row = || -> Result<String> {
        let list = site.cache.command(&["export", "list"])?.ok()?;
        let row = list.lines().find(|line| line.starts_with("lab ")).context("no row")?;
        Ok(row.split_whitespace().skip(3).collect::<Vec<_>>().join(" "))
    };
    ensure!(row()? == format!("{NETWORK} - no nobody"), "{}", row()?);
    site.cache.prefetch_all("lab@1")?;
    ensure!(row()? == format!("{NETWORK} - complete nobody"), "{}", row()?);
    Ok(())
}

/// Where another disk of the image is exported, a workstation boots that one, unless what it wrote over the first is kept.
#[test]
fn another_disk_is_another_clone() -> Result<()> {
    let site = Site::new()?;
    let remove = || site.cache.command(&["export", "remove", "lab", "--iscsi"])?.ok().map(drop);
    let export = |disk| -> Result<()> {
        let add = ["export", "add", "lab", "--iscsi", "--clients", NETWORK, "--clone", "--disk", disk];
        site.cache.command(&add)?.ok().map(drop)
    };
    remove()?;
    fs::write(site.lab.path("tree/other.raw"), disk(7))?;
    site.publish(2, &["--deploy"])?;
    wait_for("the new version", || {
        Ok(site.cache.command(&["image", "list", "lab"])?.ok()?.contains("lab@2").then_some(()))
    })?;
    export("disk.raw")?;
    let first = site.boot("pc-1")?;
    first.io(&["write -P 0x11 0 64k", "flush"])?.ok()?;
    remove()?;
    export("other.raw")?;
    ensure!(site.boot("pc-1")?.read(&site.lab)? == disk(7), "it is not the disk that is exported");
    site.cache.command(&["log"])?.prints(&["clone remove pc-1 lab@2", "another disk of its image is exported now"])?;
    site.cache.command(&["clone", "keep", "pc-1", "lab"])?.ok()?;
    remove()?;
    export("disk.raw")?;
    site.cache.daemon.allow_log("gets no boot script");
    let (status, text) = boot_script(&site.cache, "lab?client=pc-1")?;
    ensure!(
        status == 403 && text.contains("is of other.raw, and kept") && text.contains("disk.raw"),
        "{status} {text}"
    );
    site.cache.command(&["client", "explain", "pc-1"])?.prints(&["is of other.raw, and kept"])?.ok().map(drop)
}

/// A clone is reset when its client's boot script is fetched, and at no other time: not by a second fetch while it runs, by
/// whomever, nor by a new connection, nor if it is kept.
#[test]
fn a_clone_is_reset_at_boot_and_never_under_who_runs() -> Result<()> {
    let site = Site::new()?;
    site.cache.daemon.allow_log("boots what it wrote before");
    let target = site.boot("pc-1")?;
    target.io(&["write -P 0x11 0 64k", "flush"])?.ok()?;
    // A second fetch at once may be the same boot: whoever was logged in a moment ago may be again.
    let mut running = target.log_in()?;
    site.wait_for_use("lab@1 pc-1", 1)?;
    let again = site.boot("pc-1")?;
    ensure!(again.name == target.name && running.goes_on()?, "it was taken away");
    target.io(&["read -P 0x11 0 64k"])?.ok()?;
    site.cache
        .command(&["clone", "reset", "pc-1", "lab"])?
        .failed_with(REFUSED)?
        .says(&["in use by 127.0.0.1", "shut pc-1 down"])?;
    site.cache.command(&["clone", "remove", "pc-1", "lab@1"])?.failed_with(REFUSED)?.says(&["in use by"])?;
    // Another connection is no boot.
    drop(running);
    target.io(&["read -P 0x11 0 64k"])?.ok()?;
    site.cache.command(&["clone", "keep", "pc-1", "lab"])?.ok()?;
    site.boot("pc-1")?.io(&["read -P 0x11 0 64k"])?.ok()?;
    site.cache.command(&["clone", "list"])?.prints(&["kept"])?.ok()?;
    site.cache.command(&["clone", "keep", "pc-1", "lab", "--no"])?.ok()?;
    let first = fs::read(site.cache.path("lab/1/disk.raw"))?;
    let fresh = site.boot("pc-1")?;
    ensure!(fresh.name == target.name && fresh.read(&site.lab)? == first, "it was not reset");
    ensure!(site.clones()?[0]["written_bytes"] == 0, "{:?}", site.clones());
    site.cache
        .command(&["log"])?
        .prints(&["clone reset pc-1 lab@1", "its boot script was fetched by 127.0.0.1"])?
        .ok()?;
    Ok(())
}

/// Who runs keeps the version that it began with, also when another one is deployed; its next boot gets that one, and what it
/// wrote before goes.
#[test]
fn a_new_version_is_got_by_the_next_boot() -> Result<()> {
    let site = Site::new()?;
    let (one, two) = (site.boot("pc-1")?, site.boot("pc-2")?);
    one.io(&["write -P 0x11 0 64k", "flush"])?.ok()?;
    two.io(&["write -P 0x21 0 64k", "flush"])?.ok()?;
    let mut running = one.log_in()?;
    site.wait_for_use("lab@1 pc-1", 1)?;
    site.publish(2, &["--deploy"])?;
    wait_for("the new version", || {
        Ok(site.cache.command(&["image", "list", "lab"])?.ok()?.contains("lab@2").then_some(()))
    })?;
    let is_deployed = || {
        let target = site.boot("pc-2")?;
        Ok(target.name.ends_with("lab.2.pc-2").then_some(target))
    };
    let fresh = wait_for("it to be got", is_deployed)?;
    ensure!(fresh.read(&site.lab)? == disk(2), "it is another version");
    ensure!(running.goes_on()?, "a running one had an error");
    one.io(&["read -P 0x11 0 64k"])?.ok()?;
    let is_swept = || {
        let uses: Vec<String> = site.uses()?.into_iter().map(|(name, _)| name).collect();
        Ok((uses == ["lab@1 pc-1", "lab@2 pc-2"]).then_some(()))
    };
    wait_for("what was written before to go", is_swept)?;
    site.cache.command(&["log"])?.prints(&["clone remove pc-2 lab@1", "boots another version"])?.ok()?;
    one.io(&["read -P 0x11 0 64k"])?.ok().map(drop)
}

/// What was flushed is there whatever ends, the daemon killed in the middle of writing, tgtd or all of them after it; who
/// writes goes on.
#[test]
fn a_kill_loses_nothing_that_was_flushed() -> Result<()> {
    let mut site = Site::new()?;
    let target = site.boot("pc-1")?;
    // fio speaks no iSCSI: QEMU does, and shows it the disk as a file.
    let shown = site.lab.path("shown");
    fs::write(&shown, "")?;
    let mut show = Command::new("qemu-storage-daemon");
    show.args(["--blockdev", &format!("node-name=disk,{}", target.options())]);
    show.args(["--export", &format!("fuse,id=disk,node-name=disk,mountpoint={},writable=on", text(&shown)?)]);
    let _shown = Running(show.stdin(Stdio::null()).spawn().context("starting qemu-storage-daemon")?);
    wait_for("the disk", || Ok((fs::metadata(&shown)?.len() == DISK).then_some(())))?;
    let mut fio = Command::new("fio");
    fio.args(["--name=verify", "--rw=randwrite", "--bs=4k", "--size=12m", "--ioengine=psync", "--verify=crc32c"]);
    fio.args(["--verify_fatal=1", "--fsync=32", "--rate_iops=300", "--allow_file_create=0", "--filename"]).arg(&shown);
    let log = fs::File::create(site.lab.path("fio.log"))?;
    fio.current_dir(site.lab.folder("fio")?).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut fio = Running(fio.spawn().context("starting fio; install the package fio")?);
    site.wait_for_use("lab@1 pc-1", 1)?;
    let written = |site: &Site| -> Result<u64> {
        let list: Value = serde_json::from_str(&site.cache.command(&["clone", "list", "--json"])?.ok()?)?;
        Ok(list["clones"][0]["written_bytes"].as_u64().unwrap_or(0))
    };
    for _ in 0..3 {
        let before = written(&site)?;
        site.cache.kill_worker()?;
        site.wait_for_use("lab@1 pc-1", 1)?;
        // The next one serves again before it is killed: see SEMANTICS.md of those that are killed sooner.
        wait_for("that somebody writes on", || Ok((written(&site)? > before + MIB / 8).then_some(())))?;
    }
    let ended = wait_for("fio", || Ok(fio.0.try_wait()?))?;
    ensure!(ended.success(), "{}", fs::read_to_string(site.lab.path("fio.log"))?);
    let before = target.read(&site.lab)?;
    site.cache.daemon.allow_log("nothing is exported");
    site.tgtd.start_again(&site.lab)?;
    let comes_again = || Ok(target.read(&site.lab).ok());
    ensure!(wait_for("the clone", comes_again)? == before, "something was lost");
    site.cache.daemon.stop()?;
    site.cache.start_again(&site.lab)?;
    ensure!(wait_for("the clone", || Ok(target.read(&site.lab).ok()))? == before, "something was lost");
    site.version_is_what_was_published()
}

/// What cannot be had is refused with the reason, and nothing is made.
#[test]
fn what_cannot_be_booted_is_refused() -> Result<()> {
    let site = Site::with(|_, settings| {
        settings.config += "[clone]\nper_client = \"1MiB\"\n";
        Ok(())
    })?;
    site.cache.daemon.allow_log("gets no boot script");
    site.cache.daemon.allow_log("as much as clone.per_client");
    for (query, status, says) in [
        ("lob?client=pc-1", 404, "did you mean \"lab\""),
        ("lab", 400, "?client=NAME"),
        ("lab?client=17", 400, "no name of a workstation"),
        ("lab?klient=pc-1", 400, "?client=NAME"),
        ("LAB?client=pc-1", 404, "contains"),
    ] {
        let (found, text) = boot_script(&site.cache, query)?;
        ensure!(found == status && text.contains(says), "{query}: {found} {text}");
    }
    // A menu gets words that iPXE shows, and nothing that it would do.
    let (found, text) = boot_script(&site.cache, "lob?client=pc-1&menu=1")?;
    let lines: Vec<&str> = text.lines().collect();
    let is_said = matches!(&lines[..], ["#!ipxe", why, "exit 1"] if why.starts_with("echo lob cannot be booted: ") && !why.contains(';'));
    ensure!(found == 200 && is_said, "{found} {text}");
    ensure!(site.clones()?.is_empty(), "{:?}", site.clones());
    site.cache.command(&["clone", "list"])?.prints(&["there is no clone"])?.ok()?;
    let target = site.boot("pc-1")?;
    target.io(&["write -P 0x11 0 1M", "flush"])?.ok()?;
    let refused = target.io(&["write -P 0x11 2M 64k"])?;
    ensure!(refused.code != 0 || refused.stdout.contains("failed"), "it wrote more than it may: {refused:?}");
    target.io(&["read -P 0x11 0 1M"])?.ok()?;
    site.cache.command(&["check"])?.prints(&["as much as clone.per_client lets it"])?;
    site.cache.command(&["clone", "reset", "pc-2", "lab"])?.failed_with(ABSENT)?.says(&["pc-2 has no clone of lab"])?;
    site.cache.command(&["clone", "reset", "PC 1", "lab"])?.failed_with(USAGE)?.says(&["no name of a workstation"])?;
    let plain = site.cache.command(&["export", "add", "lab", "--iscsi", "--clients", NETWORK])?;
    plain.failed_with(REFUSED)?.says(&["with clones", "export remove"])?;
    site.cache.command(&["clone", "remove", "pc-1", "lab"])?.ok()?;
    ensure!(site.clones()?.is_empty(), "{:?}", site.clones());
    site.cache.command(&["log"])?.prints(&["clone remove pc-1 lab"])?.ok()?;
    Ok(())
}

/// Thirty workstations fill the disk: what each had flushed stays, who runs goes on reading, and nobody new begins.
#[test]
fn a_full_disk_takes_nothing_from_who_runs() -> Result<()> {
    const CLIENTS: usize = 30;
    let site = Site::with(|lab, settings| {
        settings.store = Some(Volume::new(lab, FileSystem::Ext4, 64 * MIB)?.path().join("store"));
        Ok(())
    })?;
    for words in ["the disk is full", "cannot begin", "gets no boot script", "room", "cannot be kept", "is full"] {
        site.cache.daemon.allow_log(words);
    }
    let clients: Vec<String> = (0..CLIENTS).map(|number| format!("pc-{number}")).collect();
    let targets = clients.iter().map(|client| site.boot(client)).collect::<Result<Vec<_>>>()?;
    let pattern = |client: usize| format!("-P {:#x}", client + 1);
    let mut flushed = vec![0; CLIENTS];
    for round in 0..8 {
        for (client, target) in targets.iter().enumerate() {
            let write = format!("write {} {}k 512k", pattern(client), round * 512);
            let output = target.io(&[&write, "flush"])?;
            if output.code == 0 && !output.stdout.contains("failed") && !output.stderr.contains("rror") {
                flushed[client] = round + 1;
            }
        }
    }
    ensure!(flushed.iter().all(|rounds| *rounds >= 1) && flushed.iter().any(|rounds| *rounds < 8), "{flushed:?}");
    for (client, target) in targets.iter().enumerate() {
        let read = format!("read {} 0 {}k", pattern(client), flushed[client] * 512);
        let output = target.io(&[&read])?;
        ensure!(output.code == 0 && !output.stdout.contains("failed"), "{client}: {output:?}");
    }
    let (status, words) = boot_script(&site.cache, "lab?client=pc-new")?;
    ensure!(status == 403 && words.contains("nine tenths"), "{status} {words}");
    site.cache.command(&["check"])?.prints(&["the disk was full"])?;
    Ok(())
}

/// A clone passes whatever of a SCSI conformance suite a plain file passes that the same server serves.
#[test]
fn a_clone_is_a_disk_as_a_plain_file_is() -> Result<()> {
    let site = Site::new()?;
    let clone = site.boot("pc-1")?;
    let plain = site.lab.path("plain");
    fs::write(&plain, disk(1))?;
    // A second initiator, which some tests log in as, is let in by neither.
    let binding = ["--initiator-name", &*clone.initiator];
    let others = site.tgtd.serve_plain(&plain, Some("thin_provisioning=1"), binding)?;
    let plain = scsi_failures(&others, &["--dataloss", "-i", &clone.initiator])?;
    let of_clone = scsi_failures(&clone.url(), &["--dataloss", "-i", &clone.initiator])?;
    let more: Vec<_> = of_clone.difference(&plain).collect();
    ensure!(more.is_empty(), "a clone fails where a plain file does not: {more:?}");
    site.version_is_what_was_published()
}
