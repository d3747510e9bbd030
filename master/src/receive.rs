//! Receiving: a version that another master published becomes one of this repository, the same to the last byte.
//!
//! Its tree is put together under `receiving/`: from blocks that the caller has, verified, and from what it has in common
//! with a version that is here, each block of which is compared with its hash, unless it lies in a read-only snapshot: nobody
//! writes to that by accident, and the file system keeps checksums of it. What a kill leaves there is gone on with, and
//! compared as well. When it is whole it is published like any tree, but where a tree shares blocks with another one nothing
//! is hashed once more. It becomes a version only if its manifest is the one that was announced.

mod known;
mod write;

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use icbd_image::{
    BLOCK_BYTES, FileIndex, Hash, Head, ImageRecord, Kind, Listing, RepositoryId, Run, Serial, VerifiedBlock,
    VersionId, VersionRecord, block_len,
};
use icbd_snapshot::beneath::Beneath;
use icbd_snapshot::{Access, SnapshotError, Tree, Trees, Writable, furnish, lay_out};
use icbd_wire::Base;
use rustix::fs::{Advice, FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::layout::{Layout, RECEIVING};
use crate::publish::{From, Given, New};
use crate::repository::guard;
use crate::serve::{OldVersion, OpenVersion};
use crate::{MasterError, Progress, PublishRequest, Published, Repository, trees};
pub(crate) use known::Known;
use write::write_all_at;

/// A version on its way here. Dropping it leaves what came of it for the next time.
#[derive(Debug)]
pub struct Receiving {
    pub(crate) repository: Arc<Repository>,
    record: VersionRecord,
    image_serial: Serial,
    pub(crate) head: Head,
    pub(crate) tree: Writable,
    files: HashMap<FileIndex, Vec<u8>>,
    pub(crate) known: Known,
    pub(crate) base: Option<Arc<OpenVersion>>,
    /// Whether the other repository lists the base, too.
    is_common: bool,
    /// Whether nobody can write to the base: then it is what it was when it was verified.
    is_frozen: bool,
    /// Files that share all with the base's until they are written.
    shared: HashSet<FileIndex>,
    /// Whether it was begun before: then nothing is taken for granted.
    goes_on: bool,
    /// One writes at a time: of several that write to one file the kernel lets one in and has the others spin, while somebody
    /// waits for a processor to pack or unpack.
    writing: Mutex<()>,
    pub(crate) _place: Place,
}

/// The version here that blocks are taken from, if there is one.
pub(crate) struct Taken {
    pub(crate) base: Option<Arc<OpenVersion>>,
    /// Whether the other repository lists it, too.
    pub(crate) is_common: bool,
    /// Whether nobody can write to it.
    pub(crate) is_frozen: bool,
}

/// That nobody else receives the same version.
#[derive(Debug)]
pub(crate) struct Place {
    repository: Arc<Repository>,
    version: VersionId,
    /// Given up after `version` was.
    _adopted: Option<Adopted>,
}

/// The identity that an empty repository took over. It gets its own again when nothing came of that.
#[derive(Debug)]
struct Adopted {
    repository: Arc<Repository>,
    before: RepositoryId,
}

impl Place {
    pub(crate) fn take(
        repository: &Arc<Repository>,
        image: &ImageRecord,
        record: &VersionRecord,
    ) -> Result<Place, MasterError> {
        let version = record.statement.statement().version();
        let (adopted, checked) = {
            // Nobody publishes meanwhile: a repository changes its identity between two publishes only.
            let _turn = repository.publishing.take(&AtomicBool::new(false), || {})?;
            let adopted = repository.adopt_for(record)?;
            let checked = repository.check_receivable(image.serial, record).and_then(|()| {
                let is_first = guard(&repository.receiving).insert(version.clone());
                if is_first { Ok(()) } else { Err(MasterError::ReceivedTwice(version.clone())) }
            });
            (adopted, checked)
        };
        checked?;
        Ok(Place { repository: repository.clone(), version, _adopted: adopted })
    }

    /// For a version that is here, and is put together anew.
    pub(crate) fn again(repository: &Arc<Repository>, version: &VersionId) -> Result<Place, MasterError> {
        let version = version.clone();
        match guard(&repository.receiving).insert(version.clone()) {
            true => Ok(Place { repository: repository.clone(), version, _adopted: None }),
            false => Err(MasterError::ReceivedTwice(version)),
        }
    }

    pub(crate) fn version(&self) -> &VersionId {
        &self.version
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        guard(&self.repository.receiving).remove(&self.version);
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        // One who publishes just now does so under the new identity: it stays.
        let Ok(_turn) = self.repository.publishing.take(&AtomicBool::new(true), || {}) else { return };
        if self.repository.is_empty()
            && let Err(error) = self.repository.adopt(self.before)
        {
            tracing::warn!(%error, "an empty repository keeps the identity of another one, of which nothing came");
        }
    }
}

/// Where a version is put together, below the repository.
pub(crate) fn receiving(version: &VersionId) -> PathBuf {
    Path::new(RECEIVING).join(version.image.as_str()).join(version.number.to_string())
}

impl Repository {
    /// Begins to receive a version of `image`, as its repository lists it, or goes on with it.
    ///
    /// A repository without a version takes over the identity of the other one; any other has to be of the same.
    pub fn receive(
        self: &Arc<Self>,
        image: &ImageRecord,
        record: &VersionRecord,
        head: Head,
    ) -> Result<Receiving, MasterError> {
        let place = Place::take(self, image, record)?;
        let base = self.newest_sound(image);
        let is_listed = |base: &OpenVersion| image.versions.iter().any(|theirs| theirs.root() == base.head().root());
        let is_common = base.as_deref().is_some_and(is_listed);
        let is_frozen = base.as_deref().is_some_and(OpenVersion::is_frozen);
        Receiving::begin(place, record.clone(), image.serial, head, Taken { base, is_common, is_frozen })
    }

    /// Has a repository without a version, that receives none, go on as a copy of the one that the version is of.
    fn adopt_for(self: &Arc<Self>, record: &VersionRecord) -> Result<Option<Adopted>, MasterError> {
        let (theirs, before) = (record.statement.statement().repository, self.id());
        if theirs == before || !self.is_empty() {
            return Ok(None);
        }
        self.adopt(theirs)?;
        tracing::info!(repository = %theirs, "an empty repository goes on as a copy of this one");
        Ok(Some(Adopted { repository: self.clone(), before }))
    }

    /// Whether nothing is here and nothing is on its way here.
    fn is_empty(&self) -> bool {
        self.listing().images.is_empty() && guard(&self.receiving).is_empty()
    }

    /// Whether a version can become one of this repository as it is now.
    pub(crate) fn check_receivable(&self, image_serial: Serial, record: &VersionRecord) -> Result<(), MasterError> {
        let said = record.statement.statement();
        let (version, mine, listing) = (said.version(), self.id(), self.listing());
        if said.repository != mine {
            return Err(MasterError::ForeignVersion { version, theirs: said.repository, mine });
        }
        // The image's own serial is signed by nobody.
        let others = listing.images.iter().filter(|image| image.name != version.image);
        let mut taken = others.flat_map(|image| image.versions.iter().map(VersionRecord::serial).chain([image.serial]));
        if image_serial >= said.serial || taken.any(|serial| serial == image_serial || serial == said.serial) {
            return Err(MasterError::ImpossibleSerials(version));
        }
        if let Some(here) = listing.image(&version.image) {
            match here.version(version.number) {
                Some(here) if here.root() == record.root() => return Err(MasterError::HereAlready(version)),
                Some(_) => return Err(MasterError::OtherVersion(version)),
                None if here.removed.contains(&version.number) => return Err(MasterError::RemovedHere(version)),
                None => {}
            }
            if here.serial != image_serial {
                return Err(MasterError::OtherVersion(version));
            }
        }
        Ok(())
    }

    /// Where a version is put together, and whether that was begun before.
    fn tree_to_receive(&self, version: &VersionId, head: &Head) -> Result<(Writable, bool), MasterError> {
        let (at, wanted) = (receiving(version), head.root().to_string());
        let note = noted_root(&self.layout, version);
        if std::fs::read_to_string(&note).is_ok_and(|noted| noted == wanted) {
            match self.trees.writable(&at) {
                Ok(tree) => return Ok((tree, true)),
                Err(SnapshotError::Absent(_)) => {}
                Err(_) => trees::remove(&self.trees, &at)?,
            }
        } else {
            trees::remove(&self.trees, &at)?;
        }
        // First: a tree without it is nobody's.
        let parent = note.parent().unwrap_or(self.path());
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(MasterError::io("create", parent))?;
        std::fs::write(&note, wanted).map_err(MasterError::io("write", note))?;
        Ok((self.trees.create(&at)?, false))
    }

    /// The newest version of an image here that is what was published, as far as is known.
    fn newest_sound(&self, image: &ImageRecord) -> Option<Arc<OpenVersion>> {
        let listing = self.listing();
        let here = listing.image(&image.name)?;
        here.versions.iter().rev().find_map(|record| {
            let version = record.statement.statement().version();
            self.check_soundness(&version).ok()?;
            OpenVersion::open_as(self, self.head(record.root()).ok()?, version).ok().map(Arc::new)
        })
    }
}

/// Removes what is left of versions that were received to the end, and what came by a stream: only blocks are gone on with.
/// What of a version lies nowhere else is what its mending was killed at.
pub(crate) fn clean(layout: &Layout, trees: &Trees, listing: &Listing) -> Result<(), MasterError> {
    for version in listing.images.iter().flat_map(|image| &image.versions) {
        let version = version.statement.statement().version();
        if layout.version(&version).exists() {
            forget(layout, trees, &version)?;
        }
    }
    let streamed = trees.list(Path::new(RECEIVING))?.into_iter().filter(|tree| tree.access == Access::Sealed);
    streamed.into_iter().try_for_each(|tree| trees::remove(trees, &tree.at))
}

/// Removes what is left of a version that came, or was put together anew.
pub(crate) fn forget(layout: &Layout, trees: &Trees, version: &VersionId) -> Result<(), MasterError> {
    let (at, note) = (receiving(version), noted_root(layout, version));
    if layout.root().join(&at).exists() {
        trees::remove(trees, &at)?;
    }
    match std::fs::remove_file(&note) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(MasterError::io("remove", note)(error)),
        _ => Ok(()),
    }
}

