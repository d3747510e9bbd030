//! A repository in memory, and the source that serves it.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use icbd_image::{
    BLOCK_BYTES, FileIndex, Hash, Head, HeadBuilder, ImageName, ImageRecord, Listing, Metadata, PagesBuilder,
    RepositoryId, Root, Run, Serial, SignedStatement, Statement, Timestamp, VersionNumber, VersionRecord, VersionState,
    block_len,
};
use icbd_wire::Check;

use crate::error::SourceError;
use crate::source::{BlockRequest, BlockStream, ListingTag, ProfileAnswer, Source};

/// A source whose versions are in memory. It counts what it is asked for.
#[derive(Debug)]
pub struct MemorySource {
    name: String,
    state: Mutex<State>,
    received_bytes: AtomicU64,
}

/// One request that was made, in the order of [`MemorySource::take_asked`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Listing,
    Head(Root),
    Page(Root, FileIndex, u64),
    Blocks(Run),
    /// Blocks that the source was to compare with their hashes first.
    CheckedBlocks(Run),
}

#[derive(Debug)]
struct State {
    listing: Listing,
    /// Counts the changes of `listing`; its tag.
    changes: u64,
    last_serial: Option<Serial>,
    versions: HashMap<Root, Version>,
    profiles: HashMap<Root, Bytes>,
    asked: Vec<Asked>,
}

#[derive(Debug)]
struct Version {
    head: Head,
    pages: HashMap<(FileIndex, u64), Bytes>,
    files: HashMap<FileIndex, Bytes>,
    /// Blocks that cannot be given as they were published.
    damaged: HashSet<(FileIndex, u64)>,
}

impl MemorySource {
    /// An empty repository, always with the same id.
    pub fn new(name: &str) -> MemorySource {
        MemorySource::with_repository(name, RepositoryId::from_random([7; 16]))
    }

    pub fn with_repository(name: &str, repository: RepositoryId) -> MemorySource {
        let listing = Listing { repository, images: Vec::new() };
        let (versions, profiles) = (HashMap::new(), HashMap::new());
        let state = State { listing, changes: 0, last_serial: None, versions, profiles, asked: Vec::new() };
        MemorySource { name: name.to_owned(), state: Mutex::new(state), received_bytes: AtomicU64::new(0) }
    }

    /// Publishes `files` (names without `/`) as the next version of `image`, ready and unsigned.
    ///
    /// # Panics
    /// When `image` or the files' names are not valid.
    pub fn publish(&self, image: &str, files: &[(&str, Bytes)]) -> VersionRecord {
        let metadata =
            Metadata { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp { seconds: 1_800_000_000, nanoseconds: 1 } };
        let mut builder = HeadBuilder::new(Metadata { mode: 0o755, ..metadata });
        let (mut pages, mut contents) = (HashMap::new(), HashMap::new());
        for (name, bytes) in files {
            let index = builder.file(FileIndex::ROOT, name.as_bytes(), metadata).expect("a valid file name");
            let mut hashes = PagesBuilder::new(bytes.len() as u64).expect("a valid size");
            for block in bytes.chunks(BLOCK_BYTES as usize) {
                hashes.push(Hash::of(block), &mut |page, bytes| {
                    pages.insert((index, page), Bytes::copy_from_slice(bytes));
                });
            }
            builder.set_hashes(index, hashes.finish());
            contents.insert(index, bytes.clone());
        }
        self.publish_tree(image, builder.finish().expect("a valid tree"), pages, contents)
    }

    /// Publishes a tree as the next version of `image`, with the pages and contents of its files.
    ///
    /// # Panics
    /// When `image` is no image's name.
    pub fn publish_tree(
        &self,
        image: &str,
        head: Head,
        pages: HashMap<(FileIndex, u64), Bytes>,
        files: HashMap<FileIndex, Bytes>,
    ) -> VersionRecord {
        let name: ImageName = image.parse().expect("a valid image name");
        let mut state = self.state.lock().expect("no panic under this lock");
        let at = match state.listing.images.binary_search_by(|image| image.name.cmp(&name)) {
            Ok(at) => at,
            Err(at) => {
                let (serial, changed) = state.next_serial();
                let image = ImageRecord {
                    name: name.clone(),
                    serial,
                    changed,
                    deployed: None,
                    fallback: None,
                    versions: Vec::new(),
                    removed: Vec::new(),
                };
                state.listing.images.insert(at, image);
                at
            }
        };
        let (serial, time) = state.next_serial();
        let last = state.listing.images[at].versions.last();
        let number = last.map_or(Some(VersionNumber::FIRST), |last| last.number().next()).expect("few versions");
        let parent = last.map(VersionRecord::root);
        let (repository, root) = (state.listing.repository, head.root());
        let statement = Statement { repository, image: name, number, serial, root, parent, time };
        let record = VersionRecord {
            state: VersionState::Ready,
            data_bytes: head.data_bytes(),
            note: String::new(),
            statement: SignedStatement::new(statement),
        };
        state.listing.images[at].versions.push(record.clone());
        state.listing.images[at].changed = time;
        state.versions.insert(root, Version { head, pages, files, damaged: HashSet::new() });
        record
    }

    /// What is listed now.
    pub fn current_listing(&self) -> Listing {
        self.state.lock().expect("no panic under this lock").listing.clone()
    }

