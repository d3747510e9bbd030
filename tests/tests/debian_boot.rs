//! A real Debian machine boots from the mount, and from what is exported of it.

use anyhow::{Result, ensure};
use icbd_tests::{
    BOOT_DEADLINE, BootTarget, CacheServer, CacheSettings, Ganesha, Lab, Master, Tgtd, Vm, debian_image, disk_argument,
    touched_blocks, wait_for,
};

/// Of the blocks that a boot touches, fetching may overshoot by this much: neighbours that the kernel reads ahead.
const OVERSHOOT_MAX: f64 = 1.15;

/// A Debian image boots to `login:` from the mount, cold and warm, and the master sends hardly more than the blocks
/// that the boots touch.
///
/// No two boots read quite the same, least of all on a busy machine, so the very boots that fetch are counted: nbdkit
/// stands between the mount and their machine. A last machine boots from the mount with nothing between.
#[test]
fn debian_boots_cold_and_warm_and_fetches_what_it_touches() -> Result<()> {
    let image = debian_image()?.join("v1");
    let lab = Lab::new()?;
    let repo = lab.path("repo");
    Master::publish_offline(&repo, "debian-lab", &image, &["--deploy"])?;
    let master = Master::start(&lab, &repo)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    let disk = cache.path("debian-lab/current/disk.raw");

    let cold = touched_blocks(&lab, &disk)?;
    cache.wait_idle()?;
    let sent_cold = master.blocks_sent()?;
    println!("the cold boot touched {} blocks, {sent_cold} were sent", cold.len());
    ensure!(sent_cold > 0, "nothing was fetched");
    ensure!(
        sent_cold as f64 <= OVERSHOOT_MAX * cold.len() as f64,
        "the master sent {sent_cold} blocks for a boot that touches {}",
        cold.len()
    );

    let warm = touched_blocks(&lab, &disk)?;
    cache.wait_idle()?;
    let (sent, new) = (master.blocks_sent()?, warm.difference(&cold).count());
    println!("the warm boot touched {} blocks, {new} of them new, {} were sent", warm.len(), sent - sent_cold);
    ensure!(
        sent as f64 <= OVERSHOOT_MAX * (cold.len() + new) as f64,
        "the master sent {sent} blocks for two boots that touch {}",
        cold.len() + new
    );

    let took = Vm::boot(&lab, &disk_argument(&disk))?.wait_for("login:", BOOT_DEADLINE)?;
    println!("login after {:.1} s with nothing between machine and mount", took.as_secs_f64());
    Ok(())
}

/// A Debian machine boots by iSCSI from a cache that has nothing yet.
#[test]
fn debian_boots_by_iscsi() -> Result<()> {
    let (lab, image) = (Lab::new()?, debian_image()?.join("v1"));
    let repo = lab.path("repo");
    Master::publish_offline(&repo, "debian-lab", &image, &["--deploy"])?;
    let (master, tgtd) = (Master::start(&lab, &repo)?, Tgtd::start(&lab)?);
    let settings = CacheSettings { env: vec![("TGT_IPC_SOCKET", tgtd.socket().to_owned())], ..Default::default() };
    let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
    cache.command(&["export", "add", "debian-lab", "--iscsi", "--clients", "127.0.0.0/8"])?.ok()?;
    let url = format!("iscsi://{}/iqn.2026-01.net.icbd:debian-lab.1/1", tgtd.address());
    let took = Vm::boot(&lab, &url)?.wait_for("login:", BOOT_DEADLINE)?;
    println!("login after {:.1} s by iSCSI", took.as_secs_f64());
    Ok(())
}

/// A Debian machine boots by NFS from a cache that has nothing yet, while the daemon and Ganesha are killed under it.
#[test]
fn debian_boots_by_nfs_whatever_is_killed() -> Result<()> {
    let (lab, image) = (Lab::new()?, debian_image()?.join("v1"));
    let repo = lab.path("repo");
    Master::publish_offline(&repo, "debian-lab", &image, &["--deploy"])?;
    let (master, mut ganesha) = (Master::start(&lab, &repo)?, Ganesha::start(&lab, "")?);
    let mut cache = CacheServer::start_with(&lab, &[&master.url()], &ganesha.cache_settings())?;
    let clients = ganesha.client().to_string();
    let add = ["export", "add", "debian-lab", "--nfs", "--clients", &clients];
    cache.command(&add)?.says(&["%include"])?;
    ganesha.set(&ganesha.include())?;
    cache.command(&add)?.ok()?;
    let url = format!("nfs://{}/icbd/debian-lab/1/disk.raw", ganesha.address());
    let mut machine = Vm::boot(&lab, &url)?;
    let sent = |blocks| wait_for("the boot", || Ok((master.blocks_sent()? >= blocks).then_some(())));
    sent(200)?;
    cache.kill_worker()?;
    sent(600)?;
    cache.daemon.allow_log("not all is exported by NFS");
    ganesha.start_again()?;
    let took = machine.wait_for("login:", BOOT_DEADLINE)?;
    println!("login after {:.1} s by NFS from a cold cache, with two kills", took.as_secs_f64());
    Ok(())
}

/// A Debian machine boots from a clone on a cache that has nothing yet, and writes to it, while the daemon and the target
/// server are killed under it.
#[test]
fn debian_boots_on_a_clone_whatever_is_killed() -> Result<()> {
    let (lab, image) = (Lab::new()?, debian_image()?.join("v1"));
    let repo = lab.path("repo");
    Master::publish_offline(&repo, "debian-lab", &image, &["--deploy"])?;
    let (master, mut tgtd) = (Master::start(&lab, &repo)?, Tgtd::start(&lab)?);
    let env = vec![("TGT_IPC_SOCKET", tgtd.socket().to_owned())];
    let config = "[serve]\nlisten = [\"127.0.0.1:0\"]\n".to_owned();
    let mut cache =
        CacheServer::start_with(&lab, &[&master.url()], &CacheSettings { env, config, ..Default::default() })?;
    cache.command(&["export", "add", "debian-lab", "--iscsi", "--clients", "127.0.0.0/8", "--clone"])?.ok()?;
    let target = BootTarget::ask(&cache, "debian-lab", "pc-1")?;
    let mut machine = Vm::boot_writable(&lab, &target.options())?;
    // In the middle of it, as far as the master can tell: a boot touches some 1200 blocks.
    let sent = |blocks| wait_for("the boot", || Ok((master.blocks_sent()? >= blocks).then_some(())));
    sent(200)?;
    cache.kill_worker()?;
    sent(600)?;
    cache.daemon.allow_log("nothing is exported");
    tgtd.start_again(&lab)?;
    let took = machine.wait_for("login:", BOOT_DEADLINE)?;
    println!("login after {:.1} s on a clone of a cold cache, with two kills", took.as_secs_f64());
    drop(machine);
    let written = cache.command(&["clone", "list", "--json"])?.ok()?;
    let written: serde_json::Value = serde_json::from_str(&written)?;
    let written = written["clones"][0]["written_bytes"].as_u64().unwrap_or(0);
    println!("it wrote {written} bytes");
    ensure!(written > 0 && written < 64 << 20, "{written} bytes were written");
    // What it wrote is nowhere else.
    let verified = cache.command(&["image", "verify", "debian-lab@1"])?;
    verified.ok().map(drop)
}
