//! Publishing: a tree of files becomes a version, whole or not at all.
//!
//! The tree is copied (reflinked where the file system can) into a directory under `publishing/`,
//! hashed there, synced, renamed into its place, and then committed to the catalogue. The commit is
//! the moment at which the version exists; whatever a kill leaves before it, [`crate::recover`]
//! removes, because the staging directory, with a note of what was intended, goes last.

mod before;
mod came;
mod parent;
mod piece;
mod queue;
mod raw;
pub(crate) mod staging;
mod store;
mod turn;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use icbd_image::{
    Head, ImageName, Root, SecretKey, Serial, SignedStatement, Statement, VersionId, VersionNumber, VersionRecord,
    VersionState,
};
use icbd_snapshot::beneath::Beneath;
use icbd_snapshot::{Came, Kind, Received, Tree, Writable};

use crate::catalog::NewVersion;
use crate::receive::Known;
use crate::{MasterError, Repository};
use before::Before;
use came::AsItCame;
use parent::Parent;
pub(crate) use piece::{PIECE_BYTES, segments, touched_blocks};
use staging::Staging;
pub(crate) use staging::{Intent, full_or};
pub(crate) use store::threads;
pub(crate) use turn::Turns;
use walk::Source;

/// Every cache asks for all notes every other second.
const NOTE_BYTES_MAX: usize = 1000;

/// What to publish, and as what.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    pub image: ImageName,
    /// A directory, or one regular file, which then is the only file of the version.
    pub path: PathBuf,
    /// Whether disk images of other formats are converted to raw ones.
    pub raw: bool,
    /// What people shall read about the version; at most 1000 bytes.
    pub note: String,
    /// Whether it becomes the image's deployed version at once.
    pub deploy: bool,
    /// The publisher's key.
    pub sign: Option<Arc<SecretKey>>,
}

/// How far a publish is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Regular files found so far.
    pub files: u64,
    /// Bytes stored and hashed, holes included.
    pub done_bytes: u64,
    /// Bytes found; final when `walked`.
    pub found_bytes: u64,
    /// Whether the whole tree was seen.
    pub walked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Another publish has its turn.
    Waiting,
    Storing,
    /// Everything is stored and being made durable.
    Syncing,
}

/// A version that now exists.
#[derive(Debug, Clone)]
pub struct Published {
    pub version: VersionId,
    pub record: VersionRecord,
    pub files: u64,
    /// Bytes that were read to hash them; all others are known to be those of the version before.
    pub hashed_bytes: u64,
    /// What of the tree is not in the version; at most [`Published::SKIPPED_MAX`] are named.
    pub skipped: Vec<Skipped>,
    pub skipped_count: u64,
}

impl Published {
    /// Nobody reads more; all of them are counted.
    pub const SKIPPED_MAX: usize = 1000;
}

/// Something that was left out of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub path: PathBuf,
    pub kind: SkippedKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkippedKind {
    /// A socket or FIFO: it means something only to the processes that hold it open.
    SocketOrFifo,
    /// Another file system is mounted here. The version has an empty directory in its place (of a mounted file, nothing).
    Mount,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match self.kind {
            SkippedKind::SocketOrFifo => write!(f, "{path}: a socket or FIFO"),
            SkippedKind::Mount => write!(f, "{path}: another file system is mounted here, its content is left out"),
        }
    }
}

/// What everybody who works on one publish shares.
pub(crate) struct Watch<'a> {
    progress: &'a (dyn Fn(Progress) + Sync),
    cancel: &'a AtomicBool,
}

/// A version that is to be.
pub(crate) struct New<'a> {
    pub(crate) request: &'a PublishRequest,
    pub(crate) from: From,
    /// The version it is compared with; the newest one, if none is named.
    pub(crate) parent: Option<VersionNumber>,
}

/// What spares work on a version's files.
struct Earlier<'a> {
    /// What need not be hashed is in here.
    before: Option<&'a Before<'a>>,
    /// What need not be read from the disk.
    came: Option<&'a AsItCame<'a>>,
}

