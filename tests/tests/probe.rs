//! `icbd store probe` on real file systems: what it says is what they do, and it leaves nothing behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{FileSystem, Lab, MIB, Output, Volume, icbd, icbd_path, run_bounded};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

/// Nothing of the machine's own configuration is read.
fn probe(lab: &Lab, args: &[&str], path: &Path) -> Result<Output> {
    let config = lab.path("icbd.toml");
    fs::write(&config, "")?;
    let fixed = [&"store", &"probe", &"--config", &config.to_str().context("a plain path")?];
    let path = path.to_str().context("a plain path")?;
    icbd(fixed.into_iter().chain(args).copied().chain([path]))
}

/// Whether the directory is as empty as before; ext4 keeps one of its own there.
fn is_empty(path: &Path) -> Result<bool> {
    Ok(fs::read_dir(path)?.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found")))
}

#[test]
fn file_systems_are_told_apart() -> Result<()> {
    let lab = Lab::new()?;
    let grounds = [
        (FileSystem::Btrfs, ["btrfs", "works", "works", "works", "subvolumes"], "is read-only once it is sealed"),
        (FileSystem::Xfs, ["xfs", "works", "no", "no", "reflinks"], "the more files it has"),
        (FileSystem::Ext4, ["ext4", "no", "no", "no", "copies"], "use btrfs, or xfs with reflink=1"),
    ];
    for (file_system, expected, words) in grounds {
        let volume = Volume::new(&lab, file_system, 320 * MIB)?;
        let json: Value = serde_json::from_str(&probe(&lab, &["--json"], volume.path())?.ok()?)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let verdict = |trial: &str| text(&json[trial]["verdict"]);
        let found = [
            text(&json["file_system"]),
            verdict("reflink"),
            verdict("subvolume"),
            verdict("stream"),
            text(&json["versions"]),
        ];
        ensure!(found == expected, "{json:#}");
        if expected[1] == "works" {
            ensure!(json["reflink"]["shared_bytes"] == json["reflink"]["cloned_bytes"], "{json:#}");
        }
        ensure!(json["free_bytes"].as_u64() > Some(0) && json["write_bytes_per_second"].as_u64() > Some(0), "{json:#}");
        probe(&lab, &[], volume.path())?.prints(&[expected[0], words])?.ok()?;
        ensure!(probe(&lab, &["-q"], volume.path())?.stderr.is_empty());
        ensure!(is_empty(volume.path())?, "{file_system:?} was not left as it was");
    }
    Ok(())
}

/// Which path is meant, and what stands in the way, is said with the remedy and in the exit code.
#[test]
fn what_cannot_be_tried_is_named() -> Result<()> {
    let lab = Lab::new()?;
    probe(&lab, &[], &lab.path("nowhere"))?.failed_with(3)?.says(&["nowhere", "name a directory"])?;
    fs::write(lab.path("file"), "")?;
    probe(&lab, &[], &lab.path("file"))?.failed_with(2)?.says(&["file is no directory"])?;
    let volume = Volume::new(&lab, FileSystem::Btrfs, 128 * MIB)?;
    volume.remount("ro")?;
    probe(&lab, &[], volume.path())?.failed_with(4)?.says(&["the file system is read-only", "mount it writable"])?;
    let small = Volume::new(&lab, FileSystem::Tmpfs, MIB)?;
    probe(&lab, &[], small.path())?.failed_with(4)?.says(&["the file system is full", "free some space"])?;
    ensure!(is_empty(small.path())?);
    // Without a path, the store that the configuration names.
    let config = lab.path("other.toml");
    fs::write(&config, format!("[store]\npath = {:?}\n", lab.path("no-store")))?;
    let config = config.to_str().context("a plain path")?;
    icbd(["store", "probe", "--config", config])?.failed_with(3)?.says(&["no-store"])?;
    Ok(())
}

/// Root in a container may make subvolumes and not delete them; and without its tools btrfs has no streams.
#[test]
fn what_is_lacking_is_told_apart_from_what_cannot_be() -> Result<()> {
    let lab = Lab::new()?;
    let volume = Volume::new(&lab, FileSystem::Btrfs, 256 * MIB)?;
    let mut weak = Command::new("setpriv");
    weak.args(["--bounding-set", "-sys_admin"]).arg(icbd_path()?).args(["store", "probe"]).arg(volume.path());
    let said =
        run_bounded(weak, DEADLINE)?.prints(&["make subvolumes and not delete them", "run icbd as root"])?.ok()?;
    ensure!(said.contains("reflink    works"), "{said}");
    let mut bare = Command::new(icbd_path()?);
    bare.args(["store", "probe"]).arg(volume.path()).env("PATH", "/nowhere");
    run_bounded(bare, DEADLINE)?.prints(&["cannot run `btrfs`", "install the package btrfs-progs"])?.ok()?;
    ensure!(is_empty(volume.path())?);
    Ok(())
}
