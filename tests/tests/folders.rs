//! Workstations read versions by NFS, from a real nfs-ganesha, and by HTTP, from the cache server itself.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    CacheServer, CacheSettings, Ganesha, Lab, MIB, Master, NfsReader, Output, icbd, run_bounded, solid, wait_for,
};
use serde_json::Value;

const DISK: u64 = 8 * MIB;
const PIECE: usize = MIB as usize;
const USAGE: i32 = 2;
const ABSENT: i32 = 3;
const REFUSED: i32 = 4;
const PARTLY: i32 = 8;
const TOOL_DEADLINE: Duration = Duration::from_secs(60);

struct Site {
    lab: Lab,
    // Ends before its Ganesha, or it would say in its log that this is gone.
    cache: CacheServer,
    ganesha: Ganesha,
    master: Master,
}

/// The disk of a version.
fn disk(version: u64) -> Vec<u8> {
    solid(version, DISK)
}

/// A cache server that finds its Ganesha there, and serves by HTTP.
fn settings(ganesha: &Ganesha) -> CacheSettings {
    let mut settings = ganesha.cache_settings();
    settings.config += "[serve]\nlisten = [\"127.0.0.1:0\"]\n";
    settings
}

impl Site {
    /// `lab@1` and `other@1`, deployed, and a Ganesha that was told to bring icbd's exports in.
    fn new() -> Result<Site> {
        let site = Site::with_ganesha("")?;
        site.add("lab", &[])?.failed_with(REFUSED)?.says(&[
            &site.ganesha.include(),
            "ganesha.conf",
            "systemctl reload",
        ])?;
        site.ganesha.set(&site.ganesha.include())?;
        Ok(site)
    }

    fn with_ganesha(lines: &str) -> Result<Site> {
        let lab = Lab::new()?;
        let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
        fs::write(tree.join("vmlinuz"), b"a kernel")?;
        Master::publish_offline(&repo, "other", &tree, &["--deploy"])?;
        fs::write(tree.join("disk.raw"), disk(1))?;
        Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
        let config = lab.path("master.toml");
        fs::write(&config, "[retain]\nlast = 0\nyounger_than = \"0s\"\n")?;
        let config = ["--config", config.to_str().context("a path of text")?];
        let master = Master::start_at(&lab, &repo, ([127, 0, 0, 1], 0).into(), &config)?;
        let ganesha = Ganesha::start(&lab, lines)?;
        let cache = CacheServer::start_with(&lab, &[&master.url()], &settings(&ganesha))?;
        Ok(Site { lab, ganesha, master, cache })
    }

    fn add(&self, image: &str, more: &[&str]) -> Result<Output> {
        let clients = format!("{}/32", self.ganesha.client());
        self.cache.command(&[&["export", "add", image, "--nfs", "--clients", &clients], more].concat())
    }

    fn export(&self) -> Result<()> {
        self.add("lab", &[])?.ok().map(drop)
    }

    fn list(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.cache.command(&["export", "list", "--json"])?.ok()?)?)
    }

    fn publish(&self, version: u64) -> Result<()> {
        fs::write(self.lab.path("tree/disk.raw"), disk(version))?;
        self.master.publish("lab", &self.lab.path("tree"), &["--deploy"]).map(drop)
    }

    fn read(&self, version: u64, by: u8) -> Result<Vec<u8>> {
        self.ganesha.read(&format!("/icbd/lab/{version}/disk.raw"), by)
    }

    fn comes_again(&self, version: u64) -> Result<()> {
        let read = wait_for("the export", || Ok(self.read(version, 3).ok().zip(self.read(version, 4).ok())))?;
        ensure!(read == (disk(version), disk(version)), "other bytes came");
        Ok(())
    }

    fn reader(&self, version: u64, by: u8) -> Result<NfsReader> {
        let mut reader = NfsReader::start(&self.ganesha.url(&format!("/icbd/lab/{version}/disk.raw"), by))?;
        ensure!(reader.next(PIECE)? == disk(version)[..PIECE], "other bytes came");
        Ok(reader)
    }

    fn on_master(&self, args: &[&str]) -> Result<Output> {
        icbd([args, &["--socket", self.master.socket()]].concat())
    }
}

/// Reads what is left of a version's disk.
fn goes_on(reader: &mut NfsReader, version: u64) -> Result<()> {
    ensure!(reader.rest()? == disk(version)[PIECE..], "other bytes came");
    Ok(())
}

