//! Whether subvolumes can be made, sealed, sent and deleted here, by making, sealing, sending and deleting some.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use super::{Finding, Subvolumes, Transfers};
use crate::{Encoding, Kind, SnapshotError, Tree, Trees};

const FILE: &str = "file";
const BEFORE: &[u8] = b"as it was when it was sealed";

/// Tries subvolumes, and then streams of them, in an empty directory.
pub(super) fn run(directory: &Path) -> Result<(Finding<Subvolumes>, Finding<Transfers>), SnapshotError> {
    let no_streams = Finding::Refused("streams are made of subvolumes".to_owned());
    let trees = match Trees::open(directory, Kind::Btrfs) {
        Ok(trees) => trees,
        Err(error) => return refusal(error).map(|subvolumes| (subvolumes, no_streams)),
    };
    let subvolumes = snapshots(&trees).or_else(refusal)?;
    let transfers = match &subvolumes {
        Finding::Works(_) => stream(&trees).or_else(refusal)?,
        Finding::Refused(_) | Finding::Wrong(_) => no_streams,
    };
    Ok((subvolumes, transfers))
}

/// What an error says about the system; those that only say that the disk is full or fails are handed on.
fn refusal<T>(error: SnapshotError) -> Result<Finding<T>, SnapshotError> {
    match error {
        SnapshotError::Unsupported { why, .. } => Ok(Finding::Refused(why)),
        SnapshotError::Rights { doing, .. } => Ok(Finding::Refused(format!("this process may not {doing}; root may"))),
        SnapshotError::Kept(_) => {
            Ok(Finding::Refused("this process may make subvolumes and not delete them; root may".to_owned()))
        }
        SnapshotError::NoProgram(_) | SnapshotError::Program { .. } => Ok(Finding::Refused(error.to_string())),
        error => Err(error),
    }
}

fn snapshots(trees: &Trees) -> Result<Finding<Subvolumes>, SnapshotError> {
    // First: who may make a snapshot and not delete it would leave it here.
    trees.delete(trees.create("trees/original".as_ref())?)?;
    let original = trees.create("trees/original".as_ref())?;
    let file = original.path().join(FILE);
    write(&file, BEFORE)?;
    let begun = Instant::now();
    let sealed = trees.seal(&original, "trees/sealed".as_ref())?;
    let snapshot_took = begun.elapsed();
    write(&file, b"changed")?;
    let frozen = sealed.path().join(FILE);
    if fs::read(&frozen).map_err(SnapshotError::io("read", &frozen))? != BEFORE {
        return Ok(Finding::Wrong("a snapshot changed with its original".into()));
    }
    if fs::OpenOptions::new().write(true).open(&frozen).is_ok() {
        return Ok(Finding::Wrong("a read-only snapshot could be opened for writing".into()));
    }
    let clone = trees.clone_tree(&sealed, "trees/clone".as_ref())?;
    write(&clone.path().join(FILE), b"changed again")?;
    let begun = Instant::now();
    trees.delete(clone)?;
    let delete_took = begun.elapsed();
    trees.delete(original)?;
    Ok(Finding::Works(Subvolumes { snapshot_took, delete_took }))
}

/// Sends what [`snapshots`] left, and receives it.
fn stream(trees: &Trees) -> Result<Finding<Transfers>, SnapshotError> {
    let Some(streams) = trees.streams() else { return Ok(Finding::Refused("there are no streams".into())) };
    let sealed = trees.sealed("trees/sealed".as_ref())?;
    let begun = Instant::now();
    let mut sending = streams.send(&sealed, None, Encoding::Protocol1)?;
    let mut receiving = streams.receive("trees/received".as_ref())?;
    io::copy(&mut sending, &mut receiving).map_err(|error| {
        // What a program said is an answer; a pipe that broke is none.
        error.downcast::<SnapshotError>().unwrap_or_else(SnapshotError::io("send", sealed.path()))
    })?;
    let received = receiving.finish()?.tree;
    let took = begun.elapsed();
    let file = received.path().join(FILE);
    if fs::read(&file).map_err(SnapshotError::io("read", &file))? != BEFORE {
        return Ok(Finding::Wrong("a snapshot that was sent and received has other bytes".into()));
    }
    trees.delete(received)?;
    trees.delete(sealed)?;
    Ok(Finding::Works(Transfers { took }))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), SnapshotError> {
    fs::write(path, bytes).map_err(SnapshotError::io("write", path))
}
