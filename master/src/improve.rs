//! Improving: what a workstation wrote over a version's disk becomes the next version.
//!
//! A clone of the version is put together under `improving/`, the parts that were written are put over its disk, and it is
//! published like a working copy: what was not written is neither moved nor read. Whatever keeps it from becoming a version, a
//! kill too, leaves nothing: what lies there is removed at once, or by the next start.

mod disk;
mod ntfs;
mod partitions;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use icbd_image::{ImageName, Kind, Root, SecretKey, VersionId, VersionNumber, VersionState};
use icbd_snapshot::beneath::Beneath;
use icbd_snapshot::{Tree, Trees, Writable};
use rustix::fs::{FallocateFlags, Mode, OFlags};

use crate::layout::{IMPROVING, Layout};
use crate::publish::{From, New, full_or};
use crate::repository::guard;
use crate::{Hold, MasterError, Progress, PublishRequest, Published, Repository, trees};
pub use disk::{Left, LeftHow};

/// Over which disk of which version something was written.
#[derive(Debug, Clone)]
pub struct ImproveRequest {
    pub version: VersionId,
    pub root: Root,
    /// The path of the disk in it.
    pub file: String,
    pub file_bytes: u64,
    /// Whether there may be a newer version, of which nothing will be in this one.
    pub force: bool,
}

/// A version's clone that is being written to. Dropping it removes it.
#[derive(Debug)]
pub struct Improving {
    request: ImproveRequest,
    disk: File,
    tree: Option<Writable>,
    place: Place,
    _hold: Hold,
}

/// That nobody else improves the image, and where that is done.
#[derive(Debug)]
struct Place {
    repository: Arc<Repository>,
    image: ImageName,
}

impl Repository {
    /// Begins with a clone of the version. Refused if it is not here as it was there, or is not the newest in service.
    pub fn improve(self: &Arc<Self>, request: ImproveRequest) -> Result<Improving, MasterError> {
        let version = &request.version;
        self.check_improvable(&request)?;
        self.check_soundness(version)?;
        let hold = self.hold(request.root);
        let other = || MasterError::OtherDisk { version: version.clone(), path: request.file.clone() };
        let head = self.head(request.root)?;
        let node = head.resolve(request.file.as_bytes()).and_then(|index| head.node(index));
        node.filter(|node| node.kind() == Kind::File && node.size() == request.file_bytes).ok_or_else(other)?;
        let place = Place::take(self, &version.image)?;
        let tree = self.clone_version(version, &at(&version.image))?;
        let directory = rustix::io::fcntl_dupfd_cloexec(tree.directory(), 0);
        let directory = directory.map_err(MasterError::io("open", tree.path()))?;
        let beneath = Beneath::from_open(directory, tree.path().to_owned());
        let opened = beneath.open_at(request.file.as_bytes(), OFlags::RDWR, Mode::empty());
        let disk = File::from(opened.map_err(MasterError::io("open", beneath.shown(request.file.as_bytes())))?);
        if disk.metadata().map_err(MasterError::io("look at", tree.path()))?.len() != request.file_bytes {
            return Err(other());
        }
        Ok(Improving { request, disk, tree: Some(tree), place, _hold: hold })
    }

    fn check_improvable(&self, request: &ImproveRequest) -> Result<(), MasterError> {
        let ImproveRequest { version, root, force, .. } = request;
        let listing = self.listing();
        let image = listing.image(&version.image);
        let here = image.and_then(|image| image.version(version.number)).filter(|here| here.root() == *root);
        if here.is_none() {
            return Err(MasterError::NotHere { version: version.clone(), root: *root });
        }
        let is_in_service = |state| matches!(state, VersionState::Ready | VersionState::Deployed);
        let versions = image.into_iter().flat_map(|image| image.versions.iter().rev());
        let newest = versions.clone().find(|version| is_in_service(version.state)).map(|newest| newest.number());
        match newest {
            Some(newest) if newest != version.number && !force => {
                let newest = VersionId { image: version.image.clone(), number: newest };
                Err(MasterError::NotNewest { version: version.clone(), newest })
            }
            _ => Ok(()),
        }
    }
}

impl Improving {
    pub fn version(&self) -> &VersionId {
        &self.request.version
    }

    /// Puts bytes over the disk.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MasterError> {
        self.written(self.disk.write_all_at(bytes, offset))
    }

    /// Puts zeros over the disk, which take no room.
    pub fn clear(&self, range: Range<u64>) -> Result<(), MasterError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = rustix::fs::fallocate(&self.disk, flags, range.start, range.end - range.start);
        self.written(punched.map_err(std::io::Error::from))
    }

    fn written(&self, done: std::io::Result<()>) -> Result<(), MasterError> {
        let layout = &self.place.repository.layout;
        done.map_err(|error| {
            full_or(
                MasterError::io("write", layout.root().join(self.place.at()).join(&self.request.file))(error),
                layout,
            )
        })
    }

    /// How the file systems on the disk were left, as far as that is to be worried about.
    pub fn left(&self) -> Vec<Left> {
        disk::left(&self.disk, self.request.file_bytes)
    }

    /// Makes it the next version, ready.
    pub fn finish(
        mut self,
        note: String,
        sign: Option<Arc<SecretKey>>,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &AtomicBool,
    ) -> Result<Published, MasterError> {
        let (repository, version) = (self.place.repository.clone(), self.request.version.clone());
        let path = repository.layout.root().join(self.place.at());
        let request = PublishRequest { image: version.image, path, raw: false, note, deploy: false, sign };
        let parent: Option<VersionNumber> = Some(version.number);
        let tree = self.tree.take();
        let new = New { request: &request, from: From::Outside, parent };
        repository.publish_new(new, progress, cancel, |new| {
            // Somebody else may have published while this one waited.
            repository.check_improvable(&self.request)?;
            new.from = From::Improved(tree.ok_or(MasterError::Cancelled)?);
            Ok(())
        })
    }
}

impl Place {
    fn take(repository: &Arc<Repository>, image: &ImageName) -> Result<Place, MasterError> {
        if !guard(&repository.improving).insert(image.clone()) {
            return Err(MasterError::ImprovedTwice(image.clone()));
        }
        let place = Place { repository: repository.clone(), image: image.clone() };
        // What could not be removed the last time.
        trees::remove(&repository.trees, &place.at())?;
        Ok(place)
    }

    fn at(&self) -> PathBuf {
        at(&self.image)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = trees::remove(&self.repository.trees, &self.at()) {
            tracing::warn!(image = %self.image, %error, "what was to become a version takes room until the next start");
        }
        guard(&self.repository.improving).remove(&self.image);
    }
}

/// Where an image's next version is put together, below the repository.
fn at(image: &ImageName) -> PathBuf {
    Path::new(IMPROVING).join(image.as_str())
}

/// Removes what a kill left. For a repository that nobody else uses.
pub(crate) fn clean(layout: &Layout, trees: &Trees) -> Result<(), MasterError> {
    match layout.root().join(IMPROVING).exists() {
        true => Ok(trees.remove(Path::new(IMPROVING))?),
        false => Ok(()),
    }
}
