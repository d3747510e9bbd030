//! Reading versions for somebody else: heads, hash pages, blocks, encoded runs, files.
//!
//! A stored file may be altered at any moment. So what goes to somebody who may not have the hashes, and what
//! is packed and kept, is compared with the manifest each time it is read; what goes to a fetcher as it is
//! stored is compared there, and here as well once it was wrong (`icbd_wire::Check`). What does not match is an
//! error that names the block, and the version is noted as damaged. Blocks that are all zeros by the manifest
//! are answered without reading.

mod buffers;
mod file;
mod matched;
mod packers;
mod raw;
mod version;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use icbd_image::{BLOCK_BYTES, FileIndex, Hash, Head, PAGE_BLOCKS, Page, Root, Run, block_len};
use icbd_wire::{Check, Codec, encode_run};
use moka::sync::Cache;

use buffers::Buffers;
pub use file::FileRead;
pub(crate) use matched::{OldContent, OldVersion};
use packers::Packers;
pub(crate) use version::OpenVersion;

use crate::packed::Found;
use crate::users::Hold;
use crate::{MasterError, Repository, Settings};

/// Hash pages kept in memory: those of 128 GiB of disk images.
const PAGE_BYTES_MAX: u64 = 64 << 20;
/// Versions kept open: each holds three descriptors and 8 bytes a node.
const VERSIONS_MAX: u64 = 256;
/// Stored files kept open.
const FILES_MAX: u64 = 512;
/// Versions whose features are kept, so that others can be packed against them: about 100 MiB each at most.
const SIMILAR_MAX: u64 = 2;
static ZERO_BLOCK: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];

/// How a run is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Packed {
    By(Codec),
    /// Against a version that the receiver has.
    Against(Root),
}

/// What is kept in memory of what is served; everything bounded.
pub(crate) struct Serving {
    heads: Cache<Root, Head>,
    pages: Cache<(Root, FileIndex, u64), Page>,
    versions: Cache<Root, Arc<OpenVersion>>,
    files: Cache<(Root, FileIndex), Arc<std::fs::File>>,
    encoded: Cache<(Run, Packed), Bytes>,
    /// What versions are like that others were packed against.
    similar: Cache<Root, Arc<matched::Index>>,
    buffers: Buffers,
    packers: Packers,
}

impl Serving {
    pub(crate) fn new(settings: &Settings) -> Serving {
        let weight = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Serving {
            buffers: Buffers::default(),
            packers: Packers::default(),
            heads: Cache::builder()
                .max_capacity(settings.head_bytes_max)
                .weigher(move |_, head: &Head| weight(head.bytes().len()))
                .build(),
            pages: Cache::builder()
                .max_capacity(PAGE_BYTES_MAX)
                .weigher(move |_, page: &Page| weight(page.weight()))
                .build(),
            versions: Cache::new(VERSIONS_MAX),
            files: Cache::new(FILES_MAX),
            encoded: Cache::builder()
                .max_capacity(settings.encoded_bytes_max)
                .weigher(move |_, bytes: &Bytes| weight(bytes.len()))
                .build(),
            similar: Cache::new(SIMILAR_MAX),
        }
    }

    /// Forgets what is open of a version, so that the next reader looks at the disk again.
    pub(crate) fn forget(&self, root: &Root) {
        self.heads.invalidate(root);
        self.versions.invalidate(root);
    }

    /// Forgets everything of a version: its content is gone, and open files would keep its space.
    pub(crate) fn forget_all(&self, root: &Root) {
        self.forget(root);
        let of_it: Vec<_> = self.files.iter().map(|(key, _)| *key).filter(|(of, _)| of == root).collect();
        of_it.iter().for_each(|key| self.files.invalidate(key));
        let runs: Vec<_> = self.encoded.iter().map(|(key, _)| *key).filter(|(run, _)| run.root == *root).collect();
        runs.iter().for_each(|key| self.encoded.invalidate(key));
        self.similar.invalidate(root);
        // Or they stay open until somebody reads something else.
        self.versions.run_pending_tasks();
        self.files.run_pending_tasks();
    }
}

impl Repository {
    /// The bytes of a version's head.
    pub fn head_bytes(&self, root: Root) -> Result<Bytes, MasterError> {
        self.head(root).map(|head| head.bytes().clone())
    }

