//! What subvolumes alone can be.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use icbd_snapshot::{Access, Kind, Tree, Trees};
use icbd_tests::run_bounded;

use crate::store::{Ground, Store, run, says};

/// A read-only snapshot is read-only: the kernel says so to everybody.
#[test]
fn the_kernel_keeps_what_is_sealed() -> Result<()> {
    let store = Store::new(Ground::Btrfs)?;
    let sealed = store.trees.seal(&store.tree("a", b"a")?, Path::new("b"))?;
    ensure!(fs::write(sealed.path().join("disk"), b"b").is_err() && fs::write(sealed.path().join("new"), b"").is_err());
    ensure!(fs::remove_file(sealed.path().join("disk")).is_err());
    // Made writable by hand, it is no sealed tree any more, and nobody takes it for one.
    let mut command = Command::new("btrfs");
    command.args(["property", "set", "-t", "subvol"]).arg(sealed.path()).args(["ro", "false"]);
    run_bounded(command, Duration::from_secs(30))?.ok()?;
    says(store.trees.sealed(Path::new("b")), &["b is not sealed", "verify it"])?;
    ensure!(store.trees.list(Path::new(""))?.iter().all(|found| found.access == Access::Writable));
    Ok(())
}

/// A subvolume inside of a tree would be left out of every snapshot of it, and would go with the tree.
#[test]
fn a_subvolume_inside_a_tree_is_refused() -> Result<()> {
    let store = Store::new(Ground::Btrfs)?;
    let tree = store.tree("a", b"a")?;
    fs::create_dir(tree.path().join("var"))?;
    let inner = tree.path().join("var/machines");
    run("btrfs", &["-q", "subvolume", "create"], &inner)?;
    fs::write(inner.join("precious"), b"")?;
    says(store.trees.seal(&tree, Path::new("b")), &["a/var/machines", "leave it out", "btrfs subvolume delete"])?;
    says(store.trees.clone_tree(&tree, Path::new("b")), &["a/var/machines"])?;
    says(store.trees.delete(tree), &["a/var/machines"])?;
    ensure!(inner.join("precious").exists() && store.places()? == ["a"]);
    run("btrfs", &["-q", "subvolume", "delete"], &inner)?;
    store.trees.delete(store.trees.writable(Path::new("a"))?)?;
    Ok(())
}

/// What an older icbd, or somebody's `mkdir`, made where a subvolume should be.
#[test]
fn an_ordinary_directory_is_no_tree() -> Result<()> {
    let store = Store::new(Ground::Btrfs)?;
    fs::create_dir_all(store.path("filling/win/1"))?;
    says(store.trees.writable(Path::new("filling/win/1")), &["filling/win/1 is not a subvolume"])?;
    ensure!(store.places()?.is_empty());
    Ok(())
}

#[test]
fn other_file_systems_say_so_at_once() -> Result<()> {
    let store = Store::new(Ground::PlainExt4)?;
    says(Trees::open(&store.trees.path(), Kind::Btrfs), &["btrfs subvolume", "is no btrfs", "icbd store probe"])?;
    says(Trees::open(&store.trees.path(), Kind::Reflink), &["reflink", "shares no blocks", "icbd store probe"])?;
    Ok(())
}
