//! A real Debian machine boots from the mount, and from what is exported of it.

use anyhow::{Result, ensure};
use icbd_tests::{
    BOOT_DEADLINE, CacheServer, CacheSettings, Lab, Master, Tgtd, Vm, debian_image, disk_argument, touched_blocks,
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
