//! A master and a cache server, which has LIO serve what is declared.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use icbd_tests::{BootTarget, CacheServer, CacheSettings, Lab, MIB, Master, fill, wait_for};

use crate::initiator::{Initiator, PORTAL, script};
use crate::is_clear;

const DISK: u64 = 8 * MIB;
const CONFIG: &str = "[serve]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"127.0.0.0/8\"]\n[export]\n";
const REFUSED: i32 = 4;

pub(crate) fn the_daemon_has_it_serve(lab: &Lab, initiator: &Initiator, done: impl Fn(&str)) -> Result<()> {
    let published = publish(lab)?;
    let master = Master::start(lab, &lab.path("repo"))?;
    let config = format!("{CONFIG}iscsi = \"lio\"\n");
    let settings = CacheSettings { config: config.clone(), ..CacheSettings::default() };
    let mut cache = CacheServer::start_with(lab, &[&master.url()], &settings)?;
    // An emulated machine may take that long.
    cache.daemon.allow_log("source is offline");
    done("the daemon is ready");
    let add = |args: &[&str]| cache.command(&[&["export", "add", "lab", "--iscsi"], args].concat());
    add(&["--clients", "127.0.0.0/8"])?.failed_with(REFUSED)?.says(&["127.0.0.0/8", "by their names", "--clone"])?;
    let added = add(&["--clients", "0.0.0.0/0"])?.ok()?;
    ensure!(added.contains("by LIO") && added.contains(":3260/iqn.2026-01.net.icbd:lab.1/1"), "{added}");
    let name = "iqn.2026-01.net.icbd:lab.1";

    // From a cold cache, and the daemon is killed while somebody waits for what it fetches.
    let disk = initiator.log_in("iqn.2001-04.com.example:pc-1", name)?;
    let path = disk.path.clone();
    let read = killed_meanwhile(&mut cache, move || Ok(fs::read(&path)?))?;
    ensure!(read == published, "other bytes came");
    cache.command(&["export", "list"])?.prints(&["127.0.0.1\n"])?;
    cache.command(&["export", "remove", "lab", "--iscsi"])?.failed_with(REFUSED)?.says(&["in use by", "127.0.0.1"])?;
    disk.log_out()?;
    done("a version was read over a killed daemon");

    wait_for("that it can be removed", || {
        Ok((cache.command(&["export", "remove", "lab", "--iscsi"])?.code == 0).then_some(()))
    })?;
    ensure!(is_clear(), "something of it is left");
    cache.command(&["export", "add", "lab", "--iscsi", "--clients", "127.0.0.0/8", "--clone"])?.ok()?;
    let target = BootTarget::ask(&cache, "lab", "pc-7")?;
    ensure!(target.portal == PORTAL, "{target:?}");
    let clone = initiator.log_in(&target.initiator, &target.name)?;
    let mut expected = published.clone();
    expected[MIB as usize..2 * MIB as usize].fill(7);
    let mut file = fs::File::options().write(true).open(&clone.path)?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(MIB))?;
    file.write_all(&vec![7; MIB as usize])?;
    file.sync_all()?;
    drop(file);
    cache.kill_worker()?;
    ensure!(clone.read()? == expected, "other bytes came after it was killed");
    done("a clone was written over a killed daemon");

    // Nobody loses what one server serves for another that does not run.
    cache.set_config(&format!("{CONFIG}iscsi = \"tgt\"\n"))?;
    cache.daemon.allow_log("nothing is exported");
    cache.command(&["config", "reload"])?.ok()?;
    cache.command(&["export", "list"])?.prints(&["install the package tgt", "127.0.0.1"])?;
    ensure!(clone.read()? == expected, "it was taken away for a server that is not there");
    // What is in use stays until it is not.
    cache.set_config(&format!("{CONFIG}iscsi = \"off\"\n"))?;
    cache.command(&["config", "reload"])?.ok()?;
    cache.command(&["export", "list"])?.prints(&["\"off\""])?;
    ensure!(clone.read()? == expected, "it was taken away from whom uses it");
    clone.log_out()?;
    wait_for("that nothing is left", || Ok(is_clear().then_some(())))?;
    // It is what there is.
    cache.set_config(&format!("{CONFIG}iscsi = \"auto\"\n"))?;
    cache.command(&["config", "reload"])?.ok()?;
    cache.command(&["export", "list"])?.prints(&["icbd:lab.1.pc-7/1"])?;
    ensure!(!is_clear(), "nothing is offered");
    done("servers were switched");
    cache.daemon.stop()?;
    ensure!(is_clear(), "something is left after its end");
    Ok(())
}

/// `lab@1` with a disk; its bytes.
fn publish(lab: &Lab) -> Result<Vec<u8>> {
    let tree = lab.folder("trees/lab")?;
    fill(&tree.join("disk.raw"), 3, DISK)?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
    Ok(fs::read(tree.join("disk.raw"))?)
}

/// Does something, and kills the cache's daemon once that waits for an answer of it.
fn killed_meanwhile<T: Send>(cache: &mut CacheServer, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let waiting = waiting(cache.mount())?;
    let worker = rustix::process::Pid::from_raw(cache.daemon.worker()?.as_raw()).context("a process")?;
    cache.daemon.allow_log("the daemon ended while its mount is in use");
    script("echo 3 >/proc/sys/vm/drop_caches")?;
    rustix::process::kill_process(worker, rustix::process::Signal::STOP)?;
    std::thread::scope(|scope| {
        let acting = scope.spawn(act);
        let waits = wait_for("somebody who waits for the daemon", || Ok((fs::read(&waiting)? != b"0\n").then_some(())));
        // Also where nobody does, or that would wait for good.
        rustix::process::kill_process(worker, rustix::process::Signal::KILL)?;
        let is_early = acting.is_finished();
        cache.daemon.wait_ready()?;
        let done = acting.join().ok().context("the reader")?;
        waits?;
        ensure!(!is_early, "it had ended before the daemon did");
        done
    })
}

/// Where the kernel says how many requests wait for the daemon of a mount.
fn waiting(mount: &Path) -> Result<PathBuf> {
    let minor = rustix::fs::minor(fs::metadata(mount)?.dev());
    Ok(format!("/sys/fs/fuse/connections/{minor}/waiting").into())
}
