//! Workstations read versions by iSCSI, from a real tgtd: what they read never changes, and nothing of others' is touched.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    CacheServer, CacheSettings, IscsiReader, Lab, MIB, Master, Output, Tgtd, icbd, run_bounded, scsi_failures, solid,
    wait_for,
};
use serde_json::Value;

const DISK: u64 = 8 * MIB;
const USAGE: i32 = 2;
const ABSENT: i32 = 3;
const REFUSED: i32 = 4;
const TOOL_DEADLINE: Duration = Duration::from_secs(60);
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

impl Site {
    /// `lab@1`, deployed: a disk, a kernel beside it, and a tree without a disk, `tree@1`.
    fn new() -> Result<Site> {
        let lab = Lab::new()?;
        let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
        fs::write(tree.join("vmlinuz"), solid(9, MIB))?;
        fs::write(tree.join("initrd.img"), solid(8, MIB))?;
        Master::publish_offline(&repo, "tree", &tree, &["--deploy"])?;
        fs::write(tree.join("disk.raw"), disk(1))?;
        Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
        let config = lab.path("master.toml");
        fs::write(&config, "[retain]\nlast = 0\nyounger_than = \"0s\"\n")?;
        let config = ["--config", config.to_str().context("a path of text")?];
        let master = Master::start_at(&lab, &repo, ([127, 0, 0, 1], 0).into(), &config)?;
        let tgtd = Tgtd::start(&lab)?;
        let cache = CacheServer::start_with(&lab, &[&master.url()], &by(tgtd.socket()))?;
        Ok(Site { lab, tgtd, master, cache })
    }

    fn publish(&self, version: u64, args: &[&str]) -> Result<()> {
        fs::write(self.lab.path("tree/disk.raw"), disk(version))?;
        self.master.publish("lab", &self.lab.path("tree"), args).map(drop)
    }

    fn export(&self) -> Result<()> {
        self.cache.command(&["export", "add", "lab", "--iscsi", "--clients", NETWORK])?.ok().map(drop)
    }

    fn exports(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.cache.command(&["export", "list", "--json"])?.ok()?)?)
    }

    /// The targets that are offered, by the end of their names, and how many use each.
    fn targets(&self) -> Result<Vec<(String, usize)>> {
        let exports = self.exports()?;
        let offers = exports[0]["offers"].as_array().cloned().unwrap_or_default();
        let name = |offer: &Value| {
            offer["name"].as_str().unwrap_or_default().rsplit(':').next().unwrap_or_default().to_owned()
        };
        Ok(offers.iter().map(|offer| (name(offer), offer["sessions"].as_array().map_or(0, Vec::len))).collect())
    }

    fn wait_for_targets(&self, wanted: &[(&str, usize)]) -> Result<()> {
        let wanted: Vec<_> = wanted.iter().map(|(name, users)| ((*name).to_owned(), *users)).collect();
        let there = || Ok((self.targets()? == wanted).then_some(()));
        wait_for("the targets", there).with_context(|| format!("{wanted:?}, not {:?}", self.targets()))
    }

    fn url(&self, version: u64) -> String {
        format!("iscsi://{}/iqn.2026-01.net.icbd:lab.{version}/1", self.tgtd.address())
    }

    /// Reads all of a version's disk as a workstation does.
    fn read(&self, version: u64) -> Result<Vec<u8>> {
        let copy = self.lab.path("copy");
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", "raw", &self.url(version)]).arg(&copy);
        run_bounded(convert, TOOL_DEADLINE)?.ok()?;
        Ok(fs::read(copy)?)
    }

    /// The first version is not removed, and is what it was.
    fn first_stays(&self) -> Result<()> {
        self.on_master(&["image", "prune", "--yes"])?.ok()?;
        self.on_master(&["image", "list", "lab"])?.prints(&["lab@1"])?.ok()?;
        ensure!(self.read(1)? == disk(1), "it was taken away");
        Ok(())
    }

    fn on_master(&self, args: &[&str]) -> Result<Output> {
        icbd([args, &["--socket", self.master.socket()]].concat())
    }
}

/// A cache server that finds its tgtd there.
fn by(socket: &Path) -> CacheSettings {
    CacheSettings { env: vec![("TGT_IPC_SOCKET", socket.to_owned())], ..CacheSettings::default() }
}

