//! A program of the administrator's makes each workstation's disk its own, once for each version.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    BootTarget, CacheServer, CacheSettings, Lab, MIB, Master, Tgtd, boot_script, get, listens, run_bounded, solid,
    wait_for,
};
use serde_json::Value;

const DISK: u64 = 4 * MIB;
/// Where the program writes, within a piece.
const PLACE: usize = 10_000;
const REFUSED: i32 = 4;
const TOOL_DEADLINE: Duration = Duration::from_secs(60);
const NETWORK: &str = "127.0.0.0/8";
/// Writes on the disk whose it is, and in a list that it was here.
const HOOK: &str = "printf %s \"$ICBD_CLIENT $ICBD_IMAGE@$ICBD_VERSION $ICBD_MAC\" | \
                    dd of=\"$ICBD_DISK\" bs=1 seek=10000 conv=notrunc status=none && echo \"$ICBD_CLIENT\" >> RUNS";

struct Site {
    lab: Lab,
    cache: CacheServer,
    _tgtd: Tgtd,
    master: Master,
}

/// The disk of a version.
fn disk(version: u64) -> Vec<u8> {
    solid(version, DISK)
}

/// What a program makes of it.
fn personal(version: u64, words: &str) -> Vec<u8> {
    let mut disk = disk(version);
    disk[PLACE..PLACE + words.len()].copy_from_slice(words.as_bytes());
    disk
}

impl Site {
    /// `lab@1`, deployed, exported with a clone for each client, which a program makes its own.
    fn new(hook: &str, config: &str) -> Result<Site> {
        Site::of(hook, config, |path| Ok(fs::write(path, disk(1))?))
    }

