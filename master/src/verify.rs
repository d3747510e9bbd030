//! Re-reading a whole version from disk: every block, every name, every attribute, the signature.

mod names;

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use icbd_image::{BLOCK_BYTES, FileIndex, Hash, KeyId, PAGE_BLOCKS, Page, Root, Trust, VersionId, block_count};
use rustix::fs::Advice;

use crate::publish::{PIECE_BYTES, segments, threads, touched_blocks};
use crate::repository::guard;
use crate::serve::OpenVersion;
use crate::{MasterError, Repository};

/// What a verification found.
#[derive(Debug, Clone)]
pub struct VerifyReport {
    pub version: VersionId,
    pub root: Root,
    /// Blocks and bytes of all files, holes included.
    pub blocks: u64,
    pub bytes: u64,
    /// The trusted key that signed the version, if one did.
    pub signer: Option<KeyId>,
    /// What is wrong, at most [`VerifyReport::FAULTS_MAX`] of it; empty for a whole version.
    pub faults: Vec<Fault>,
    pub fault_count: u64,
}

impl VerifyReport {
    /// Nobody reads more; all of them are counted.
    pub const FAULTS_MAX: usize = 1000;

    pub fn is_whole(&self) -> bool {
        self.fault_count == 0
    }
}

/// One thing in a stored version that is not as it was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The path within the version.
    pub path: String,
    pub kind: FaultKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// This block has other bytes, or cannot be read.
    Block(u64),
    Missing,
    /// It was not published.
    Extra,
    /// It differs in this respect.
    Differs(&'static str),
    /// The hashes of its blocks are damaged, so they cannot be checked.
    Pages(PathBuf),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = if self.path.is_empty() { "the top directory" } else { &*self.path };
        match &self.kind {
            FaultKind::Block(block) => write!(f, "{path}, block {block}"),
            FaultKind::Missing => write!(f, "{path} is missing"),
            FaultKind::Extra => write!(f, "{path} was not published"),
            FaultKind::Differs(what) => write!(f, "{path} has another {what}"),
            FaultKind::Pages(pages) => write!(f, "the hash pages of {path} are damaged, in {}", pages.display()),
        }
    }
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    pub done_bytes: u64,
    pub all_bytes: u64,
}

impl Repository {
    /// Re-reads a version on all cores and compares it with its manifest, and its statement with `trust`.
    ///
    /// What is wrong is in the report, not an error; a version is noted as damaged, or as whole again,
    /// by what was found. `progress` is called on several threads.
    pub fn verify(
        &self,
        version: &VersionId,
        trust: &Trust,
        progress: &(dyn Fn(VerifyProgress) + Sync),
        cancel: &AtomicBool,
    ) -> Result<VerifyReport, MasterError> {
        let record = self.version(version)?;
        let signer = trust.signer(&record.statement)?.map(|key| key.id());
        let root = record.root();
        self.serving.forget(&root);
        let opened = match OpenVersion::open_as(self, self.head(root)?, version.clone()) {
            Err(MasterError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                // Unless it was removed meanwhile. That it is missing is noted already.
                self.version(version)?;
                let faults = vec![Fault { path: String::new(), kind: FaultKind::Missing }];
                let (version, fault_count) = (version.clone(), 1);
                return Ok(VerifyReport { version, root, blocks: 0, bytes: 0, signer, faults, fault_count });
            }
            opened => opened?,
        };
        let faults = Faults::default();
        names::check(&opened, &faults)?;
        let check = Check {
            repository: self,
            opened: &opened,
            faults: &faults,
            pieces: Mutex::new(Pieces::new(&opened)),
            done_bytes: AtomicU64::new(0),
            all_bytes: opened.head().data_bytes(),
        };
        std::thread::scope(|scope| {
            for _ in 0..threads() {
                scope.spawn(|| check.work(progress, cancel));
            }
        });
        if cancel.load(Ordering::Relaxed) {
            return Err(MasterError::Cancelled);
        }
        let (blocks, bytes) = (opened.head().files().map(|file| file.blocks()).sum(), check.all_bytes);
        let Found { mut faults, count: fault_count } = guard(&faults.0).clone();
        faults.sort_by(|a, b| (&a.path, a.kind.block()).cmp(&(&b.path, b.kind.block())));
        match faults.first() {
            Some(fault) => self.note_damage(version, &fault.to_string()),
            None => self.clear_damage(version)?,
        }
        Ok(VerifyReport { version: version.clone(), root, blocks, bytes, signer, faults, fault_count })
    }
}

impl Repository {
    /// That a version looks as it was published: its manifest is there and right, and so are all names, sizes, times
    /// and other attributes, and nobody who read it found anything wrong. No block is read.
    pub fn check_soundness(&self, version: &VersionId) -> Result<(), MasterError> {
        let unsound = |what: String| MasterError::Unsound { version: version.clone(), what };
        let root = self.version(version)?.root();
        let known = || self.damages().get(version).map_or(Ok(()), |damage| Err(unsound(damage.clone())));
        known()?;
        self.serving.forget(&root);
        let head = self.head(root).map_err(|error| unsound(error.to_string()))?;
        let opened = OpenVersion::open_as(self, head, version.clone()).map_err(|error| unsound(error.to_string()))?;
        // Opening looks at sizes.
        known()?;
        let faults = Faults::default();
        names::check(&opened, &faults)?;
        let found = guard(&faults.0);
        // What is gone says more than the time of the directory that it is gone from.
        let worst = found.faults.iter().min_by_key(|fault| matches!(fault.kind, FaultKind::Differs(_)));
        worst.map_or(Ok(()), |fault| Err(unsound(fault.to_string())))
    }
}