/// Where a version's content comes from.
pub(crate) enum From {
    /// The request's path.
    Outside,
    /// The image's working copy, which ends with the version's beginning.
    WorkingCopy(Writable),
    /// A version's clone with something written over it.
    Improved(Writable),
    /// A tree that was received, what was said of it where it was published, and what need not be hashed.
    Received(Writable, Box<Given>, Box<Known>),
    /// The same of one that is to be the version's as it is.
    Streamed(Box<Received>, Box<Given>),
}

impl From {
    /// What another master said.
    fn given(&self) -> Option<&Given> {
        match self {
            From::Received(_, given, _) | From::Streamed(_, given) => Some(given),
            From::Outside | From::WorkingCopy(_) | From::Improved(_) => None,
        }
    }
}

/// What another master said of a version.
pub(crate) struct Given {
    pub(crate) record: VersionRecord,
    pub(crate) image_serial: Serial,
}

impl Repository {
    /// Publishes a tree as the next version of its image; creates the image with its first version.
    ///
    /// Blocks until it is done, which may be long; `progress` is called on several threads, some times a
    /// second, and setting `cancel` ends it soon. On any error nothing is published and nothing is left.
    pub fn publish(
        &self,
        request: &PublishRequest,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &AtomicBool,
    ) -> Result<Published, MasterError> {
        let version = New { request, from: From::Outside, parent: None };
        self.publish_new(version, progress, cancel, |_| Ok(()))
    }

    /// Publishes in this publish's turn; `prepare` says more of what, when nobody else publishes.
    pub(crate) fn publish_new(
        &self,
        mut new: New<'_>,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &AtomicBool,
        prepare: impl FnOnce(&mut New<'_>) -> Result<(), MasterError>,
    ) -> Result<Published, MasterError> {
        let request = new.request;
        if request.note.len() > NOTE_BYTES_MAX {
            return Err(MasterError::Note { bytes: request.note.len(), bytes_max: NOTE_BYTES_MAX });
        }
        let watch = Watch { progress, cancel };
        let waiting = Progress { phase: Phase::Waiting, files: 0, done_bytes: 0, found_bytes: 0, walked: false };
        let _turn = self.publishing.take(cancel, || progress(waiting))?;
        prepare(&mut new)?;
        if let Some(given) = new.from.given() {
            self.check_receivable(given.image_serial, &given.record)?;
        }
        let staging = Staging::create(&self.layout, &self.trees)?;
        let published = self.publish_staged(&new, &staging, &watch);
        // After an error the catalogue is asked again: one of the commit does not say whether it took effect.
        let known = if published.is_ok() { Ok(self.snapshot()) } else { self.reload().map(Arc::new) };
        match known {
            Ok(snapshot) => {
                staging.settle(&self.layout, &self.trees, &snapshot);
                if published.is_err() {
                    self.free_deleted();
                }
            }
            Err(error) => tracing::warn!(%error, "the remains of a publish stay until the next start"),
        }
        published
    }

    fn publish_staged(&self, new: &New<'_>, staging: &Staging, watch: &Watch<'_>) -> Result<Published, MasterError> {
        let request = new.request;
        let source = match &new.from {
            From::Outside => Source::open(&self.layout, &request.path)?,
            From::WorkingCopy(copy) | From::Improved(copy) | From::Received(copy, ..)
                if self.trees.kind() == Kind::Btrfs =>
            {
                Source::within(&self.layout, &staging.freeze(&self.trees, copy)?)?.known_as(copy.path())
            }
            From::WorkingCopy(copy) | From::Improved(copy) | From::Received(copy, ..) => {
                Source::within(&self.layout, copy.path())?
            }
            From::Streamed(received, _) => Source::within(&self.layout, received.tree.path())?,
        };
        let before = match &new.from {
            From::Received(.., known) => Some(Before::Received(known)),
            _ => Parent::of(self, &request.image, new.parent).map(Before::Parent),
        };
        let came = match &new.from {
            From::Streamed(received, _) => Some(self.as_it_came(&received.came)?),
            _ => None,
        };
        let earlier = Earlier { before: before.as_ref(), came: came.as_ref() };
        let stored = store::store(&self.layout, &source, staging, earlier, request.raw, watch)?;
        let root = stored.head.root();
        let (signed, image_serial) = match new.from.given() {
            Some(given) if given.record.root() != root => {
                let version = given.record.statement.statement().version();
                let is_streamed = matches!(new.from, From::Streamed(..));
                return Err(if is_streamed { MasterError::NotAsStreamed } else { MasterError::NotAsSent }(version));
            }
            Some(given) => (given.record.statement.clone(), given.image_serial),
            None => {
                let (statement, image_serial) = self.statement(&request.image, root)?;
                (signed(request, statement), image_serial)
            }
        };
        let version = signed.statement().version();
        (watch.progress)(stored.progress(Phase::Syncing));
        if let From::Streamed(received, _) = &new.from {
            staging.take(&self.trees, &received.tree)?;
        }
        staging.seal(&self.layout, &stored.head, &Intent { version: version.clone(), root })?;
        if watch.cancel.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(MasterError::Cancelled);
        }
        let record = record(request, signed, &stored.head);
        staging.place(&self.layout, &self.trees, &version, &stored.head.root())?;
        // Before the commit: caches ask as soon as they hear of the version.
        self.carry_profile(record.statement.statement().parent, &stored.head);
        let saved = matches!(new.from, From::WorkingCopy(_));
        self.change(&version.image, |catalogue| {
            catalogue.add(&NewVersion { record: &record, image_serial, deploy: request.deploy, saved })
        })?;
        let hashed_bytes = stored.hashed_bytes;
        tracing::info!(%version, root = %stored.head.root().short(), files = stored.files, hashed_bytes, "version published");
        Ok(Published {
            record: self.version(&version)?,
            version,
            files: stored.files,
            hashed_bytes,
            skipped: stored.skipped,
            skipped_count: stored.skipped_count,
        })
    }