    /// The same of another disk.
    fn of(hook: &str, config: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<Site> {
        let lab = Lab::new()?;
        let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
        make(&tree.join("disk.raw"))?;
        Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
        let master = Master::start(&lab, &repo)?;
        let tgtd = Tgtd::start(&lab)?;
        let env = vec![("TGT_IPC_SOCKET", tgtd.socket().to_owned())];
        let clone = format!("[clone]\nhook = \"{}\"\n", lab.path("hook").display());
        let config = format!("[serve]\nlisten = [\"127.0.0.1:0\"]\n{clone}{config}");
        set_hook(&lab, hook)?;
        let cache =
            CacheServer::start_with(&lab, &[&master.url()], &CacheSettings { env, config, ..Default::default() })?;
        cache.command(&["export", "add", "lab", "--iscsi", "--clients", NETWORK, "--clone"])?.ok()?;
        Ok(Site { lab, cache, _tgtd: tgtd, master })
    }

    fn boot(&self, client: &str) -> Result<BootTarget> {
        BootTarget::ask(&self.cache, "lab", client)
    }

    /// For whom the program was run.
    fn runs(&self) -> Result<Vec<String>> {
        Ok(fs::read_to_string(self.lab.path("runs"))?.lines().map(str::to_owned).collect())
    }

    fn clones(&self) -> Result<Value> {
        let report: Value = serde_json::from_str(&self.cache.command(&["clone", "list", "--json"])?.ok()?)?;
        Ok(report["clones"].clone())
    }
}

fn set_hook(lab: &Lab, script: &str) -> Result<()> {
    let (path, runs) = (lab.path("hook"), lab.path("runs"));
    fs::write(&path, format!("#!/bin/sh\n{}\n", script.replace("RUNS", text(&runs)?)))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of text")
}

/// A program makes each workstation's disk its own before that first boots it; a reset leaves what it made, and the next version
/// has it run anew.
#[test]
fn a_disk_is_made_a_workstations_own_once() -> Result<()> {
    let site = Site::new(HOOK, "")?;
    let list = site.lab.path("clients.csv");
    fs::write(&list, "name,mac\npc-1,52:54:00:00:00:01\npc-2,52:54:00:00:00:02\n")?;
    site.cache.command(&["client", "import", text(&list)?])?.ok()?;
    site.cache.command(&["client", "explain", "pc-1"])?.prints(&["clone.hook makes it pc-1's own first"])?.ok()?;
    let (one, two) = (site.boot("pc-1")?, site.boot("pc-2")?);
    let (of_one, of_two) = (personal(1, "pc-1 lab@1 52:54:00:00:00:01"), personal(1, "pc-2 lab@1 52:54:00:00:00:02"));
    ensure!(one.read(&site.lab)? == of_one && two.read(&site.lab)? == of_two, "not what was made");
    ensure!(fs::read(site.cache.path("lab/1/disk.raw"))? == disk(1), "the version changed");
    site.cache.command(&["client", "explain", "pc-1"])?.prints(&["begins as clone.hook made it for pc-1"])?.ok()?;
    // Within the piece that it wrote to, and over all of it.
    one.io(&["write -P 0x11 9728 512", "write -P 0x12 1M 64k", "flush"])?.ok()?;
    let mut written = of_one.clone();
    written[9728..10240].fill(0x11);
    written[1 << 20..(1 << 20) + (64 << 10)].fill(0x12);
    ensure!(one.read(&site.lab)? == written, "it is not what it wrote");
    let clones = site.clones()?;
    ensure!(clones[0]["personal_bytes"] == 4096 && clones[0]["written_bytes"] == 4096 + (64 << 10), "{clones}");
    site.cache.command(&["clone", "list"])?.prints(&["PERSONAL", "4.0 KiB"])?.ok()?;
    // What one workstation alone has is in nobody's next version.
    let edit = site.cache.command(&["image", "edit", "lab", "--client", "pc-1"])?;
    edit.failed_with(REFUSED)?.says(&["clone.hook made for it alone", "icbd clone remove pc-1 lab@1"])?;
    ensure!(site.boot("pc-1")?.read(&site.lab)? == of_one, "it was not reset to what was made");
    ensure!(site.runs()? == ["pc-1", "pc-2"], "{:?}", site.runs()?);
    // Unless it is to be made anew.
    site.cache.command(&["clone", "reset", "pc-1", "lab", "--personal"])?.ok()?;
    ensure!(site.clones()?[0]["personal_bytes"].is_null(), "{}", site.clones()?);
    ensure!(site.boot("pc-1")?.read(&site.lab)? == of_one, "it was not made anew");
    ensure!(site.runs()? == ["pc-1", "pc-2", "pc-1"], "{:?}", site.runs()?);
    fs::write(site.lab.path("tree/disk.raw"), disk(2))?;
    site.master.publish("lab", &site.lab.path("tree"), &["--deploy"])?;
    let is_deployed = || {
        let target = site.boot("pc-2")?;
        Ok(target.name.ends_with("lab.2.pc-2").then_some(target))
    };
    let of_second = wait_for("the next version", is_deployed)?.read(&site.lab)?;
    ensure!(of_second == personal(2, "pc-2 lab@2 52:54:00:00:00:02"), "not what was made of the next version");
    Ok(())
}

/// Where the program fails, hangs or is not there, its workstation gets no disk and the reason; nothing of it stays, and once it
/// is mended the workstation boots.
#[test]
fn a_disk_that_cannot_be_made_ones_own_is_nobodys() -> Result<()> {
    let half = "dd if=/dev/zero of=\"$ICBD_DISK\" bs=4k count=9 conv=notrunc status=none";
    let mut site =
        Site::new(&format!("{half}\necho no key for \"$ICBD_CLIENT\" >&2\nexit 3"), "hook_timeout = \"2s\"\n")?;
    site.cache.daemon.allow_log("gets no boot script");
    let refused = |says: &[&str]| -> Result<()> {
        let (status, text) = boot_script(&site.cache, "lab?client=pc-1")?;
        ensure!(status == 503 && says.iter().all(|says| text.contains(says)), "{status}: {text}");
        ensure!(site.clones()?.as_array().is_some_and(Vec::is_empty), "{}", site.clones()?);
        Ok(())
    };
    refused(&["pc-1 gets no disk", "hook failed (exit status: 3)", "it said: no key for pc-1"])?;
    set_hook(&site.lab, &format!("{half}\nsleep 1000"))?;
    refused(&["did not end within clone.hook_timeout, 2 s"])?;
    set_hook(
        &site.lab,
        &format!("{half}\nexec 3< \"$ICBD_DISK\"\n(setsid tail -f /dev/null >/dev/null 2>&1 & echo $! > RUNS)"),
    )?;
    site.cache.daemon.allow_log("cannot be removed yet");
    let (status, text) = boot_script(&site.cache, "lab?client=pc-1")?;
    ensure!(status == 503 && text.contains("left the disk open in some program"), "{status}: {text}");
    let again = boot_script(&site.cache, "lab?client=pc-1")?;
    ensure!(again.0 != 200 && again.1.contains("is open in some program"), "it is given away: {again:?}");
    let left = fs::read_to_string(site.lab.path("runs"))?.trim().parse()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), nix::sys::signal::Signal::SIGKILL)?;
    fs::remove_file(site.lab.path("hook"))?;
    refused(&["hook cannot be run: No such file"])?;
    fs::remove_file(site.lab.path("runs"))?;
    set_hook(&site.lab, HOOK)?;
    ensure!(site.boot("pc-1")?.read(&site.lab)? == personal(1, "pc-1 lab@1 "), "not what was made");
    // A kill in the middle leaves nothing half made.
    set_hook(&site.lab, &format!("{half}\necho \"$ICBD_CLIENT\" >> RUNS\nsleep 30"))?;
    site.cache.command(&["clone", "reset", "pc-1", "lab", "--personal"])?.ok()?;
    let server = listens(&site.cache)?;
    let booting = std::thread::spawn(move || get(server, "/boot/lab?client=pc-1"));
    wait_for("that it is under way", || Ok((site.runs()?.len() == 2).then_some(())))?;
    site.cache.kill_worker()?;
    ensure!(booting.join().expect("it does not panic").is_err(), "it was answered");
    set_hook(&site.lab, HOOK)?;
    let booted = || Ok(site.boot("pc-1").ok());
    ensure!(wait_for("that it boots", booted)?.read(&site.lab)? == personal(1, "pc-1 lab@1 "), "not what was made");
    Ok(())
}

/// The program that the documents show gives a real file system its workstation's name.
#[test]
fn the_documents_program_names_a_disk() -> Result<()> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/linux-image.md"))?;
    let program = page.split("```\n").find(|block| block.starts_with("#!/bin/sh\n# /etc/icbd/clone-hook"));
    let site = Site::of(program.context("it is in the documents")?, "", |path| {
        let (raw, tree) = (path.to_owned(), path.with_extension("tree"));
        fs::create_dir_all(tree.join("etc"))?;
        fs::write(tree.join("etc/hostname"), "nobody\n")?;
        fs::File::create(&raw)?.set_len(16 * MIB)?;
        let mut make = Command::new("mkfs.ext4");
        make.arg("-q").arg("-d").arg(&tree).arg(&raw);
        run_bounded(make, TOOL_DEADLINE)?.ok()?;
        Ok(fs::remove_dir_all(tree)?)
    })?;
    let copy = site.lab.path("clone.raw");
    fs::write(&copy, site.boot("pc-1")?.read(&site.lab)?)?;
    let mut look = Command::new("debugfs");
    look.args(["-R", "cat /etc/hostname"]).arg(&copy);
    ensure!(run_bounded(look, TOOL_DEADLINE)?.ok()? == "pc-1\n", "not its name");
    Ok(())
}
