//! Everything that can go wrong in a repository, in words for the person who must mend it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use icbd_image::{FileIndex, HeadError, ImageName, PageError, Refusal, RepositoryId, Root, StatementError, VersionId};
use icbd_snapshot::SnapshotError;

/// Why a repository refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    #[error("repository {} is in use by process {}; stop it, or publish through it", path.display(), pid.map_or("(unknown)".to_owned(), |pid| pid.to_string()))]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error("{} is not a repository; check the path, or publish into it once to create it", .0.display())]
    NotARepository(PathBuf),
    #[error("{} holds other files; a new repository needs an empty directory or one that does not exist", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} is a cache's store (it holds {mark}) and was left as it is; name another directory for the repository{hint}", path.display())]
    IsAStore { path: PathBuf, mark: &'static str, hint: &'static str },
    #[error("repository {} has lost its catalogue, catalog.db, and still holds versions; restore catalog.db from a backup", .0.display())]
    CatalogueMissing(PathBuf),
    #[error("repository {} was made by a newer icbd (catalogue format {found}, this icbd knows {ours}); upgrade icbd", path.display())]
    Newer { path: PathBuf, found: u32, ours: u32 },
    #[error(
        "the trees of repository {0} are kept as {kind}, and cannot be opened as such: {why}. See that the right file system is \
         mounted there, and that this icbd is not older than the one that made them; if the repository was moved to another \
         kind of file system on purpose, have its trees chosen anew with \
         `sqlite3 {0}/catalog.db 'UPDATE repository SET trees = NULL'`",
        path.display()
    )]
    TreesKind { path: PathBuf, kind: String, why: String },
    #[error("the catalogue {} failed: {source}; if it is damaged, restore it from a backup (the versions are not touched)", path.display())]
    Catalogue { path: PathBuf, source: rusqlite::Error },
    #[error("the catalogue {} is damaged: {what}; restore it from a backup (the versions are not touched)", path.display())]
    CatalogueDamaged { path: PathBuf, what: String },

    #[error("there is no {} to publish", .0.display())]
    SourceMissing(PathBuf),
    #[error("{} is {what}; publish a directory or a regular file", path.display())]
    SourceKind { path: PathBuf, what: &'static str },
    #[error("{} holds nothing that can be published", .0.display())]
    SourceEmpty(PathBuf),
    #[error("{} and the repository {} lie inside each other; publish a tree that is apart from the repository", path.display(), repository.display())]
    SourceOverlaps { path: PathBuf, repository: PathBuf },
    #[error("{} changed while it was being published; publish a tree at rest (stop what writes to it, or take a snapshot)", .0.display())]
    Changed(PathBuf),
    #[error("{} lies too deep: a version holds paths of at most {bytes_max} bytes and {depth_max} directories", path.display())]
    Deep { path: PathBuf, bytes_max: usize, depth_max: usize },
    #[error("the file system of repository {} is full; free some space (`icbd image prune` says what may go) and try again", .0.display())]
    Full(PathBuf),
    #[error("cannot keep {what} of {} in the repository: {source}; publish as root into a file system that can store it", path.display())]
    Attribute { path: PathBuf, what: String, source: io::Error },
    #[error("{} cannot be published: {source}", path.display())]
    Unfit { path: PathBuf, source: Box<HeadError> },
    #[error("the disk image {} cannot be converted: {why}", path.display())]
    Disk { path: PathBuf, why: String },
    #[error(
        "cannot run `{0}`: it is not installed; install the package qemu-utils (Debian, Ubuntu) or qemu-img (Fedora), or publish without --raw"
    )]
    NoProgram(&'static str),
    #[error("the note has {bytes} bytes; write at most {bytes_max}")]
    Note { bytes: usize, bytes_max: usize },
    #[error("it was cancelled")]
    Cancelled,
    #[error("image {0} has used up its version numbers")]
    Numbers(ImageName),
    #[error("the clock is at an impossible time, so no serial can be given; set the clock")]
    Serials,

    #[error("there is no image {0}")]
    NoImage(ImageName),
    #[error("there is no version {0}")]
    NoVersion(VersionId),
    #[error("no version of {0} is deployed; deploy one with `icbd image deploy {0}@N`")]
    NotDeployed(ImageName),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the working copy of {image}, {}, is gone: somebody deleted it; `icbd image discard {image}` ends it", path.display())]
    CopyGone { image: ImageName, path: PathBuf },
    #[error("the working copy of {0} is being made just now; wait until `icbd image edit {0}` has ended")]
    CopyBeingMade(ImageName),
    #[error("{0} is to be deployed; give that up first with `icbd image deploy {0} --cancel`, or insist with --force")]
    Planned(VersionId),
    #[error("{0} is the deployed version already")]
    DeployedAlready(VersionId),
    #[error(
        "{version} is not what was published: {what}; `icbd image verify {version}` tells all of it, and `icbd store scrub --from URL` \
         mends it from a node that holds a good copy"
    )]
    Unsound { version: VersionId, what: String },
    #[error(
        "{version} belongs to the repository {theirs}, and this one is {mine} and has images of its own; replicate it to \
         a repository that is empty or a copy of that one, or publish its content here"
    )]
    ForeignVersion { version: VersionId, theirs: RepositoryId, mine: RepositoryId },
    #[error("{0} is here already, and is the same; there is nothing to do")]
    HereAlready(VersionId),
    #[error(
        "another {0} is here, with other content; a version never changes: find out which of the two repositories is right"
    )]
    OtherVersion(VersionId),
    #[error("{0} was removed here, and a removed version does not come back; publish its content as a new one")]
    RemovedHere(VersionId),
    #[error(
        "the source lists {0} with serials that cannot be; nothing is taken from it: see whether it is a master that you know"
    )]
    ImpossibleSerials(VersionId),
    #[error(
        "what the stream made of {0} is not what was announced, and was removed; without --stream only blocks that are what \
         their hashes say are taken"
    )]
    NotAsStreamed(VersionId),
    #[error(
        "{0} is on a file system that neither sends nor receives streams of versions; btrfs does, and without --stream any will do"
    )]
    NoStreams(PathBuf),
    #[error("{0} is being received by somebody else now")]
    ReceivedTwice(VersionId),
    #[error(
        "what was received of {0} is not what was announced; run the same command again, which compares each block with its hash"
    )]
    NotAsSent(VersionId),
    #[error(
        "{version} (root {}) is not here, so nothing that was written over it can be saved here: it is of another master, or was \
         removed; save it on the master that it came from", root.short()
    )]
    NotHere { version: VersionId, root: Root },
    #[error(
        "{newest} is newer than {version}, over which this was written: nothing of it would be in the new version; make the change \
         again over {newest}, or insist with --force"
    )]
    NotNewest { version: VersionId, newest: VersionId },
    #[error("{version} has no disk {path} of the size of the one that was written to")]
    OtherDisk { version: VersionId, path: String },
    #[error("what another workstation wrote is being saved as a version of {0} just now; try again when that is done")]
    ImprovedTwice(ImageName),
    #[error("no version here has root {0}")]
    UnknownRoot(Root),
    #[error("version {} has no file {file}", root.short())]
    NoIndex { root: Root, file: FileIndex },
    #[error("file {file} of version {} has no blocks {first} to {last}", root.short())]
    NoBlocks { root: Root, file: FileIndex, first: u64, last: u64 },
    #[error("{version} has no file {path}")]
    NoFile { version: VersionId, path: String },

    #[error("version altered on disk: {version}: {path}, block {block}; publish it again from a good copy")]
    Altered { version: VersionId, path: String, block: u64 },
    #[error("version altered on disk: {version}: {path}: {what}; publish it again from a good copy")]
    Damaged { version: VersionId, path: String, what: String },
    #[error(
        "the manifest of {version} is damaged: {} {what}; restore it from a backup, or publish the version again from a good copy",
        path.display()
    )]
    Manifest { version: VersionId, path: PathBuf, what: &'static str },
    #[error("the manifest of {version} is damaged: {source}; restore {} from a backup, or publish the version again from a good copy", path.display())]
    Head { version: VersionId, path: PathBuf, source: Box<HeadError> },
    #[error("the manifest of {version} is damaged: {source}; restore {} from a backup, or publish the version again from a good copy", path.display())]
    Page { version: VersionId, path: PathBuf, source: Box<PageError> },
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The error of a look-up that several readers waited for.
    #[error("{0}")]
    Shared(Arc<MasterError>),
    #[error(transparent)]
    Tree(Box<SnapshotError>),
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl MasterError {
    /// Whether the same call would fail again although nobody mends anything.
    pub fn is_permanent(&self) -> bool {
        match self {
            MasterError::Shared(error) => error.is_permanent(),
            MasterError::Refused(refusal) => refusal.is_permanent(),
            MasterError::Tree(error) => error.is_permanent(),
            MasterError::Locked { .. }
            | MasterError::Changed(_)
            | MasterError::ReceivedTwice(_)
            | MasterError::ImprovedTwice(_)
            | MasterError::CopyBeingMade(_)
            | MasterError::NotAsSent(_)
            | MasterError::Full(_)
            | MasterError::Cancelled
            | MasterError::Catalogue { .. }
            | MasterError::Io { .. } => false,
            MasterError::NotARepository(_)
            | MasterError::NotEmpty(_)
            | MasterError::CatalogueMissing(_)
            | MasterError::IsAStore { .. }
            | MasterError::TreesKind { .. }
            | MasterError::Newer { .. }
            | MasterError::CatalogueDamaged { .. }
            | MasterError::SourceMissing(_)
            | MasterError::SourceKind { .. }
            | MasterError::SourceEmpty(_)
            | MasterError::SourceOverlaps { .. }
            | MasterError::Deep { .. }
            | MasterError::Attribute { .. }
            | MasterError::Unfit { .. }
            | MasterError::Disk { .. }
            | MasterError::NoProgram(_)
            | MasterError::Note { .. }
            | MasterError::Numbers(_)
            | MasterError::Serials
            | MasterError::NoImage(_)
            | MasterError::NoVersion(_)
            | MasterError::NotDeployed(_)
            | MasterError::CopyGone { .. }
            | MasterError::Planned(_)
            | MasterError::DeployedAlready(_)
            | MasterError::ForeignVersion { .. }
            | MasterError::HereAlready(_)
            | MasterError::OtherVersion(_)
            | MasterError::ImpossibleSerials(_)
            | MasterError::RemovedHere(_)
            | MasterError::NotHere { .. }
            | MasterError::NotNewest { .. }
            | MasterError::OtherDisk { .. }
            | MasterError::Unsound { .. }
            | MasterError::NotAsStreamed(_)
            | MasterError::NoStreams(_)
            | MasterError::UnknownRoot(_)
            | MasterError::NoIndex { .. }
            | MasterError::NoBlocks { .. }
            | MasterError::NoFile { .. }
            | MasterError::Altered { .. }
            | MasterError::Damaged { .. }
            | MasterError::Manifest { .. }
            | MasterError::Head { .. }
            | MasterError::Page { .. }
            | MasterError::Statement(_) => true,
        }
    }

    /// Whether what was asked for is not here, as opposed to refused or broken (a 404).
    pub fn is_absent(&self) -> bool {
        match self {
            MasterError::Shared(error) => error.is_absent(),
            MasterError::NoImage(_)
            | MasterError::NoVersion(_)
            | MasterError::Refused(Refusal::Absent(_))
            | MasterError::NotDeployed(_)
            | MasterError::UnknownRoot(_)
            | MasterError::NoIndex { .. }
            | MasterError::NoBlocks { .. }
            | MasterError::NoFile { .. } => true,
            _ => false,
        }
    }

    /// For `map_err`: what was being done, on which path.
    pub(crate) fn io<E: Into<io::Error>>(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> MasterError {
        let path = path.into();
        move |source| MasterError::Io { doing, path, source: source.into() }
    }
}
