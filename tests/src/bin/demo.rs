//! The main job on real input, for people to watch: a Debian image is built, published, served by a master and a cache
//! server on loopback, and booted twice from the cache's mount.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use icbd_tests::{BOOT_DEADLINE, CacheServer, Lab, MIB, Master, Vm, debian_image, disk_argument, touched_blocks};

const BLOCK_BYTES: u64 = 64 * 1024;

/// One boot from the mount.
struct Boot {
    took: Duration,
    fetched_blocks: u64,
}

fn main() -> Result<()> {
    println!("1. a Debian 12 machine image (built once, kept in target/lab)");
    let image = debian_image()?.join("v1");
    let disk = std::fs::metadata(image.join("disk.raw"))?;
    println!("   {}: {} MiB, {} MiB of it in use", image.display(), disk.len() / MIB, disk.blocks() * 512 / MIB);

    println!("2. what a boot reads, counted by nbdkit without icbd");
    let lab = Lab::new()?;
    let started = std::time::Instant::now();
    let touched = touched_blocks(&lab, &image.join("disk.raw"))?.len() as u64;
    println!("   {touched} blocks of 64 KiB, {} MiB; {:.1} s to login", mib(touched), started.elapsed().as_secs_f64());

    println!("3. publish, serve, mount");
    let repo = lab.path("repo");
    let version = Master::publish_offline(&repo, "debian-lab", &image, &["--deploy"])?;
    let mut master = Master::start(&lab, &repo)?;
    let mut cache = CacheServer::start(&lab, &master.url())?;
    println!("   {version} at {} and in {}", master.url(), cache.mount().display());

    println!("4. boot from the mount, cold and warm");
    let path = cache.path("debian-lab/current/disk.raw");
    let cold = boot(&lab, &master, &path)?;
    println!("   cold: login after {:.1} s", cold.took.as_secs_f64());
    let warm = boot(&lab, &master, &path)?;
    println!("   warm: login after {:.1} s", warm.took.as_secs_f64());

    println!();
    println!("boot   to login   boot reads   fetched     share of the image");
    for (name, boot) in [("cold", &cold), ("warm", &warm)] {
        let share = 100.0 * (boot.fetched_blocks * BLOCK_BYTES) as f64 / disk.len() as f64;
        println!(
            "{name}   {:>6.1} s   {:>6} MiB   {:>5} MiB   {share:.2} %",
            boot.took.as_secs_f64(),
            mib(touched),
            mib(boot.fetched_blocks)
        );
    }
    ensure!(cold.fetched_blocks > 0, "the cold boot fetched nothing");
    cache.daemon.stop()?;
    master.daemon.stop()
}

fn boot(lab: &Lab, master: &Master, disk: &Path) -> Result<Boot> {
    let before = master.blocks_sent()?;
    let took = Vm::boot(lab, &disk_argument(disk))?.wait_for("login:", BOOT_DEADLINE)?;
    Ok(Boot { took, fetched_blocks: master.blocks_sent()? - before })
}

fn mib(blocks: u64) -> u64 {
    blocks * BLOCK_BYTES / MIB
}
