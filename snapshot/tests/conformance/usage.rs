//! What trees cost, held to what the file system itself says before and after.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use icbd_snapshot::{Kind, Sealed, Tree};
use icbd_tests::{MIB, wait_for};

use crate::store::{Ground, Store, noise, run};

/// Three versions of 16 MiB, each with 4 MiB of its own where the one before it had others. What the first has is written
/// in pieces of `piece_bytes`, each in extents of its own.
fn versions(store: &Store, piece_bytes: usize) -> Result<Vec<Sealed>> {
    let noise = noise(1, 24 << 20);
    let tree = store.tree("editing", b"")?;
    let disk = File::options().write(true).open(tree.path().join("disk"))?;
    let write = |bytes: &[u8], at: u64| disk.write_all_at(bytes, at).and_then(|()| disk.sync_all());
    for (at, piece) in (0..).step_by(piece_bytes).zip(noise[..16 << 20].chunks(piece_bytes)) {
        write(piece, at)?;
    }
    let mut versions = Vec::new();
    for number in 0..3_u64 {
        versions.push(store.trees.seal(&tree, Path::new(&format!("versions/{number}")))?);
        if number < 2 {
            let at = (16 + 4 * number as usize) << 20;
            write(&noise[at..at + (4 << 20)], number * 4 * MIB)?;
        }
    }
    store.trees.delete(tree)?;
    Ok(versions)
}

pub(crate) fn counts_what_deleting_frees(store: &Store) -> Result<()> {
    let versions = versions(store, 4 << 20)?;
    let [one, two, three] = &versions[..] else { anyhow::bail!("three versions were made") };
    // What one of them holds, all of them hold, and what goes with two of them, in MiB.
    let shared: [(&[&dyn Tree], u64, u64); 6] = [
        (&[one], 4, 16),
        (&[two], 0, 16),
        (&[three], 4, 16),
        // Also what the two shared and the third overwrote.
        (&[one, two], 8, 20),
        (&[one, three], 8, 24),
        (&[one, two, three], 24, 24),
    ];
    let copied: [(&[&dyn Tree], u64, u64); 2] = [(&[two], 16, 16), (&[one, three], 32, 32)];
    for (of, exclusive, held) in if store.ground.shares() { &shared[..] } else { &copied[..] } {
        let as_expected = || -> Result<Option<()>> {
            let usage = store.trees.usage(of)?;
            let is_so = usage.exclusive_bytes / MIB == *exclusive && usage.held_bytes / MIB == *held;
            Ok(is_so.then_some(()))
        };
        // What was deleted just now is let go of when the file system comes to it.
        settle(store)?;
        let what = || format!("{} trees: {:?}, not {exclusive} of {held} MiB", of.len(), store.trees.usage(of));
        wait_for("usage", as_expected).with_context(what)?;
    }
    frees_what_it_says(store, versions)
}

/// The disk has so much more room without the first two of three versions as was said.
fn frees_what_it_says(store: &Store, versions: Vec<Sealed>) -> Result<()> {
    let [one, two, three] = <[Sealed; 3]>::try_from(versions).ok().context("three versions were made")?;
    settle(store)?;
    let (said, before) = (store.trees.usage(&[&one, &two])?.exclusive_bytes, free(store)?);
    store.trees.delete(one)?;
    store.trees.delete(two)?;
    settle(store)?;
    let freed = || anyhow::Ok(free(store)?.saturating_sub(before));
    let is_near = |freed: u64| freed.abs_diff(said) <= said / 20 + MIB / 2;
    wait_for("the room", || Ok(Some(freed()?).filter(|freed| is_near(*freed))))
        .with_context(|| format!("{said} bytes were to be freed, not {:?}", freed()))?;
    ensure!(store.trees.sealed(three.at()).is_ok());
    Ok(())
}

/// An extent of btrfs that is half overwritten keeps its room while somebody holds the other half. No more is promised.
#[test]
fn half_of_an_extent_frees_nothing() -> Result<()> {
    for ground in [Ground::Btrfs, Ground::BtrfsPacked] {
        let store = Store::new(ground)?;
        let versions = versions(&store, 16 << 20)?;
        settle(&store)?;
        let usage = store.trees.usage(&[&versions[0], &versions[1]])?;
        if ground == Ground::Btrfs {
            ensure!(usage.exclusive_bytes == 0 && usage.held_bytes == 20 * MIB, "{usage:?}");
        }
        frees_what_it_says(&store, versions)?;
    }
    Ok(())
}

/// Has the file system finish what was deleted and written.
fn settle(store: &Store) -> Result<()> {
    rustix::fs::syncfs(File::open(store.volume.path())?.as_fd())?;
    if store.ground.kind() == Kind::Btrfs {
        // The first wakes the cleaner, for which the second waits.
        run("btrfs", &["filesystem", "sync"], store.volume.path())?;
        run("btrfs", &["subvolume", "sync"], store.volume.path())?;
        run("btrfs", &["filesystem", "sync"], store.volume.path())?;
    }
    Ok(())
}

fn free(store: &Store) -> Result<u64> {
    let space = rustix::fs::statvfs(store.volume.path())?;
    Ok(space.f_bfree * space.f_frsize)
}

/// As `btrfs filesystem du` has it, to the byte, for one tree.
#[test]
fn usage_agrees_with_btrfs_itself() -> Result<()> {
    let store = Store::new(Ground::Btrfs)?;
    for version in versions(&store, 4 << 20)? {
        settle(&store)?;
        let said = run("btrfs", &["filesystem", "du", "--raw", "-s"], version.path())?;
        let exclusive: u64 = said
            .lines()
            .nth(1)
            .and_then(|line| line.split_whitespace().nth(1))
            .and_then(|number| number.parse().ok())
            .with_context(|| said.clone())?;
        ensure!(store.trees.usage(&[&version])?.exclusive_bytes == exclusive, "{said}");
    }
    Ok(())
}

/// A file that somebody reflinked out of the store keeps its blocks alive, and nothing else is promised.
#[test]
fn what_others_share_is_not_freed() -> Result<()> {
    let store = Store::new(Ground::ReflinkXfs)?;
    let version = {
        let tree = store.tree("a", &vec![9; 8 << 20])?;
        let sealed = store.trees.seal(&tree, Path::new("b"))?;
        store.trees.delete(tree)?;
        sealed
    };
    let exclusive = || anyhow::Ok(store.trees.usage(&[&version])?.exclusive_bytes);
    wait_for("the tree's own blocks", || Ok(Some(exclusive()?).filter(|bytes| *bytes >= 8 * MIB)))?;
    let (from, to) = (File::open(version.path().join("disk"))?, File::create(store.volume.path().join("mine"))?);
    rustix::fs::ioctl_ficlone(&to, &from)?;
    settle(&store)?;
    let usage = store.trees.usage(&[&version])?;
    ensure!(usage.exclusive_bytes == 0 && usage.held_bytes >= 8 * MIB, "{usage:?}");
    Ok(())
}
