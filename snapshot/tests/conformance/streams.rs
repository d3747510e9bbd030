//! Trees on their way from one store to another.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use icbd_snapshot::{Encoding, Sealed, SnapshotError, Streams, Tree};
use icbd_tests::{Random, compare_trees, sample_tree};

use crate::store::{Ground, Store, noise, run, says};

/// Two stores on two disks.
fn pair() -> Result<(Store, Store)> {
    Ok((Store::new(Ground::BtrfsPacked)?, Store::new(Ground::Btrfs)?))
}

fn streams(store: &Store) -> Result<Streams<'_>> {
    store.trees.streams().context("btrfs has streams")
}

/// The whole stream of a tree.
fn stream(store: &Store, tree: &Sealed, parent: Option<&Sealed>, encoding: Encoding) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    streams(store)?.send(tree, parent, encoding)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Receives a stream at a place.
fn receive(store: &Store, bytes: &[u8], at: &str) -> Result<Result<Sealed, SnapshotError>> {
    let mut receiving = streams(store)?.receive(Path::new(at))?;
    if let Err(error) = receiving.write_all(bytes) {
        return Ok(Err(error.downcast().context("an error of the receiver's")?));
    }
    Ok(receiving.finish().map(|received| received.tree))
}

fn version(store: &Store, at: &str) -> Result<Sealed> {
    let tree = store.trees.create(Path::new("editing"))?;
    sample_tree(tree.path())?;
    let sealed = store.trees.seal(&tree, Path::new(at))?;
    store.trees.delete(tree)?;
    Ok(sealed)
}

fn next(store: &Store, of: &Sealed, at: &str) -> Result<Sealed> {
    let clone = store.trees.clone_tree(of, Path::new("editing"))?;
    fs::write(clone.path().join("usr/share/medium"), at)?;
    fs::rename(clone.path().join("block"), clone.path().join("usr/block"))?;
    fs::remove_file(clone.path().join("empty"))?;
    let sealed = store.trees.seal(&clone, Path::new(at))?;
    store.trees.delete(clone)?;
    Ok(sealed)
}

/// Whole, then the difference, to a second store, and from there to a third.
#[test]
fn trees_travel_from_store_to_store() -> Result<()> {
    let (from, to) = pair()?;
    let third = Store::new(Ground::Btrfs)?;
    let one = version(&from, "versions/win/1")?;
    let two = next(&from, &one, "versions/win/2")?;
    for (number, encoding) in [Encoding::Protocol1, Encoding::Protocol2, Encoding::AsStored].into_iter().enumerate() {
        let place = |version: u32| format!("versions/{number}/{version}");
        let whole = stream(&from, &one, None, encoding)?;
        let difference = stream(&from, &two, Some(&one), encoding)?;
        ensure!(difference.len() < whole.len() / 4, "{encoding:?}: {} of {}", difference.len(), whole.len());
        let (first, second) = (receive(&to, &whole, &place(1))??, receive(&to, &difference, &place(2))??);
        compare_trees(one.path(), first.path())?;
        compare_trees(two.path(), second.path())?;
        ensure!(to.trees.sealed(Path::new(&place(2))).is_ok() && to.half_made()? == 0);
        // From replica to replica, which know each other by what both received.
        receive(&third, &stream(&to, &first, None, Encoding::Protocol1)?, &place(1))??;
        let third_two = receive(&third, &stream(&to, &second, Some(&first), Encoding::Protocol1)?, &place(2))??;
        compare_trees(two.path(), third_two.path())?;
        for store in [&to, &third] {
            for at in [place(1), place(2)] {
                store.trees.delete(store.trees.sealed(Path::new(&at))?)?;
            }
        }
    }
    Ok(())
}

/// Cut, flipped, doubled or foreign: nothing of it is left, what was there stays, and the next attempt succeeds.
#[test]
fn broken_streams_leave_nothing() -> Result<()> {
    let (from, to) = pair()?;
    let one = version(&from, "1")?;
    let whole = stream(&from, &one, None, Encoding::Protocol1)?;
    let mut random = Random::new(4);
    let mut broken: Vec<Vec<u8>> =
        (0..20).map(|_| whole[..random.below(whole.len() as u64) as usize].to_vec()).collect();
    for _ in 0..20 {
        let mut flipped = whole.clone();
        flipped[random.below(whole.len() as u64) as usize] ^= 1 << random.below(8);
        broken.push(flipped);
    }
    broken.extend([
        Vec::new(),
        b"btrfs-stream\0".to_vec(),
        b"no stream at all".repeat(10_000),
        [&whole[..], &whole[..]].concat(),
    ]);
    for (number, bytes) in broken.iter().enumerate() {
        let error = receive(&to, bytes, "1")?.err().with_context(|| format!("stream {number} was received"))?;
        ensure!(matches!(error, SnapshotError::Program { .. } | SnapshotError::Stream { .. }), "{error:?}");
        ensure!(!to.path("1").exists() && to.half_made()? == 0, "stream {number}");
    }
    compare_trees(one.path(), receive(&to, &whole, "1")??.path())?;
    Ok(())
}

