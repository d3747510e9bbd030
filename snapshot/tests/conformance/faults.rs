//! What must not be lost, whatever happens to a store.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};
use icbd_snapshot::{Kind, SnapshotError, Tree};
use icbd_tests::MIB;

use crate::store::{Ground, Store, noise, run, says};

/// Nothing that is at a place already is touched, and nothing outside of the store is reached.
pub(crate) fn what_is_there_stays(store: &Store) -> Result<()> {
    let tree = store.tree("versions/win/1", b"kept")?;
    fs::write(store.path("file"), b"kept")?;
    symlink("/", store.path("link"))?;
    for at in ["versions/win/1", "file", "link", "versions"] {
        says(store.trees.create(Path::new(at)), &[at, "exists already"])?;
        says(store.trees.seal(&tree, Path::new(at)), &[at, "exists already"])?;
    }
    for at in ["file/x", "link/tmp/icbd-never", "versions/win/1/disk/x"] {
        ensure!(store.trees.create(Path::new(at)).is_err(), "{at}");
    }
    for at in ["../x", "/tmp/x", "making/x", "", "a//b"] {
        says(store.trees.seal(&tree, Path::new(at)), &["is no place for a tree"])?;
    }
    ensure!(!Path::new("/tmp/icbd-never").exists());
    for (at, words) in [("file", "not a directory"), ("link", "not a directory"), ("versions", "no tree of this store")]
    {
        says(store.trees.sealed(Path::new(at)), &[at, words])?;
    }
    ensure!(store.bytes("versions/win/1")? == b"kept" && fs::read(store.path("file"))? == b"kept");
    ensure!(store.places()? == ["versions/win/1"] && store.half_made()? == 0);
    Ok(())
}

pub(crate) fn what_was_deleted_by_hand_is_missed(store: &Store) -> Result<()> {
    let tree = store.tree("a", b"a")?;
    let sealed = store.trees.seal(&tree, Path::new("b"))?;
    match store.ground.kind() {
        Kind::Btrfs => drop(run("btrfs", &["-q", "subvolume", "delete"], sealed.path())?),
        Kind::Reflink | Kind::Plain => fs::remove_dir_all(sealed.path())?,
    }
    says(store.trees.sealed(Path::new("b")), &["there is no tree at", "/b"])?;
    says(store.trees.sealed(Path::new("b/c/d")), &["there is no tree at"])?;
    // Deleting what is gone is no error; deleting what came instead is.
    fs::create_dir(store.path("b"))?;
    fs::write(store.path("b/precious"), b"")?;
    says(store.trees.delete(sealed), &["something else", "nothing was deleted"])?;
    ensure!(store.path("b/precious").exists());
    let again = store.trees.seal(&tree, Path::new("c"))?;
    store.again()?.delete(store.trees.sealed(Path::new("c"))?)?;
    store.trees.delete(again)?;
    Ok(())
}

/// What a call was at when its process died is gone with the next start; what another is at stays.
pub(crate) fn what_killed_calls_left_is_removed(store: &Store) -> Result<()> {
    let tree = store.tree("a", b"a")?;
    store.trees.seal(&tree, Path::new("b"))?;
    for left in ["making/dead/deep/er", "making/alive"] {
        fs::create_dir_all(store.path(left))?;
        fs::write(store.path(left).join("file"), b"half")?;
    }
    if store.ground.kind() == Kind::Btrfs {
        let snapshot = format!("{}/making/dead/deep/half", store.trees.path().display());
        run(
            "btrfs",
            &["-q", "subvolume", "snapshot", "-r", tree.path().to_str().unwrap_or_default()],
            snapshot.as_ref(),
        )?;
    }
    let alive = fs::File::open(store.path("making/alive"))?;
    alive.lock()?;
    ensure!(store.places()? == ["a", "b"]);
    ensure!(store.half_made()? == 1 && store.path("making/alive/file").exists());
    drop(alive);
    ensure!(store.places()? == ["a", "b"] && store.half_made()? == 0);
    Ok(())
}