/// A version that is deployed is offered, and what is read of it is what was published; nobody writes to it.
#[test]
fn what_is_exported_is_what_was_published() -> Result<()> {
    let site = Site::new()?;
    let added = site.cache.command(&["export", "add", "lab", "--iscsi", "--clients", NETWORK])?;
    added.prints(&["lab is declared for 127.0.0.0/8, by tgtd", &site.url(1)])?.ok()?;
    ensure!(site.read(1)? == disk(1), "other bytes came");
    let mut write = Command::new("qemu-io");
    write.args(["-f", "raw", "-c", "write 0 4096", &site.url(1)]);
    ensure!(run_bounded(write, TOOL_DEADLINE)?.code != 0, "it was written to");
    ensure!(site.read(1)? == disk(1) && fs::read(site.cache.path("lab/1/disk.raw"))? == disk(1), "it was written to");
    site.cache.command(&["export", "list"])?.prints(&["lab", NETWORK, &site.url(1), "nobody"])?.ok()?;
    site.cache.command(&["log"])?.prints(&["export add lab --iscsi --clients 127.0.0.0/8"])?.ok()?;
    site.cache.command(&["export", "remove", "lab", "--iscsi"])?.ok()?;
    ensure!(site.tgtd.adm(&["--op", "show", "--mode", "target"])?.ok()?.trim().is_empty(), "it is still there");
    Ok(())
}

/// A version passes whatever of a SCSI conformance suite a plain file passes that the same server serves, read-only, too.
#[test]
fn a_version_is_a_disk_as_a_plain_file_is() -> Result<()> {
    let site = Site::new()?;
    site.export()?;
    let plain = site.lab.path("plain");
    fs::write(&plain, disk(1))?;
    let others = site.tgtd.serve_plain(&plain, Some("readonly=1"), ["-I", "ALL"])?;
    let more: Vec<String> =
        scsi_failures(&site.url(1), &[])?.difference(&scsi_failures(&others, &[])?).cloned().collect();
    ensure!(more.is_empty(), "a version fails where a plain file does not: {more:?}");
    Ok(())
}

/// Ten workstations that read a version go on with it whatever is deployed; it cannot be removed before the last has gone, and can after.
#[test]
fn who_reads_a_version_goes_on_with_it() -> Result<()> {
    let mut site = Site::new()?;
    site.export()?;
    let mut readers: Vec<IscsiReader> = (0..10).map(|_| IscsiReader::start(&site.url(1))).collect::<Result<_>>()?;
    site.wait_for_targets(&[("lab.1", 10)])?;
    site.publish(2, &["--deploy"])?;
    site.wait_for_targets(&[("lab.1", 10), ("lab.2", 0)])?;
    let status = site.cache.status()?;
    let users = |version: &str| -> Vec<&Value> {
        let versions = status["versions"].as_array().into_iter().flatten();
        versions.filter(|found| found["version"] == version).map(|found| &found["open_handles"]).collect()
    };
    ensure!(users("lab@1") == [10] && users("lab@2") == [0], "{status}");
    ensure!(site.read(2)? == disk(2) && site.read(1)? == disk(1), "other bytes came");
    site.cache.command(&["export", "remove", "lab", "--iscsi"])?.failed_with(REFUSED)?.says(&["127.0.0.1", "iqn."])?;
    site.on_master(&["image", "retire", "lab@1", "--force"])?.ok()?;
    wait_for("that the master knows", || {
        let prune = site.on_master(&["image", "prune"])?.ok()?;
        Ok((prune.contains("waits") && prune.contains("files open")).then_some(()))
    })?;
    let is_leaving = || Ok(site.cache.command(&["export", "list"])?.ok()?.contains("(leaving)").then_some(()));
    wait_for("that it is offered to nobody new", is_leaving)?;
    site.first_stays()?;
    for reader in &mut readers {
        ensure!(reader.goes_on()?, "a reader had an error");
    }
    // Also where their server is restarted, or the cache is stopped for a while: they log in again.
    site.cache.daemon.allow_log("nothing is exported");
    site.tgtd.start_again(&site.lab)?;
    site.wait_for_targets(&[("lab.1", 10), ("lab.2", 0)])?;
    site.first_stays()?;
    site.cache.daemon.allow_log("the mount is in use");
    site.cache.daemon.stop()?;
    site.cache.start_again(&site.lab)?;
    site.wait_for_targets(&[("lab.1", 10), ("lab.2", 0)])?;
    site.first_stays()?;
    for reader in &mut readers {
        ensure!(reader.goes_on()?, "a reader had an error");
    }
    drop(readers);
    site.wait_for_targets(&[("lab.2", 0)])?;
    wait_for("that it goes", || {
        let prune = site.on_master(&["image", "prune", "--yes"])?.ok()?;
        Ok((!site.on_master(&["image", "list", "lab"])?.ok()?.contains("lab@1")).then_some(prune))
    })?;
    Ok(())
}