#[test]
fn a_difference_needs_its_parent() -> Result<()> {
    let (from, to) = pair()?;
    let one = version(&from, "1")?;
    let two = next(&from, &one, "2")?;
    let difference = stream(&from, &two, Some(&one), Encoding::Protocol1)?;
    says(receive(&to, &difference, "2")?, &["cannot find parent subvolume"])?;
    // Not even one that has the same bytes and was not received; and a changed copy of it is no parent.
    let first = receive(&to, &stream(&from, &one, None, Encoding::Protocol1)?, "1")??;
    let clone = to.trees.clone_tree(&first, Path::new("clone"))?;
    to.trees.seal(&clone, Path::new("sealed-clone"))?;
    to.trees.delete(first)?;
    run("btrfs", &["subvolume", "sync"], to.volume.path())?;
    says(receive(&to, &difference, "2")?, &["cannot find parent subvolume"])?;
    ensure!(to.half_made()? == 0);
    Ok(())
}

/// Who stops listening stops the sender; who stops sending leaves nothing.
#[test]
fn what_is_dropped_is_cleaned_up() -> Result<()> {
    let (from, to) = pair()?;
    let tree = from.tree("a", &noise(5, 16 << 20))?;
    let sealed = from.trees.seal(&tree, Path::new("1"))?;
    let mut sending = streams(&from)?.send(&sealed, None, Encoding::Protocol1)?;
    let mut begin = vec![0; 3_000_000];
    sending.read_exact(&mut begin)?;
    // What is being sent is not deleted.
    says(from.trees.delete(from.trees.sealed(Path::new("1"))?), &["it is being sent"])?;
    ensure!(from.path("1").exists());
    let begun = Instant::now();
    drop(sending);
    from.trees.delete(from.trees.sealed(Path::new("1"))?)?;
    let mut receiving = streams(&to)?.receive(Path::new("versions/1"))?;
    receiving.write_all(&begin)?;
    ensure!(to.half_made()? == 1);
    drop(receiving);
    ensure!(to.half_made()? == 0 && to.places()?.is_empty());
    ensure!(begun.elapsed() < Duration::from_secs(10));
    let place = to.tree("versions/1", b"mine")?;
    says(streams(&to)?.receive(Path::new("versions/1")).map(drop), &["exists already"])?;
    ensure!(to.bytes("versions/1")? == b"mine" && place.path().exists());
    Ok(())
}

/// A store in a subvolume that is mounted by itself, as distributions lay out their disks.
#[test]
fn a_store_may_be_a_mounted_subvolume() -> Result<()> {
    let (from, mut to) = pair()?;
    run("btrfs", &["-q", "subvolume", "create"], &to.volume.path().join("@icbd"))?;
    let mount = to.lab.folder("mounted")?;
    let device = run("findmnt", &["-n", "-o", "SOURCE"], to.volume.path())?;
    run("mount", &["-o", "subvol=@icbd", device.trim()], &mount)?;
    to.trees = icbd_snapshot::Trees::open(&mount, icbd_snapshot::Kind::Btrfs)?;
    let one = version(&from, "1")?;
    let two = next(&from, &one, "2")?;
    receive(&to, &stream(&from, &one, None, Encoding::Protocol1)?, "versions/1")??;
    let received = receive(&to, &stream(&from, &two, Some(&one), Encoding::Protocol1)?, "versions/2")??;
    compare_trees(two.path(), received.path())?;
    ensure!(to.places()? == ["versions/1", "versions/2"]);
    Ok(())
}

#[test]
fn directories_have_no_streams() -> Result<()> {
    for ground in [Ground::ReflinkXfs, Ground::PlainTmpfs] {
        ensure!(Store::new(ground)?.trees.streams().is_none());
    }
    Ok(())
}