/// Says what root the tree that is received is to have.
fn noted_root(layout: &Layout, version: &VersionId) -> PathBuf {
    layout.root().join(receiving(version)).with_extension("root")
}

fn open(tree: &Writable) -> Result<Beneath, MasterError> {
    let directory = rustix::io::fcntl_dupfd_cloexec(tree.directory(), 0);
    Ok(Beneath::from_open(directory.map_err(MasterError::io("open", tree.path()))?, tree.path().to_owned()))
}

impl Receiving {
    /// Begins to put a version together, or goes on with that.
    pub(crate) fn begin(
        place: Place,
        record: VersionRecord,
        image_serial: Serial,
        head: Head,
        Taken { base, is_common, is_frozen }: Taken,
    ) -> Result<Receiving, MasterError> {
        let (repository, version) = (place.repository.clone(), place.version.clone());
        let (tree, goes_on) = repository.tree_to_receive(&version, &head)?;
        let files = lay_out(&tree, &head)?;
        let hashes = repository.path().join(receiving(&version)).with_extension("hashes");
        let known = Known::nothing(&hashes, head.clone()).map_err(MasterError::io("create", hashes))?;
        let mut receiving = Receiving {
            repository,
            record,
            image_serial,
            head,
            tree,
            files,
            known,
            base,
            is_common,
            is_frozen,
            shared: HashSet::new(),
            goes_on,
            writing: Mutex::new(()),
            _place: place,
        };
        if !goes_on {
            receiving.shared = receiving.take_from_base()?;
        }
        Ok(receiving)
    }