    /// A version's head, as its bytes on disk prove it.
    pub fn head(&self, root: Root) -> Result<Head, MasterError> {
        let version = self.snapshot().version_of(&root).ok_or(MasterError::UnknownRoot(root))?.clone();
        let read = || {
            let path = self.layout.head(&root);
            let read = std::fs::read(&path);
            let bytes = read.map_err(|error| self.manifest_error(&version, &root, path.clone(), error))?;
            Head::parse_expecting(bytes.into(), &root).map_err(|source| {
                self.note_manifest(&root, &path, "is damaged");
                MasterError::Head { version: version.clone(), path, source: source.into() }
            })
        };
        self.serving.heads.try_get_with(root, read).map_err(shared)
    }

    /// The bytes of hash page `page` of `file`, verified; a page of zeros, which is stored nowhere, too.
    pub fn page_bytes(&self, root: Root, file: FileIndex, page: u64) -> Result<Bytes, MasterError> {
        let head = self.head(root)?;
        let node = head.node(file).filter(|node| page < node.pages()).ok_or(MasterError::NoIndex { root, file })?;
        let version = self.open_version(root)?;
        Ok(match Page::zero(&node, page) {
            Some(zero) => Bytes::from(vec![0; zero.blocks() as usize * Hash::BYTES]),
            None => version.page_bytes(self, file, page)?.0,
        })
    }

    /// A reader for the blocks of `run`, all of which the file must have. It holds the version.
    pub fn blocks(&self, run: Run) -> Result<BlockReader<'_>, MasterError> {
        let reader = self.own_blocks(run)?;
        Ok(BlockReader { _hold: Some(Arc::new(self.hold(run.root))), ..reader })
    }

    /// The same for the repository itself, whose reading is nobody's use of the version.
    pub(crate) fn own_blocks(&self, run: Run) -> Result<BlockReader<'_>, MasterError> {
        let version = self.open_version(run.root)?;
        let head = version.head();
        let node = head.node(run.file).filter(|node| node.kind() == icbd_image::Kind::File);
        let node = node.ok_or(MasterError::NoIndex { root: run.root, file: run.file })?;
        if run.count == 0 || run.first.checked_add(run.count.into()).is_none_or(|end| end > node.blocks()) {
            let (first, last) = (run.first, run.first.saturating_add(u64::from(run.count).saturating_sub(1)));
            return Err(MasterError::NoBlocks { root: run.root, file: run.file, first, last });
        }
        let file_bytes = node.size();
        Ok(BlockReader { repository: self, version, file: run.file, file_bytes, _hold: None })
    }

    /// All frames of `run` in one piece of memory, encoded once however many ask at the same time.
    ///
    /// What is sent as it lies there is compared with the manifest only if `check` says so. Where it is packed already, it is
    /// by Zstandard, also for who asked for LZ4.
    pub fn encoded_run(&self, run: Run, codec: Codec, check: Check) -> Result<Bytes, MasterError> {
        // Without a codec there is nothing to save: the kernel already keeps these bytes.
        if codec == Codec::None {
            return self.raw_run(run, check);
        }
        let key = (run, Packed::By(codec));
        if let Some(frames) = self.serving.encoded.get(&key) {
            return Ok(frames);
        }
        let reader = self.blocks(run)?;
        let hashes = reader.hashes(run.blocks())?;
        // Who asks for another codec may know no other.
        let takes_packed = matches!(codec, Codec::Lz4 | Codec::Zstd | Codec::Zstd6);
        match takes_packed.then(|| self.packed.get(&hashes)).flatten() {
            Some(Found::Frames(frames)) => Ok(frames),
            Some(Found::AsItIs) => self.raw_run(run, check),
            None => {
                let encode = || self.encode(&reader, run, &hashes, codec);
                self.serving.encoded.try_get_with(key, encode).map_err(shared)
            }
        }
    }

    /// All frames of `run`, whose hashes these are.
    pub(crate) fn encode(
        &self,
        reader: &BlockReader<'_>,
        run: Run,
        hashes: &[Hash],
        codec: Codec,
    ) -> Result<Bytes, MasterError> {
        let hashes_from = |block: u64| &hashes[(block - run.first) as usize..];
        let is_zero = |block| hashes_from(block)[0].is_zero();
        let read = |first, bytes: &mut [u8]| {
            let count = bytes.len().div_ceil(BLOCK_BYTES as usize);
            reader.read_into(first, &hashes_from(first)[..count], bytes, Check::Both)
        };
        self.serving.packers.with(|encoder, body| {
            encode_run(encoder, &run, reader.file_bytes(), codec, is_zero, read, body)?;
            Ok(Bytes::copy_from_slice(body))
        })
    }

    /// The open version with this root.
    pub(crate) fn open_version(&self, root: Root) -> Result<Arc<OpenVersion>, MasterError> {
        let head = self.head(root)?;
        self.serving.versions.try_get_with(root, || OpenVersion::open(self, head).map(Arc::new)).map_err(shared)
    }
}

