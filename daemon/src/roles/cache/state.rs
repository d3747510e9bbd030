//! What a running cache server consists of. All that `status` asks is answered from memory.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use icbd_cache::{Cache, CacheError, CacheStatus, LocalRollback, Residency, StoreState, VersionStatus, Waiting};
use icbd_export::Workstations;
use icbd_fetch::{Authorities, HttpSource, Source, SourceHealth, SourceState, Sources};
use icbd_fs::Mounted;
use icbd_image::{BLOCK_BYTES, ImageRef, Serial, Timestamp, Trust, VersionId, VersionRecord};
use icbd_wire::{NodeReport, Offer, Readiness, ReadyReport};

use super::boot::{Boots, Journal};
use super::clients;
use super::clones::{self, ClonesMount};
use super::exports::Exports;
use super::netboot::Netboot;
use super::ready::Ready;
use crate::args::CacheArgs;
use crate::audit::Audit;
use crate::failure::Failure;
use crate::images::{self, ImageSummary, VersionSummary};
use crate::metrics;
use crate::report::{
    CacheReport, LocalReport, MountReport, Process, Report, SourceReport, StoreReport, VersionReport, WaitingReport,
};
use crate::roles::config::RunningConfig;
use crate::roles::space::Space;
use crate::serve::Allow;
use crate::settings::{CloneHook, Reloaded, SealWhen, Settings, TRUST_CA, TRUST_KEYS};
use crate::{orders, output};

/// A list that cannot be had for so long is worth a word.
const UNLISTED_AFTER: Duration = Duration::from_secs(10);

/// A running cache server.
#[derive(Debug)]
pub(super) struct CacheServer {
    pub(super) cache: Arc<Cache>,
    /// The sources one by one.
    pub(super) masters: Vec<Arc<HttpSource>>,
    pub(super) sources: Arc<Sources>,
    pub(super) plane: Plane,
    pub(super) trust: RwLock<Trust>,
    /// Who vouches for sources that speak TLS.
    pub(super) authorities: Mutex<Authorities>,
    pub(super) seal_when: RwLock<SealWhen>,
    pub(super) ready: Ready,
    pub(super) exports: Exports,
    pub(super) clones: ClonesMount,
    pub(super) clone_hook: RwLock<Option<CloneHook>>,
    pub(super) workstations: Workstations,
    pub(super) boots: Boots,
    pub(super) journal: Journal,
    pub(super) netboot: Netboot,
    pub(super) config: RunningConfig<CacheArgs>,
    pub(super) audit: Audit,
    pub(super) space: Space,
    pub(super) store: PathBuf,
    pub(super) mount: PathBuf,
    /// Absent while it is being mounted or unmounted.
    pub(super) mounted: Mutex<Option<Arc<Mounted>>>,
    /// Since when the list of versions cannot be had, and why.
    pub(super) unlisted: Mutex<Option<(Instant, String)>>,
    pub(super) started: Instant,
}

/// Where it serves over TCP, if anywhere, and whom.
#[derive(Debug)]
pub(super) struct Plane {
    pub(super) listen: Vec<SocketAddr>,
    pub(super) allow: Allow,
}

impl CacheServer {
    /// Takes over what was changed in the configuration and in the trusted keys' files. Blocks.
    pub(super) fn reload(&self) -> anyhow::Result<Reloaded> {
        let check = |settings: &Settings, args: &CacheArgs| -> anyhow::Result<_> {
            let cache = settings.cache(args)?;
            self.netboot.check_other(&cache.netboot, &self.plane.listen)?;
            Ok((cache.trust.load()?, cache.trust.authorities()?, cache))
        };
        self.config.reload(check, |(trust, authorities, settings), reloaded| {
            self.believe(authorities, reloaded);
            self.cache.set_offline_wait(settings.offline_wait);
            self.plane.allow.set(&settings.allow);
            self.exports.nfs.set(settings.nfs.which);
            self.exports.set_iscsi(settings.iscsi);
            self.netboot.set(&settings.netboot);
            self.cache.clones().set_limits(settings.clone_reserve_bytes, settings.clone_bytes_max);
            *self.clone_hook.write().unwrap_or_else(PoisonError::into_inner) = settings.clone_hook;
            *self.seal_when.write().unwrap_or_else(PoisonError::into_inner) = settings.seal_when;
            let mut known = self.trust.write().unwrap_or_else(PoisonError::into_inner);
            if known.keys != trust.keys {
                reloaded.also(TRUST_KEYS);
            }
            if known.keys != trust.keys || known.require != trust.require {
                self.cache.set_trust(trust.clone());
                *known = trust;
                self.view_changed();
            }
        })
    }

