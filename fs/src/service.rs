//! Answers to the kernel's questions, from the tree and the cache; knows nothing of FUSE's messages.
//!
//! Every answer is a future that is ready at once when all it needs is in memory or resident, so
//! that whoever polls it first decides nothing: the FUSE thread polls once, a task goes on.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use icbd_cache::{Cache, CacheError, File, Object, Passthrough, ReadNow, Version, View};
use icbd_image::{FileIndex, NodeId, Serial};
use tracing::{debug, warn};

use crate::edge::backing;
use crate::errno::Refusal;
use crate::modes::{Handle, Inherited, Modes, Opened};
use crate::settings::{CHANGING_TTL, HEAD_PATIENCE, IMMUTABLE_TTL, PASSTHROUGH_BYTES_MIN};
use crate::tree::{Attributes, Fill, Listed, Place};

/// One mount's answers.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) cache: Arc<Cache>,
    pub(crate) modes: Modes<Passthrough>,
    /// The `/dev/fuse` descriptor, for backing ids.
    pub(crate) fuse: OwnedFd,
    /// Whether new opens may use passthrough.
    pub(crate) passthrough: bool,
    pub(crate) buffers: Buffers,
}

/// Buffers for reads, used again: making a fresh one zero costs a fifth of a large read's time.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

/// Buffers that are kept: more than threads that read requests; the kernel reads at most 1 MiB at once.
const BUFFERS_MAX: usize = 8;

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give(&self, buffer: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_MAX {
            kept.push(buffer);
        }
    }
}

/// A node, held in memory while it is answered for.
struct Located {
    view: Arc<View>,
    version: Option<Arc<Version>>,
    id: NodeId,
}

/// Attributes and how long the kernel may believe them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) attributes: Attributes,
    pub(crate) attributes_ttl: Duration,
    /// Of the name by which it was looked up.
    pub(crate) name_ttl: Duration,
}

/// What a read gives; from memory that the cache shares, or from memory of its own.
#[derive(Debug)]
pub(crate) enum Data {
    Own(Vec<u8>),
    Shared(Bytes),
}

/// Which way SEEK_DATA and SEEK_HOLE differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seek {
    Data,
    Hole,
}

/// Sizes for `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) data_bytes: u64,
    /// Images, their versions and links; what is in a version only its head knows.
    pub(crate) nodes: u64,
}

impl Service {
    pub(crate) async fn lookup(&self, parent: u64, name: OsString) -> Result<Shown, Refusal> {
        let located = self.locate(parent, self.patience_for(parent, &name)).await?;
        let child = located.place()?.lookup(&name, located.view.images())?;
        if let Place::Unloaded(..) = child {
            let child = self.locate(child.id().to_u64(), Some(HEAD_PATIENCE)).await?;
            return Ok(Shown::of(&child.place()?));
        }
        Ok(Shown::of(&child))
    }

    pub(crate) async fn attributes(&self, node: u64) -> Result<Shown, Refusal> {
        Ok(Shown::of(&self.locate(node, Some(HEAD_PATIENCE)).await?.place()?))
    }

    pub(crate) async fn target(&self, node: u64) -> Result<Vec<u8>, Refusal> {
        self.locate(node, None).await?.place()?.target()
    }

    /// Whether the directory's content can never change.
    pub(crate) async fn open_directory(&self, node: u64) -> Result<bool, Refusal> {
        Ok(self.locate(node, None).await?.place()?.is_immutable())
    }

