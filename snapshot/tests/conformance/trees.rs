//! What trees are.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use icbd_snapshot::{Access, Sealed, SnapshotError, Tree};
use icbd_tests::{MIB, compare_trees, sample_tree};

use crate::store::{Ground, Store, says};

/// A sealed tree is what its original was; a clone begins so and changes alone; neither becomes the other.
pub(crate) fn stay_what_they_are(store: &Store) -> Result<()> {
    let original = store.tree("filling/win/7", b"seven")?;
    let open = File::options().write(true).open(original.path().join("disk"))?;
    let sealed = store.trees.seal(&original, Path::new("versions/win/7"))?;
    // Also by who opened it long ago.
    open.write_all_at(b"SEVEN", 0)?;
    ensure!(store.bytes("versions/win/7")? == b"seven" && store.bytes("filling/win/7")? == b"SEVEN");
    let clone = store.trees.clone_tree(&sealed, Path::new("editing/win"))?;
    fs::write(clone.path().join("disk"), b"eight")?;
    fs::write(clone.path().join("more"), b"")?;
    ensure!(store.bytes("versions/win/7")? == b"seven" && !sealed.path().join("more").exists());
    let next = store.trees.seal(&clone, Path::new("versions/win/8"))?;
    let again = store.trees.seal(&next, Path::new("versions/win/9"))?;
    ensure!(store.bytes("versions/win/9")? == b"eight" && again.path().join("more").exists());

    says(store.trees.writable(Path::new("versions/win/7")), &["versions/win/7 is sealed", "clone it"])?;
    says(store.trees.sealed(Path::new("editing/win")), &["editing/win is not sealed", "verify"])?;
    ensure!(store.again()?.sealed(Path::new("versions/win/8"))?.at() == Path::new("versions/win/8"));
    ensure!(store.half_made()? == 0);
    Ok(())
}

/// Owners, modes, times, links, attributes, holes and odd names.
pub(crate) fn keep_everything(store: &Store) -> Result<()> {
    let original = store.trees.create(Path::new("original"))?;
    sample_tree(original.path())?;
    let (held, holes) = allocated(&original.path().join("sparse"))?;
    let sealed = store.trees.seal(&original, Path::new("sealed"))?;
    let clone = store.trees.clone_tree(&sealed, Path::new("clone"))?;
    for copy in [sealed.path(), clone.path()] {
        let count = compare_trees(original.path(), copy)?;
        ensure!(count > 15, "only {count} entries");
        let (copied, _) = allocated(&copy.join("sparse"))?;
        ensure!(copied <= held.max(128 << 10) && copied < holes, "{copied} bytes of a file with {held}");
    }
    store.trees.delete(clone)?;
    store.trees.delete(sealed)?;
    ensure!(store.places()? == ["original"] && store.half_made()? == 0);
    Ok(())
}

/// Bytes on the disk, and bytes altogether.
fn allocated(path: &Path) -> Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = path.metadata()?;
    Ok((found.blocks() * 512, found.len()))
}

/// All of them, none of what is in them, and nothing else.
pub(crate) fn are_listed(store: &Store) -> Result<()> {
    let tree = store.tree("filling/win/1", b"x")?;
    fs::create_dir(tree.path().join("inner"))?;
    store.trees.seal(&tree, Path::new("versions/win/1"))?;
    store.trees.seal(&tree, Path::new("versions/deb/1"))?;
    fs::create_dir_all(store.path("versions/none"))?;
    fs::write(store.path("catalog.db"), b"")?;
    std::os::unix::fs::symlink("versions", store.path("link"))?;
    let list = |at: &str| -> Result<Vec<(String, Access)>> {
        let found = store.trees.list(Path::new(at))?;
        Ok(found.into_iter().map(|found| (found.at.display().to_string(), found.access)).collect())
    };
    let (deb, win) = ("versions/deb/1".to_owned(), "versions/win/1".to_owned());
    let sealed = [(deb, Access::Sealed), (win.clone(), Access::Sealed)];
    ensure!(list("versions")? == sealed && list("versions/win")? == sealed[1..] && list(&win)? == sealed[1..]);
    ensure!(list("")?.len() == 3 && list("")?[0] == ("filling/win/1".into(), Access::Writable));
    ensure!(list("nowhere")?.is_empty() && list("catalog.db")?.is_empty() && list("link")?.is_empty());
    Ok(())
}

/// Who has a file of a deleted tree open goes on reading.
pub(crate) fn live_while_open(store: &Store) -> Result<()> {
    let sealed: Sealed = {
        let tree = store.tree("a", &[7; 300_000])?;
        store.trees.seal(&tree, Path::new("b"))?
    };
    let file = File::open(sealed.path().join("disk"))?;
    store.trees.delete(sealed)?;
    ensure!(!store.path("b").exists());
    let mut bytes = vec![0; 300_000];
    file.read_exact_at(&mut bytes, 0)?;
    ensure!(bytes.iter().all(|byte| *byte == 7));
    Ok(())
}

/// Many threads make, seal and delete in one store; of two that want one place, one gets it.
pub(crate) fn are_made_side_by_side(store: &Store) -> Result<()> {
    let original = store.tree("original", b"one")?;
    let won = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (store, original) = (&store, &original);
                scope.spawn(move || -> Result<usize> {
                    let mut won = 0;
                    for round in 0..4 {
                        let own = store.trees.seal(original, Path::new(&format!("own/{worker}/{round}")))?;
                        match store.trees.seal(original, Path::new(&format!("common/{round}"))) {
                            Ok(_) => won += 1,
                            Err(SnapshotError::Occupied(_)) => {}
                            Err(error) => return Err(error.into()),
                        }
                        // Opening a store cleans it, and leaves alone what is being made.
                        store.again()?;
                        store.trees.delete(own)?;
                    }
                    Ok(won)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no worker panics")).sum::<Result<usize>>()
    })?;
    ensure!(won == 4, "{won} won");
    ensure!(store.places()? == ["common/0", "common/1", "common/2", "common/3", "original"]);
    ensure!(store.half_made()? == 0);
    Ok(())
}

/// Freezing a tree takes less than a second however large it is, where blocks are shared.
pub(crate) fn freeze_at_once(store: &Store) -> Result<()> {
    let tree = store.trees.create(Path::new("large"))?;
    let disk = File::create_new(tree.path().join("disk"))?;
    disk.set_len(10 << 30)?;
    // 64 MiB in 1,024 pieces all over it.
    let pieces = if store.ground == Ground::PlainTmpfs { 256 } else { 1024 };
    for piece in 0..pieces {
        disk.write_all_at(&[piece as u8 | 1; 64 << 10], piece * (10 * MIB) + 4096)?;
    }
    disk.sync_all()?;
    let begun = Instant::now();
    let sealed = store.trees.seal(&tree, Path::new("sealed"))?;
    let took = begun.elapsed();
    ensure!(!store.ground.shares() || took < Duration::from_secs(1), "it took {took:?}");
    let frozen = File::open(sealed.path().join("disk"))?;
    ensure!(frozen.metadata()?.len() == 10 << 30);
    let mut block = [0; 64 << 10];
    for piece in (0..pieces).step_by(37) {
        frozen.read_exact_at(&mut block, piece * (10 * MIB) + 4096)?;
        ensure!(block == [piece as u8 | 1; 64 << 10], "piece {piece}");
    }
    Ok(())
}