    /// Has sources vouched for by these, if they are others.
    fn believe(&self, authorities: Authorities, reloaded: &mut Reloaded) {
        let mut known = self.authorities.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == authorities {
            return;
        }
        for master in &self.masters {
            if let Err(error) = master.set_authorities(&authorities) {
                tracing::error!(source = master.name(), %error, "it is believed as before");
            }
        }
        *known = authorities;
        reloaded.also(TRUST_CA);
    }

    pub(super) fn trust(&self) -> Trust {
        self.trust.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn seal_when(&self) -> SealWhen {
        *self.seal_when.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn images(&self) -> Vec<ImageSummary> {
        self.cache.view().images().iter().map(ImageSummary::from).collect()
    }

    /// The same with the versions that are withheld, for people to see that they are.
    pub(super) fn listed(&self) -> Vec<ImageSummary> {
        let (view, mut images) = (self.cache.view(), self.images());
        for image in &mut images {
            let withheld = view.withheld_of(&image.name);
            image.versions.extend(withheld.map(|(record, why)| VersionSummary {
                withheld: Some(why.to_string()),
                ..VersionSummary::from(record)
            }));
            image.versions.sort_by_key(|version| version.version.number);
        }
        images
    }

    /// The version that is meant; of one that is withheld, why it is.
    pub(super) fn find_version(&self, wanted: &ImageRef) -> Result<VersionSummary, Failure> {
        let found = images::find_version(&self.images(), wanted).cloned();
        let Some(number) = wanted.number else { return found };
        match self.cache.view().usable(&VersionId { image: wanted.image.clone(), number }) {
            Err(error @ CacheError::Untrusted { .. }) => Err(error.into()),
            _ => found,
        }
    }

    /// Tells masters with their next poll, the `turn`th, what was learned here and they lack. They ask for it at the
    /// port of the first address that is served.
    pub(super) fn offer_profiles(&self, turn: usize) {
        let Some(address) = self.plane.listen.first() else { return };
        let mut roots = self.cache.profile_news();
        if roots.len() > Offer::ROOTS_MAX {
            // Others each time: some may never be asked for.
            let at = turn.wrapping_mul(Offer::ROOTS_MAX) % roots.len();
            roots.rotate_left(at);
            roots.truncate(Offer::ROOTS_MAX);
        }
        let offer = (!roots.is_empty()).then(|| Offer { port: address.port(), roots });
        self.masters.iter().for_each(|master| master.offer(offer.clone()));
    }

    /// Tells masters with their next poll who this is and which versions are used here.
    pub(super) fn report_uses(&self) {
        // As long as nobody knows what is open, nothing is said; a cache that never gets so far is no node of anybody's.
        let Some(open) = self.in_use() else { return };
        let view = self.cache.view();
        let serial = |version: &VersionId| view.version(version).map(VersionRecord::serial);
        let mut uses: BTreeMap<Serial, u32> = BTreeMap::new();
        for (serial, count) in self.exports.leases(open, self.exports.read_lately(&self.cache), serial) {
            uses.insert(serial, u32::try_from(count).unwrap_or(u32::MAX));
        }
        self.cache.needed().into_iter().for_each(|serial| _ = uses.entry(serial).or_default());
        let name = NodeReport::name_of(&Process::this(self.started).name);
        let report = NodeReport { node: self.cache.node(), name, uses: uses.into_iter().collect(), is_whole: true };
        let ready = ReadyReport::new(self.readiness());
        self.masters.iter().for_each(|master| master.report(Some((report.clone(), ready.clone()))));
    }

    /// How much is here of the versions that can be booted without a master.
    pub(super) fn readiness(&self) -> BTreeMap<Serial, Readiness> {
        let readiness = |version: &VersionStatus| match version {
            version if version.sealed_since.is_some() => Some(Readiness::Sealed),
            version if version.complete => Some(Readiness::Complete),
            version => self.ready.since(version.serial).map(|_| Readiness::Boot),
        };
        let versions = self.cache.status().versions;
        versions.iter().filter_map(|version| Some((version.serial, readiness(version)?))).collect()
    }

    /// Has the mount show what is new.
    pub(super) fn view_changed(&self) {
        if let Some(mounted) = &*self.mounted.lock().unwrap_or_else(PoisonError::into_inner) {
            mounted.view_changed();
        }
        self.exports.wake();
    }

    pub(super) fn report(&self) -> Report {
        let status = self.cache.status();
        let view = self.cache.view();
        let held: HashMap<Serial, &VersionStatus> = status.versions.iter().map(|v| (v.serial, v)).collect();
        let versions = view.images().iter().flat_map(|image| &image.versions);
        let (mount, open) = (self.mount().0, self.open_by_version());
        let shown = |record: &VersionRecord| {
            let open_handles = open.get(&record.serial()).copied().unwrap_or_default();
            let report = version(record, held.get(&record.serial()).copied(), open_handles);
            let boot_set_since = self.ready.since(record.serial()).map(|since| since.seconds);
            VersionReport { boot_set_since, ..report }
        };
        Report::Cache(CacheReport {
            process: Process::this(self.started),
            repository: view.repository(),
            listen: self.plane.listen.clone(),
            sources: self.sources.health().iter().map(source).collect(),
            store: self.store(&status),
            mount,
            versions: versions.map(shown).collect(),
            local: status.local.iter().map(local).collect(),
            waiting: status.waiting.iter().map(waiting).collect(),
            failed_reads: status.given_up.count,
            failed_lately: status.given_up.lately.map(failed),
            warnings: status
                .warnings
                .into_iter()
                .chain(self.unlisted())
                .chain(self.exports.warnings(&self.plane))
                .chain(clones::warnings(self))
                .chain(clients::warnings(self))
                .chain(self.netboot.warning())
                .collect(),
            fetched_bytes: status.fetched_bytes,
            reused_bytes: status.reused_bytes,
            in_flight_bytes: status.in_flight_bytes,
        })
    }

    /// The list of versions could not be had, or was had.
    pub(super) fn listed_or_not(&self, trouble: Option<String>) {
        let mut known = self.unlisted.lock().unwrap_or_else(PoisonError::into_inner);
        *known = trouble.map(|why| (known.as_ref().map_or_else(Instant::now, |(since, _)| *since), why));
    }

    /// That sources which answer give no list: said by nobody else, and new versions do not appear.
    fn unlisted(&self) -> Option<String> {
        let known = self.unlisted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (since, why) = known.filter(|(since, _)| since.elapsed() >= UNLISTED_AFTER)?;
        if self.out_of_reach().is_some() {
            return None;
        }
        let since = since.elapsed().as_secs();
        Some(format!("no source has given the list of versions for {since} s, so new ones do not appear: {why}"))
    }

    /// That no source answers, and why.
    pub(super) fn out_of_reach(&self) -> Option<String> {
        let reason = |source: SourceHealth| match source.state {
            SourceState::Offline { error, .. } => Some(format!("{} is offline: {error}", source.name)),
            SourceState::Untried | SourceState::Online { .. } => None,
        };
        let reasons: Option<Vec<String>> = self.sources.health().into_iter().map(reason).collect();
        reasons.filter(|reasons| !reasons.is_empty()).map(|reasons| reasons.join("; "))
    }

    /// The same and its orders, for Prometheus.
    pub(super) fn metrics(&self) -> String {
        let here = orders::Here::now();
        let orders: Vec<_> = self.cache.prefetch_list().iter().map(|order| orders::report(order, &here)).collect();
        metrics::text(&self.report(), &orders)
    }

    fn store(&self, status: &CacheStatus) -> StoreReport {
        let (state, reason) = match &status.store {
            StoreState::Ok => ("ok", None),
            StoreState::Full { why } => ("full", Some(why.clone())),
            StoreState::Suspect { why } => ("suspect", Some(why.clone())),
        };
        let seen = self.space.last();
        StoreReport {
            path: self.store.clone(),
            file_system: seen.file_system,
            used_bytes: seen.used_bytes,
            size_bytes: seen.size_bytes,
            state: state.to_owned(),
            reason,
        }
    }

    /// How many programs and workstations have files of each version open.
    pub(super) fn open_by_version(&self) -> BTreeMap<Serial, u64> {
        let view = self.cache.view();
        let serial = |version: &VersionId| view.version(version).map(VersionRecord::serial);
        self.exports.clients(self.in_use().unwrap_or_default(), serial)
    }

    /// Whether the mount was taken over from an earlier daemon; `None` if there is none now.
    pub(super) fn is_adopted(&self) -> Option<bool> {
        let mount = self.mount().0;
        mount.mounted.then_some(mount.adopted)
    }

    /// Open handles by version if they are known: not before the mount was made or taken over, nor after it was left.
    pub(super) fn in_use(&self) -> Option<BTreeMap<Serial, u64>> {
        let (mount, mut open) = self.mount();
        for clone in self.cache.clones().all().iter().filter(|clone| clone.is_open() || clone.is_kept()) {
            *open.entry(clone.serial()).or_default() += 1;
        }
        mount.mounted.then_some(open)
    }

    /// How the mount is, and open handles by version.
    fn mount(&self) -> (MountReport, BTreeMap<Serial, u64>) {
        let mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        let status = mounted.as_ref().map(|mounted| mounted.status());
        let report = MountReport {
            path: self.mount.clone(),
            mounted: status.is_some(),
            adopted: status.as_ref().is_some_and(|status| status.adopted),
            passthrough: status.as_ref().is_some_and(|status| status.passthrough),
            cached_handles: status.as_ref().map_or(0, |status| status.open.cached),
            passthrough_handles: status.as_ref().map_or(0, |status| status.open.passthrough),
            waiting_requests: status.as_ref().map_or(0, |status| status.waiting),
        };
        (report, status.map(|status| status.open_by_version).unwrap_or_default())
    }
}

fn source(health: &SourceHealth) -> SourceReport {
    let ago = |since: SystemTime| since.elapsed().unwrap_or_default().as_secs();
    let (online, since_seconds, error) = match &health.state {
        SourceState::Untried => (None, 0, None),
        SourceState::Online { since } => (Some(true), ago(*since), None),
        SourceState::Offline { since, error } => (Some(false), ago(*since), Some(error.clone())),
    };
    SourceReport {
        url: health.name.clone(),
        online,
        since_seconds,
        error,
        bytes_received: health.received_bytes,
        requests: health.requests,
        in_flight: health.in_flight,
    }
}

fn version(record: &VersionRecord, held: Option<&VersionStatus>, open_handles: u64) -> VersionReport {
    // Of a version that was never looked at only the sum of its files is known.
    let unknown = Residency { total_bytes: record.data_bytes, ..Residency::default() };
    let blocks = held.map(|held| held.residency).filter(|blocks| blocks.total_bytes > 0).unwrap_or(unknown);
    // Files end where they end, and not with their last block.
    let bytes = blocks.of(record.data_bytes);
    VersionReport {
        version: record.statement.statement().version(),
        state: record.state,
        blocks: blocks.total_bytes.div_ceil(BLOCK_BYTES),
        resident_blocks: blocks.resident_bytes.div_ceil(BLOCK_BYTES),
        durable_blocks: blocks.durable_bytes.div_ceil(BLOCK_BYTES),
        bytes: bytes.total_bytes,
        resident_bytes: bytes.resident_bytes,
        durable_bytes: bytes.durable_bytes,
        complete: held.is_some_and(|held| held.complete),
        complete_since: held.and_then(|held| held.complete_since).map(|since| Timestamp::from(since).seconds),
        boot_set_since: None,
        pinned_by: held.and_then(|held| held.pin.as_ref()).map(|pin| pin.by.clone()),
        sealed_since: held.and_then(|held| held.sealed_since).map(|since| Timestamp::from(since).seconds),
        filling: held.is_some_and(|held| held.filling),
        fallback: held.is_some_and(|held| held.fallback),
        open_handles,
        fetched_today_bytes: held.map_or(0, |held| held.fetched_today_bytes),
    }
}

fn local(local: &LocalRollback) -> LocalReport {
    let LocalRollback { version, by, since, listed } = local.clone();
    LocalReport { version, by, since, deployed: listed }
}

fn failed((ago, what): (Duration, String)) -> String {
    format!("a read failed {} ago with an I/O error, for {what}", output::seconds(ago.as_secs()))
}

fn waiting(waiting: &Waiting) -> WaitingReport {
    WaitingReport {
        version: waiting.version.clone(),
        file: waiting.path.clone(),
        block: waiting.block,
        seconds: waiting.waited.as_secs(),
        reason: waiting.why.clone(),
    }
}