    /// Calls `add` for the entries behind `cookie` until it says that its buffer is full.
    pub(crate) async fn list(
        &self,
        node: u64,
        cookie: u64,
        mut add: impl FnMut(&Listed<'_>, &Shown) -> bool,
    ) -> Result<(), Refusal> {
        let located = self.locate(node, None).await?;
        for entry in located.place()?.entries(cookie, located.view.images())? {
            let shown = match entry.place {
                Place::Unloaded(image, version) => match self.cache.opened(version.serial()) {
                    Some(loaded) => Shown::of(&Place::of_version(image, version, loaded.head(), FileIndex::ROOT)?),
                    None => Shown::of(&entry.place),
                },
                place => Shown::of(&place),
            };
            if add(&entry, &shown) {
                break;
            }
        }
        Ok(())
    }

    pub(crate) async fn xattr(&self, node: u64, name: &OsStr) -> Result<Vec<u8>, Refusal> {
        let located = self.locate(node, None).await?;
        let place = located.place()?;
        let Some(version) = &located.version else { return place.xattr(name, || None) };
        if place.tells_fill(name) {
            version.prepare().await.map_err(|error| refuse(node, &error))?;
        }
        place.xattr(name, || fill(version, located.index()))
    }

    pub(crate) async fn xattr_names(&self, node: u64) -> Result<Vec<u8>, Refusal> {
        Ok(self.locate(node, None).await?.place()?.xattr_names())
    }

    pub(crate) fn totals(&self) -> Totals {
        let view = self.cache.view();
        let versions = || view.images().iter().flat_map(|image| &image.versions);
        let links = view.images().iter().filter(|image| image.deployed.is_some()).count();
        Totals {
            // What a master claims may be anything.
            data_bytes: versions().map(|version| version.data_bytes).fold(0, u64::saturating_add),
            nodes: (1 + view.images().len() + versions().count() + links) as u64,
        }
    }

    /// Counts a new handle of the file and says how it reads. It must be released or reported open.
    pub(crate) async fn open(&self, node: u64) -> Result<Opened, Refusal> {
        let (version, file) = self.file(node).await?;
        // Of what is read past the daemon it sees nothing else.
        version.note_used();
        if file.size() < PASSTHROUGH_BYTES_MIN || !self.modes.table().negotiated().passthrough {
            return Ok(self.modes.open_small());
        }
        if let Err(error) = version.prepare().await {
            // Its blocks come from a source then; nothing that a reader must know.
            warn!(version = %version.id(), %error, "cannot use the version's files on disk");
        }
        Ok(self.modes.open(node, || self.offer(&file)))
    }

    pub(crate) fn release(&self, node: u64, handle: Handle) {
        // It was used until now, also where the kernel had all that was read. Before it counts as closed: a daemon that is
        // killed between that and its answer counts it twice.
        if let Some(NodeId::Object { serial, .. }) = NodeId::from_u64(node)
            && let Some(version) = self.cache.opened(serial)
        {
            version.note_used();
        }
        self.modes.release(node, handle, |id| backing::close(&self.fuse, id));
    }

    /// The bytes from `offset` on: `len` of them, fewer only at the end of the file.
    pub(crate) async fn read(&self, node: u64, offset: u64, len: usize) -> Result<Data, Refusal> {
        let (_, file) = self.file(node).await?;
        let mut out = self.buffers.take();
        match file.read_now(offset, len, &mut out) {
            ReadNow::Done => Ok(Data::Own(out)),
            ReadNow::Cold | ReadNow::Missing => {
                self.buffers.give(out);
                file.read(offset, len).await.map(Data::Shared).map_err(|error| refuse(node, &error))
            }
        }
    }

    /// Takes back what [`Service::read`] gave.
    pub(crate) fn recycle(&self, data: Data) {
        if let Data::Own(buffer) = data {
            self.buffers.give(buffer);
        }
    }

    /// The next data or hole at or after `offset`, by the manifest; the end of a file is a hole.
    pub(crate) async fn seek(&self, node: u64, offset: u64, seek: Seek) -> Result<u64, Refusal> {
        let (_, file) = self.file(node).await?;
        if offset >= file.size() {
            return Err(Refusal::NoData);
        }
        let found = match seek {
            Seek::Data => file.seek_data(offset).await.map_err(|error| refuse(node, &error))?,
            Seek::Hole => file.seek_hole(offset).await.map_err(|error| refuse(node, &error))?.or(Some(file.size())),
        };
        found.ok_or(Refusal::NoData)
    }

    /// Guards the files whose passthrough handles an earlier daemon opened, before anything is evicted.
    pub(crate) async fn guard_inherited(&self) {
        for Inherited { node, backing } in self.modes.inherited() {
            let guarded = match self.file(node).await {
                Ok((version, file)) => version.prepare().await.ok().and_then(|()| file.passthrough_again()),
                Err(_) => None,
            };
            match guarded {
                Some(guard) => self.modes.guard(node, guard),
                None => warn!(node, backing, "a file that is being read past the daemon cannot be guarded"),
            }
        }
    }

    fn offer(&self, file: &Arc<File>) -> Option<(u32, Passthrough)> {
        let guard = self.passthrough.then(|| file.passthrough()).flatten()?;
        match backing::register(&self.fuse, &guard) {
            Ok(id) => Some((id, guard)),
            Err(error) => {
                warn!(file = %file.index(), %error, "the kernel does not take a file for passthrough");
                None
            }
        }
    }

    async fn file(&self, node: u64) -> Result<(Arc<Version>, Arc<File>), Refusal> {
        let located = self.locate(node, None).await?;
        let version = located.version.clone().ok_or(Refusal::Invalid)?;
        let file = version.file(located.index()).map_err(|error| refuse(node, &error))?;
        Ok((version, file))
    }

    /// Only the way up from a version's root, and the root itself, can do without its head.
    fn patience_for(&self, parent: u64, name: &OsStr) -> Option<Duration> {
        let root = matches!(NodeId::from_u64(parent), Some(NodeId::Object { index: FileIndex::ROOT, .. }));
        (root && (name == "." || name == "..")).then_some(HEAD_PATIENCE)
    }

    /// The node with this id. With `patience`, a version's root directory may come without its head.
    async fn locate(&self, node: u64, patience: Option<Duration>) -> Result<Located, Refusal> {
        let id = NodeId::from_u64(node).ok_or(Refusal::Stale)?;
        let mut located = Located { view: self.cache.view(), version: None, id };
        let NodeId::Object { serial, index } = id else { return Ok(located) };
        if let Some(Object::Version(..)) = located.view.object(serial) {
            let patience = patience.filter(|_| index == FileIndex::ROOT);
            located.version = self.version(serial, patience).await.map_err(|error| refuse(node, &error))?;
        }
        Ok(located)
    }

    async fn version(&self, serial: Serial, patience: Option<Duration>) -> Result<Option<Arc<Version>>, CacheError> {
        if let Some(version) = self.cache.opened(serial) {
            return Ok(Some(version));
        }
        let Some(patience) = patience else { return self.cache.version(serial).await.map(Some) };
        match tokio::time::timeout(patience, self.cache.version(serial)).await {
            Ok(Ok(version)) => Ok(Some(version)),
            Ok(Err(error)) if error.is_permanent() => Err(error),
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }
}

impl Located {
    fn index(&self) -> FileIndex {
        match self.id {
            NodeId::Mount => FileIndex::ROOT,
            NodeId::Object { index, .. } => index,
        }
    }

    fn place(&self) -> Result<Place<'_>, Refusal> {
        let NodeId::Object { serial, index } = self.id else { return Ok(Place::Mount(self.view.images())) };
        match (self.view.object(serial).ok_or(Refusal::Stale)?, &self.version) {
            (Object::Image(image), _) => Place::of_image(image, index),
            (Object::Version(image, record), Some(version)) => Place::of_version(image, record, version.head(), index),
            (Object::Version(image, record), None) => Ok(Place::Unloaded(image, record)),
        }
    }
}

impl Shown {
    fn of(place: &Place<'_>) -> Shown {
        let attributes = place.attributes();
        let (attributes_ttl, name_ttl) = match place {
            // The name of a version's root stands in its image's directory, which changes.
            Place::Inside(it) if it.node.index() == FileIndex::ROOT => (IMMUTABLE_TTL, CHANGING_TTL),
            Place::Inside(_) => (IMMUTABLE_TTL, IMMUTABLE_TTL),
            Place::Unloaded(..) => (Duration::ZERO, Duration::ZERO),
            Place::Mount(_) | Place::Image(_) | Place::Current(..) => (CHANGING_TTL, CHANGING_TTL),
        };
        Shown { attributes, attributes_ttl, name_ttl }
    }
}

impl Data {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Data::Own(bytes) => bytes,
            Data::Shared(bytes) => bytes,
        }
    }
}

fn fill(version: &Arc<Version>, index: FileIndex) -> Option<Fill> {
    if index == FileIndex::ROOT {
        let it = version.residency();
        return Some(Fill {
            resident_bytes: it.resident_bytes,
            total_bytes: it.total_bytes,
            complete: version.is_complete(),
        });
    }
    let file = version.file(index).ok()?;
    Some(Fill { resident_bytes: file.resident_bytes(), total_bytes: file.size(), complete: file.is_complete() })
}

/// Logs what a reader is told only by a number.
fn refuse(node: u64, error: &CacheError) -> Refusal {
    let refusal = Refusal::from(error);
    match error {
        // Who unmounts while somebody reads knows what becomes of the read.
        CacheError::Closed => debug!(node, %error, "a request is not answered"),
        // The cache has said so once.
        CacheError::Unusable { .. } => debug!(node, %error, "a request failed"),
        _ if refusal == Refusal::Io => warn!(node, %error, "a request failed"),
        _ => {}
    }
    refusal
}
