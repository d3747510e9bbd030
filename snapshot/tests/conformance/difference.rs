//! Differences, held to a comparison byte by byte.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use icbd_snapshot::{FileDifference, Tree};
use icbd_tests::Random;

use crate::store::{Ground, Store};

const FILE_BYTES: u64 = 3 << 20;
/// What a write of one byte may make the file system put elsewhere: its block; with packing, what it packs at once.
const BLOCK_BYTES: u64 = 4096;
const ROUNDS: u64 = 12;

/// What is said to be the same is the same, and where blocks are shared not much more is said to have changed.
pub(crate) fn is_what_the_bytes_say(store: &Store) -> Result<()> {
    let mut random = Random::new(store.ground as u64 + 1);
    let tree = store.tree("a", &(0..FILE_BYTES).map(|_| random.word() as u8).collect::<Vec<_>>())?;
    let mut old = store.trees.seal(&tree, Path::new("sealed/0"))?;
    store.trees.delete(tree)?;
    for round in 1..=ROUNDS {
        let clone = store.trees.clone_tree(&old, Path::new(&format!("clone/{round}")))?;
        let touched = scribble(&clone.path().join("disk"), &mut random)?;
        let new = store.trees.seal(&clone, Path::new(&format!("sealed/{round}")))?;
        let (was, is) = (fs::read(old.path().join("disk"))?, fs::read(new.path().join("disk"))?);
        let difference = store.trees.compare_file(&old, &new, Path::new("disk"))?.context("the file is there")?;
        check(&was, &is, &difference).with_context(|| format!("round {round}: {touched:?}"))?;
        if store.ground.shares() {
            check_thrift(&difference, &touched, was.len() as u64).with_context(|| format!("round {round}"))?;
        }
        old = new;
    }
    Ok(())
}

/// Every byte that differs is in a range.
fn check(was: &[u8], is: &[u8], difference: &FileDifference) -> Result<()> {
    ensure!(difference.old_bytes == Some(was.len() as u64) && difference.new_bytes == is.len() as u64);
    let mut at = 0;
    for range in &difference.changed {
        ensure!(range.start >= at as u64 && range.start < range.end && range.end <= is.len() as u64, "{difference:?}");
        let start = range.start as usize;
        ensure!(was.get(at..start) == is.get(at..start), "bytes {at}..{start} differ: {difference:?}");
        at = range.end as usize;
    }
    let rest = was.get(at..is.len()).unwrap_or_default();
    ensure!(rest == &is[at..], "bytes from {at} on differ: {difference:?}");
    Ok(())
}

/// Every range is near a byte that was written, or beyond the old end.
fn check_thrift(difference: &FileDifference, touched: &[Range<u64>], was_bytes: u64) -> Result<()> {
    for range in &difference.changed {
        for block in (range.start / BLOCK_BYTES)..range.end.div_ceil(BLOCK_BYTES) {
            let (start, end) = (block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
            let is_near = touched.iter().any(|touched| touched.start < end && touched.end > start);
            ensure!(is_near || end > was_bytes, "nobody touched {start}..{end}: {touched:?}");
        }
    }
    Ok(())
}

/// Writes, punches, moves and cuts; where it did.
fn scribble(path: &Path, random: &mut Random) -> Result<Vec<Range<u64>>> {
    use rustix::fs::FallocateFlags;
    let file = File::options().read(true).write(true).open(path)?;
    let mut touched = Vec::new();
    for _ in 0..1 + random.below(6) {
        let size = file.metadata()?.len();
        let start = random.below(size);
        let range = start..(start + 1 + random.below(100_000)).min(size);
        let len = range.end - range.start;
        match random.below(6) {
            0 | 1 => file.write_all_at(&vec![random.word() as u8; len as usize], start)?,
            2 => file.write_all_at(&[1], start)?,
            3 => {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&file, punch, range.start, len)?;
            }
            // The same bytes again: changed, as far as anybody can tell without reading.
            4 => {
                let mut bytes = vec![0; len as usize];
                file.read_exact_at(&mut bytes, start)?;
                file.write_all_at(&bytes, start)?;
            }
            _ => {
                let new = (FILE_BYTES / 2 + random.below(FILE_BYTES)).max(200_000);
                file.set_len(new)?;
                // The block of the end is written anew.
                touched.push(size.min(new).saturating_sub(1)..size.max(new));
            }
        }
        touched.push(range);
    }
    Ok(touched)
}

