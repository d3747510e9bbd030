//! A real Debian machine boots from the mount.

use anyhow::{Result, ensure};
use icbd_tests::{BOOT_DEADLINE, CacheServer, Lab, Master, Vm, debian_image, disk_argument, touched_blocks};

/// Of the blocks that a boot touches, fetching may overshoot by this much: neighbours that the kernel reads ahead.
const OVERSHOOT_MAX: f64 = 1.15;

/// A Debian image boots to `login:` from the mount, cold and warm, and the master sends hardly more than the blocks
/// that the boot touches.
#[test]
fn debian_boots_cold_and_warm_and_fetches_what_it_touches() -> Result<()> {
    let image = debian_image()?.join("v1");
    let lab = Lab::new()?;
    let touched = touched_blocks(&lab, &image.join("disk.raw"))?.len() as u64;

    let repo = lab.path("repo");
    Master::publish_offline(&repo, "debian-lab", &image, &["--deploy"])?;
    let master = Master::start(&lab, &repo)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    let disk = disk_argument(&cache.path("debian-lab/current/disk.raw"));

    let cold = Vm::boot(&lab, &disk)?.wait_for("login:", BOOT_DEADLINE)?;
    cache.wait_idle()?;
    let sent_cold = master.blocks_sent()?;
    let warm = Vm::boot(&lab, &disk)?.wait_for("login:", BOOT_DEADLINE)?;
    cache.wait_idle()?;
    let sent_warm = master.blocks_sent()? - sent_cold;
    println!(
        "boot touches {touched} blocks; cold {:.1} s, {sent_cold} sent; warm {:.1} s, {sent_warm} more sent",
        cold.as_secs_f64(),
        warm.as_secs_f64()
    );
    ensure!(sent_cold > 0, "nothing was fetched");
    ensure!(
        sent_cold as f64 <= OVERSHOOT_MAX * touched as f64,
        "the master sent {sent_cold} blocks for a boot that touches {touched}"
    );
    // No two boots read quite the same.
    ensure!(sent_warm as f64 <= 0.05 * touched as f64, "a warm boot fetched {sent_warm} blocks");
    Ok(())
}
