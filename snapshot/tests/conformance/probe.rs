//! What the probe finds is what there is, and it leaves nothing behind.

use anyhow::{Result, ensure};
use icbd_snapshot::{Finding, Kind, Probe, SnapshotError};

use crate::store::{Ground, Store};

fn probe(ground: Ground, file_system: &str) -> Result<Probe> {
    let store = Store::new(ground)?;
    let place = store.volume.path().join("empty");
    std::fs::create_dir(&place)?;
    let probe = Probe::run(&place)?;
    ensure!(std::fs::read_dir(&place)?.next().is_none(), "something was left in {}", place.display());
    // A store is probed where it is, and stays one.
    Probe::run(&store.trees.path())?;
    ensure!(store.half_made()? == 0);
    ensure!(probe.file_system == file_system && probe.mounted_at == store.volume.path(), "{probe:?}");
    ensure!(probe.free_bytes > 0 && probe.free_bytes <= probe.size_bytes && probe.write_bytes_per_second > 0);
    ensure!(probe.faults().next().is_none(), "{probe:?}");
    Ok(probe)
}

#[test]
fn btrfs_has_everything() -> Result<()> {
    let probe = probe(Ground::Btrfs, "btrfs")?;
    ensure!(probe.best() == Kind::Btrfs && matches!(probe.transfers, Finding::Works(_)), "{probe:?}");
    let Finding::Works(reflinks) = probe.reflinks else { anyhow::bail!("{:?}", probe.reflinks) };
    ensure!(reflinks.shared_bytes == Some(reflinks.cloned_bytes), "{reflinks:?}");
    Ok(())
}

#[test]
fn xfs_has_reflinks() -> Result<()> {
    let probe = probe(Ground::ReflinkXfs, "xfs")?;
    ensure!(probe.best() == Kind::Reflink, "{probe:?}");
    let Finding::Works(reflinks) = probe.reflinks else { anyhow::bail!("{:?}", probe.reflinks) };
    ensure!(reflinks.shared_bytes == Some(reflinks.cloned_bytes), "{reflinks:?}");
    ensure!(matches!(probe.subvolumes, Finding::Refused(_)) && matches!(probe.transfers, Finding::Refused(_)));
    Ok(())
}

#[test]
fn others_have_copies() -> Result<()> {
    for (ground, name) in [(Ground::PlainExt4, "ext4"), (Ground::PlainTmpfs, "tmpfs")] {
        let probe = probe(ground, name)?;
        ensure!(probe.best() == Kind::Plain && matches!(probe.reflinks, Finding::Refused(_)), "{probe:?}");
    }
    Ok(())
}

#[test]
fn a_disk_that_cannot_be_tried_is_no_finding() -> Result<()> {
    let store = Store::new(Ground::PlainTmpfs)?;
    store.volume.remount("ro")?;
    let refused = Probe::run(store.volume.path());
    ensure!(matches!(refused, Err(SnapshotError::ReadOnlyFileSystem { .. })), "{refused:?}");
    store.volume.remount("rw")?;
    store.volume.remount("size=1m")?;
    let refused = Probe::run(store.volume.path());
    ensure!(matches!(refused, Err(SnapshotError::Full { .. })), "{refused:?}");
    ensure!(Probe::run(&store.path("nowhere")).is_err_and(|error| error.to_string().contains("nowhere")));
    Ok(())
}
