//! What somebody took out of the store by hand: said once in the log, and in the status until it is here again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use icbd_image::{FileIndex, Serial, VersionId};

use crate::core::Core;
use crate::version::Version;

/// So many files are remembered; one of more is as well known by the others.
const FILES_MAX: usize = 1024;

/// What was lost and has not come again.
#[derive(Debug, Default)]
pub(crate) struct Losses(Mutex<BTreeMap<Key, Loss>>);

/// `None`: the whole tree.
type Key = (Serial, Option<FileIndex>);

#[derive(Debug)]
struct Loss {
    version: VersionId,
    /// Blocks that were here before.
    blocks: u64,
    what: String,
}

impl Losses {
    /// Something of a version that held so many blocks was made anew.
    pub(crate) fn note(&self, version: &Version, file: Option<FileIndex>, blocks: u64, what: &str) {
        let mut losses = self.lock();
        let serial = version.serial();
        let is_first = losses.range((serial, None)..).next().is_none_or(|((of, _), _)| *of != serial);
        if is_first {
            tracing::warn!(
                version = %version.id(), what, blocks,
                "the store was changed by hand: what is missing was made anew and is fetched again"
            );
        } else {
            // A folder that was deleted has many files; one line says it.
            tracing::debug!(version = %version.id(), what, blocks, "made anew");
        }
        if losses.len() < FILES_MAX || file.is_none() {
            losses.insert((serial, file), Loss { version: version.id().clone(), blocks, what: what.to_owned() });
        }
    }

    /// Blocks of a version whose tree was lost as a whole that have not come again.
    pub(crate) fn of_tree(&self, version: &Version) -> u64 {
        let here = version.filling().map_or(0, |filling| filling.resident.counts().0);
        self.lock().get(&(version.serial(), None)).map_or(0, |loss| loss.blocks.saturating_sub(here))
    }

    /// The versions of which something is not here again.
    pub(crate) fn versions(&self, core: &Core) -> Vec<VersionId> {
        let mut versions: Vec<VersionId> = self.current(core).values().map(|loss| loss.version.clone()).collect();
        versions.dedup();
        versions
    }

    /// What is not here again.
    fn current(&self, core: &Core) -> MutexGuard<'_, BTreeMap<Key, Loss>> {
        let mut losses = self.lock();
        losses.retain(|(serial, file), loss| {
            let Some(version) = core.versions.get(*serial) else { return true };
            let Some(filling) = version.filling() else { return true };
            let here = match file {
                Some(file) => {
                    let blocks = version.head().node(*file).map_or(0, |node| node.blocks());
                    filling.resident.readable_count(*file, 0..blocks)
                }
                None => filling.resident.counts().0,
            };
            here < loss.blocks
        });
        losses
    }

    /// For people: what is not here again, one line a version.
    pub(crate) fn shown(&self, core: &Core) -> Vec<String> {
        let losses = self.current(core);
        let mut shown: BTreeMap<Serial, (&Loss, usize, u64)> = BTreeMap::new();
        for ((serial, _), loss) in &*losses {
            let entry = shown.entry(*serial).or_insert((loss, 0, 0));
            (entry.1, entry.2) = (entry.1 + 1, entry.2 + loss.blocks);
        }
        let text = |(loss, count, blocks): (&Loss, usize, u64)| {
            let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
            format!(
                "the store was changed by hand: {}{more}; it was made anew, and {blocks} of its blocks are fetched again when \
                 they are read, or at once by `icbd prefetch add {} --all`",
                loss.what, loss.version
            )
        };
        shown.into_values().map(text).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Loss>> {
        self.0.lock().expect("no panic under this lock")
    }
}