/// What is exported by NFS is what was published, by both versions of the protocol, for those who were named and nobody
/// else; nobody writes.
#[test]
fn what_is_exported_by_nfs_is_what_was_published() -> Result<()> {
    let site = Site::new()?;
    let address = site.ganesha.address();
    site.add("lab", &[])?.prints(&["by nfs-ganesha", &format!("nfs://{address}/icbd/lab/1")])?.ok()?;
    for by in [3, 4] {
        ensure!(site.read(1, by)? == disk(1), "other bytes came");
        ensure!(site.ganesha.read("/icbd/other/1/vmlinuz", by).is_err(), "it is exported, too");
        let (from, to) = (site.lab.path("tree/vmlinuz"), site.ganesha.url("/icbd/lab/1/new", by));
        let written = site.ganesha.tool("nfs-cp", &[from.to_str().context("a path of text")?, &to])?;
        ensure!(written.code != 0 && !site.cache.path("lab/1/new").exists(), "somebody wrote");
        ensure!(written.stderr.contains("ROFS"), "it was refused for something else: {written:?}");
    }
    let mut reader = site.reader(1, 4)?;
    let client = site.ganesha.client().to_string();
    let connected = || Ok(site.cache.command(&["export", "list"])?.stdout.contains(&client).then_some(()));
    wait_for("that it is shown who reads", connected)?;
    site.cache.command(&["export", "list"])?.prints(&[" open", "connected by nfs"])?.ok()?;
    let in_use = site.cache.command(&["export", "remove", "lab", "--nfs"])?;
    in_use.failed_with(REFUSED)?.says(&[&client, "shut these down first"])?;
    goes_on(&mut reader, 1)?;
    drop(reader);
    site.cache.command(&["log"])?.prints(&["export add lab --nfs --clients"])?.ok()?;
    let is_removed = || Ok((site.cache.command(&["export", "remove", "lab", "--nfs"])?.code == 0).then_some(()));
    wait_for("that it can be removed", is_removed)?;
    ensure!(site.read(1, 3).is_err() && site.read(1, 4).is_err(), "it is still there");
    ensure!(site.list()? == serde_json::json!([]), "{}", site.list()?);
    // Nor does anybody else read what is exported.
    site.cache.command(&["export", "add", "lab", "--nfs", "--clients", "192.0.2.0/24"])?.ok()?;
    ensure!(site.read(1, 3).is_err() && site.read(1, 4).is_err(), "others read it, too");
    site.export()?;
    site.comes_again(1)?;
    Ok(())
}

/// Ten workstations that read a version by NFS go on with it when another is deployed, their server is restarted or the
/// cache is killed; it is not removed as long as one of them may come back.
#[test]
fn ten_go_on_with_the_folder_that_they_read() -> Result<()> {
    let mut site = Site::new()?;
    site.export()?;
    // Those of version 4 cannot go on after their server was killed: libnfs has no recovery of their state.
    let mut readers: Vec<NfsReader> = (0..10).map(|_| site.reader(1, 3)).collect::<Result<_>>()?;
    site.publish(2)?;
    site.comes_again(2)?;
    let mut fourth = site.reader(1, 4)?;
    site.cache.kill_worker()?;
    goes_on(&mut fourth, 1)?;
    drop(fourth);
    site.cache.daemon.allow_log("not all is exported by NFS");
    site.ganesha.start_again()?;
    site.comes_again(1)?;
    site.comes_again(2)?;
    site.on_master(&["image", "retire", "lab@1", "--force"])?.ok()?;
    wait_for("that the master knows", || {
        Ok(site.on_master(&["image", "prune"])?.ok()?.contains("waits").then_some(()))
    })?;
    for reader in &mut readers {
        goes_on(reader, 1)?;
    }
    drop(readers);
    // Somebody may come back who only sleeps.
    site.on_master(&["image", "prune", "--yes"])?.ok()?;
    ensure!(site.read(1, 3)? == disk(1), "it was taken away");
    wait_for("that it is shown", || {
        let list = site.cache.command(&["export", "list"])?.ok()?;
        Ok(list.lines().any(|line| line.contains("(leaving)") && line.contains("read within a day")).then_some(()))
    })?;
    // Unless there is no export any more by which it could.
    wait_for("that nothing is open", || {
        Ok((site.cache.command(&["export", "remove", "lab", "--nfs"])?.code == 0).then_some(()))
    })?;
    wait_for("that it goes", || {
        site.on_master(&["image", "prune", "--yes"])?.ok()?;
        Ok((!site.on_master(&["image", "list", "lab"])?.ok()?.contains("lab@1")).then_some(()))
    })
}

