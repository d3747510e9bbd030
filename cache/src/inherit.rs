//! A new version starts from another one that is here: what did not change is not fetched.
//!
//! Where the file system can, the new tree shares the old files' blocks (reflink), and everything is
//! punched that is not vouched for: each block whose hash differs, **zero blocks included**, and each
//! that the old version does not hold durably. Elsewhere the new files stay empty, and `reuse` copies
//! unchanged blocks one by one when they are wanted. Reuse is by position: of blocks that had moved, 0.3 %
//! were found elsewhere.

use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use icbd_image::{BLOCK_BYTES, FileIndex, Hash, Kind, Node, PAGE_BLOCKS, Page, VersionRecord, block_count};

use crate::bits::Bits;
use crate::disk::Missing;
use crate::layout;
use crate::resident::Layout;
use crate::version::Version;

/// Hash pages that are compared at once, when a new version is opened.
const PAGES_AT_ONCE: usize = 8;

/// What a new tree takes from where.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    base: Option<Arc<Version>>,
    files: Vec<Same>,
}

/// The blocks that a file has in common with the one of the same name in the base.
#[derive(Debug)]
struct Same {
    file: FileIndex,
    base: FileIndex,
    blocks: Vec<Range<u64>>,
}

/// The version of the same image that holds the most, if any holds something.
pub(crate) async fn choose_base(version: &Arc<Version>) -> Option<Arc<Version>> {
    let (core, view) = (version.core(), version.core().view());
    // Also one that is withheld: what is taken is compared with the new version's own hashes.
    let image = view.known_image(&version.id().image)?;
    let mut candidates: Vec<_> = {
        let held = core.held.lock().expect("no panic under this lock");
        let others = image.versions.iter().filter(|other| other.serial() != version.serial());
        // What is unknown after a crash may still be there, the newest most likely.
        others
            .map(|other| {
                (held.get(&other.serial()).map_or(0, |held| held.resident_bytes), other.number(), other.serial())
            })
            .collect()
    };
    candidates.sort_unstable_by(|a, b| b.cmp(a));
    let ids = candidates
        .into_iter()
        .map(|(_, number, serial)| (icbd_image::VersionId { image: image.name.clone(), number }, serial));
    for (id, serial) in ids {
        let disk = core.disk.clone();
        let here = core.blocking(move || disk.open(&layout::bitmap(&id), Missing::Fail).is_ok()).await;
        if !matches!(here, Ok(true)) {
            continue;
        }
        if let Ok(base) = core.version_once(serial).await
            && base.open_existing().await
            && base.residency().resident_bytes > 0
        {
            return Some(base);
        }
    }
    None
}

/// Whether another version of the image is known to be here by now. Never blocks.
pub(crate) fn is_hopeful(version: &Version) -> bool {
    let view = version.core().view();
    let held = version.core().held.lock().expect("no panic under this lock");
    let holds = |serial| held.get(&serial).is_some_and(|held| held.resident_bytes > 0);
    let image = view.known_image(&version.id().image);
    image.is_some_and(|image| {
        let mut others = image.versions.iter().map(VersionRecord::serial).filter(|other| *other != version.serial());
        others.any(holds)
    })
}

/// Finds what `version` has in common with its base.
pub(crate) async fn plan(version: &Arc<Version>) -> Plan {
    let Some(base) = version.base().await else { return Plan::default() };
    let mut files = Vec::new();
    for node in version.head().files().filter(|node| node.size() > 0) {
        let Some(old) = counterpart(version, &base, node.index()) else { continue };
        let blocks = same_blocks(version, &base, &node, &old).await;
        if !blocks.is_empty() {
            files.push(Same { file: node.index(), base: old.index(), blocks });
        }
    }
    Plan { base: Some(base), files }
}

/// The file of the base that has the same path.
pub(crate) fn counterpart<'a>(version: &Version, base: &'a Version, file: FileIndex) -> Option<Node<'a>> {
    let path = version.tree().path(file);
    let index = base.head().resolve(path.as_os_str().as_bytes())?;
    base.head().node(index).filter(|node| node.kind() == Kind::File)
}

