//! Prefetch: whole versions, fetched before anybody reads them.
//!
//! Jobs are kept in the catalogue and go on after a restart. One runs at a time; one that cannot go on
//! (no source, no room) says why and lets the next one run. A job never takes memory or a turn that
//! somebody who waits could have.

mod run;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use icbd_image::{Serial, VersionId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::CacheError;
use crate::catalogue::JobRow;
use crate::core::Core;
use crate::view::Object;

/// The number of a job, never used twice in a store.
pub type JobId = i64;

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    Queued,
    Running,
    Done,
    Cancelled,
}

impl JobState {
    pub(crate) fn as_text(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Cancelled => "cancelled",
        }
    }

    pub(crate) fn from_text(text: &str) -> Option<JobState> {
        [JobState::Queued, JobState::Running, JobState::Done, JobState::Cancelled]
            .into_iter()
            .find(|state| state.as_text() == text)
    }

    /// Whether nothing more will happen to the job.
    pub fn is_ended(self) -> bool {
        matches!(self, JobState::Done | JobState::Cancelled)
    }
}

/// A job as people see it.
#[derive(Debug, Clone)]
pub struct JobStatus {
    pub id: JobId,
    pub version: VersionId,
    pub state: JobState,
    /// Of the version's blocks; those that are zero count as done.
    pub total_bytes: u64,
    pub done_bytes: u64,
    /// Since the job began to run; 0 when it does not.
    pub bytes_per_second: u64,
    /// Why it does not go on.
    pub trouble: Option<String>,
}

/// The jobs of a cache.
#[derive(Debug)]
pub(crate) struct Jobs {
    core: Arc<Core>,
    jobs: Mutex<BTreeMap<JobId, Job>>,
    /// Counts changes of state.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Job {
    serial: Serial,
    state: JobState,
    /// When it began to run, and how much was resident then.
    began: Option<(Instant, u64)>,
    trouble: Option<String>,
    cancelled: CancellationToken,
}

impl Jobs {
    /// With the jobs of the catalogue; those that had not ended begin anew.
    pub(crate) fn new(core: Arc<Core>, rows: Vec<JobRow>) -> Jobs {
        let resumed = |row: JobRow| {
            let state = if row.state.is_ended() { row.state } else { JobState::Queued };
            (row.id, Job::new(row.serial, state))
        };
        let jobs = rows.into_iter().map(resumed).collect();
        Jobs { core, jobs: Mutex::new(jobs), changes: watch::Sender::new(0) }
    }

    /// Adds a job; the one that is already at it, if there is one.
    pub(crate) async fn add(&self, version: &VersionId) -> Result<JobId, CacheError> {
        let view = self.core.view();
        let record = view.version(version).ok_or_else(|| CacheError::UnknownVersion(version.clone()))?;
        let serial = record.serial();
        self.core.versions.check_usable(serial)?;
        let same = |(id, job): (&JobId, &Job)| (job.serial == serial && !job.state.is_ended()).then_some(*id);
        if let Some(id) = self.lock().iter().find_map(same) {
            return Ok(id);
        }
        let core = self.core.clone();
        let id = self.core.blocking(move || core.catalogue.add_job(serial)).await??;
        self.lock().insert(id, Job::new(serial, JobState::Queued));
        self.changed();
        Ok(id)
    }

    pub(crate) fn list(&self) -> Vec<JobStatus> {
        let jobs = self.lock();
        jobs.iter().filter_map(|(id, job)| self.show(*id, job)).collect()
    }

    pub(crate) async fn cancel(&self, id: JobId) -> Result<JobStatus, CacheError> {
        {
            let jobs = self.lock();
            let job = jobs.get(&id).ok_or(CacheError::UnknownJob(id))?;
            job.cancelled.cancel();
        }
        if !self.status(id)?.state.is_ended() {
            self.set_state(id, JobState::Cancelled).await?;
        }
        self.status(id)
    }

    /// Until the job has ended.
    pub(crate) async fn wait(&self, id: JobId) -> Result<JobStatus, CacheError> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let status = self.status(id)?;
            if status.state.is_ended() {
                return Ok(status);
            }
            tokio::select! {
                () = self.core.stop.cancelled() => return Err(CacheError::Closed),
                _ = changes.changed() => {}
            }
        }
    }

    fn status(&self, id: JobId) -> Result<JobStatus, CacheError> {
        let jobs = self.lock();
        jobs.get(&id).and_then(|job| self.show(id, job)).ok_or(CacheError::UnknownJob(id))
    }

    fn show(&self, id: JobId, job: &Job) -> Option<JobStatus> {
        let view = self.core.view();
        let Some(Object::Version(_, record)) = view.object(job.serial) else { return None };
        let open = self.core.versions.get(job.serial);
        let held = match &open {
            Some(version) if version.filling().is_some() => version.residency(),
            _ => self.core.held.lock().expect("no panic under this lock").get(&job.serial).copied().unwrap_or_default(),
        };
        let rate = job.began.filter(|_| job.state == JobState::Running).map_or(0, |(when, before)| {
            let got = held.resident_bytes.saturating_sub(before);
            (got as f64 / when.elapsed().as_secs_f64().max(0.001)) as u64
        });
        Some(JobStatus {
            id,
            version: record.statement.statement().version(),
            state: job.state,
            total_bytes: if held.total_bytes > 0 { held.total_bytes } else { record.data_bytes },
            done_bytes: held.durable_bytes,
            bytes_per_second: rate,
            trouble: job.trouble.clone(),
        })
    }

    async fn set_state(&self, id: JobId, state: JobState) -> Result<(), CacheError> {
        if let Some(job) = self.lock().get_mut(&id) {
            job.state = state;
        }
        self.changed();
        let core = self.core.clone();
        self.core.blocking(move || core.catalogue.set_job(id, state)).await?
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Job>> {
        self.jobs.lock().expect("no panic under this lock")
    }
}

impl Job {
    fn new(serial: Serial, state: JobState) -> Job {
        Job { serial, state, began: None, trouble: None, cancelled: CancellationToken::new() }
    }
}
