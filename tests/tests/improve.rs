//! An image is improved on a workstation: what that wrote to its clone becomes a version on the master, and nothing else moves.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    BootTarget, CacheServer, CacheSettings, Fault, LAN, Lab, Lan, MIB, Master, Output, Proxy, Random, SERVER, Tgtd,
    boot_script, get, icbd, icbd_path, listens, solid, wait_for,
};
use serde_json::Value;

const DISK: u64 = 16 * MIB;
const USAGE: i32 = 2;
const ABSENT: i32 = 3;
const REFUSED: i32 = 4;
const UNREACHABLE: i32 = 6;
const LOOPBACK: &str = "127.0.0.0/8";
/// Where a test's NTFS begins on its disk.
const PART_AT: u64 = MIB;

struct Site {
    lab: Lab,
    // Ends before its tgtd, or it would say in its log that this is gone.
    cache: CacheServer,
    _tgtd: Tgtd,
    master: Master,
    repo: PathBuf,
}

/// The disk of a version.
fn disk(version: u64) -> Vec<u8> {
    solid(version, DISK)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of text")
}

impl Site {
    fn new() -> Result<Site> {
        Site::with(&disk(1), "127.0.0.1", LOOPBACK)
    }

    /// `lab@1`, deployed, with this disk, exported from an address to a network with a clone for each client.
    fn with(disk: &[u8], listen: &str, network: &str) -> Result<Site> {
        let lab = Lab::new()?;
        let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
        fs::write(tree.join("disk.raw"), disk)?;
        fs::write(tree.join("kernel"), "what boots")?;
        Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
        let master = Master::start(&lab, &repo)?;
        let tgtd = Tgtd::start(&lab)?;
        let env = vec![("TGT_IPC_SOCKET", tgtd.socket().to_owned())];
        let config = format!("[serve]\nlisten = [\"{listen}:0\"]\nallow = [\"{listen}/32\"]\n");
        let settings = CacheSettings { env, config, ..CacheSettings::default() };
        let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
        let site = Site { lab, _tgtd: tgtd, master, cache, repo };
        site.cache.command(&["export", "add", "lab", "--iscsi", "--clients", network, "--clone"])?.ok()?;
        Ok(site)
    }

    fn edit(&self, client: &str) -> Result<Output> {
        self.cache.command(&["image", "edit", "lab", "--client", client])
    }

    fn boot(&self, client: &str) -> Result<BootTarget> {
        BootTarget::ask(&self.cache, "lab", client)
    }

    fn url(&self) -> Result<String> {
        Ok(format!("http://{}", listens(&self.cache)?))
    }

    fn save(&self, client: &str, args: &[&str]) -> Result<Output> {
        save(&self.master, client, &self.url()?, args)
    }

    fn versions(&self) -> Result<Vec<String>> {
        versions(&self.master)
    }

    fn stored(&self, version: u64) -> Result<Vec<u8>> {
        Ok(fs::read(self.repo.join(format!("versions/lab/{version}/disk.raw")))?)
    }

    /// The file of a clone, as its server opens it.
    fn clone_file(&self, client: &str) -> PathBuf {
        Path::new(self.cache.socket()).with_extension("clones").join(format!("lab.1.{client}"))
    }

    /// Nothing is left of what did not become a version.
    fn nothing_is_left(&self) -> Result<()> {
        ensure!(self.versions()? == ["lab@1"], "{:?}", self.versions());
        ensure!(!self.repo.join("improving/lab").exists(), "it is still there");
        let publishing = fs::read_dir(self.repo.join("publishing"))?.count();
        ensure!(publishing == 0, "{publishing} publishes are left");
        ensure!(self.stored(1)? == disk(1), "the version changed");
        Ok(())
    }
}

fn save(master: &Master, client: &str, url: &str, args: &[&str]) -> Result<Output> {
    let all = ["image", "save", "lab", "--client", client, "--from", url, "--socket", master.socket()];
    icbd([&all[..], args].concat())
}

fn versions(master: &Master) -> Result<Vec<String>> {
    let listed = icbd(["image", "list", "lab", "--json", "--socket", master.socket()])?.ok()?;
    let listed: Vec<Value> = serde_json::from_str(&listed)?;
    Ok(listed.iter().filter_map(|version| version["version"].as_str()).map(str::to_owned).collect())
}

