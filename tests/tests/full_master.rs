//! A master on a disk that is full or cannot be written: it is told, and what makes room can be done.

use std::fs;
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use icbd_tests::{FileSystem, Lab, MIB, Master, Volume, icbd, solid, wait_for};

const REFUSED: i32 = 4;
const DISK: u64 = 8 * MIB;

/// Fills what is left of a file system.
fn fill(volume: &Volume) -> Result<()> {
    let file = fs::File::create(volume.path().join("filler"))?;
    for (at, chunk) in (0..).step_by(4096).zip(std::iter::repeat([1; 4096])) {
        match file.write_all_at(&chunk, at) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
            written => written?,
        }
    }
    Ok(file.sync_all()?)
}

fn full_repository(file_system: FileSystem) -> Result<()> {
    let lab = Lab::new()?;
    let volume = Volume::new(&lab, file_system, 200 * MIB)?;
    let (tree, config) = (lab.folder("tree")?, lab.path("master.toml"));
    fs::write(&config, "[retain]\nlast = 0\nyounger_than = \"0s\"\n")?;
    let config = ["--config", config.to_str().expect("a path of text")];
    let master = Master::start_at(&lab, &volume.path().join("repo"), ([127, 0, 0, 1], 0).into(), &config)?;
    for version in 1..=2 {
        fs::write(tree.join("disk"), solid(version, DISK))?;
        master.publish("lab", &tree, &["--deploy"])?;
    }
    let order = |args: &[&str]| icbd([args, &["--socket", master.socket()]].concat());
    order(&["check"])?.prints(&["ICBD OK"])?;
    order(&["image", "edit", "lab"])?.ok()?;
    order(&["image", "retire", "lab@1", "--force"])?.ok()?;
    fill(&volume)?;
    // Said before anybody needs the room, and by whoever asks for some.
    wait_for("it is told", || {
        let check = order(&["check"])?;
        Ok((check.code == 1 && check.stdout.contains("is full") && check.stdout.contains("image prune")).then_some(()))
    })?;
    fs::write(tree.join("disk"), solid(3, DISK / 2))?;
    let refused =
        icbd(["image", "publish", "lab", tree.to_str().expect("a path of text"), "--socket", master.socket()])?;
    ensure!(refused.code != 0 && refused.stderr.contains("free some space"), "{refused:?}");
    master.daemon.allow_log("audit log");
    order(&["image", "discard", "lab"])?.ok()?;
    order(&["image", "prune", "--yes"])?.prints(&["removed"])?;
    wait_for("the room is free", || Ok(master.publish("lab", &tree, &[]).ok()))?;
    order(&["image", "verify", "lab@2"])?.ok().map(drop)
}

/// A full disk is told, and keeps nobody from throwing away a working copy or what is retired.
#[test]
fn a_full_repository_is_told_and_can_be_emptied() -> Result<()> {
    full_repository(FileSystem::Ext4)
}

/// A full disk is told, and keeps nobody from throwing away a working copy or what is retired.
#[test]
fn so_is_one_on_btrfs() -> Result<()> {
    full_repository(FileSystem::Btrfs)
}

/// A repository that is mounted read-only serves on, and says why nothing can be changed.
#[test]
fn a_read_only_repository_is_told() -> Result<()> {
    let lab = Lab::new()?;
    let volume = Volume::new(&lab, FileSystem::Ext4, 100 * MIB)?;
    let (tree, repo) = (lab.folder("tree")?, volume.path().join("repo"));
    fs::write(tree.join("disk"), solid(1, MIB))?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    volume.remount("ro")?;
    let (repo, tree) = (repo.to_str().expect("a path of text"), tree.to_str().expect("a path of text"));
    let refused = icbd(["image", "publish", "lab", tree, "--repo", repo])?;
    refused.failed_with(REFUSED)?.says(&["Read-only", "mount it for writing"]).map(drop)
}
