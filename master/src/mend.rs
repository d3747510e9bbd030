//! Mending: a version that is damaged on the disk is put together anew, from what is right of it and from blocks that
//! somebody else has, and takes the place of the damaged one.
//!
//! Nothing is changed in place: who reads the damaged version goes on reading that. Between the one's removal and the
//! other's taking its place a kill leaves the new one under `receiving/`, whole, and the next mending finds it there.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use icbd_image::{Hash, Head, PAGE_BLOCKS, VersionId};
use icbd_snapshot::{Tree, furnish};

use crate::layout::{Layout, sync_directory};
use crate::receive::{Known, Place, Receiving, Taken, forget};
use crate::serve::OpenVersion;
use crate::{MasterError, Repository, trees};

impl Repository {
    /// Begins to put a version together anew, or goes on with that. `head` is its own; the one here may be damaged.
    pub fn mend(self: &Arc<Self>, version: &VersionId, head: Head) -> Result<Receiving, MasterError> {
        let record = self.version(version)?;
        let listing = self.listing();
        let image = listing.image(&version.image).ok_or_else(|| MasterError::NoImage(version.image.clone()))?;
        let place = Place::again(self, version)?;
        // Each block of what is damaged is compared with its hash.
        let base = OpenVersion::open_as(self, head.clone(), version.clone()).ok().map(Arc::new);
        let taken = Taken { base, is_common: false, is_frozen: false };
        Receiving::begin(place, record, image.serial, head, taken)
    }
}

impl Receiving {
    /// Takes the place of the version that was damaged, once all blocks are here.
    pub fn replace(self) -> Result<(), MasterError> {
        furnish(&self.tree, &self.head)?;
        let version = self.version();
        let Receiving { repository, tree, head, known, _place, base, .. } = self;
        let (layout, root) = (&repository.layout, head.root());
        rustix::fs::syncfs(tree.directory()).map_err(MasterError::io("sync", tree.path()))?;
        // Nobody publishes, edits or prunes meanwhile.
        let _turn = repository.publishing.take(&AtomicBool::new(false), || {})?;
        write_manifest(layout, &head, &known)?;
        drop(base);
        repository.serving.forget_all(&root);
        let at = trees::version(&version);
        trees::remove(&repository.trees, &at)?;
        repository.trees.finish(tree, &at)?;
        repository.serving.forget_all(&root);
        forget(layout, &repository.trees, &version)?;
        tracing::info!(%version, "a damaged version was put together anew");
        Ok(())
    }
}

/// Writes the head and the hash pages of a version anew where they are not what they should be.
fn write_manifest(layout: &Layout, head: &Head, known: &Known) -> Result<(), MasterError> {
    let root = head.root();
    let is_right = std::fs::read(layout.head(&root)).is_ok_and(|bytes| bytes == **head.bytes());
    if !is_right {
        put(&layout.head(&root), |file| file.write_all_at(head.bytes(), 0))?;
    }
    let paged = || head.files().filter(|node| node.is_paged());
    if paged().next().is_none() {
        return Ok(());
    }
    put(&layout.pages(&root), |file| {
        file.set_len(head.paged_blocks() * Hash::BYTES as u64)?;
        for node in paged() {
            for page in 0..node.pages() {
                let Some(offset) = node.page_offset(page) else { continue };
                let first = page * PAGE_BLOCKS;
                let hashes = known.hashes(node.index(), first..node.blocks().min(first + PAGE_BLOCKS))?;
                let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
                file.write_all_at(&bytes, offset)?;
            }
        }
        Ok(())
    })?;
    sync_directory(&layout.manifests())
}

/// A file that is there whole, or as it was.
fn put(path: &Path, write: impl FnOnce(&std::fs::File) -> std::io::Result<()>) -> Result<(), MasterError> {
    let new = path.with_extension("new");
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    let written = open.and_then(|file| write(&file).and_then(|()| file.sync_all()));
    written.and_then(|()| std::fs::rename(&new, path)).map_err(MasterError::io("write", path))
}
