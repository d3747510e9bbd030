//! One version, open for reading: its head, its tree, its hash pages.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use icbd_image::{BLOCK_BYTES, FileIndex, Hash, Head, Kind, Node, Page, VerifiedBlock, VersionId, block_len};
use icbd_snapshot::beneath::{Beneath, Stat};
use icbd_wire::Check;
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::{MasterError, Repository};

/// The stored bytes of one version and what they should be.
#[derive(Debug)]
pub(crate) struct OpenVersion {
    version: VersionId,
    head: Head,
    tree: Beneath,
    pages: Option<File>,
    /// For each node the directory of its first name, and that name's place in the name table; the root has none.
    places: Vec<Option<(FileIndex, u32)>>,
}

impl OpenVersion {
    /// Opens a version with this head. Sizes are compared at once; what differs is noted, and other files are served.
    pub(super) fn open(repository: &Repository, head: Head) -> Result<OpenVersion, MasterError> {
        let root = head.root();
        let version = repository.snapshot().version_of(&root).ok_or(MasterError::UnknownRoot(root))?.clone();
        let opened = OpenVersion::open_as(repository, head, version)?;
        for node in opened.head.files() {
            if let Err(what) = opened.check_size(&node) {
                repository.note_damage(&opened.version, &format!("{}: {what}", opened.shown(node.index())));
                break;
            }
        }
        Ok(opened)
    }

    pub(crate) fn open_as(repository: &Repository, head: Head, version: VersionId) -> Result<OpenVersion, MasterError> {
        let path = repository.layout.version(&version);
        let tree = Beneath::open(&path).map_err(|error| {
            repository.note_damage(&version, "its tree is missing");
            MasterError::io("open", path)(error)
        })?;
        let path = repository.layout.pages(&head.root());
        let pages = match head.paged_blocks() {
            0 => None,
            _ => {
                let failed = |error| repository.manifest_error(&version, &head.root(), path.clone(), error);
                let pages = File::open(&path).map_err(failed)?;
                // Other files' pages may still be there; those that are not are told of when they are read.
                if pages.metadata().is_ok_and(|found| found.len() < head.paged_blocks() * Hash::BYTES as u64) {
                    repository.note_manifest(&head.root(), &path, "is cut short");
                }
                Some(pages)
            }
        };
        let mut places = vec![None; head.node_count() as usize];
        for directory in head.nodes().filter(|node| node.kind() == Kind::Directory) {
            for entry in head.entries(directory.index(), 0) {
                places[entry.node.get() as usize].get_or_insert((directory.index(), entry.position));
            }
        }
        Ok(OpenVersion { version, head, tree, pages, places })
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Whether it lies in a read-only snapshot, which not even root writes to by accident.
    pub(crate) fn is_frozen(&self) -> bool {
        let may_write = rustix::fs::accessat(self.tree.root(), ".", Access::WRITE_OK, AtFlags::empty());
        may_write == Err(Errno::ROFS)
    }

    pub(crate) fn tree(&self) -> &Beneath {
        &self.tree
    }

    /// The path of a node within the version.
    pub(crate) fn path(&self, index: FileIndex) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = index;
        while let Some((directory, position)) = self.places.get(at.get() as usize).copied().flatten() {
            names.extend(self.head.entries(directory, position).next().map(|entry| entry.name));
            at = directory;
        }
        names.reverse();
        names.join(&b'/')
    }

    pub(crate) fn shown(&self, index: FileIndex) -> String {
        String::from_utf8_lossy(&self.path(index)).into_owned()
    }

    /// The stored file of a node, whatever mode it has.
    pub(crate) fn open_file(&self, index: FileIndex) -> rustix::io::Result<OwnedFd> {
        self.tree.open_at(&self.path(index), OFlags::RDONLY, Mode::empty())
    }