/// Bytes that nothing packs.
fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..bytes / 8).flat_map(|_| random.word().to_le_bytes()).collect()
}

/// What a workstation wrote to its clone becomes the next version, byte for byte: only that crosses the line.
#[test]
fn what_a_workstation_wrote_becomes_a_version() -> Result<()> {
    let site = Site::new()?;
    site.edit("pc-1")?.prints(&["pc-1 has a clone of lab@1 now", "image save lab --client pc-1 --from http"])?.ok()?;
    site.cache.command(&["clone", "list"])?.prints(&["edited"])?.ok()?;
    let (target, change) = (site.boot("pc-1")?, noise(7, 2 * MIB));
    let source = site.lab.path("change");
    fs::write(&source, &change)?;
    let write = format!("write -s {} 3M 2M", text(&source)?);
    target.io(&[&write, "write -P 0x12 9000k 4k", "write -z 8M 512k", "write -P 0x13 6000000 512", "flush"])?.ok()?;
    let mut expected = disk(1);
    expected[3 << 20..5 << 20].copy_from_slice(&change);
    expected[9000 << 10..9004 << 10].fill(0x12);
    expected[8 << 20..(8 << 20) + (512 << 10)].fill(0);
    expected[6_000_000..6_000_512].fill(0x13);
    ensure!(target.read(&site.lab)? == expected, "it is not what it wrote");
    // As somebody else counts it who asks for the same.
    // What nothing packs, and at most a tenth more than what was written.
    let written: u64 = 2 * MIB + 2 * 4096;
    let answer = get(listens(&site.cache)?, "/v1/clones/lab/pc-1.zstd")?;
    let sent = answer.body.len() as u64;
    ensure!(answer.status == 200 && (2 * MIB..written + written / 10 + 4096).contains(&sent), "{sent} for {written}");
    let saved = site.save("pc-1", &["-m", "updates", "--json"])?;
    let saved: Value = serde_json::from_str(&saved.ok()?)?;
    ensure!(
        saved["version"] == "lab@2" && saved["of"] == "lab@1" && saved["warnings"] == Value::Array(vec![]),
        "{saved}"
    );
    ensure!(saved["received_bytes"].as_u64() == Some(sent), "{saved}, {sent}");
    ensure!(site.stored(2)? == expected, "the version is not what the workstation wrote");
    ensure!(fs::read(site.repo.join("versions/lab/2/kernel"))? == b"what boots", "another file changed");
    ensure!(site.stored(1)? == disk(1), "the version before changed");
    let show = |what: &[&str]| icbd([what, &["--socket", site.master.socket()]].concat());
    show(&["image", "show", "lab@2"])?.prints(&["ready", "updates"])?.ok()?;
    show(&["image", "verify", "lab@2"])?.ok()?;
    show(&["log"])?.prints(&["image save lab --client pc-1", "as lab@2"])?.ok()?;
    wait_for("the new version", || Ok(site.cache.path("lab/2/disk.raw").exists().then_some(())))?;
    ensure!(fs::read(site.cache.path("lab/2/disk.raw"))? == expected, "the cache shows something else");
    site.cache.command(&["clone", "remove", "pc-1", "lab@1"])?.ok()?;
    Ok(())
}

/// Nothing is saved while somebody uses the disk: logged in, or with its file open. Who reads it keeps nobody from it later.
#[test]
fn a_disk_that_is_used_is_not_saved() -> Result<()> {
    let site = Site::new()?;
    site.edit("pc-1")?.ok()?;
    site.save("pc-1", &[])?.failed_with(REFUSED)?.says(&["pc-1 has written nothing over lab@1"])?;
    let target = site.boot("pc-1")?;
    target.io(&["write -P 0x11 0 64k", "flush"])?.ok()?;
    let running = target.log_in()?;
    let is_in_use = || Ok(site.cache.command(&["clone", "list"])?.ok()?.contains("127.0.0.1").then_some(()));
    wait_for("it to be seen", is_in_use)?;
    site.save("pc-1", &[])?.failed_with(REFUSED)?.says(&["lab.1.pc-1 is in use by 127.0.0.1", "shut pc-1 down"])?;
    drop(running);
    let opened = File::open(site.clone_file("pc-1"))?;
    site.save("pc-1", &[])?.failed_with(REFUSED)?.says(&["open in some program", "lsof"])?;
    drop(opened);
    site.nothing_is_left()?;
    site.save("pc-1", &[])?.ok()?;
    let again = site.boot("pc-1")?;
    again.io(&["read -P 0x11 0 64k", "write -P 0x12 64k 64k"])?.ok()?;
    Ok(())
}