/// Whatever is killed, stopped or started, what was exported by NFS is again, by the same handles.
#[test]
fn folders_outlive_their_servers() -> Result<()> {
    let mut site = Site::new()?;
    site.export()?;
    let mut reader = site.reader(1, 3)?;
    site.cache.kill_worker()?;
    site.comes_again(1)?;
    goes_on(&mut reader, 1)?;
    drop(reader);
    // One that was stopped has another mount, and held none.
    wait_for("that nobody is connected", || {
        Ok(site.list()?[0]["connected"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    site.cache.daemon.stop()?;
    ensure!(!site.cache.daemon.log().contains("the mount is in use"), "Ganesha holds the mount");
    ensure!(site.read(1, 3).is_err(), "it is still there");
    site.cache.start_again(&site.lab)?;
    site.comes_again(1)?;
    // A Ganesha that is started before the mount is there learns of it.
    site.ganesha.kill()?;
    site.cache.daemon.stop()?;
    site.ganesha.start_again()?;
    site.cache.start_again(&site.lab)?;
    site.comes_again(1)
}

/// What cannot be exported by NFS is refused with the reason; what somebody edited is kept.
#[test]
fn what_cannot_be_exported_by_nfs_is_refused() -> Result<()> {
    let mut site = Site::new()?;
    site.add("lob", &[])?.failed_with(ABSENT)?.says(&["did you mean \"lab\""])?;
    site.add("lab", &["--clone"])?.failed_with(USAGE)?.says(&["cannot be used with"])?;
    site.add("lab", &["--http"])?.failed_with(USAGE)?.says(&["cannot be used with"])?;
    site.ganesha.kill()?;
    site.add("lab", &[])?.failed_with(REFUSED)?.says(&["systemctl start nfs-ganesha"])?;
    ensure!(site.list()? == serde_json::json!([]), "{}", site.list()?);
    site.ganesha.start_again()?;
    site.export()?;
    site.comes_again(1)?;
    site.cache.daemon.allow_log("not all is exported by NFS");
    let ours = site.lab.path("icbd.conf");
    let edited = fs::read_to_string(&ours)?.replace("Access_Type = None", "Access_Type = RW");
    fs::write(&ours, &edited)?;
    let is_told = || Ok(site.cache.command(&["check"])?.stdout.contains("edited by hand").then_some(()));
    wait_for("that it is told", is_told)?;
    site.add("other", &[])?.failed_with(REFUSED)?.says(&["edited by hand", "move what is yours"])?;
    ensure!(fs::read_to_string(&ours)? == edited, "it was changed");
    // What cannot be ended is not said to be.
    let left = site.cache.command(&["export", "remove", "lab", "--nfs"])?;
    left.failed_with(PARTLY)?.says(&["serves it still", "edited by hand"])?;
    fs::remove_file(&ours)?;
    site.export()?;
    wait_for("that it is written anew", || Ok(ours.exists().then_some(())))?;
    site.comes_again(1)?;
    site.cache.set_config(&settings(&site.ganesha).config.replace("nfs = \"ganesha\"", "nfs = \"off\""))?;
    site.cache.command(&["config", "reload"])?.prints(&["export.nfs"])?;
    site.add("other", &[])?.failed_with(REFUSED)?.says(&["export.nfs is \"off\""])?;
    wait_for("that nothing is exported", || Ok(site.read(1, 3).is_err().then_some(())))?;
    site.cache.set_config(&settings(&site.ganesha).config)?;
    site.cache.command(&["config", "reload"])?.ok()?;
    site.comes_again(1)
}

/// What is exported by HTTP is read by name and in parts, from a cache that has nothing yet, by who may, and does not change.
#[test]
fn what_is_exported_by_http_is_what_was_published() -> Result<()> {
    let site = Site::with_ganesha("")?;
    let add = |clients: &str| site.cache.command(&["export", "add", "lab", "--http", "--clients", clients]);
    let base = format!("http://{}", site.cache.status()?["listen"][0].as_str().context("an address")?);
    let curl = |args: &[&str], path: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body"]).args(args).arg(format!("{base}{path}"));
        run_bounded(curl, TOOL_DEADLINE)
    };
    let refused = curl(&[], "/files/lab/1/vmlinuz")?;
    ensure!(refused.code != 0 && refused.stdout.contains("is not exported by http"), "{refused:?}");
    // Who was not named reads nothing, though it may connect.
    add("10.1.2.0/24")?.ok()?;
    let refused = curl(&[], "/files/lab/1/vmlinuz")?;
    ensure!(refused.code != 0 && refused.stdout.contains("127.0.0.1 is in no network"), "{refused:?}");
    let url = format!("{base}/files/lab/1/disk.raw");
    add("127.0.0.0/8")?.prints(&["lab is declared", &url])?.ok()?;
    let read = || -> Result<Vec<u8>> {
        let copy = site.lab.path("copy");
        let mut convert = Command::new("qemu-img");
        // One request at a time: with several at once qemu-img of QEMU 7.2 was seen to wait for answers that it had.
        convert.args(["convert", "-m", "1", "-f", "raw", "-O", "raw", &url]).arg(&copy);
        run_bounded(convert, TOOL_DEADLINE)?.ok()?;
        Ok(fs::read(copy)?)
    };
    ensure!(read()? == disk(1), "other bytes came");
    curl(&["--range", "2-7"], "/files/lab/1/vmlinuz")?.prints(&["kernel"])?.ok()?;
    let head = curl(&["--head"], "/files/lab/1/disk.raw")?;
    head.prints(&["200 OK", "accept-ranges: bytes", &format!("content-length: {DISK}"), "immutable"])?.ok()?;
    for (path, says) in [
        ("/files/lab/current/vmlinuz", "has a number in its path"),
        ("/files/lab/9/vmlinuz", "no version lab@9"),
        ("/files/lab/1/boot", "lab@1 has no file"),
        ("/files/other/1/vmlinuz", "other is not exported"),
    ] {
        let refused = curl(&[], path)?;
        ensure!(refused.code != 0 && refused.stdout.contains(says), "{path}: {refused:?}");
    }
    site.cache.command(&["export", "list"])?.prints(&["http", &url, "127.0.0.1"])?.ok()?;
    let in_use = site.cache.command(&["export", "remove", "lab", "--http"])?;
    in_use.failed_with(REFUSED)?.says(&["127.0.0.1"])?;
    // Who reads it goes on with it, whatever is deployed and retired.
    site.publish(2)?;
    site.on_master(&["image", "retire", "lab@1", "--force"])?.ok()?;
    wait_for("that the master knows", || {
        Ok(site.on_master(&["image", "prune"])?.ok()?.contains("waits").then_some(()))
    })?;
    site.on_master(&["image", "prune", "--yes"])?.ok()?;
    ensure!(read()? == disk(1), "it was taken away");
    // Nor is what is withheld from others.
    site.cache.daemon.allow_log("withheld");
    site.cache.daemon.allow_log("no key is trusted");
    let strict = format!("[trust]\nkeys = [\"{}/*.pub\"]\nrequire = true\n", site.lab.path("trusted").display());
    site.cache.set_config(&format!("{}{strict}", settings(&site.ganesha).config))?;
    site.cache.command(&["config", "reload"])?.prints(&["trust.require"])?;
    let of_next =
        || Ok(curl(&["--range", "0-1"], "/files/lab/2/disk.raw")?.stdout.contains("no version lab@2").then_some(()));
    wait_for("that it is withheld", of_next)?;
    ensure!(read()? == disk(1), "it was taken away");
    Ok(())
}

/// Who is connected may sleep for days: as long as it is, what was read a week ago at most is not removed; of who is not, a day.
#[test]
fn who_is_connected_may_have_slept_for_days() -> Result<()> {
    let mut site = Site::new()?;
    site.export()?;
    site.comes_again(1)?;
    site.publish(2)?;
    site.comes_again(2)?;
    let nobody = || Ok(site.list()?[0]["connected"].as_array().is_some_and(Vec::is_empty).then_some(()));
    wait_for("that nobody is connected", nobody)?;
    site.cache.daemon.stop()?;
    let catalogue = rusqlite::Connection::open(site.cache.store().join("catalog.db"))?;
    ensure!(catalogue.execute("UPDATE uses SET used_s = used_s - 3 * 86400", [])? >= 2, "nothing was used");
    drop(catalogue);
    site.cache.start_again(&site.lab)?;
    wait_for("the export", || Ok(site.read(2, 4).ok()))?;
    let sleeper = site.reader(2, 4)?;
    site.on_master(&["image", "retire", "lab@1", "--force"])?.ok()?;
    wait_for("that the master knows", || {
        Ok(site.on_master(&["image", "prune"])?.ok()?.contains("waits").then_some(()))
    })?;
    site.on_master(&["image", "prune", "--yes"])?.ok()?;
    ensure!(site.on_master(&["image", "list", "lab"])?.ok()?.contains("lab@1"), "it was taken away");
    drop(sleeper);
    wait_for("that it goes", || {
        site.on_master(&["image", "prune", "--yes"])?.ok()?;
        Ok((!site.on_master(&["image", "list", "lab"])?.ok()?.contains("lab@1")).then_some(()))
    })
}