    /// Lists something else from now on: deployed, vanished, signed or foreign versions. What was
    /// published stays served by its root.
    pub fn set_listing(&self, listing: Listing) {
        let mut state = self.state.lock().expect("no panic under this lock");
        state.listing = listing;
        state.changes += 1;
    }

    /// The head of a published version.
    ///
    /// # Panics
    /// When there is none with this root.
    pub fn head_of(&self, root: Root) -> Head {
        self.state.lock().expect("no panic under this lock").versions[&root].head.clone()
    }

    /// Gives these bytes as the boot profile of a version from now on.
    pub fn set_profile(&self, root: Root, profile: Bytes) {
        self.state.lock().expect("no panic under this lock").profiles.insert(root, profile);
    }

    /// Knows nothing of boots of a version any more.
    pub fn forget_profile(&self, root: Root) {
        self.state.lock().expect("no panic under this lock").profiles.remove(&root);
    }

    /// Overwrites a file behind the manifest's back, as a failing disk would.
    pub fn corrupt(&self, root: Root, file: FileIndex, bytes: Bytes) {
        let mut state = self.state.lock().expect("no panic under this lock");
        if let Some(version) = state.versions.get_mut(&root) {
            version.files.insert(file, bytes);
        }
    }

    /// Cannot give these blocks of a file from now on, and all others.
    pub fn set_damaged(&self, root: Root, file: FileIndex, blocks: &[u64]) {
        let mut state = self.state.lock().expect("no panic under this lock");
        if let Some(version) = state.versions.get_mut(&root) {
            version.damaged.retain(|(of, _)| *of != file);
            version.damaged.extend(blocks.iter().map(|block| (file, *block)));
        }
    }

    /// The requests made since the last call.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().expect("no panic under this lock").asked)
    }

    fn asked(&self, asked: Asked) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.state.lock().expect("no panic under this lock");
        state.asked.push(asked);
        state
    }

    fn count(&self, bytes: &Bytes) {
        self.received_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

impl State {
    /// A serial, and a time that rises with it.
    fn next_serial(&mut self) -> (Serial, Timestamp) {
        self.changes += 1;
        let time = Timestamp { seconds: 1_800_000_000 + self.changes as i64, nanoseconds: 0 };
        let serial = Serial::after(self.last_serial, time).expect("few serials");
        self.last_serial = Some(serial);
        (serial, time)
    }
}

#[async_trait]
impl Source for MemorySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    async fn listing(&self, known: Option<&ListingTag>) -> Result<Option<(Listing, ListingTag)>, SourceError> {
        let state = self.asked(Asked::Listing);
        let tag = ListingTag(state.changes.to_string());
        Ok((known != Some(&tag)).then(|| (state.listing.clone(), tag)))
    }

    async fn head(&self, root: Root) -> Result<Bytes, SourceError> {
        let state = self.asked(Asked::Head(root));
        let bytes = state.versions.get(&root).ok_or(SourceError::Absent)?.head.bytes().clone();
        self.count(&bytes);
        Ok(bytes)
    }

    async fn page(&self, root: Root, file: FileIndex, page: u64) -> Result<Bytes, SourceError> {
        let state = self.asked(Asked::Page(root, file, page));
        let version = state.versions.get(&root).ok_or(SourceError::Absent)?;
        let bytes = version.pages.get(&(file, page)).ok_or(SourceError::Absent)?.clone();
        self.count(&bytes);
        Ok(bytes)
    }

    async fn profile(&self, root: Root, known: Option<Hash>) -> Result<ProfileAnswer, SourceError> {
        let state = self.state.lock().expect("no panic under this lock");
        Ok(match state.profiles.get(&root) {
            None => ProfileAnswer::Unknown,
            Some(bytes) if known == Some(Hash::of(bytes)) => ProfileAnswer::Unchanged,
            Some(bytes) => {
                self.count(bytes);
                ProfileAnswer::Bytes(bytes.clone())
            }
        })
    }

    async fn blocks(&self, request: &BlockRequest) -> Result<BlockStream, SourceError> {
        let run = request.run;
        let state = self.asked(match request.check {
            Check::Receiver => Asked::Blocks(run),
            Check::Both => Asked::CheckedBlocks(run),
        });
        let version = state.versions.get(&run.root).ok_or(SourceError::Absent)?;
        let file = version.files.get(&run.file).ok_or(SourceError::Absent)?;
        if file.len() as u64 != request.file_bytes || block_len(request.file_bytes, run.end() - 1) == 0 {
            return Err(SourceError::Absent);
        }
        // As a master does that finds the damage while it answers: it says so before its first byte, else it breaks off.
        let is_damaged = |block: &u64| version.damaged.contains(&(run.file, *block));
        if is_damaged(&run.first) {
            return Err(SourceError::Broken { status: 500, says: format!("block {} is damaged", run.first) });
        }
        let given = run.blocks().take_while(|block| !is_damaged(block));
        let blocks: Vec<(u64, Bytes)> = given.map(|block| (block, cut(file, block))).collect();
        blocks.iter().for_each(|(_, bytes)| self.count(bytes));
        Ok(stream::iter(blocks.into_iter().map(Ok)).boxed())
    }
}

/// Block `block` of a file that has it.
fn cut(file: &Bytes, block: u64) -> Bytes {
    let start = (block * BLOCK_BYTES) as usize;
    file.slice(start..start + block_len(file.len() as u64, block))
}