/// An answer that breaks off, or a master that is killed meanwhile, leaves nothing of a version.
#[test]
fn what_breaks_off_leaves_nothing() -> Result<()> {
    let mut site = Site::new()?;
    site.edit("pc-1")?.ok()?;
    site.boot("pc-1")?.io(&["write -P 0x11 0 4M", "write -P 0x12 5M 64k", "flush"])?.ok()?;
    let proxy = Proxy::start(listens(&site.cache)?)?;
    for (fault, code) in [(Fault::Cut, UNREACHABLE), (Fault::Corrupt, 7), (Fault::TooLong, 7)] {
        proxy.set(fault, "/v1/clones");
        save(&site.master, "pc-1", &proxy.url(), &[])?.failed_with(code)?.says(&["nothing was saved"])?;
        site.nothing_is_left()?;
    }
    proxy.set(Fault::StallInBody, "/v1/clones");
    let mut command = Command::new(icbd_path()?);
    command.args([
        "image",
        "save",
        "lab",
        "--client",
        "pc-1",
        "--from",
        &proxy.url(),
        "--socket",
        site.master.socket(),
    ]);
    let mut saving = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    proxy.wait_stalled(1);
    let is_begun = || Ok(site.repo.join("improving/lab").exists().then_some(()));
    wait_for("a version that is put together", is_begun)?;
    let second = site.save("pc-1", &[])?.failed_with(REFUSED)?;
    second.says(&["is being saved as a version of lab just now"])?;
    let address = site.master.address();
    site.master.daemon.kill_all()?;
    proxy.set(Fault::None, "");
    ensure!(saving.wait()?.code() == Some(UNREACHABLE), "it did not notice");
    site.master = Master::start_at(&site.lab, &site.repo, address, &[])?;
    site.nothing_is_left()?;
    ensure!(save(&site.master, "pc-1", &proxy.url(), &[])?.ok()?.trim() == "lab@2", "it was not saved");
    let mut expected = disk(1);
    expected[..4 << 20].fill(0x11);
    expected[5 << 20..(5 << 20) + (64 << 10)].fill(0x12);
    ensure!(site.stored(2)? == expected, "the version is not what the workstation wrote");
    Ok(())
}

/// Who edits a version goes on booting it whatever is deployed, until its clone is let go; what is newer is not overlooked.
#[test]
fn who_edits_a_version_goes_on_with_it() -> Result<()> {
    let site = Site::new()?;
    site.edit("pc-1")?.ok()?;
    site.boot("pc-1")?.io(&["write -P 0x11 0 64k", "flush"])?.ok()?;
    for version in 2..=3 {
        fs::write(site.lab.path("tree/disk.raw"), disk(version))?;
        site.master.publish("lab", &site.lab.path("tree"), &["--deploy"])?;
        let name = format!("lab@{version}");
        let is_deployed = || {
            let list = site.cache.command(&["image", "list"])?.ok()?;
            Ok(list.contains(&name).then_some(()))
        };
        wait_for("the new version", is_deployed)?;
    }
    ensure!(site.boot("pc-2")?.name.ends_with("lab.3.pc-2"), "the others boot something else");
    let target = site.boot("pc-1")?;
    ensure!(target.name.ends_with("lab.1.pc-1"), "{}", target.name);
    target.io(&["read -P 0x11 0 64k"])?.ok()?;
    site.cache.command(&["client", "explain", "pc-1"])?.prints(&["lab@1, which it edits", "it is kept"])?.ok()?;
    site.edit("pc-1")?.prints(&["it has 64.0 KiB in it", "lab@3 is deployed, and pc-1 boots lab@1"])?.ok()?;
    site.save("pc-1", &[])?.failed_with(REFUSED)?.says(&["lab@3 is newer than lab@1", "--force"])?;
    ensure!(site.save("pc-1", &["--force"])?.ok()?.trim() == "lab@4", "it was not saved");
    let mut expected = disk(1);
    expected[..64 << 10].fill(0x11);
    ensure!(site.stored(4)? == expected, "the version is not what the workstation wrote");
    site.cache.command(&["clone", "keep", "pc-1", "lab@1", "--no"])?.ok()?;
    ensure!(site.boot("pc-1")?.name.ends_with("lab.3.pc-1"), "it edits still");
    Ok(())
}