    /// Reads and verifies one page of hashes.
    pub(crate) fn page_bytes(
        &self,
        repository: &Repository,
        file: FileIndex,
        page: u64,
    ) -> Result<(Bytes, Page), MasterError> {
        let root = self.head.root();
        let node = self.head.node(file).ok_or(MasterError::NoIndex { root, file })?;
        let (Some(pages), Some(offset)) = (&self.pages, node.page_offset(page)) else {
            return Err(MasterError::NoIndex { root, file });
        };
        let mut bytes = vec![0; node.page_blocks(page) as usize * Hash::BYTES];
        let path = repository.layout.pages(&root);
        let failed = |error| repository.manifest_error(&self.version, &root, path.clone(), error);
        pages.read_exact_at(&mut bytes, offset).map_err(failed)?;
        let bytes = Bytes::from(bytes);
        let verified = Page::verify(&node, page, bytes.clone()).map_err(|source| {
            repository.note_manifest(&root, &path, "is damaged");
            MasterError::Page { version: self.version.clone(), path, source: source.into() }
        })?;
        Ok((bytes, verified))
    }

    /// Fills `bytes` with the blocks from `first` on, whose hashes are `expected`, and compares them if that is asked.
    pub(super) fn blocks_into(
        &self,
        repository: &Repository,
        file: FileIndex,
        first: u64,
        expected: &[Hash],
        bytes: &mut [u8],
        check: Check,
    ) -> Result<(), MasterError> {
        let are_right = |bytes: &[u8]| {
            bytes.chunks(BLOCK_BYTES as usize).zip(expected).all(|(block, hash)| Hash::of(block) == *hash)
        };
        if let Some(opened) = repository.serving.files.get(&(self.head.root(), file))
            && opened.read_exact_at(bytes, first * BLOCK_BYTES).is_ok()
            && (check == Check::Receiver || are_right(bytes))
        {
            return Ok(());
        }
        // Not open yet, or something is wrong: one by one, so that the error names the block.
        for (block, (bytes, hash)) in (first..).zip(bytes.chunks_mut(BLOCK_BYTES as usize).zip(expected)) {
            bytes.copy_from_slice(&self.block(repository, file, block, hash)?);
        }
        Ok(())
    }

    /// Reads one block of a file and compares it with `expected`.
    pub(super) fn block(
        &self,
        repository: &Repository,
        file: FileIndex,
        block: u64,
        expected: &Hash,
    ) -> Result<Bytes, MasterError> {
        let altered = || {
            let path = self.shown(file);
            // The next reader shall find another copy of the same content, or this one put right.
            repository.serving.files.invalidate(&(self.head.root(), file));
            repository.serving.forget(&self.head.root());
            repository.note_damage(&self.version, &format!("{path}, block {block}"));
            MasterError::Altered { version: self.version.clone(), path, block }
        };
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::NotFound => altered(),
            _ => MasterError::io("read", self.tree.shown(&self.path(file)))(error),
        };
        let size = self.head.node(file).map_or(0, |node| node.size());
        let open = || self.open_file(file).map(|opened| Arc::new(File::from(opened)));
        let opened = repository.serving.files.try_get_with((self.head.root(), file), open);
        let opened = opened.map_err(|error| failed((*error).into()))?;
        let mut bytes = vec![0; block_len(size, block)];
        opened.read_exact_at(&mut bytes, block * BLOCK_BYTES).map_err(failed)?;
        match VerifiedBlock::check(block, bytes.into(), expected) {
            Ok(block) => Ok(block.into_bytes()),
            Err(_) => Err(altered()),
        }
    }

    fn check_size(&self, node: &Node<'_>) -> Result<(), &'static str> {
        let path = self.path(node.index());
        let Ok((parent, name)) = self.tree.parent(&path) else { return Err("its directory is missing") };
        match Stat::at(parent.as_fd(), name) {
            Ok(stat) if stat.kind() != FileType::RegularFile => Err("it is no regular file any more"),
            Ok(stat) if stat.size() != node.size() => Err("its size changed"),
            Ok(_) => Ok(()),
            Err(_) => Err("it is missing"),
        }
    }
}