/// Whatever is killed or restarted, what was exported is again, with the same content; readers go on.
#[test]
fn exports_outlive_their_servers() -> Result<()> {
    let mut site = Site::new()?;
    site.export()?;
    let mut reader = IscsiReader::start(&site.url(1))?;
    site.wait_for_targets(&[("lab.1", 1)])?;
    site.cache.kill_worker()?;
    ensure!(site.read(1)? == disk(1), "other bytes came");
    site.wait_for_targets(&[("lab.1", 1)])?;
    // A tgtd that comes back knows of nothing.
    site.cache.daemon.allow_log("nothing is exported");
    site.tgtd.start_again(&site.lab)?;
    let comes_again = || Ok(site.read(1).ok());
    ensure!(wait_for("the export", comes_again)? == disk(1), "other bytes came");
    site.wait_for_targets(&[("lab.1", 1)])?;
    // One that was stopped has another mount: what was opened in the old one is opened anew.
    site.cache.daemon.allow_log("the mount is in use");
    site.cache.daemon.stop()?;
    site.cache.start_again(&site.lab)?;
    site.wait_for_targets(&[("lab.1", 1)])?;
    ensure!(site.read(1)? == disk(1), "other bytes came");
    ensure!(reader.goes_on()?, "the reader had an error");
    // Where nobody reads, nothing holds the mount.
    drop(reader);
    site.wait_for_targets(&[("lab.1", 0)])?;
    site.cache.daemon.stop()?;
    ensure!(!site.cache.daemon.log().contains("the mount is in use"), "a target that nobody uses holds the mount");
    site.cache.start_again(&site.lab)?;
    site.wait_for_targets(&[("lab.1", 0)])
}

/// What others have set up stays as it is, and what somebody did to icbd's own is put right.
#[test]
fn what_others_set_up_is_not_touched() -> Result<()> {
    let site = Site::new()?;
    let theirs = site.lab.path("theirs");
    fs::write(&theirs, solid(7, MIB))?;
    let theirs = theirs.to_str().context("a path of text")?;
    let others = "iqn.2001-04.com.example:disk";
    for args in [
        &["--op", "new", "--mode", "target", "--tid", "1", "-T", others][..],
        &["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", theirs],
        &["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"],
    ] {
        site.tgtd.adm(args)?.ok()?;
    }
    site.export()?;
    site.tgtd.adm(&["--op", "unbind", "--mode", "target", "--tid", "2", "-I", NETWORK])?.ok()?;
    wait_for("clients to be let in again", || Ok(site.read(1).is_ok().then_some(())))?;
    site.tgtd.adm(&["--op", "delete", "--mode", "target", "--tid", "2"])?.ok()?;
    wait_for("it to be offered again", || Ok(site.read(1).is_ok().then_some(())))?;
    site.cache.command(&["export", "remove", "lab", "--iscsi"])?.ok()?;
    let left = site.tgtd.adm(&["--op", "show", "--mode", "target"])?.ok()?;
    ensure!(left.contains(others) && left.contains(theirs) && !left.contains("net.icbd"), "{left}");
    Ok(())
}

