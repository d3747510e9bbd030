//! A cache: the store, opened, with its threads and tasks. What fs and daemon hold.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use icbd_fetch::Sources;
use icbd_image::{BootRun, NodeUuid, Profile, Root, Serial, Trust, VersionId, VersionRecord};

use crate::catalogue::{self, marks};
use crate::clones::Clones;
use crate::core::Core;
use crate::disk::{Disk, RealDisk};
use crate::local::Choices;
use crate::prefetch::{Explanation, Order, OrderChange, OrderId, OrderStatus, Orders};
use crate::profiles::Profiles;
use crate::refresh::{Refresh, merge};
use crate::seal::SealReport;
use crate::spoilt::Spoilt;
use crate::status::CacheStatus;
use crate::store::{self, StoreLock};
use crate::verify::{Pace, STRIDE_BLOCKS, VerifyProgress, VerifyReport};
use crate::version::Version;
use crate::view::View;
use crate::waiting::WaitingList;
use crate::{CacheError, Settings, layout, trust};

/// How much is held, and what was fetched today, is noted in the catalogue so often, for the status after a restart.
const NOTE_INTERVAL: Duration = Duration::from_secs(10);

/// The local store of one daemon.
#[derive(Debug)]
pub struct Cache {
    core: Arc<Core>,
    orders: Arc<Orders>,
    clones: Arc<Clones>,
    warnings: Mutex<Warnings>,
    refreshing: tokio::sync::Semaphore,
    node: NodeUuid,
    _lock: StoreLock,
}

#[derive(Debug, Default)]
struct Warnings {
    /// Of the start: what was damaged.
    start: Vec<String>,
    refresh: Vec<String>,
}

/// An identity that nobody else has.
fn fresh_node(store: &Path) -> Result<NodeUuid, CacheError> {
    let mut bytes = [0; 16];
    let filled = getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()));
    filled.map_err(CacheError::disk("get random numbers for", store))?;
    Ok(NodeUuid::from_random(bytes))
}

