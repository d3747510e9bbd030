//! A repository on a local disk or NFS, read as files: an offline mirror.
//!
//! Heads and pages are read from `manifests/`, blocks from the trees in `versions/IMAGE/N/`. What the
//! repository holds is given as a listing when the source is made, and does not change.

mod tree;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use icbd_image::{BLOCK_BYTES, FileIndex, Hash, Head, Listing, Profile, Root, block_len};
use icbd_wire::FRAME_BLOCKS_MAX;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::SourceError;
use crate::settings::TimeOuts;
use crate::source::{BlockRequest, BlockStream, ListingTag, ProfileAnswer, Source};
use tree::Tree;

/// Reads at a time. A server of NFS that hangs keeps at most so many threads.
const READS_MAX: usize = 4;

/// Versions whose trees are kept in memory.
const TREES_MAX: usize = 8;

/// A source that reads a repository's files.
#[derive(Debug)]
pub struct DirectorySource {
    name: String,
    repository: PathBuf,
    listing: Listing,
    time_outs: TimeOuts,
    reads: Arc<Semaphore>,
    received_bytes: Arc<AtomicU64>,
    /// The most recently used last.
    trees: Mutex<VecDeque<(Root, Arc<Tree>)>>,
}

impl DirectorySource {
    /// For the repository in directory `repository`, which holds what `listing` says.
    pub fn new(repository: &Path, listing: Listing, time_outs: TimeOuts) -> DirectorySource {
        DirectorySource {
            name: repository.display().to_string(),
            repository: repository.to_owned(),
            listing,
            time_outs,
            reads: Arc::new(Semaphore::new(READS_MAX)),
            received_bytes: Arc::default(),
            trees: Mutex::default(),
        }
    }

    /// The tree of a version, from memory or from its head.
    async fn tree(&self, root: Root) -> Result<Arc<Tree>, SourceError> {
        let kept = self.trees.lock().expect("no panic under this lock").iter().find(|(of, _)| *of == root).cloned();
        if let Some((_, tree)) = kept {
            return Ok(tree);
        }
        let head = Head::parse_expecting(self.head(root).await?, &root)?;
        let tree = Arc::new(Tree::new(self.version_folder(root)?, head));
        let mut trees = self.trees.lock().expect("no panic under this lock");
        trees.push_back((root, tree.clone()));
        if trees.len() > TREES_MAX {
            trees.pop_front();
        }
        Ok(tree)
    }

    fn version_folder(&self, root: Root) -> Result<PathBuf, SourceError> {
        let versions = self.listing.images.iter().flat_map(|image| &image.versions);
        let version = versions.into_iter().find(|version| version.root() == root).ok_or(SourceError::Absent)?;
        let id = version.statement.statement().version();
        Ok(self.repository.join("versions").join(id.image.as_str()).join(id.number.to_string()))
    }

    fn manifest(&self, root: Root, extension: &str) -> PathBuf {
        self.repository.join("manifests").join(format!("{root}.{extension}"))
    }

    fn reader(&self) -> Reader {
        let (reads, time_outs) = (self.reads.clone(), self.time_outs);
        Reader { reads, time_outs, received_bytes: self.received_bytes.clone() }
    }
}