/// The ranges of blocks with the same hashes, as far as the base holds them.
async fn same_blocks(version: &Arc<Version>, base: &Arc<Version>, new: &Node<'_>, old: &Node<'_>) -> Vec<Range<u64>> {
    let Some(held) = base.filling() else { return Vec::new() };
    let common = new.blocks().min(old.blocks());
    let pages = (0..common.div_ceil(PAGE_BLOCKS)).filter(|page| {
        let range = page * PAGE_BLOCKS..common.min((page + 1) * PAGE_BLOCKS);
        held.resident.durable_count(old.index(), range) > 0
    });
    let (new_index, old_index) = (new.index(), old.index());
    let compared = stream::iter(pages.collect::<Vec<_>>())
        .map(|page| async move {
            let range = page * PAGE_BLOCKS..common.min((page + 1) * PAGE_BLOCKS);
            let whole = range.end == page * PAGE_BLOCKS + new.page_blocks(page)
                && new.page_blocks(page) == old.page_blocks(page);
            if new.is_paged() && old.is_paged() && whole && new.page_hash(page) == old.page_hash(page) {
                // With it: without its hashes nothing of this could be verified while the sources are away.
                let (of, from) = (version.clone(), base.clone());
                let take = move || of.take_page((new_index, page), &from, old_index);
                let _ = version.core().blocking(take).await;
                return vec![range];
            }
            let (Some(ours), Some(theirs)) =
                (hashes(version, new_index, page).await, hashes(base, old_index, page).await)
            else {
                // What cannot be compared counts as changed.
                return Vec::new();
            };
            let mut same: Vec<Range<u64>> = Vec::new();
            for block in range.filter(|block| ours.get(*block).is_some() && ours.get(*block) == theirs.get(*block)) {
                match same.last_mut() {
                    Some(last) if last.end == block => last.end += 1,
                    _ => same.push(block..block + 1),
                }
            }
            same
        })
        .buffered(PAGES_AT_ONCE);
    compared.concat().await
}

/// The hashes of one page's worth of blocks, wherever the manifest keeps them.
enum Hashes {
    Inline(Vec<Hash>),
    Paged(u64, Page),
}

impl Hashes {
    fn get(&self, block: u64) -> Option<Hash> {
        match self {
            Hashes::Inline(hashes) => hashes.get(block as usize).copied(),
            Hashes::Paged(page, hashes) => hashes.hash(block - page * PAGE_BLOCKS),
        }
    }
}

async fn hashes(version: &Arc<Version>, file: FileIndex, page: u64) -> Option<Hashes> {
    let node = version.head().node(file)?;
    if !node.is_paged() {
        return Some(Hashes::Inline((0..node.blocks()).filter_map(|block| node.inline_hash(block)).collect()));
    }
    version.page(file, page).await.ok().map(|hashes| Hashes::Paged(page, hashes))
}

impl Plan {
    /// Takes the blocks into the new tree, and sets the bits of those that came. Blocks.
    ///
    /// Nothing here is durable yet: a sync of everything has to follow before the bits are written.
    pub(crate) fn apply(self, version: &Version, layout: &Layout, bits: &Bits) -> io::Result<()> {
        let Some(base) = self.base else { return Ok(()) };
        for same in &self.files {
            match same.take(&base, version, layout, bits) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
                result => result?,
            }
        }
        Ok(())
    }
}

impl Same {
    fn take(&self, base: &Arc<Version>, version: &Version, layout: &Layout, bits: &Bits) -> io::Result<()> {
        let (Some(held), Ok(source)) = (base.filling(), base.file(self.base)) else { return Ok(()) };
        let core = version.core();
        let from = held.path().join(base.tree().path(self.base));
        let to = layout::tree(version.id()).join(version.tree().path(self.file));
        // From the bits' copy to the reflink nothing of the source may be punched.
        let guard = source.guard().read().expect("no panic under this lock");
        let durable = |block: &u64| held.resident.is_durable(self.base, *block..*block + 1);
        let kept: Vec<u64> = self.blocks.iter().cloned().flatten().filter(durable).collect();
        if kept.is_empty() {
            return Ok(());
        }
        // What somebody took away gives nothing.
        if source.whole_backing().is_err() {
            return Ok(());
        }
        match core.disk.reflink(&from, &to) {
            // Its version was sealed or thawed just now: it gives nothing this time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            shared => shared?,
        }
        drop(guard);
        let size = version.head().node(self.file).map_or(0, |node| node.size());
        let file = core.disk.open(&to, Missing::Fail)?;
        if file.state()?.bytes != source.size() {
            // It was cut short just now: what is missing would be taken for holes.
            file.set_size(0)?;
            return file.set_size(size);
        }
        file.set_size(size)?;
        let mut next = 0;
        for block in kept.iter().copied().chain([block_count(size)]) {
            if block > next {
                file.punch(next * BLOCK_BYTES, (block - next) * BLOCK_BYTES)?;
            }
            next = block + 1;
        }
        kept.iter().for_each(|block| bits.set(layout.bits(self.file, *block..*block + 1)));
        Ok(())
    }
}
