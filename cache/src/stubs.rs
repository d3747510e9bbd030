//! The public shape, while the rooms behind it are being built.
#![allow(missing_docs, unused_variables, dead_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use icbd_fetch::Sources;
use icbd_image::{FileIndex, Hash, Head, Page, Root, Serial, Trust, VersionId};

use crate::{CacheError, Settings, View};

#[derive(Debug)]
pub struct Cache {}
impl Cache {
    pub async fn open(settings: Settings, sources: Arc<Sources>, trust: Trust) -> Result<Arc<Cache>, CacheError> { Err(CacheError::Closed) }
    pub fn view(&self) -> Arc<View> { Arc::default() }
    pub async fn refresh(&self) -> Result<Refresh, CacheError> { Err(CacheError::Closed) }
    /// Already in memory: never blocks.
    pub fn opened(&self, serial: Serial) -> Option<Arc<Version>> { None }
    /// Loads or fetches the head (waits up to offline_wait). Its tree on disk is made at the first read of data.
    pub async fn version(&self, serial: Serial) -> Result<Arc<Version>, CacheError> { Err(CacheError::Closed) }
    pub fn status(&self) -> CacheStatus { unreachable!() }
    pub async fn flush(&self) -> Result<(), CacheError> { Ok(()) }
    pub async fn prefetch_add(&self, version: &VersionId) -> Result<JobId, CacheError> { Err(CacheError::Closed) }
    pub fn prefetch_list(&self) -> Vec<JobStatus> { Vec::new() }
    pub async fn prefetch_cancel(&self, job: JobId) -> Result<JobStatus, CacheError> { Err(CacheError::Closed) }
    /// Until the job is done or cancelled; may be dropped and asked again.
    pub async fn prefetch_wait(&self, job: JobId) -> Result<JobStatus, CacheError> { Err(CacheError::Closed) }
    pub async fn verify(&self, version: &VersionId, progress: impl FnMut(VerifyProgress) + Send) -> Result<VerifyReport, CacheError> { Err(CacheError::Closed) }
    pub async fn close(&self) {}
}

pub type JobId = i64;

#[derive(Debug, Clone)]
pub struct Refresh { pub changed: bool, pub added: Vec<VersionId>, pub warnings: Vec<String> }

#[derive(Debug)]
pub struct Version {}
impl Version {
    pub fn head(&self) -> &Head { unreachable!() }
    pub fn id(&self) -> &VersionId { unreachable!() }
    pub fn serial(&self) -> Serial { unreachable!() }
    pub fn root(&self) -> Root { unreachable!() }
    /// Opens or makes the tree on disk; to be awaited before `passthrough`, `is_complete` or residency mean anything. Cheap the second time.
    pub async fn prepare(self: &Arc<Self>) -> Result<(), CacheError> { Ok(()) }
    pub fn file(self: &Arc<Self>, index: FileIndex) -> Result<Arc<File>, CacheError> { Err(CacheError::Closed) }
    pub fn is_complete(&self) -> bool { false }
    pub fn residency(&self) -> Residency { Residency::default() }
    /// A hash page, verified: from memory, disk or a source.
    pub async fn page(self: &Arc<Self>, file: FileIndex, page: u64) -> Result<Page, CacheError> { Err(CacheError::Closed) }
}

/// Of a version or file, in bytes of its blocks; zero blocks count as resident and durable once their hashes are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Residency { pub total_bytes: u64, pub resident_bytes: u64, pub durable_bytes: u64 }

#[derive(Debug)]
pub struct File {}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadNow { Done, Cold, Missing }
impl File {
    pub fn index(&self) -> FileIndex { FileIndex::ROOT }
    pub fn size(&self) -> u64 { 0 }
    /// Never blocks. On `Done`, `out` is exactly what was read.
    pub fn read_now(self: &Arc<Self>, offset: u64, len: usize, out: &mut Vec<u8>) -> ReadNow { ReadNow::Missing }
    pub async fn read(self: &Arc<Self>, offset: u64, len: usize) -> Result<Bytes, CacheError> { Err(CacheError::Closed) }
    pub fn is_complete(&self) -> bool { false }
    pub fn passthrough(self: &Arc<Self>) -> Option<Passthrough> { None }
    pub fn resident_bytes(&self) -> u64 { 0 }
    /// `None`: no data (hole) at or after `offset`. A hole is what the manifest says is zero.
    pub async fn seek_data(self: &Arc<Self>, offset: u64) -> Result<Option<u64>, CacheError> { Ok(None) }
    pub async fn seek_hole(self: &Arc<Self>, offset: u64) -> Result<Option<u64>, CacheError> { Ok(None) }
    pub async fn block_hash(self: &Arc<Self>, block: u64) -> Result<Hash, CacheError> { Err(CacheError::Closed) }
}

#[derive(Debug)]
pub struct Passthrough { file: OwnedFd }
impl AsFd for Passthrough { fn as_fd(&self) -> BorrowedFd<'_> { self.file.as_fd() } }

#[derive(Debug, Clone)]
pub struct CacheStatus {
    pub store: StoreState,
    pub versions: Vec<VersionStatus>,
    pub waiting: Vec<Waiting>,
    pub warnings: Vec<String>,
    /// Bytes of blocks fetched from sources since the start, decoded.
    pub fetched_bytes: u64,
    pub in_flight_bytes: u64,
}
/// A version of which something is held.
#[derive(Debug, Clone)]
pub struct VersionStatus { pub id: VersionId, pub serial: Serial, pub residency: Residency, pub complete: bool }
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState { Ok, Full { why: String }, Suspect { why: String } }
/// A read that has waited for more than a second.
#[derive(Debug, Clone)]
pub struct Waiting { pub version: VersionId, pub path: String, pub block: u64, pub since: SystemTime, pub waited: Duration, pub why: Option<String> }

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState { Queued, Running, Done, Cancelled }
#[derive(Debug, Clone)]
pub struct JobStatus { pub id: JobId, pub version: VersionId, pub state: JobState, pub total_bytes: u64, pub done_bytes: u64, pub bytes_per_second: u64, pub trouble: Option<String> }

#[derive(Debug, Clone, Copy)]
pub struct VerifyProgress { pub done_bytes: u64, pub total_bytes: u64 }
#[derive(Debug, Clone)]
pub struct VerifyReport { pub version: VersionId, pub root: Root, pub blocks_checked: u64, pub bad: Vec<BadBlock>, pub elapsed: Duration }
#[derive(Debug, Clone)]
pub struct BadBlock { pub path: String, pub block: u64 }