#[async_trait]
impl Source for DirectorySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    async fn listing(&self, known: Option<&ListingTag>) -> Result<Option<(Listing, ListingTag)>, SourceError> {
        let tag = ListingTag("as given".to_owned());
        // The one thing asked of the disk: whether the repository is there at all.
        let manifests = self.repository.join("manifests");
        self.reader().run(move || std::fs::metadata(manifests).map(|_| Bytes::new())).await?;
        Ok((known != Some(&tag)).then(|| (self.listing.clone(), tag)))
    }

    async fn head(&self, root: Root) -> Result<Bytes, SourceError> {
        let path = self.manifest(root, "head");
        let read = move || {
            let file = open_regular(&path)?;
            let bytes = file.metadata()?.len();
            if bytes > Head::BYTES_MAX as u64 {
                return Err(io::Error::other(format!("{} has {bytes} bytes, too many for a head", path.display())));
            }
            read_at(&file, 0, bytes as usize)
        };
        self.reader().run(read).await
    }

    async fn page(&self, root: Root, file: FileIndex, page: u64) -> Result<Bytes, SourceError> {
        let (offset, bytes) = self.tree(root).await?.page(file, page).ok_or(SourceError::Absent)?;
        let path = self.manifest(root, "pages");
        self.reader().run(move || read_at(&open_regular(&path)?, offset, bytes)).await
    }

    async fn profile(&self, root: Root, known: Option<Hash>) -> Result<ProfileAnswer, SourceError> {
        let path = self.repository.join("profiles").join(format!("{root}.profile"));
        let read = move || {
            let file = open_regular(&path)?;
            // One that is longer is cut, and thereby damaged.
            let bytes = file.metadata()?.len().min(Profile::BYTES_MAX as u64);
            read_at(&file, 0, bytes as usize)
        };
        match self.reader().run(read).await {
            Ok(bytes) if known == Some(Hash::of(&bytes)) => Ok(ProfileAnswer::Unchanged),
            Ok(bytes) => Ok(ProfileAnswer::Bytes(bytes)),
            Err(SourceError::Absent) => Ok(ProfileAnswer::Unknown),
            Err(error) => Err(error),
        }
    }

    async fn blocks(&self, request: &BlockRequest) -> Result<BlockStream, SourceError> {
        let BlockRequest { run, file_bytes, .. } = *request;
        let path = self.tree(run.root).await?.path(run.file, file_bytes).ok_or(SourceError::Absent)?;
        if block_len(file_bytes, run.end() - 1) == 0 {
            return Err(SourceError::Absent);
        }
        let reader = self.reader();
        let (next, ready) = (run.first, VecDeque::new());
        let blocks =
            stream::try_unfold((next, ready, reader, path), move |(mut next, mut ready, reader, path)| async move {
                if ready.is_empty() && next < run.end() {
                    // As frames are cut: the demanded block, which is the first, does not wait for the others.
                    let most = if next == run.first { 1 } else { FRAME_BLOCKS_MAX as u64 };
                    let blocks = next..run.end().min(next + most);
                    let start = next * BLOCK_BYTES;
                    let bytes = blocks.clone().map(|block| block_len(file_bytes, block)).sum();
                    let from: PathBuf = path.clone();
                    let mut piece = reader.run(move || read_at(&open_regular(&from)?, start, bytes)).await?;
                    ready.extend(blocks.clone().map(|block| (block, piece.split_to(block_len(file_bytes, block)))));
                    next = blocks.end;
                }
                Ok(ready.pop_front().map(|block| (block, (next, ready, reader, path))))
            });
        Ok(blocks.boxed())
    }
}

/// Reads files off the async threads, a few at a time, each within the time-out.
#[derive(Debug, Clone)]
struct Reader {
    reads: Arc<Semaphore>,
    time_outs: TimeOuts,
    received_bytes: Arc<AtomicU64>,
}

impl Reader {
    async fn run(&self, read: impl FnOnce() -> io::Result<Bytes> + Send + 'static) -> Result<Bytes, SourceError> {
        let (reads, after) = (self.reads.clone(), self.time_outs.first_byte);
        let bounded = async move {
            let permit = reads.acquire_owned().await.expect("the semaphore is never closed");
            // A thread that hangs keeps its permit, also when nobody waits for it any more.
            let thread = move || (read(), permit).0;
            tokio::task::spawn_blocking(thread).await.map_err(io::Error::other)?
        };
        let bytes = match timeout(after, bounded).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(SourceError::Absent),
            Ok(Err(error)) => return Err(SourceError::Disk(error.to_string())),
            Err(_) => return Err(SourceError::Timeout { what: "its disk gave nothing", after }),
        };
        self.received_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// Opens what is a file and nothing that could block or be without end.
fn open_regular(path: &Path) -> io::Result<File> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other(format!("{} is not a regular file", path.display())));
    }
    File::open(path)
}

fn read_at(file: &File, offset: u64, bytes: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; bytes];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer.into())
}
