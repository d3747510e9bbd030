//! The work of one publish: files to copy, pieces of large files to copy and hash, all cores at it.
//!
//! Bounded: the walk waits when [`JOBS_MAX`] files are queued (no descriptors are held for them),
//! and a worker opens a new file only when no piece of an open one is left.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use icbd_image::{FileHashes, FileIndex};
use icbd_snapshot::attributes::Attributes;
use icbd_snapshot::beneath::Stamp;

use super::store::Shared;
use crate::MasterError;
use crate::repository::guard;

mod file;
use file::StoredFile;

/// Files that wait for a worker: about 20 MiB of names and attributes.
const JOBS_MAX: usize = 64 * 1024;

/// A regular file to store.
#[derive(Debug)]
pub(super) struct FileJob {
    pub(super) index: FileIndex,
    /// Its path in the version, and in the source unless it was converted.
    pub(super) inside: Vec<u8>,
    /// What is stored in place of the source's file.
    pub(super) converted: Option<File>,
    pub(super) size: u64,
    pub(super) stamp: Stamp,
    pub(super) attributes: Attributes,
    /// Where its hash pages begin in the pages file, in bytes.
    pub(super) pages_at: u64,
}

/// What is to be done; workers call [`Queue::work`], the walk [`Queue::push`] and then [`Queue::close`].
pub(super) struct Queue<'a> {
    shared: &'a Shared<'a>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<FileJob>,
    /// Files of which pieces are left to take.
    open: VecDeque<Arc<StoredFile>>,
    closed: bool,
    /// Workers that are on something, and may open a file whose pieces others can take.
    active: usize,
    failed: Option<MasterError>,
    hashes: Vec<(FileIndex, FileHashes)>,
}

enum Task {
    File(FileJob),
    Piece(Arc<StoredFile>),
}

impl<'a> Queue<'a> {
    pub(super) fn new(shared: &'a Shared<'a>) -> Queue<'a> {
        Queue { shared, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Adds a file, waiting while the queue is full; `Cancelled` when it will not be stored any more.
    pub(super) fn push(&self, job: FileJob) -> Result<(), MasterError> {
        let full = |state: &mut State| state.jobs.len() >= JOBS_MAX && state.failed.is_none();
        let mut state = self.changed.wait_while(guard(&self.state), full).unwrap_or_else(PoisonError::into_inner);
        if state.failed.is_some() {
            return Err(MasterError::Cancelled);
        }
        state.jobs.push_back(job);
        self.changed.notify_all();
        Ok(())
    }

    /// No more files come; with `abandon` those that wait are not wanted either.
    pub(super) fn close(&self, abandon: bool) {
        let mut state = guard(&self.state);
        state.closed = true;
        if abandon {
            state.jobs.clear();
            state.open.clear();
        }
        self.changed.notify_all();
    }

    /// Works until everything is done or something failed.
    pub(super) fn work(&self) {
        let mut buffer = vec![0; file::BUFFER_BYTES];
        while let Some(task) = self.next() {
            let done = match self.shared.tally.is_cancelled() {
                true => Err(MasterError::Cancelled),
                false => self.run(task, &mut buffer),
            };
            let mut state = guard(&self.state);
            state.active -= 1;
            if let Err(error) = done {
                state.failed.get_or_insert(error);
                state.jobs.clear();
                state.open.clear();
            }
            self.changed.notify_all();
        }
    }

    /// The hashes of all files, or the first error.
    pub(super) fn take_hashes(&self) -> Result<Vec<(FileIndex, FileHashes)>, MasterError> {
        let State { failed, hashes, .. } = std::mem::take(&mut *guard(&self.state));
        failed.map_or(Ok(hashes), Err)
    }

    fn next(&self) -> Option<Task> {
        let idle = |state: &mut State| {
            let work = !state.jobs.is_empty() || !state.open.is_empty();
            let over = state.failed.is_some() || (state.closed && state.active == 0);
            !work && !over
        };
        let mut state = self.changed.wait_while(guard(&self.state), idle).unwrap_or_else(PoisonError::into_inner);
        let task = match state.open.front() {
            Some(file) => Task::Piece(file.clone()),
            None => Task::File(state.jobs.pop_front()?),
        };
        state.active += 1;
        Some(task)
    }

    fn run(&self, task: Task, buffer: &mut [u8]) -> Result<(), MasterError> {
        let file = match task {
            Task::Piece(file) => file,
            Task::File(job) => {
                let file = Arc::new(StoredFile::begin(job, self.shared)?);
                if file.is_large() {
                    guard(&self.state).open.push_back(file.clone());
                    self.changed.notify_all();
                }
                file
            }
        };
        match file.take_piece(self.shared)? {
            Some(piece) => file.store_piece(piece, self.shared, buffer)?,
            None => guard(&self.state).open.retain(|open| !Arc::ptr_eq(open, &file)),
        }
        if let Some(done) = file.finish(self.shared)? {
            guard(&self.state).hashes.push(done);
        }
        Ok(())
    }
}