/// Small files, new ones, replaced ones, empty ones, and what is no file.
pub(crate) fn knows_files_that_come_and_go(store: &Store) -> Result<()> {
    let tree = store.tree("a", &vec![5; 200_000])?;
    let write = |name: &str, bytes: &[u8]| fs::write(tree.path().join(name), bytes);
    write("small", b"inline")?;
    write("empty", b"")?;
    write("replaced", &[1; 100_000])?;
    write("grown", b"")?;
    fs::create_dir(tree.path().join("was-directory"))?;
    let old = store.trees.seal(&tree, Path::new("old"))?;
    write("small", b"INLINE")?;
    write("grown", b"now")?;
    write("new", &[2; 70_000])?;
    write("other", &[1; 100_001])?;
    fs::rename(tree.path().join("other"), tree.path().join("replaced"))?;
    fs::remove_dir(tree.path().join("was-directory"))?;
    write("was-directory", b"file")?;
    fs::create_dir(tree.path().join("now-directory"))?;
    std::os::unix::fs::symlink("disk", tree.path().join("link"))?;
    let new = store.trees.seal(&tree, Path::new("new"))?;
    let compare = |name: &str| store.trees.compare_file(&old, &new, Path::new(name));
    // How long the old one was, and how much of the new one has changed: all up to there.
    let changed = |name: &str| -> Result<(Option<u64>, u64)> {
        let FileDifference { old_bytes, changed, .. } = compare(name)?.with_context(|| name.to_owned())?;
        ensure!(changed.len() <= 1 && changed.iter().all(|range| range.start == 0), "{name}: {changed:?}");
        Ok((old_bytes, changed.first().map_or(0, |range| range.end)))
    };
    ensure!(changed("small")? == (Some(6), 6));
    ensure!(changed("empty")? == (Some(0), 0));
    ensure!(changed("grown")? == (Some(0), 3));
    ensure!(changed("new")? == (None, 70_000));
    ensure!(changed("replaced")? == (Some(100_000), 100_001));
    ensure!(changed("was-directory")? == (None, 4));
    for no_file in ["now-directory", "link", "nothing", "disk/x"] {
        ensure!(compare(no_file)?.is_none(), "{no_file}");
    }
    if store.ground.shares() {
        ensure!(changed("disk")? == (Some(200_000), 0));
    }
    Ok(())
}

/// What lies in one packed extent of the disk and was moved within it has other bytes at the same address.
#[test]
fn packed_extents_are_told_apart() -> Result<()> {
    let store = Store::new(Ground::BtrfsPacked)?;
    let half = 64 << 10;
    let tree = store.tree("a", &[vec![1; half], vec![2; half]].concat())?;
    let old = store.trees.seal(&tree, Path::new("old"))?;
    let disk = File::options().read(true).write(true).open(tree.path().join("disk"))?;
    // The first half of the extent where its second half was.
    let mut command = std::process::Command::new("xfs_io");
    command.args(["-c", "reflink disk 0 65536 65536", "disk"]).current_dir(tree.path());
    icbd_tests::run_bounded(command, std::time::Duration::from_secs(30))?.ok()?;
    disk.sync_all()?;
    let new = store.trees.seal(&tree, Path::new("new"))?;
    ensure!(fs::read(new.path().join("disk"))? == vec![1; 2 * half]);
    let difference = store.trees.compare_file(&old, &new, Path::new("disk"))?.context("it is there")?;
    ensure!(difference.changed.iter().eq([&(half as u64..2 * half as u64)]), "{difference:?}");
    Ok(())
}
