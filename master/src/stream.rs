//! Versions that travel as their file system's own streams: whole, or as what differs from one that both repositories have.
//!
//! A stream is obeyed, not checked, while it makes a tree: whoever orders one trusts the other repository as far as root's
//! `btrfs receive` does. What it made is read like any tree that is published, but for what it shares with a version here,
//! and becomes a version only if its manifest is the one that was announced.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use icbd_image::{ImageRecord, Root, VersionId, VersionNumber, VersionRecord};
use icbd_snapshot::{Encoding, Received, Sealed, Sending, Streams, Tree};
use icbd_wire::StreamBase;

use crate::publish::{From, Given, New};
use crate::receive::{Place, receiving};
use crate::serve::OpenVersion;
use crate::users::Hold;
use crate::{MasterError, Progress, PublishRequest, Published, Repository, trees};

/// A version on its way to somebody else; neither it nor what it differs from is removed meanwhile.
#[derive(Debug)]
pub struct Outgoing {
    stream: Sending,
    _holds: Vec<Hold>,
}

impl Read for Outgoing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(buffer)
    }
}

/// A version on its way here. If it does not become one, nothing of it is left, at the latest after the next start.
#[derive(Debug)]
pub struct Incoming {
    repository: Arc<Repository>,
    record: VersionRecord,
    image_serial: icbd_image::Serial,
    base: Option<(VersionNumber, StreamBase)>,
    _place: Place,
}

impl Repository {
    /// The stream of a version: of data as packed as it lies on the disk, or plain, for who packs it.
    pub fn stream(&self, root: Root, base: Option<StreamBase>, is_plain: bool) -> Result<Outgoing, MasterError> {
        let mut holds = vec![self.hold(root)];
        holds.extend(base.map(|base| self.hold(base.root)));
        let streams = self.streams()?;
        let tree = self.tree_of(root)?;
        let parent = match base {
            None => None,
            Some(base) => {
                let parent = self.tree_of(base.root)?;
                // Another tree of the same content is none that the receiver's file system knows.
                if streams.lineage(&parent)? != base.lineage {
                    return Err(MasterError::UnknownRoot(base.root));
                }
                Some(parent)
            }
        };
        let encoding = if is_plain { Encoding::Protocol2 } else { Encoding::AsStored };
        Ok(Outgoing { stream: streams.send(&tree, parent.as_ref(), encoding)?, _holds: holds })
    }

    fn streams(&self) -> Result<Streams<'_>, MasterError> {
        self.trees.streams().ok_or_else(|| MasterError::NoStreams(self.path().to_owned()))
    }

    fn tree_of(&self, root: Root) -> Result<Sealed, MasterError> {
        let version = self.snapshot().version_of(&root).ok_or(MasterError::UnknownRoot(root))?.clone();
        self.check_soundness(&version)?;
        Ok(self.trees.sealed(&trees::version(&version))?)
    }

    /// Begins to receive a version of `image`, as its repository lists it, by a stream.
    pub fn receive_stream(
        self: &Arc<Self>,
        image: &ImageRecord,
        record: &VersionRecord,
    ) -> Result<Incoming, MasterError> {
        self.streams()?;
        let place = Place::take(self, image, record)?;
        // What was begun otherwise, or received and not published.
        trees::remove(&self.trees, &receiving(place.version()))?;
        let base = self.stream_base(image);
        let (repository, record) = (self.clone(), record.clone());
        Ok(Incoming { repository, record, image_serial: image.serial, base, _place: place })
    }

    /// The newest version here that both have, as far as is known, and that nobody can have written to.
    fn stream_base(&self, image: &ImageRecord) -> Option<(VersionNumber, StreamBase)> {
        let (listing, streams) = (self.listing(), self.streams().ok()?);
        let here = listing.image(&image.name)?;
        here.versions.iter().rev().find_map(|record| {
            let root = record.root();
            let is_common = image.versions.iter().any(|theirs| theirs.root() == root);
            let version = record.statement.statement().version();
            let open = OpenVersion::open_as(self, self.head(root).ok()?, version.clone()).ok()?;
            let is_usable = is_common && open.is_frozen() && self.check_soundness(&version).is_ok();
            let tree = is_usable.then(|| self.trees.sealed(&trees::version(&version)).ok()).flatten()?;
            Some((version.number, StreamBase { root, lineage: streams.lineage(&tree).ok()? }))
        })
    }
}

impl Incoming {
    pub fn version(&self) -> VersionId {
        self.record.statement.statement().version()
    }

    /// What the stream can be a difference from.
    pub fn base(&self) -> Option<StreamBase> {
        self.base.map(|(_, base)| base)
    }

    /// Takes the stream. What is written to it is obeyed.
    pub fn begin(&self) -> Result<icbd_snapshot::Receiving<'_>, MasterError> {
        Ok(self.repository.streams()?.receive(&receiving(&self.version()))?)
    }

    /// Makes what was received a version, ready. On an error nothing is left of it.
    pub fn finish(
        self,
        received: Received,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &AtomicBool,
    ) -> Result<Published, MasterError> {
        let version = self.version();
        let request = PublishRequest {
            image: version.image.clone(),
            path: received.tree.path().to_owned(),
            raw: false,
            note: self.record.note.clone(),
            deploy: false,
            sign: None,
        };
        let given = Box::new(Given { record: self.record.clone(), image_serial: self.image_serial });
        let parent = self.base.map(|(number, _)| number);
        let new = New { request: &request, from: From::Streamed(Box::new(received), given), parent };
        let published = self.repository.publish_new(new, progress, cancel, |_| Ok(()));
        let removed = trees::remove(&self.repository.trees, &receiving(&version));
        let published = published?;
        removed.map(|()| published)
    }
}