/// A tree that finds no room is not there at all, the others are as they were, and room can be made.
pub(crate) fn a_full_file_system_loses_nothing(store: &Store) -> Result<()> {
    let original = store.tree("original", &vec![3; 20 << 20])?;
    // In files of their own, so that some can go.
    let ballast = store.path("ballast");
    fs::create_dir(&ballast)?;
    for piece in 1.. {
        let file = fs::File::create(ballast.join(piece.to_string()))?;
        if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, MIB).is_err() {
            break;
        }
    }
    // And what was kept back from those.
    for piece in 1.. {
        if fs::write(ballast.join(format!("small-{piece}")), noise(piece, 16 << 10)).is_err() {
            break;
        }
    }
    for round in 0..20 {
        match store.trees.seal(&original, Path::new(&format!("sealed/{round}"))) {
            Ok(sealed) => ensure!(fs::read(sealed.path().join("disk"))? == vec![3; 20 << 20]),
            Err(error) => ensure!(matches!(error, SnapshotError::Full { .. }), "{error:?}"),
        }
    }
    ensure!(store.half_made()? == 0 && store.bytes("original")? == vec![3; 20 << 20]);
    for listed in store.trees.list(Path::new("sealed"))? {
        store.trees.delete(store.trees.sealed(&listed.at)?)?;
    }
    fs::remove_dir_all(&ballast)?;
    rustix::fs::syncfs(fs::File::open(store.trees.path())?.as_fd())?;
    let sealed = store.trees.seal(&original, Path::new("again"))?;
    ensure!(fs::read(sealed.path().join("disk"))? == vec![3; 20 << 20]);
    Ok(())
}

pub(crate) fn a_read_only_file_system_is_named(store: &Store) -> Result<()> {
    let tree = store.tree("a", b"a")?;
    let sealed = store.trees.seal(&tree, Path::new("b"))?;
    store.volume.remount("ro")?;
    says(store.trees.create(Path::new("c")), &["read-only", "mount it writable"])?;
    says(store.trees.seal(&tree, Path::new("c/d")), &["read-only"])?;
    says(store.trees.delete(sealed), &["read-only", "/b"])?;
    ensure!(store.bytes("b")? == b"a");
    store.volume.remount("rw")?;
    ensure!(store.places()? == ["a", "b"]);
    Ok(())
}

/// A copy that takes time notices who writes meanwhile, and does not keep a mixture.
#[test]
fn a_tree_that_is_written_to_is_not_copied() -> Result<()> {
    for ground in [Ground::ReflinkXfs, Ground::PlainExt4] {
        let store = Store::new(ground)?;
        let tree = store.trees.create(Path::new("a"))?;
        let file = |index: usize| tree.path().join(format!("file-{index}"));
        (0..200).try_for_each(|index| fs::write(file(index), [1; 5000]))?;
        let stop = std::sync::atomic::AtomicBool::new(false);
        let refused = std::thread::scope(|scope| -> Result<bool> {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    (0..200).for_each(|index| drop(fs::write(file(index), [2; 5000])));
                }
            });
            let outcomes: Vec<_> =
                (0..50).map(|round| store.trees.seal(&tree, Path::new(&format!("sealed/{round}"))).map(drop)).collect();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            outcomes.into_iter().try_fold(false, |refused, outcome| match outcome {
                Err(SnapshotError::Changed(_)) => Ok(true),
                other => Ok(other.map(|()| refused)?),
            })
        })?;
        ensure!(refused && store.half_made()? == 0, "{ground:?}");
    }
    Ok(())
}

/// What is mounted inside of a tree is not the tree's, and is not left out in silence.
#[test]
fn a_mount_inside_a_tree_is_refused() -> Result<()> {
    let store = Store::new(Ground::PlainTmpfs)?;
    let tree = store.tree("a", b"a")?;
    fs::create_dir(tree.path().join("inner"))?;
    run("mount", &["-t", "tmpfs", "tmpfs"], &tree.path().join("inner"))?;
    says(store.trees.seal(&tree, Path::new("b")), &["something is mounted at", "a/inner"])?;
    run("umount", &[], &tree.path().join("inner"))?;
    store.trees.seal(&tree, Path::new("b"))?;
    Ok(())
}