impl Cache {
    /// Opens the store, alone, and goes on where the last daemon stopped. Asks no source.
    pub async fn open(settings: Settings, sources: Arc<Sources>, trust: Trust) -> Result<Arc<Cache>, CacheError> {
        let store = settings.store.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let lock = store::open(&store)?;
            let disk = RealDisk::open(&store).map_err(CacheError::disk("open", &store))?;
            Ok::<_, CacheError>((lock, Arc::new(disk) as Arc<dyn Disk>))
        });
        let (lock, disk) = opened.await.map_err(|_| CacheError::Closed)??;
        Cache::open_on(disk, lock, settings, sources, trust).await
    }

    /// Opens a store whose blocks are on any disk; the catalogue is a file in `settings.store`.
    pub(crate) async fn open_on(
        disk: Arc<dyn Disk>,
        lock: StoreLock,
        settings: Settings,
        sources: Arc<Sources>,
        trust: Trust,
    ) -> Result<Arc<Cache>, CacheError> {
        let (store, of) = (settings.store.clone(), disk.clone());
        let loaded = tokio::task::spawn_blocking(move || {
            let (catalogue, warning) = catalogue::open(&store, &*of)?;
            let (known, held) = (catalogue.known()?, catalogue.held()?);
            let (orders, rates) = (catalogue.orders()?, catalogue.rates()?);
            let (ledger, pins, profiles) = (catalogue.ledger()?, catalogue.pins()?, Profiles::open(&store)?);
            let node = catalogue.node(fresh_node(&store)?)?;
            Ok::<_, CacheError>((catalogue, warning, known, held, orders, rates, ledger, pins, profiles, node))
        });
        let (catalogue, warning, (known, choices), held, orders, rates, ledger, pins, profiles, node) =
            loaded.await.map_err(|_| CacheError::Closed)??;
        let (boot, of_clones) = (settings.boot, (settings.clone_bytes_max, settings.clone_reserve_bytes));
        let core = Arc::new(Core::new(settings, sources, disk, catalogue, profiles, trust)?);
        let shows = core.clone();
        core.blocking(move || shows.show(known, choices)).await?;
        *core.held.lock().expect("no panic under this lock") = held;
        let looks = core.clone();
        let found = core.blocking(move || looks.find_sealed()).await?;
        found.map_err(CacheError::disk("list", layout::VERSIONS))?;
        let of = core.clone();
        let clones = core.blocking(move || Clones::open(of, boot, of_clones.0, of_clones.1)).await?;
        let clones = Arc::new(clones.map_err(CacheError::disk("list", layout::CLONES))?);
        core.ledger.resume(ledger);
        core.pins.resume(pins);
        let orders = Arc::new(Orders::new(core.clone(), orders, rates));
        drop(core.spawn(orders.clone().run()));
        drop(core.spawn(orders.clone().follow_boots()));
        drop(core.spawn(WaitingList::watch(core.clone())));
        drop(core.spawn(take_notes(core.clone())));
        drop(core.spawn(core.clone().keep_exchanging()));
        let warnings = Mutex::new(Warnings { start: warning.into_iter().collect(), refresh: Vec::new() });
        let refreshing = tokio::sync::Semaphore::new(1);
        Ok(Arc::new(Cache { core, orders, clones, warnings, refreshing, node, _lock: lock }))
    }

    /// The images and versions to show; the same until a refresh changes something.
    pub fn view(&self) -> Arc<View> {
        self.core.view()
    }

    /// Who this cache is, for its master.
    pub fn node(&self) -> NodeUuid {
        self.node
    }

    /// Versions that are needed here though no program may have them open: what was chosen here, and what is being
    /// fetched whole.
    pub fn needed(&self) -> Vec<Serial> {
        let view = self.view();
        let chosen =
            view.choices().iter().filter_map(|(image, choice)| view.known_image(image)?.version(choice.number));
        let chosen: Vec<Serial> = chosen.map(VersionRecord::serial).collect();
        chosen.into_iter().chain(self.orders.filling()).collect()
    }

    /// Asks the sources what there is, and takes over what does not contradict what is known.
    pub async fn refresh(&self) -> Result<Refresh, CacheError> {
        let _turn = self.turn().await?;
        // What cannot be kept has to be told again.
        let result = self.refresh_once().await;
        if result.is_err() {
            self.core.sources.forget_listing();
        }
        result
    }

    async fn refresh_once(&self) -> Result<Refresh, CacheError> {
        let Some(listed) = self.core.sources.listing().await? else {
            return Ok(Refresh { warnings: self.lock_warnings().refresh.clone(), ..Refresh::default() });
        };
        let shown = self.core.view();
        let view = Arc::new(shown.listed());
        let (trust, known) = (self.core.trust.lock().expect("no panic under this lock").clone(), view.clone());
        // Signatures of thousands of versions are checked here the first time.
        let merged = self.core.blocking(move || merge(&known, listed.listing, &listed.source, &trust)).await?;
        let merged = match merged {
            Ok(merged) => merged,
            Err(warning) => {
                self.warn(vec![warning.clone()]);
                return Ok(Refresh { warnings: vec![warning], ..Refresh::default() });
            }
        };
        self.warn(merged.refresh.warnings.clone());
        if merged.refresh.changed {
            let (core, before) = (self.core.clone(), view.clone());
            let new = Arc::new(View::new(Some(merged.repository), merged.images));
            let stored = new.clone();
            core.ledger.note_deployed(&before, &new);
            self.core
                .blocking(move || {
                    core.catalogue.store(stored.repository(), stored.images())?;
                    core.catalogue.store_ledger(&core.ledger.entries())?;
                    let changed = stored.images().iter().filter(|image| before.image(&image.name) != Some(image));
                    for image in changed {
                        if let Err(error) = marks::write_image(&*core.disk, image) {
                            core.health.failed(&format!("marking image {}", image.name), &error);
                        }
                    }
                    Ok::<_, CacheError>(())
                })
                .await??;
            self.show((*new).clone(), shown.choices().clone()).await?;
        }
        Ok(merged.refresh)
    }

    /// Shows from now on what is known, as far as it is trusted. For who holds the turn.
    pub(crate) async fn show(&self, known: View, choices: Choices) -> Result<(), CacheError> {
        let core = self.core.clone();
        self.core.blocking(move || core.show(known, choices)).await?;
        self.orders.changed();
        Ok(())
    }

    /// The turn to change what is shown: each change builds on the one before.
    pub(crate) async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, CacheError> {
        self.refreshing.acquire().await.map_err(|_| CacheError::Closed)
    }

    /// The writable disks of workstations.
    pub fn clones(&self) -> &Arc<Clones> {
        &self.clones
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// A version that is in memory. Never blocks.
    pub fn opened(&self, serial: Serial) -> Option<Arc<Version>> {
        self.core.versions.get(serial)
    }

    /// A version, with its head: from memory, disk, or a source, which is waited for up to `offline_wait`.
    /// Its tree on disk is opened or made by [`Version::prepare`] or the first read.
    pub async fn version(&self, serial: Serial) -> Result<Arc<Version>, CacheError> {
        self.core.version(serial).await
    }

    /// The same without patience: its head is here, or comes in one round over the sources.
    pub async fn version_once(&self, serial: Serial) -> Result<Arc<Version>, CacheError> {
        self.core.version_once(serial).await
    }

    /// Versions of which somebody took something away that has not come again.
    pub fn lost(&self) -> Vec<VersionId> {
        self.core.losses.versions(&self.core)
    }

    /// How it is. Never blocks.
    pub fn status(&self) -> CacheStatus {
        let warnings = self.lock_warnings();
        let mut all: Vec<String> = warnings.start.iter().chain(&warnings.refresh).cloned().collect();
        drop(warnings);
        all.extend(trust::warnings(&self.core.view()));
        all.extend(self.core.versions.unusable());
        all.extend(self.orders.warnings());
        all.extend(self.core.losses.shown(&self.core));
        let mut status = self.core.status(all);
        let filling = self.orders.filling();
        status.versions.iter_mut().for_each(|version| version.filling = filling.contains(&version.serial));
        status
    }

    /// Waits until what was fetched so far is durable, or dropped because the disk refused it.
    pub async fn flush(&self) {
        self.core.writeback.flush().await;
    }

    /// Has something fetched. An order that is already at it is not added again.
    pub async fn prefetch_add(&self, order: Order) -> Result<OrderId, CacheError> {
        self.orders.add(order).await
    }

    /// All orders, those that ended lately included.
    pub fn prefetch_list(&self) -> Vec<OrderStatus> {
        self.orders.list()
    }

    /// How an order stands once it is known how much is missing, or after `patience`.
    pub async fn prefetch_look(&self, order: OrderId, patience: Duration) -> Result<OrderStatus, CacheError> {
        self.orders.look(order, patience).await
    }

    /// Changes an order, also while it runs.
    pub async fn prefetch_set(&self, order: OrderId, change: OrderChange) -> Result<OrderStatus, CacheError> {
        self.orders.set(order, change).await
    }

    pub async fn prefetch_pause(&self, order: OrderId) -> Result<OrderStatus, CacheError> {
        self.orders.pause(order).await
    }

    pub async fn prefetch_resume(&self, order: OrderId) -> Result<OrderStatus, CacheError> {
        self.orders.resume(order).await
    }

    /// Cancels an order; one that has ended stays as it is.
    pub async fn prefetch_cancel(&self, order: OrderId) -> Result<OrderStatus, CacheError> {
        self.orders.cancel(order).await
    }

    /// Waits until an order has ended, all is here, or its promise was missed. May be dropped and asked again.
    pub async fn prefetch_wait(&self, order: OrderId) -> Result<OrderStatus, CacheError> {
        self.orders.wait(order).await
    }

    /// What an order does and why.
    pub async fn prefetch_explain_order(&self, order: OrderId) -> Result<Explanation, CacheError> {
        self.orders.explain_order(order).await
    }

    /// What an order would do that could be given.
    pub async fn prefetch_explain(&self, order: Order) -> Result<Explanation, CacheError> {
        self.orders.explain(order).await
    }

    pub(crate) fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Reads back every resident block of a version and compares it with the manifest.
    pub async fn verify(
        &self,
        version: &VersionId,
        progress: impl FnMut(VerifyProgress) + Send,
    ) -> Result<VerifyReport, CacheError> {
        Ok(self.unless_stopped(self.core.verify(version, Pace::default(), progress)).await?.0)
    }

    /// The same at a pace, and what is wrong is fetched again at once. How many blocks were mended.
    pub async fn scrub(
        &self,
        version: &VersionId,
        pace: Pace,
        progress: impl FnMut(VerifyProgress) + Send,
    ) -> Result<(VerifyReport, u64), CacheError> {
        let (report, spoilt) = self.unless_stopped(self.core.verify(version, pace, progress)).await?;
        let (mut mended, mut rest) = (0, &spoilt[..]);
        while let Some((file, _)) = rest.first() {
            let count = rest.iter().take(STRIDE_BLOCKS as usize).take_while(|(of, _)| Arc::ptr_eq(of, file)).count();
            let blocks: Vec<u64> = rest[..count].iter().map(|(_, block)| *block).collect();
            match file.fetch_again(&blocks).await {
                Ok(()) => {}
                Err(CacheError::Closed) => return Err(CacheError::Closed),
                Err(error) => {
                    tracing::warn!(file = file.shown(), ?blocks, %error, "spoilt blocks cannot be had anew yet; their next reader asks again");
                }
            }
            mended += blocks.iter().filter(|block| file.is_readable(**block..**block + 1)).count() as u64;
            rest = &rest[count..];
        }
        Ok((report, mended))
    }

    /// Makes a complete version one that never changes, verified as it lies on the disk.
    pub async fn seal(
        &self,
        version: &VersionId,
        pace: Pace,
        progress: impl FnMut(VerifyProgress) + Send,
    ) -> Result<SealReport, CacheError> {
        self.unless_stopped(self.core.seal(version, pace, progress)).await
    }

    /// A stop waits for nothing that reads a whole version.
    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T, CacheError>>) -> Result<T, CacheError> {
        self.core.stop.run_until_cancelled(work).await.unwrap_or(Err(CacheError::Closed))
    }

    /// All that is known of boots of a version: its own observations, those that sources told of, and, while
    /// it has few of its own, those of the nearest older version that has any, by path and position.
    ///
    /// Loads the version's head, or fetches it in one round over the sources; may be dropped.
    pub async fn profile(&self, serial: Serial) -> Result<Arc<Profile>, CacheError> {
        self.core.profile(serial).await
    }

    /// The blocks that the next boot of a version will most likely read, in the order in which boots read them.
    ///
    /// No block is in two runs, and none past its file's end; blocks that are here already and blocks of zeros
    /// are among them. Empty when nobody has booted the version or an older one, as far as this cache knows.
    pub async fn boot_set(&self, serial: Serial) -> Result<Vec<BootRun>, CacheError> {
        self.core.boot_set(serial).await
    }

    /// Whether all that the next boot of a version will most likely read is here, as [`Cache::boot_set`] says; `None` if
    /// nobody has booted it or an older one. Of one of which nothing is here it is not asked.
    pub async fn is_boot_ready(&self, serial: Serial) -> Result<Option<bool>, CacheError> {
        let version = self.core.version_once(serial).await?;
        if !version.open_existing().await {
            return Ok(Some(false));
        }
        let set = self.core.boot_set(serial).await?;
        let mut is_here = true;
        for run in &set {
            is_here &= version.file(run.file)?.is_readable(run.first..run.first + u64::from(run.count));
        }
        Ok((!set.is_empty()).then_some(is_here))
    }

    /// What is known here of boots of a root, whether or not this cache has a version with it; asks nobody.
    pub async fn known_profile(&self, root: Root) -> Result<Arc<Profile>, CacheError> {
        let core = self.core.clone();
        self.core.blocking(move || core.profiles.get(root)).await
    }

    /// The roots of which the sources lack something that is known here, as far as is known.
    pub fn profile_news(&self) -> Vec<Root> {
        self.core.profiles.news()
    }

    /// Takes over what another cache or a person knows of boots of a root; whether that was anything new.
    pub async fn import_profile(&self, profile: Profile) -> Result<bool, CacheError> {
        let core = self.core.clone();
        self.core.blocking(move || core.profiles.import(&profile)).await?
    }

    /// Has reads wait for a source up to `wait` from now on, those that wait already included.
    pub fn set_offline_wait(&self, wait: Duration) {
        self.core.set_offline_wait(wait);
    }

    /// Has `wake` called, in the place of what was given before, whenever there is something for
    /// [`Cache::take_spoilt`]. It must return at once: blocks are locked meanwhile.
    pub fn on_spoilt(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.core.spoilt.listen(Box::new(wake));
    }

    /// What was found spoilt on the disk since the last call: copies of it may be wrong.
    pub fn take_spoilt(&self) -> Vec<Spoilt> {
        self.core.spoilt.take()
    }

    /// Stops: no read is served any more, what came is made durable, threads and tasks are joined.
    pub async fn close(&self) {
        for recorder in self.core.profiles.recording() {
            recorder.finish(&self.core).await;
        }
        self.core.stop_tasks().await;
        let (core, clones) = (self.core.clone(), self.clones.clone());
        let stopped = tokio::task::spawn_blocking(move || {
            clones.close_all();
            core.writeback.stop();
            let noted = core.store_notes();
            core.catalogue.close();
            noted
        });
        if let Ok(Err(error)) = stopped.await {
            tracing::warn!(%error, "how much is held could not be noted");
        }
        self.core.forget_all();
    }

    /// Keeps the warnings of a refresh; new ones are logged.
    fn warn(&self, new: Vec<String>) {
        let mut warnings = self.lock_warnings();
        for warning in new.iter().filter(|warning| !warnings.refresh.contains(warning)) {
            tracing::warn!("{warning}");
        }
        warnings.refresh = new;
    }

    fn lock_warnings(&self) -> std::sync::MutexGuard<'_, Warnings> {
        self.warnings.lock().expect("no panic under this lock")
    }
}

impl Drop for Cache {
    /// Without `close` what is in memory is lost, as at a kill; but no thread outlives its cache.
    fn drop(&mut self) {
        self.core.stop.cancel();
        self.core.writeback.stop();
        self.core.catalogue.close();
        self.core.forget_all();
    }
}

/// Notes from time to time how much is held, and what was done today.
async fn take_notes(core: Arc<Core>) {
    let notes = |core: &Core| (core.held.lock().expect("no panic under this lock").clone(), core.ledger.entries());
    let mut noted = notes(&core);
    let mut every = tokio::time::interval(NOTE_INTERVAL);
    loop {
        every.tick().await;
        let now = notes(&core);
        if now != noted {
            let writer = core.clone();
            if let Ok(Err(error)) = core.blocking(move || writer.store_notes()).await {
                tracing::warn!(%error, "how much is held could not be noted");
            }
            noted = now;
        }
    }
}
