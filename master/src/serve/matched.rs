//! Runs that travel as what differs from a version that both sides have.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use icbd_image::{FileIndex, Root, Run};
use icbd_wire::{Base, BlockPlace, Check, Codec, Likeness, Matcher, Similar, encode_matched_run};

use super::{BlockReader, OpenVersion, Packed, shared};
use crate::packed::Found;
use crate::users::Hold;
use crate::{MasterError, Repository};

/// Looking through a version takes a processor a second or two for 400 MB: not before so many bytes travelled, packed against
/// what lies in their places. An update in its place has fewer.
const LOOKED_AFTER_BYTES: u64 = 6 << 20;

/// Whoever looks through a version asks after so many blocks whether anybody wants to know.
const ASKED_BLOCKS: u64 = 256;

/// What is known of a version's content: nothing yet, or that it cannot be read.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Bytes that travelled before anybody had looked.
    travelled: AtomicU64,
    similar: OnceLock<Option<Similar>>,
}

impl Repository {
    /// All frames of `run` for somebody who has the version `base`, packed once however many ask at the same time.
    ///
    /// Nobody waits until the base was looked through: until then, blocks are compared with those in their places.
    pub fn matched_run(self: &Arc<Self>, run: Run, base: Root) -> Result<Bytes, MasterError> {
        match self.packed.get_against(&base, &self.blocks(run)?.hashes(run.blocks())?) {
            Some(Found::Frames(frames)) => return Ok(frames),
            Some(Found::AsItIs) => return self.encoded_run(run, Codec::Zstd, Check::Both),
            None => {}
        }
        let open = self.open_version(base)?;
        let index = self.serving.similar.get_with(base, Arc::default);
        let same_file = || open.head().resolve(&self.open_version(run.root).ok()?.path(run.file));
        let likeness = match index.similar.get() {
            Some(similar) => similar.as_ref().map(Likeness::Similar),
            None => same_file().map(Likeness::SamePlaces),
        };
        let Some(likeness) = likeness else {
            return self.encoded_run(run, Codec::Zstd, Check::Both);
        };
        let pack = || {
            let old = OldVersion::new(self, open.clone());
            let body = self.blocks(run)?.matched(run, Matcher::new(likeness, &old))?;
            if matches!(likeness, Likeness::SamePlaces(_)) {
                self.look_if_it_pays(&open, &index, body.len() as u64);
            }
            Ok(body)
        };
        self.serving.encoded.try_get_with((run, Packed::Against(base)), pack).map_err(shared)
    }

    /// Has a thread find out what a version is like, once it pays: so many bytes more travel now.
    fn look_if_it_pays(self: &Arc<Self>, version: &Arc<OpenVersion>, index: &Arc<Index>, bytes: u64) {
        let root = version.head().root();
        let before = index.travelled.fetch_add(bytes, Ordering::Relaxed);
        if (before..before + bytes).contains(&LOOKED_AFTER_BYTES) {
            let (old, found) = (OldVersion::new(self, version.clone()), index.clone());
            let look = move || {
                let started = Instant::now();
                let similar = old
                    .content()
                    .look(&|| true)
                    .inspect_err(|error| tracing::warn!(%root, %error, "nothing is packed against it"));
                let ms = started.elapsed().as_millis() as u64;
                tracing::debug!(%root, ms, ?similar, "looked through a version, to pack others against it");
                drop(found.similar.set(similar.ok().flatten()));
            };
            let thread = std::thread::Builder::new().name("similar".to_owned()).spawn(look);
            if let Err(error) = thread {
                tracing::warn!(%root, %error, "nothing is packed against it");
            }
        }
    }
}

impl BlockReader<'_> {
    /// All frames of `run`, which is of this file, in one piece of memory.
    pub(crate) fn matched(&self, run: Run, matcher: Matcher<'_>) -> Result<Bytes, MasterError> {
        let mut body = Vec::new();
        let read = |block| self.read(block);
        encode_matched_run(&run, matcher, read, |frame| {
            body.extend_from_slice(&frame);
            Ok::<_, MasterError>(())
        })?;
        Ok(body.into())
    }
}

/// A version of this repository that others are packed, or unpacked, against.
pub(crate) struct OldVersion {
    repository: Arc<Repository>,
    version: Arc<OpenVersion>,
    _hold: Hold,
}

impl OldVersion {
    pub(crate) fn new(repository: &Arc<Repository>, version: Arc<OpenVersion>) -> OldVersion {
        let hold = repository.hold(version.head().root());
        OldVersion { repository: repository.clone(), version, _hold: hold }
    }

    fn content(&self) -> OldContent<'_> {
        OldContent { repository: &self.repository, version: &self.version }
    }
}

impl Base for OldVersion {
    fn root(&self) -> Root {
        self.version.head().root()
    }

    fn block(&self, place: BlockPlace) -> Option<Bytes> {
        self.content().block(place)
    }
}

impl std::fmt::Debug for OldVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OldVersion({})", self.root())
    }
}

/// The same for the repository itself, whose reading keeps nobody from removing the version.
pub(crate) struct OldContent<'r> {
    pub(crate) repository: &'r Repository,
    pub(crate) version: &'r Arc<OpenVersion>,
}

impl<'r> OldContent<'r> {
    fn reader(&self, file: FileIndex) -> BlockReader<'r> {
        let file_bytes = self.version.head().node(file).map_or(0, |node| node.size());
        BlockReader::unheld(self.repository, self.version.clone(), file, file_bytes)
    }

    /// Reads all of it.
    ///
    /// `None` when `goes_on` says that nobody wants to know any more.
    pub(crate) fn look(&self, goes_on: &dyn Fn() -> bool) -> Result<Option<Similar>, MasterError> {
        let head = self.version.head();
        let mut similar = Similar::builder(head.data_bytes());
        for node in head.files() {
            let (file, reader) = (node.index(), self.reader(node.index()));
            for block in 0..node.blocks() {
                if block.is_multiple_of(ASKED_BLOCKS) && !goes_on() {
                    return Ok(None);
                }
                if !reader.hash(block)?.is_zero() {
                    similar.add(BlockPlace { file, block }, &reader.read(block)?);
                }
            }
        }
        Ok(Some(similar.build()))
    }
}

impl Base for OldContent<'_> {
    fn root(&self) -> Root {
        self.version.head().root()
    }

    fn block(&self, place: BlockPlace) -> Option<Bytes> {
        self.reader(place.file).read(place.block).ok()
    }
}

impl std::fmt::Debug for OldContent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OldContent({})", self.root())
    }
}