/// Reads the blocks of one file of one version; each comes verified.
#[derive(Clone)]
pub struct BlockReader<'r> {
    repository: &'r Repository,
    version: Arc<OpenVersion>,
    file: FileIndex,
    file_bytes: u64,
    _hold: Option<Arc<Hold>>,
}

impl<'r> BlockReader<'r> {
    /// For the repository itself.
    pub(crate) fn unheld(
        repository: &'r Repository,
        version: Arc<OpenVersion>,
        file: FileIndex,
        file_bytes: u64,
    ) -> Self {
        BlockReader { repository, version, file, file_bytes, _hold: None }
    }

    /// The size of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Block `block`, which the file must have.
    pub fn read(&self, block: u64) -> Result<Bytes, MasterError> {
        let hash = self.hash(block)?;
        if hash.is_zero() {
            return Ok(Bytes::from_static(&ZERO_BLOCK[..block_len(self.file_bytes, block)]));
        }
        self.version.block(self.repository, self.file, block, &hash)
    }

    /// The file's bytes in `range`, as far as it has them. Holds all of them in memory: ask for a mebibyte or so.
    pub fn read_range(&self, range: Range<u64>) -> Result<Bytes, MasterError> {
        let range = range.start..range.end.min(self.file_bytes);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (first, end) = (range.start / BLOCK_BYTES, range.end.div_ceil(BLOCK_BYTES));
        let start = first * BLOCK_BYTES;
        // Whole blocks, since only those can be verified; what was not asked for is cut off again.
        let mut buffer =
            self.repository.serving.buffers.take(((end * BLOCK_BYTES).min(self.file_bytes) - start) as usize);
        self.read_into(first, &self.hashes(first..end)?, buffer.bytes_mut(), Check::Both)?;
        Ok(buffer.freeze().slice((range.start - start) as usize..(range.end - start) as usize))
    }

    /// Fills `bytes` with the file's, from block `first` on: whole blocks, or to the file's end.
    fn read_into(&self, first: u64, hashes: &[Hash], bytes: &mut [u8], check: Check) -> Result<(), MasterError> {
        let mut rest = bytes;
        let mut at = 0;
        for like in hashes.chunk_by(|a, b| a.is_zero() == b.is_zero()) {
            let block = first + at as u64;
            at += like.len();
            let len = rest.len().min(like.len() * BLOCK_BYTES as usize);
            let (part, others) = rest.split_at_mut(len);
            rest = others;
            match like[0].is_zero() {
                true => part.fill(0),
                false => self.version.blocks_into(self.repository, self.file, block, like, part, check)?,
            }
        }
        Ok(())
    }

    pub(crate) fn hashes(&self, blocks: Range<u64>) -> Result<Vec<Hash>, MasterError> {
        blocks.map(|block| self.hash(block)).collect()
    }

    pub(crate) fn hash(&self, block: u64) -> Result<Hash, MasterError> {
        let (head, root) = (self.version.head(), self.version.head().root());
        let absent = MasterError::NoBlocks { root, file: self.file, first: block, last: block };
        let Some(node) = head.node(self.file).filter(|node| block < node.blocks()) else { return Err(absent) };
        if let Some(hash) = node.inline_hash(block) {
            return Ok(hash);
        }
        let number = block / PAGE_BLOCKS;
        let page = match Page::zero(&node, number) {
            Some(zero) => zero,
            None => {
                let load = || self.version.page_bytes(self.repository, self.file, number).map(|(_, page)| page);
                self.repository.serving.pages.try_get_with((root, self.file, number), load).map_err(shared)?
            }
        };
        page.hash(block % PAGE_BLOCKS).ok_or(absent)
    }
}

/// The error of a look-up that several threads may have waited for.
fn shared(error: Arc<MasterError>) -> MasterError {
    Arc::try_unwrap(error).unwrap_or_else(MasterError::Shared)
}