    pub fn version(&self) -> VersionId {
        self.record.statement.statement().version()
    }

    /// The version here that blocks are taken from, if the other repository has it, too.
    pub fn base(&self) -> Option<Arc<dyn Base>> {
        let base = self.base.as_ref().filter(|_| self.is_common)?;
        Some(Arc::new(OldVersion::new(&self.repository, base.clone())))
    }

    /// Whether a part of it was here before.
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Shares with the version that is here what files of the same names hold, where the file system can.
    fn take_from_base(&self) -> Result<HashSet<FileIndex>, MasterError> {
        let mut shared = HashSet::new();
        for (index, inside) in &self.files {
            let Some((_, from)) = self.counterpart(*index) else { continue };
            let to = self.file(*index)?;
            if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
                let size = self.head.node(*index).map_or(0, |node| node.size());
                to.set_len(size).map_err(MasterError::io("write", self.tree.path().join(path(inside))))?;
                shared.insert(*index);
            }
        }
        Ok(shared)
    }

    /// The file of the same path in the version that blocks are taken from.
    fn counterpart(&self, index: FileIndex) -> Option<(FileIndex, File)> {
        let base = self.base.as_ref()?;
        let found = base.head().resolve(self.files.get(&index)?)?;
        base.head().node(found).filter(|node| node.kind() == Kind::File && node.size() > 0)?;
        Some((found, base.open_file(found).ok()?.into()))
    }

    fn file(&self, index: FileIndex) -> Result<File, MasterError> {
        let root = self.head.root();
        let inside = self.files.get(&index).ok_or(MasterError::NoIndex { root, file: index })?;
        let beneath = open(&self.tree)?;
        let file = beneath.open_at(inside, OFlags::RDWR, Mode::empty());
        Ok(file.map_err(MasterError::io("open", beneath.shown(inside)))?.into())
    }

    /// Which of some blocks of a file, that have these hashes, are not here; blocks of zeros are made holes, and what a
    /// version here has is copied.
    pub fn lacking(
        &self,
        index: FileIndex,
        blocks: Range<u64>,
        hashes: &[Hash],
    ) -> Result<Vec<Range<u64>>, MasterError> {
        let file = self.file(index)?;
        let failed = |doing| MasterError::io(doing, self.tree.path().join(path(&self.files[&index])));
        let size = self.head.node(index).map_or(0, |node| node.size());
        let base = self.counterpart(index);
        // What was just shared should be what its hashes say: where somebody could write to it, nobody takes that for
        // granted, not even of its holes.
        let is_shared = self.shared.contains(&index);
        let known = base.as_ref().filter(|_| is_shared).and_then(|(found, _)| self.base_hashes(*found, &blocks));
        let mut data_from = 0;
        let mut is_hole = |range: Range<u64>| {
            if data_from < range.end {
                data_from = next_data(&file, range.start, size).unwrap_or(range.start);
            }
            data_from >= range.end
        };
        self.known.announce(index, blocks.start, hashes).map_err(failed("note the hashes of"))?;
        let (mut own, mut other) = (Vec::new(), Vec::new());
        let mut is_here = |at: usize, block: u64, hash: &Hash| {
            let (offset, len) = (block * BLOCK_BYTES, block_len(size, block));
            let of_base = known.as_ref().and_then(|known| known.get(at));
            if self.is_frozen && of_base == Some(hash) && len as u64 == BLOCK_BYTES {
                return Ok(true);
            }
            let is_hole = is_hole(offset..offset + len as u64);
            if is_hole && hash.is_zero() {
                return Ok(true);
            }
            // What is shared is the base's, of which it is known that it is another block: nothing to read.
            let is_other = of_base.is_some_and(|known| known != hash);
            if !is_other && !is_hole {
                own.resize(len, 0);
                file.read_exact_at(&mut own, offset).map_err(failed("read"))?;
                if Hash::of(&own) == *hash {
                    return Ok(true);
                }
            }
            if hash.is_zero() {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let punched = rustix::fs::fallocate(&file, flags, offset, len as u64);
                return punched.map(|()| true).map_err(std::io::Error::from).map_err(failed("punch"));
            }
            other.resize(len, 0);
            let copied =
                !is_other && base.as_ref().is_some_and(|(_, from)| from.read_exact_at(&mut other, offset).is_ok());
            if copied && Hash::of(&other) == *hash {
                return file.write_all_at(&other, offset).map(|()| true).map_err(failed("write"));
            }
            Ok(false)
        };
        let mut lacking: Vec<Range<u64>> = Vec::new();
        for (at, (block, hash)) in blocks.zip(hashes).enumerate() {
            match lacking.last_mut() {
                _ if is_here(at, block, hash)? => self.known.came(index, block..block + 1),
                Some(last) if last.end == block => last.end += 1,
                _ => lacking.push(block..block + 1),
            }
        }
        Ok(lacking)
    }

    fn base_hashes(&self, index: FileIndex, blocks: &Range<u64>) -> Option<Vec<Hash>> {
        let base = self.base.as_ref()?;
        let end = base.head().node(index)?.blocks().min(blocks.end);
        if end <= blocks.start {
            return None;
        }
        let run = Run { root: base.head().root(), file: index, first: blocks.start, count: 1 };
        self.repository.own_blocks(run).ok()?.hashes(blocks.start..end).ok()
    }

    /// Keeps blocks that lie side by side and were asked for.
    pub fn write(&self, index: FileIndex, blocks: &[VerifiedBlock]) -> Result<(), MasterError> {
        let Some(first) = blocks.first().map(VerifiedBlock::index) else { return Ok(()) };
        let file = self.file(index)?;
        let failed = |doing| MasterError::io(doing, self.tree.path().join(path(&self.files[&index])));
        let start = first * BLOCK_BYTES;
        let parts = blocks.iter().map(|block| &**block.bytes());
        let writing = guard(&self.writing);
        let written = write_all_at(&file, parts, start);
        drop(writing);
        let bytes = written.map_err(failed("write"))?;
        // The disk begins with it while the line brings more: nobody reads it before it is durable.
        rustix::fs::fadvise(&file, start, std::num::NonZeroU64::new(bytes), Advice::DontNeed)
            .map_err(std::io::Error::from)
            .map_err(failed("write"))?;
        self.known.came(index, first..first + blocks.len() as u64);
        Ok(())
    }

    /// Makes it a version, ready, once all blocks are here. On an error what is here stays for the next time.
    pub fn finish(self, progress: &(dyn Fn(Progress) + Sync), cancel: &AtomicBool) -> Result<Published, MasterError> {
        furnish(&self.tree, &self.head)?;
        let (repository, version) = (self.repository.clone(), self.version());
        let request = PublishRequest {
            image: version.image.clone(),
            path: self.tree.path().to_owned(),
            raw: false,
            note: self.record.note.clone(),
            deploy: false,
            sign: None,
        };
        let given = Box::new(Given { record: self.record.clone(), image_serial: self.image_serial });
        let new = New { request: &request, from: From::Received(self.tree, given, Box::new(self.known)), parent: None };
        let published = repository.publish_new(new, progress, cancel, |_| Ok(()))?;
        forget(&repository.layout, &repository.trees, &version)?;
        Ok(published)
    }
}

/// Where a file of `size` bytes has its next data, from `start` on; its end, if it has none there.
fn next_data(file: &File, start: u64, size: u64) -> rustix::io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(start)) {
        Err(Errno::NXIO) => Ok(size),
        found => found,
    }
}

fn path(inside: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(inside))
}