/// What cannot be edited or saved is refused with the reason and the command to use.
#[test]
fn what_cannot_be_saved_is_refused() -> Result<()> {
    let site = Site::new()?;
    let url = site.url()?;
    site.save("pc-1", &[])?.failed_with(ABSENT)?.says(&["pc-1 has no clone of lab", "image edit lab --client pc-1"])?;
    site.edit("pc-17")?.ok()?;
    site.save("pc-18", &[])?.failed_with(ABSENT)?.says(&["did you mean \"pc-17\""])?;
    let on_master = ["image", "edit", "lab", "--client", "pc-1", "--socket", site.master.socket()];
    icbd(on_master)?.failed_with(USAGE)?.says(&["this is a master", "--socket"])?;
    let on_cache = ["image", "save", "lab", "--client", "pc-17", "--from", &url];
    site.cache.command(&on_cache)?.failed_with(USAGE)?.says(&["this is a cache server", "--socket"])?;
    let no_url = ["image", "save", "lab", "--client", "pc-17", "--socket", site.master.socket()];
    icbd(no_url)?.failed_with(USAGE)?.says(&["--from"])?;
    save(&site.master, "pc-17", &site.master.url(), &[])?.failed_with(ABSENT)?.says(&["ask the cache server"])?;
    save(&site.master, "pc-17", "http://127.0.0.1:1", &[])?.failed_with(UNREACHABLE)?.says(&["nothing was saved"])?;
    let unknown = ["image", "edit", "lob", "--client", "pc-1"];
    site.cache.command(&unknown)?.failed_with(ABSENT)?.says(&["did you mean \"lab\""])?;
    site.edit("PC-1")?.failed_with(USAGE)?.says(&["did you mean \"pc-1\""])?;
    site.boot("pc-17")?.io(&["write -P 0x11 0 64k", "flush"])?.ok()?;
    // Another master has an image of the same name.
    let (tree, repo) = (site.lab.folder("other-tree")?, site.lab.path("other"));
    fs::write(tree.join("disk.raw"), disk(9))?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    let other = Master::start(&site.lab, &repo)?;
    save(&other, "pc-17", &url, &[])?.failed_with(REFUSED)?.says(&["lab@1", "is not here", "another master"])?;
    ensure!(versions(&other)? == ["lab@1"] && !repo.join("improving/lab").exists(), "something was saved");
    site.cache.command(&["client", "import", text(&sheet(&site.lab)?)?])?.ok()?;
    site.edit("pc-3")?.failed_with(ABSENT)?.says(&["pc-3 is not on the list of workstations", "pc-2"])?;
    site.cache.command(&["clone", "remove", "pc-17", "lab"])?.ok()?;
    site.cache.command(&["export", "remove", "lab", "--iscsi"])?.ok()?;
    site.edit("pc-2")?.failed_with(REFUSED)?.says(&["not exported by iscsi", "export add lab"])?;
    site.cache.command(&["export", "add", "lab", "--iscsi", "--clients", LOOPBACK])?.ok()?;
    site.edit("pc-2")?.failed_with(REFUSED)?.says(&["exported read-only", "--clone"])?;
    Ok(())
}

fn sheet(lab: &Lab) -> Result<PathBuf> {
    let path = lab.path("clients.csv");
    fs::write(&path, "name,mac\npc-2,52:54:00:00:00:02\n")?;
    Ok(path)
}

/// What a workstation wrote is given to nodes, and to no workstation, not to the one that wrote it either.
#[test]
fn what_was_written_is_for_nodes() -> Result<()> {
    let lan = Lan::new()?;
    let site = Site::with(&disk(1), &SERVER.to_string(), LAN)?;
    site.edit("pc-1")?.ok()?;
    let (machine, server) = (lan.machine(2)?, listens(&site.cache)?);
    let script = machine.get(server, "/boot/lab?client=pc-1")?;
    ensure!(script.status == 200, "{}", script.status);
    BootTarget::of(std::str::from_utf8(&script.body)?)?.io(&["write -P 0x11 0 64k", "flush"])?.ok()?;
    let answer = machine.get(server, "/v1/clones/lab/pc-1.zstd")?;
    let says = String::from_utf8_lossy(&answer.body).into_owned();
    ensure!(answer.status == 403 && says.contains("serve.allow"), "{} {says}", answer.status);
    site.save("pc-1", &[])?.ok()?;
    Ok(())
}

