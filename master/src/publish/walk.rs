//! Walking a source: its names, attributes and links go into the head, its files into the queue.
//!
//! Directories are walked in name order, so that the same tree always gets the same root. Nothing
//! is followed: no symbolic link, no mount. Directories get their attributes, and files their
//! further names, when everything is in them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use icbd_image::{
    BLOCK_BYTES, FileIndex, Hash, HeadBuilder, HeadError, INLINE_BLOCKS_MAX, Kind, Metadata, block_count,
};
use icbd_snapshot::attributes::{Attributes, Keep};
use icbd_snapshot::beneath::{Beneath, Identity, Stamp, Stat, device_number, join, names};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::queue::{FileJob, Queue};
use super::raw::{self, Format};
use super::store::Shared;
use super::{Published, Skipped, SkippedKind};
use crate::MasterError;
use crate::layout::Layout;

/// A path longer than the kernel takes could be published and never opened.
const PATH_BYTES_MAX: usize = 4095;
/// Removing a tree holds a descriptor for each level.
const DEPTH_MAX: usize = 256;

/// What is published.
pub(super) struct Source {
    pub(super) tree: Beneath,
    /// The one file of the directory that is meant; `None` for all of it.
    only: Option<Vec<u8>>,
    /// Where the repository is, which must not be met.
    repository: Identity,
    repository_path: std::path::PathBuf,
}

impl Source {
    pub(super) fn open(layout: &Layout, path: &Path) -> Result<Source, MasterError> {
        let real = std::fs::canonicalize(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => MasterError::SourceMissing(path.to_owned()),
            _ => MasterError::io("open", path)(error),
        })?;
        let repository = std::fs::canonicalize(layout.root()).map_err(MasterError::io("open", layout.root()))?;
        if real.starts_with(&repository) || repository.starts_with(&real) {
            return Err(MasterError::SourceOverlaps { path: path.to_owned(), repository });
        }
        Source::at(layout, path, &real)
    }

    /// A tree in the repository itself.
    pub(super) fn within(layout: &Layout, path: &Path) -> Result<Source, MasterError> {
        Source::at(layout, path, path)
    }

    /// The same, for people: they know where it was taken from.
    pub(super) fn known_as(mut self, path: &Path) -> Source {
        self.tree.show_as(path);
        self
    }

    fn at(layout: &Layout, path: &Path, real: &Path) -> Result<Source, MasterError> {
        let repository = std::fs::canonicalize(layout.root()).map_err(MasterError::io("open", layout.root()))?;
        let kind = real.metadata().map_err(MasterError::io("open", path))?.file_type();
        let what = |what| MasterError::SourceKind { path: path.to_owned(), what };
        let (directory, only) = match (real.parent(), real.file_name()) {
            _ if kind.is_dir() => (real, None),
            (Some(parent), Some(name)) if kind.is_file() => (parent, Some(name.as_encoded_bytes().to_vec())),
            _ if std::os::unix::fs::FileTypeExt::is_block_device(&kind) => {
                return Err(what("a block device; copy it into a file first"));
            }
            _ => return Err(what("neither a directory nor a regular file")),
        };
        let open = |path: &Path| Beneath::open(path).map_err(MasterError::io("open", path));
        let identity = Stat::at(open(&repository)?.root(), b"").map_err(MasterError::io("open", &repository))?;
        Ok(Source { tree: open(directory)?, only, repository: identity.identity(), repository_path: repository })
    }
}