/// A declaration that cannot be read keeps nobody from what is mounted, nor from what is exported already.
#[test]
fn a_damaged_declaration_takes_nothing_away() -> Result<()> {
    let mut site = Site::new()?;
    site.export()?;
    let mut reader = IscsiReader::start(&site.url(1))?;
    site.wait_for_targets(&[("lab.1", 1)])?;
    fs::write(site.cache.store().join("exports.json"), "{")?;
    site.cache.kill_worker()?;
    ensure!(fs::read(site.cache.path("lab/1/disk.raw"))? == disk(1), "it is not mounted");
    site.cache.command(&["check"])?.prints(&["exports.json cannot be read"])?;
    site.cache.command(&["export", "list"])?.failed_with(1)?.says(&["move it away"])?;
    let add = site.cache.command(&["export", "add", "lab", "--iscsi", "--clients", NETWORK])?;
    add.failed_with(1)?.says(&["move it away"])?;
    ensure!(site.read(1)? == disk(1) && reader.goes_on()?, "it is served no more");
    // Once it is moved away, all is said anew; who reads goes on meanwhile.
    site.cache.daemon.allow_log("offered otherwise once nobody uses it");
    fs::remove_file(site.cache.store().join("exports.json"))?;
    ensure!(site.exports()? == serde_json::json!([]), "{}", site.exports()?);
    site.cache.command(&["export", "add", "lab", "--iscsi", "--clients", NETWORK])?.ok()?;
    site.cache.command(&["check"])?.ok()?;
    ensure!(site.read(1)? == disk(1) && reader.goes_on()?, "it is served no more");
    Ok(())
}

/// What cannot be exported is refused with the reason, and nothing is half done.
#[test]
fn what_cannot_be_exported_is_refused() -> Result<()> {
    let mut site = Site::new()?;
    let add = |image: &str, clients: &str, more: &[&str]| {
        site.cache.command(&[&["export", "add", image, "--iscsi", "--clients", clients], more].concat())
    };
    add("lob", NETWORK, &[])?.failed_with(ABSENT)?.says(&["did you mean \"lab\""])?;
    add("tree", NETWORK, &[])?.failed_with(REFUSED)?.says(&[
        "tree@1 cannot be offered by iscsi",
        "without a disk",
        "--disk",
    ])?;
    add("lab", NETWORK, &["--disk", "disk.img"])?.failed_with(REFUSED)?.says(&["no file disk.img"])?;
    add("lab", "10.1.2.7/24", &[])?.failed_with(USAGE)?.says(&["within 10.1.2.0/24"])?;
    add("lab", "lab", &[])?.failed_with(USAGE)?.says(&["such as 10.1.2.0/24"])?;
    let nowhere = site.cache.command(&["export", "remove", "lab", "--iscsi"])?;
    nowhere.failed_with(ABSENT)?.says(&["lab is not exported", "icbd export list"])?;
    site.on_master(&["export", "list"])?.failed_with(USAGE)?.says(&["on a cache server"])?;
    site.tgtd.kill()?;
    let refused = site.cache.command(&["export", "add", "lab", "--iscsi", "--clients", NETWORK])?;
    refused.failed_with(REFUSED)?.says(&["systemctl start tgt"])?;
    ensure!(site.exports()? == serde_json::json!([]), "{}", site.exports()?);
    // What was declared before is taken back with the setting, and comes again with it.
    site.tgtd.start_again(&site.lab)?;
    site.export()?;
    site.cache.daemon.allow_log("nothing is exported");
    site.cache.set_config("[export]\niscsi = \"off\"\n")?;
    site.cache.command(&["config", "reload"])?.prints(&["export.iscsi"])?;
    let off = site.cache.command(&["export", "add", "lab", "--iscsi", "--clients", NETWORK])?;
    off.failed_with(REFUSED)?.says(&["export.iscsi is \"off\""])?;
    wait_for("that nothing is offered", || Ok(site.read(1).is_err().then_some(())))?;
    let is_told = || Ok(site.cache.command(&["check"])?.stdout.contains("export.iscsi is").then_some(()));
    wait_for("that it is told", is_told)?;
    site.cache.set_config("")?;
    site.cache.command(&["config", "reload"])?.ok()?;
    wait_for("that it is offered again", || Ok(site.read(1).is_ok().then_some(())))?;
    let add = |more| site.cache.command(&["export", "add", "lab", "--iscsi", "--clients", NETWORK, more]);
    add("--disk=disk.raw")?.ok()?;
    add("--clone")?
        .failed_with(REFUSED)?
        .says(&["without clones", "never changes its content", "export remove"])
        .map(drop)
}