/// A version is warned of whose NTFS is marked dirty, or holds a hibernated Windows; it is saved nevertheless.
#[test]
fn an_ntfs_that_was_not_shut_down_is_warned_of() -> Result<()> {
    let part = DISK - PART_AT;
    let scratch = tempfile_of(part)?;
    run(Command::new("mkfs.ntfs").args(["-F", "-Q", "-q", "-p", &(PART_AT / 512).to_string()]).arg(&scratch.1))?;
    let ntfs = fs::read(&scratch.1)?;
    let mut disk = vec![0; DISK as usize];
    disk[446..462].copy_from_slice(
        &[&[0, 0, 0, 0, 7, 0, 0, 0][..], &((PART_AT / 512) as u32).to_le_bytes(), &((part / 512) as u32).to_le_bytes()]
            .concat(),
    );
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[PART_AT as usize..].copy_from_slice(&ntfs);
    let site = Site::with(&disk, "127.0.0.1", LOOPBACK)?;
    site.edit("pc-1")?.ok()?;
    let target = site.boot("pc-1")?;
    target.io(&["write -P 0x11 512 512", "flush"])?.ok()?;
    let saved = site.save("pc-1", &[])?.failed_with(0)?;
    ensure!(!saved.stderr.contains("NTFS"), "{}", saved.stderr);
    site.cache.command(&["clone", "remove", "pc-1", "lab@1"])?.ok()?;
    let deploy = ["image", "deploy", "lab@2", "--socket", site.master.socket()];
    icbd(deploy)?.ok()?;
    wait_for("the new version", || {
        let listed: Value = serde_json::from_str(&site.cache.command(&["image", "list", "--json"])?.ok()?)?;
        Ok((listed[0]["deployed"] == 2).then_some(()))
    })?;
    site.edit("pc-1")?.prints(&["pc-1 has a clone of lab@2 now"])?.ok()?;
    let target = site.boot("pc-1")?;
    let flag = site.lab.path("flag");
    let sector = (PART_AT + flags_at(&ntfs)) / 512 * 512;
    let mut content = disk[sector as usize..][..512].to_vec();
    content[(PART_AT + flags_at(&ntfs) - sector) as usize] |= 1;
    fs::write(&flag, &content)?;
    target.io(&[&format!("write -s {} {sector} 512", text(&flag)?), "flush"])?.ok()?;
    site.master.daemon.allow_log("saved nevertheless");
    let saved = site.save("pc-1", &["--json"])?;
    let dirty = format!("the NTFS at byte {PART_AT} is marked dirty");
    let saved = saved.says(&[&*dirty, "chkdsk"])?;
    let result: Value = serde_json::from_str(&saved.ok()?)?;
    let warnings = result["warnings"].as_array().context("no warnings")?;
    ensure!(warnings.len() == 1 && warnings[0].as_str().is_some_and(|warning| warning.starts_with(&dirty)), "{result}");
    ensure!(result["version"] == "lab@3", "{result}");
    let (status, _) = boot_script(&site.cache, "lab?client=pc-1")?;
    ensure!(status == 200, "{status}");
    Ok(())
}

/// A file of so many bytes that goes with its folder.
fn tempfile_of(bytes: u64) -> Result<(Lab, PathBuf)> {
    let lab = Lab::new()?;
    let path = lab.path("part");
    File::create(&path)?.set_len(bytes)?;
    Ok((lab, path))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}; install the package ntfs-3g"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Where the flags of an NTFS are: in record 3 of its file table, in the attribute of kind 0x70.
fn flags_at(ntfs: &[u8]) -> u64 {
    let short = |at: usize| usize::from(u16::from_le_bytes([ntfs[at], ntfs[at + 1]]));
    let table = u64::from_le_bytes(*ntfs[48..].first_chunk().expect("a boot sector"));
    let record = table as usize * short(11) * usize::from(ntfs[13]) + 3 * 1024;
    let mut at = record + short(record + 20);
    while ntfs[at] != 0x70 {
        at += short(at + 4);
    }
    (at + short(at + 20) + 10) as u64
}