impl FaultKind {
    fn block(&self) -> u64 {
        if let FaultKind::Block(block) = self { *block } else { 0 }
    }
}

/// What was found so far, by all threads.
#[derive(Default)]
struct Faults(Mutex<Found>);

#[derive(Default, Clone)]
struct Found {
    faults: Vec<Fault>,
    count: u64,
}

impl Faults {
    fn add(&self, path: &[u8], kind: FaultKind) {
        let mut found = guard(&self.0);
        found.count += 1;
        if found.faults.len() < VerifyReport::FAULTS_MAX {
            found.faults.push(Fault { path: String::from_utf8_lossy(path).into_owned(), kind });
        }
    }
}

/// The pieces of all files, one after the other.
struct Pieces {
    files: VecDeque<(FileIndex, u64)>,
    offset: u64,
}

impl Pieces {
    fn new(opened: &OpenVersion) -> Pieces {
        let files = opened.head().files().filter(|file| file.size() > 0);
        Pieces { files: files.map(|file| (file.index(), file.size())).collect(), offset: 0 }
    }

    fn next(&mut self) -> Option<(FileIndex, Range<u64>)> {
        let (file, size) = *self.files.front()?;
        let piece = self.offset..(self.offset + PIECE_BYTES).min(size);
        self.offset = piece.end;
        if piece.end == size {
            self.files.pop_front();
            self.offset = 0;
        }
        Some((file, piece))
    }
}

struct Check<'a> {
    repository: &'a Repository,
    opened: &'a OpenVersion,
    faults: &'a Faults,
    pieces: Mutex<Pieces>,
    done_bytes: AtomicU64,
    all_bytes: u64,
}

impl Check<'_> {
    fn work(&self, progress: &(dyn Fn(VerifyProgress) + Sync), cancel: &AtomicBool) {
        let mut buffer = vec![0; BLOCK_BYTES as usize];
        let mut last: Option<(FileIndex, Option<File>)> = None;
        loop {
            let Some((file, piece)) = guard(&self.pieces).next() else { break };
            if cancel.load(Ordering::Relaxed) {
                break;
            }
            let opened = match last.take() {
                Some((index, opened)) if index == file => opened,
                _ => self.opened.open_file(file).ok().map(File::from),
            };
            // What could not be opened, the check of names has told.
            if let Some(opened) = &opened {
                self.piece(file, opened, piece.clone(), &mut buffer);
            }
            last = Some((file, opened));
            let done = self.done_bytes.fetch_add(piece.end - piece.start, Ordering::Relaxed);
            progress(VerifyProgress { done_bytes: done + (piece.end - piece.start), all_bytes: self.all_bytes });
        }
    }

    fn piece(&self, index: FileIndex, file: &File, piece: Range<u64>, buffer: &mut [u8]) {
        let first = piece.start / BLOCK_BYTES;
        let count = block_count(piece.end - piece.start);
        let Some(hashes) = self.hashes(index, first, count) else {
            let pages = self.repository.layout.pages(&self.opened.head().root());
            return self.faults.add(&self.opened.path(index), FaultKind::Pages(pages));
        };
        // What the page cache holds says nothing about the disk.
        let _ = rustix::fs::fadvise(
            file,
            piece.start,
            std::num::NonZeroU64::new(piece.end - piece.start),
            Advice::DontNeed,
        );
        let segments = segments(file.as_fd(), piece.clone()).unwrap_or_else(|_| vec![piece.clone()]);
        let mut holes = 0;
        for run in touched_blocks(piece.start, &segments).into_iter().chain(std::iter::once(count..count)) {
            for block in holes..run.start {
                self.compare(index, first + block, Hash::ZERO, hashes[block as usize]);
            }
            for block in run.clone() {
                let offset = piece.start + block * BLOCK_BYTES;
                let buffer = &mut buffer[..(piece.end - offset).min(BLOCK_BYTES) as usize];
                match file.read_exact_at(buffer, offset) {
                    Ok(()) => self.compare(index, first + block, Hash::of(buffer), hashes[block as usize]),
                    Err(_) => self.faults.add(&self.opened.path(index), FaultKind::Block(first + block)),
                }
            }
            holes = run.end;
        }
    }

    fn compare(&self, file: FileIndex, block: u64, found: Hash, expected: Hash) {
        if found != expected {
            self.faults.add(&self.opened.path(file), FaultKind::Block(block));
        }
    }

    /// The hashes of `count` blocks, which lie in one page; `None` if the page is damaged.
    fn hashes(&self, file: FileIndex, first: u64, count: u64) -> Option<Vec<Hash>> {
        let node = self.opened.head().node(file)?;
        if !node.is_paged() {
            return (first..first + count).map(|block| node.inline_hash(block)).collect();
        }
        let number = first / PAGE_BLOCKS;
        let page = match Page::zero(&node, number) {
            Some(zero) => zero,
            None => self.opened.page_bytes(self.repository, file, number).ok()?.1,
        };
        (first..first + count).map(|block| page.hash(block % PAGE_BLOCKS)).collect()
    }
}