    fn as_it_came(&self, came: &Came) -> Result<AsItCame<'_>, MasterError> {
        let directory = rustix::io::fcntl_dupfd_cloexec(came.directory(), 0);
        let directory = directory.map_err(MasterError::io("open", self.path()))?;
        Ok(AsItCame { tree: Beneath::from_open(directory, self.path().to_owned()), trees: &self.trees })
    }

    /// What is said of the image's next version, and the image's own serial.
    fn statement(&self, image: &ImageName, root: Root) -> Result<(Statement, Serial), MasterError> {
        let now = self.now();
        let (last_number, last_serial) = self.catalogue(|catalogue| catalogue.last(image))?;
        let snapshot = self.snapshot();
        let existing = snapshot.listing.image(image);
        let image_serial = match existing {
            Some(image) => image.serial,
            None => Serial::after(last_serial, now).ok_or(MasterError::Serials)?,
        };
        let last_serial = if existing.is_some() { last_serial } else { Some(image_serial) };
        let mut number = last_number.map_or(Some(VersionNumber::FIRST), VersionNumber::next);
        // A tree that an older catalogue (restored from a backup) does not know is not ours to overwrite.
        while let Some(taken) = number.map(|number| VersionId { image: image.clone(), number }) {
            if !self.layout.version(&taken).exists() {
                break;
            }
            number = taken.number.next();
        }
        let statement = Statement {
            repository: snapshot.listing.repository,
            image: image.clone(),
            number: number.ok_or_else(|| MasterError::Numbers(image.clone()))?,
            serial: Serial::after(last_serial, now).ok_or(MasterError::Serials)?,
            root,
            parent: existing.and_then(|image| image.versions.last()).map(VersionRecord::root),
            time: now,
        };
        Ok((statement, image_serial))
    }
}

fn signed(request: &PublishRequest, statement: Statement) -> SignedStatement {
    let signed = SignedStatement::new(statement);
    match &request.sign {
        Some(key) => signed.sign(key),
        None => signed,
    }
}

fn record(request: &PublishRequest, statement: SignedStatement, head: &Head) -> VersionRecord {
    VersionRecord {
        state: if request.deploy { VersionState::Deployed } else { VersionState::Ready },
        data_bytes: head.data_bytes(),
        note: request.note.clone(),
        statement,
    }
}