/// The state of one walk.
pub(super) struct Walk<'a> {
    source: &'a Source,
    shared: &'a Shared<'a>,
    queue: &'a Queue<'a>,
    pub(super) builder: HeadBuilder,
    /// Directories to walk, the next one last.
    pending: Vec<(FileIndex, Vec<u8>)>,
    /// Directories in the order they were found, to be completed in the reverse one.
    directories: Vec<(Vec<u8>, Attributes, Option<Stamp>)>,
    /// Files with several names: the node and the first name of each.
    linked: HashMap<Identity, (FileIndex, Vec<u8>)>,
    /// Further names: the first one, and the new one.
    links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Blocks of all paged files so far.
    paged_blocks: u64,
    /// Disk images that were converted.
    converted: usize,
    pub(super) skipped: Vec<Skipped>,
    pub(super) skipped_count: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        source: &'a Source,
        shared: &'a Shared<'a>,
        queue: &'a Queue<'a>,
    ) -> Result<Walk<'a>, MasterError> {
        let root = source.tree.root();
        let stat = |name| Stat::at(root, name).map_err(shared.source_error("read", name));
        let (attributes, stamp) = match &source.only {
            None => {
                let stat = stat(b"")?;
                let attributes =
                    Attributes::read(root, b"", &stat, Keep::Meaning).map_err(shared.source_error("read", b""))?;
                (attributes, Some(stat.stamp()))
            }
            // A single file's directory is ours to invent.
            Some(name) => {
                let stat = stat(name)?;
                let (uid, gid) = stat.owner();
                let metadata = Metadata { mode: 0o755, uid, gid, mtime: stat.mtime() };
                (Attributes { metadata, xattrs: Vec::new() }, None)
            }
        };
        let mut builder = HeadBuilder::new(attributes.metadata);
        set_xattrs(&mut builder, FileIndex::ROOT, &attributes);
        Ok(Walk {
            source,
            shared,
            queue,
            builder,
            pending: vec![(FileIndex::ROOT, Vec::new())],
            directories: vec![(Vec::new(), attributes, stamp)],
            linked: HashMap::new(),
            links: Vec::new(),
            paged_blocks: 0,
            converted: 0,
            skipped: Vec::new(),
            skipped_count: 0,
        })
    }

    /// Walks everything; the queue's workers may be at it until long after.
    pub(super) fn all(&mut self) -> Result<(), MasterError> {
        while let Some((index, inside)) = self.pending.pop() {
            let error = || self.shared.source_error("read", &inside);
            let directory = self.source.tree.directory(&inside).map_err(error())?;
            let names = match &self.source.only {
                Some(name) => vec![name.clone()],
                None => names(directory.as_fd()).map_err(error())?,
            };
            let stage = self.shared.stage.directory(&inside);
            let stage = stage.map_err(self.shared.stage_error("open", &inside))?;
            let place = Place { index, inside, source: directory.as_fd(), stage: stage.as_fd() };
            let first_child = self.pending.len();
            for name in names {
                if self.shared.tally.is_cancelled() {
                    return Err(MasterError::Cancelled);
                }
                self.entry(&place, &name)?;
            }
            self.pending[first_child..].reverse();
        }
        Ok(())
    }

    /// Adds further names and completes the directories, once all files are stored.
    pub(super) fn finish_names(&mut self) -> Result<(), MasterError> {
        for (first, further) in &self.links {
            let error = |error| self.shared.stage_error("link", further)(error);
            let (from, from_name) = self.shared.stage.parent(first).map_err(error)?;
            let (to, to_name) = self.shared.stage.parent(further).map_err(error)?;
            rustix::fs::linkat(&from, from_name, &to, to_name, AtFlags::empty()).map_err(error)?;
        }
        for (inside, attributes, stamp) in self.directories.iter().rev() {
            if let Some(stamp) = stamp {
                let error = || self.shared.source_error("read", inside);
                let source = self.source.tree.directory(inside).map_err(error())?;
                if Stat::at(source.as_fd(), b"").map_err(error())?.stamp() != *stamp {
                    return Err(MasterError::Changed(self.source.tree.shown(inside)));
                }
            }
            let stage = self.shared.stage.directory(inside).map_err(self.shared.stage_error("open", inside))?;
            attributes.apply(stage.as_fd(), b"", false).map_err(self.shared.refused(inside))?;
        }
        Ok(())
    }

    fn entry(&mut self, place: &Place<'_>, name: &[u8]) -> Result<(), MasterError> {
        let inside = join(&place.inside, name);
        if inside.len() > PATH_BYTES_MAX || inside.iter().filter(|byte| **byte == b'/').count() >= DEPTH_MAX {
            let path = self.source.tree.shown(&inside);
            return Err(MasterError::Deep { path, bytes_max: PATH_BYTES_MAX, depth_max: DEPTH_MAX });
        }
        let stat = Stat::at(place.source, name).map_err(self.shared.source_error("read", &inside))?;
        if stat.identity() == self.source.repository {
            let (path, repository) = (self.source.tree.shown(&inside), self.source.repository_path.clone());
            return Err(MasterError::SourceOverlaps { path, repository });
        }
        let kind = stat.kind();
        if stat.is_mount() {
            self.skip(&inside, SkippedKind::Mount);
            if kind != FileType::Directory {
                return Ok(());
            }
        } else if matches!(kind, FileType::Socket | FileType::Fifo) {
            self.skip(&inside, SkippedKind::SocketOrFifo);
            return Ok(());
        }
        if kind != FileType::Directory && self.is_further_name(place, name, &inside, &stat)? {
            return Ok(());
        }
        let attributes = Attributes::read(place.source, name, &stat, Keep::Meaning);
        let attributes = attributes.map_err(self.shared.source_error("read the attributes of", &inside))?;
        let converted = if kind == FileType::RegularFile { self.convert(place, name, &stat)? } else { None };
        let (name, inside, stat, converted) = match converted {
            Some(Converted { name, file, stat }) => {
                let inside = join(&place.inside, &name);
                (Cow::Owned(name), inside, stat, Some(file))
            }
            None => (Cow::Borrowed(name), inside, stat, None),
        };
        let name = &*name;
        let index = self.add(place, name, &inside, &stat, &attributes)?;
        set_xattrs(&mut self.builder, index, &attributes);
        if kind != FileType::Directory && stat.links() > 1 {
            self.linked.insert(stat.identity(), (index, inside.clone()));
        }
        match kind {
            FileType::Directory => {
                let stamp = (!stat.is_mount()).then(|| stat.stamp());
                if stamp.is_some() {
                    self.pending.push((index, inside.clone()));
                }
                self.directories.push((inside, attributes, stamp));
                Ok(())
            }
            FileType::RegularFile => self.enqueue(index, inside, &stat, attributes, converted),
            other => {
                let applied = attributes.apply(place.stage, name, other == FileType::Symlink);
                applied.map_err(self.shared.refused(&inside))
            }
        }
    }

    /// Adds one node to the head and, unless it is a file, to the stored tree.
    fn add(
        &mut self,
        place: &Place<'_>,
        name: &[u8],
        inside: &[u8],
        stat: &Stat,
        attributes: &Attributes,
    ) -> Result<FileIndex, MasterError> {
        let unfit =
            |source: HeadError| MasterError::Unfit { path: self.source.tree.shown(inside), source: source.into() };
        let staged = |made: rustix::io::Result<()>| made.map_err(self.shared.stage_error("create", inside));
        let (parent, metadata) = (place.index, attributes.metadata);
        match stat.kind() {
            FileType::RegularFile => self.builder.file(parent, name, metadata).map_err(unfit),
            FileType::Directory => {
                staged(rustix::fs::mkdirat(place.stage, name, Mode::RWXU))?;
                self.builder.directory(parent, name, metadata).map_err(unfit)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(place.source, name, Vec::new());
                let target = target.map_err(self.shared.source_error("read", inside))?;
                staged(rustix::fs::symlinkat(&*target, place.stage, name))?;
                self.builder.symlink(parent, name, metadata, target.as_bytes()).map_err(unfit)
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                let rdev = stat.rdev();
                let mode = Mode::RUSR | Mode::WUSR;
                staged(rustix::fs::mknodat(place.stage, name, kind, mode, device_number(rdev)))?;
                let device = if kind == FileType::BlockDevice { Kind::BlockDevice } else { Kind::CharDevice };
                self.builder.device(parent, name, device, metadata, rdev).map_err(unfit)
            }
            _ => {
                let path = self.source.tree.shown(inside);
                Err(MasterError::SourceKind { path, what: "of a kind that icbd does not know" })
            }
        }
    }

    /// Takes `name` as one more name of a file that was met before.
    fn is_further_name(
        &mut self,
        place: &Place<'_>,
        name: &[u8],
        inside: &[u8],
        stat: &Stat,
    ) -> Result<bool, MasterError> {
        let Some((index, first)) = self.linked.get(&stat.identity()) else { return Ok(false) };
        let unfit =
            |source: HeadError| MasterError::Unfit { path: self.source.tree.shown(inside), source: source.into() };
        self.builder.link(place.index, name, *index).map_err(unfit)?;
        self.links.push((first.clone(), inside.to_vec()));
        Ok(true)
    }

    fn enqueue(
        &mut self,
        index: FileIndex,
        inside: Vec<u8>,
        stat: &Stat,
        attributes: Attributes,
        converted: Option<File>,
    ) -> Result<(), MasterError> {
        let (size, stamp) = (stat.size(), stat.stamp());
        let pages_at = self.paged_blocks * Hash::BYTES as u64;
        if size > INLINE_BLOCKS_MAX * BLOCK_BYTES {
            self.paged_blocks += block_count(size);
        }
        self.shared.tally.found(size);
        self.queue.push(FileJob { index, inside, converted, size, stamp, attributes, pages_at })
    }

    /// Makes a raw disk image of one of another format, if such are to be converted.
    fn convert(&mut self, place: &Place<'_>, name: &[u8], stat: &Stat) -> Result<Option<Converted>, MasterError> {
        let Some(directory) = self.shared.raw else { return Ok(None) };
        let inside = join(&place.inside, name);
        let file = self.source.tree.open_at(&inside, OFlags::RDONLY, Mode::empty());
        let file = file.map_err(self.shared.source_error("read", &inside))?;
        let Some(format) = Format::of(&File::from(file)) else { return Ok(None) };
        let (from, to) = (self.source.tree.shown(&inside), raw::place(directory, self.converted));
        self.converted += 1;
        format.convert(&from, &to, || self.shared.tally.is_cancelled())?;
        let after = Stat::at(place.source, name).map_err(self.shared.source_error("read", &inside))?;
        if after.stamp() != stat.stamp() {
            return Err(MasterError::Changed(from));
        }
        let file = File::open(&to).map_err(MasterError::io("read", &to))?;
        // Its space is free again when it was stored.
        std::fs::remove_file(&to).map_err(MasterError::io("remove", &to))?;
        let stat = Stat::at(file.as_fd(), b"").map_err(MasterError::io("read", &to))?;
        Ok(Some(Converted { name: format.converted_name(name), file, stat }))
    }

    fn skip(&mut self, inside: &[u8], kind: SkippedKind) {
        self.skipped_count += 1;
        if self.skipped.len() < Published::SKIPPED_MAX {
            self.skipped.push(Skipped { path: self.source.tree.shown(inside), kind });
        }
    }
}

/// A file that is stored in place of the source's.
struct Converted {
    name: Vec<u8>,
    file: File,
    stat: Stat,
}

/// The directory that is being walked: its node, its path, and itself in the source and the stored tree.
struct Place<'a> {
    index: FileIndex,
    inside: Vec<u8>,
    source: BorrowedFd<'a>,
    stage: BorrowedFd<'a>,
}

fn set_xattrs(builder: &mut HeadBuilder, index: FileIndex, attributes: &Attributes) {
    attributes.xattrs.iter().for_each(|(name, value)| builder.set_xattr(index, name, value));
}
