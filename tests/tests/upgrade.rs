//! A new version costs its difference: what a cache holds of another local version is not fetched again.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Result, ensure};
use icbd_tests::{
    CacheServer, CacheSettings, FileSystem, Lab, MIB, Master, Volume, block_of, compare_trees, debian_image, fill,
};

const BLOCK_BYTES: usize = 64 * 1024;

/// After a package upgrade of the real Debian image only the blocks that changed are fetched.
#[test]
fn an_upgraded_debian_image_costs_its_difference() -> Result<()> {
    let image = debian_image()?;
    let lab = Lab::new()?;
    let volume = Volume::new(&lab, FileSystem::Btrfs, 4096 * MIB)?;
    upgrade(&lab, &image.join("v1"), &image.join("v2"), volume.path())
}

/// The same on every file system that a store lives on, with blocks that become zero, cease to be zero, and files
/// that grow, shrink, appear and vanish.
fn upgrade_on(file_system: FileSystem) -> Result<()> {
    let lab = Lab::new()?;
    let volume = Volume::new(&lab, file_system, 400 * MIB)?;
    let (one, two) = (lab.folder("one")?, lab.folder("two")?);
    for (name, seed, bytes) in
        [("disk", 1, 16 * MIB + 999), ("grows", 2, MIB), ("shrinks", 3, 2 * MIB), ("goes", 4, MIB)]
    {
        fill(&one.join(name), seed, bytes)?;
    }
    for name in ["disk", "grows", "shrinks"] {
        fs::copy(one.join(name), two.join(name))?;
    }
    {
        use std::os::unix::fs::FileExt;
        let disk = File::options().write(true).open(two.join("disk"))?;
        for index in (0..256).step_by(7) {
            // A third of what changes becomes zero.
            let block = if index % 3 == 0 { vec![0; BLOCK_BYTES] } else { block_of(99, index) };
            disk.write_all_at(&block, index * BLOCK_BYTES as u64)?;
        }
        disk.write_all_at(b"x", 16 * MIB + 998)?;
        File::options().write(true).open(two.join("grows"))?.set_len(3 * MIB + 1)?;
        File::options().write(true).open(two.join("shrinks"))?.set_len(MIB - 1)?;
    }
    fill(&two.join("comes"), 5, MIB)?;
    upgrade(&lab, &one, &two, volume.path())
}

#[test]
fn an_upgrade_costs_its_difference_on_ext4() -> Result<()> {
    upgrade_on(FileSystem::Ext4)
}

#[test]
fn an_upgrade_costs_its_difference_on_xfs() -> Result<()> {
    upgrade_on(FileSystem::Xfs)
}

#[test]
fn an_upgrade_costs_its_difference_on_btrfs() -> Result<()> {
    upgrade_on(FileSystem::Btrfs)
}

fn upgrade(lab: &Lab, one: &Path, two: &Path, volume: &Path) -> Result<()> {
    let (repo, settings) =
        (lab.path("repo"), CacheSettings { store: Some(volume.join("store")), ..Default::default() });
    Master::publish_offline(&repo, "lab", one, &["--deploy"])?;
    Master::publish_offline(&repo, "lab", two, &["--deploy"])?;
    let master = Master::start(lab, &repo)?;
    let cache = CacheServer::start_with(lab, &[&master.url()], &settings)?;
    cache.prefetch_all("lab@1")?;
    let before = master.blocks_sent()?;
    let all: u64 = blocks_to_fetch(None, one)?;
    ensure!(before == all, "version 1 has {all} blocks that are not zero, the master sent {before}");

    cache.prefetch_all("lab@2")?;
    let sent = master.blocks_sent()? - before;
    let changed = blocks_to_fetch(Some(one), two)?;
    println!("version 2 differs in {changed} blocks, {sent} were sent");
    ensure!(sent <= changed, "only {changed} blocks differ, the master sent {sent}");
    compare_trees(two, &cache.path("lab/2"))?;
    cache.command(&["image", "verify", "lab@2"])?.ok()?;
    compare_trees(one, &cache.path("lab/1"))?;
    Ok(())
}

/// How many blocks of the files in `to` are neither zero nor at the same place in the same file of `from`.
fn blocks_to_fetch(from: Option<&Path>, to: &Path) -> Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        let mut new = File::open(entry.path())?;
        let mut old = from.and_then(|from| File::open(from.join(entry.file_name())).ok());
        let (mut wanted, mut had) = (Vec::new(), Vec::new());
        loop {
            wanted.clear();
            had.clear();
            new.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut wanted)?;
            if let Some(old) = &mut old {
                old.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut had)?;
            }
            if wanted.is_empty() {
                break;
            }
            let is_zero = wanted.iter().all(|byte| *byte == 0);
            count += u64::from(!is_zero && wanted != had);
        }
    }
    Ok(count)
}
