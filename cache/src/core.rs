//! What all parts of a cache share, and the tasks it owns.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use icbd_fetch::{Sources, Urgency};
use icbd_image::{FileIndex, Page, Serial, Trust};
use moka::policy::EvictionPolicy;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::catalogue::Catalogue;
use crate::disk::Disk;
use crate::file::File;
use crate::health::Health;
use crate::ledger::Ledger;
use crate::losses::Losses;
use crate::pins::Pins;
use crate::profiles::Profiles;
use crate::settings::Quota;
use crate::spoilt::SpoiltList;
use crate::version::{Residency, Versions};
use crate::waiting::WaitingList;
use crate::writeback::Writeback;
use crate::{CacheError, Settings, View, Window};

/// Reads of the disk that may wait at once: enough for a fast disk's queue, few enough threads.
const DISK_READS_MAX: usize = 32;

/// Files that stay open a while after their last read, with their backing files and what is known of
/// their readers: a read names a file, and would else open it anew each time.
const FILES_RECENT: u64 = 128;

/// The shared parts. Versions and files hold on to it; it holds none of them but through `versions`.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) sources: Arc<Sources>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) catalogue: Catalogue,
    /// Whose signatures are believed. Locked before `view`, and while what is shown is judged by it.
    pub(crate) trust: Mutex<Trust>,
    pub(crate) view: RwLock<Arc<View>>,
    pub(crate) versions: Versions,
    files: moka::sync::Cache<(Serial, FileIndex), Arc<File>>,
    pub(crate) pages: moka::sync::Cache<(Serial, FileIndex, u64), Page>,
    pub(crate) budget: Budget,
    pub(crate) writeback: Writeback,
    pub(crate) health: Arc<Health>,
    pub(crate) waiting: WaitingList,
    pub(crate) spoilt: SpoiltList,
    pub(crate) losses: Losses,
    pub(crate) pins: Pins,
    pub(crate) ledger: Ledger,
    /// The versions that are sealed, opened or not, and since when.
    pub(crate) sealed: Mutex<HashMap<Serial, SystemTime>>,
    /// One version is sealed at a time.
    pub(crate) sealing: Semaphore,
    /// What is known to be held of each version, opened or not.
    pub(crate) held: Mutex<HashMap<Serial, Residency>>,
    pub(crate) fetched_bytes: AtomicU64,
    pub(crate) reused_bytes: AtomicU64,
    pub(crate) profiles: Profiles,
    pub(crate) disk_reads: Semaphore,
    /// Milliseconds; may be set anew at any time.
    offline_wait_ms: AtomicU64,
    /// Room on the disk that prefetch leaves; `None`: a share of it.
    pub(crate) reserve_bytes: Option<u64>,
    pub(crate) quota: Option<Quota>,
    /// Of the room that is set aside for clones, what they do not take yet.
    pub(crate) left_for_clones: AtomicU64,
    /// When background fill may use the whole line.
    pub(crate) window: Option<Window>,
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
    runtime: Handle,
    demand_runtime: Handle,
}

impl Core {
    /// To be called on the runtime that shall run the cache's tasks.
    pub(crate) fn new(
        settings: Settings,
        sources: Arc<Sources>,
        disk: Arc<dyn Disk>,
        catalogue: Catalogue,
        profiles: Profiles,
        trust: Trust,
    ) -> Result<Core, CacheError> {
        let health = Arc::new(Health::new());
        let writeback = Writeback::start(disk.clone(), health.clone());
        let writeback = writeback.map_err(CacheError::disk("start the threads that write to", &settings.store))?;
        let pages = moka::sync::Cache::builder()
            .max_capacity(settings.pages_memory_bytes)
            .weigher(|_, page: &Page| u32::try_from(page.weight()).unwrap_or(u32::MAX))
            .build();
        Ok(Core {
            budget: Budget::new(settings.in_flight_bytes),
            versions: Versions::new(settings.versions_memory_bytes),
            files: moka::sync::Cache::builder()
                .max_capacity(FILES_RECENT)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            pages,
            writeback,
            health,
            demand_runtime: settings.demand_runtime.clone().unwrap_or_else(Handle::current),
            offline_wait_ms: AtomicU64::new(millis(settings.offline_wait)),
            reserve_bytes: settings.reserve_bytes,
            quota: settings.quota,
            left_for_clones: AtomicU64::new(0),
            window: settings.window,
            sources,
            disk,
            catalogue,
            trust: Mutex::new(trust),
            view: RwLock::default(),
            waiting: WaitingList::default(),
            spoilt: SpoiltList::default(),
            losses: Losses::default(),
            pins: Pins::default(),
            ledger: Ledger::default(),
            sealed: Mutex::default(),
            sealing: Semaphore::new(1),
            held: Mutex::default(),
            fetched_bytes: AtomicU64::new(0),
            reused_bytes: AtomicU64::new(0),
            profiles,
            disk_reads: Semaphore::new(DISK_READS_MAX),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        })
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.read().expect("no panic under this lock").clone()
    }

    /// Runs a task of the cache's own, dropped half-way when the cache stops. Callable from any thread.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        self.spawn_for(Urgency::Prefetch, task)
    }

    /// The same where what is so urgent is to run.
    pub(crate) fn spawn_for<T: Send + 'static>(
        &self,
        urgency: Urgency,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        let stop = self.stop.clone();
        let runtime = if urgency.is_awaited() { &self.demand_runtime } else { &self.runtime };
        self.tasks.spawn_on(async move { stop.run_until_cancelled(task).await }, runtime)
    }

    /// Runs what blocks on a thread for such; it is finished even if nobody waits any more.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CacheError> {
        match self.tasks.spawn_blocking_on(work, &self.runtime).await {
            Ok(done) => Ok(done),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(CacheError::Closed),
        }
    }

    /// The same where nobody waits for what comes of it.
    pub(crate) fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        self.tasks.spawn_blocking_on(work, &self.runtime)
    }

    /// Like `blocking`, for reads of the disk: so many at once and no more.
    pub(crate) async fn disk_read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CacheError> {
        let _turn = self.disk_reads.acquire().await.map_err(|_| CacheError::Closed)?;
        self.blocking(read).await
    }

    /// Keeps a file that is in use now, in the place of the one that was used longest ago.
    pub(crate) fn keep_recent(&self, file: &Arc<File>) {
        let key = (file.version().serial(), file.index());
        // Asking is what makes it recent.
        if self.files.get(&key).is_none_or(|kept| !Arc::ptr_eq(&kept, file)) {
            self.files.insert(key, file.clone());
        }
    }

    /// Lets go of files and versions, which hold on to this.
    pub(crate) fn forget_all(&self) {
        self.files.invalidate_all();
        self.files.run_pending_tasks();
        self.versions.clear();
    }

    /// How long a read waits for a source.
    pub(crate) fn offline_wait(&self) -> Duration {
        Duration::from_millis(self.offline_wait_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn set_offline_wait(&self, wait: Duration) {
        self.offline_wait_ms.store(millis(wait), Ordering::Relaxed);
    }

    /// Notes in the catalogue how much is held, and what the ledger says. Blocks.
    pub(crate) fn store_notes(&self) -> Result<(), CacheError> {
        let held = self.held.lock().expect("no panic under this lock").clone();
        self.catalogue.store_held(&held)?;
        self.catalogue.store_ledger(&self.ledger.entries())
    }

    /// Ends all tasks and waits for them.
    pub(crate) async fn stop_tasks(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
