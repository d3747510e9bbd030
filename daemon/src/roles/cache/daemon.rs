//! The daemon under the keeper: puts store, sources, mount and control plane together, and takes them apart.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use icbd_cache::Cache;
use icbd_export::Workstations;
use icbd_fetch::{HttpSource, Source, Sources, TimeOuts};
use icbd_fs::keeper::RENEW_EXIT_CODE;
use icbd_fs::{FsError, Handover, Handovers, MountSettings, Mounted};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::boot::{self, Boots, Journal};
use super::clones::{self, ClonesMount};
use super::exports::Exports;
use super::handover::{self, Keeping, Kept};
use super::netboot::{self, Netboot};
use super::ready::Ready;
use super::state::{CacheServer, Plane};
use super::{api, evict, exports, ready, refresh, seal};
use crate::args::CacheArgs;
use crate::audit::Audit;
use crate::control::ControlServer;
use crate::failure::{Exit, Failure};
use crate::notify::{self, Signals, Told};
use crate::roles::config::{self, RunningConfig};
use crate::roles::space::Space;
use crate::serve::{self, Allow};
use crate::settings::{CacheSettings, SourceSettings};

/// How long a start waits for the first answer of a source: a mount without its new versions is worth less,
/// but what is here already must not wait for a master that is down.
const FIRST_LISTING_MAX: Duration = Duration::from_millis(1500);

/// Serves until it is told to stop.
pub(super) async fn serve(
    settings: CacheSettings,
    config: RunningConfig<CacheArgs>,
    keeping: Keeping,
    demand: &Handle,
) -> anyhow::Result<ExitCode> {
    let is_by_systemd = keeping.is_by_systemd();
    let signals = Signals::listen()?;
    let allow = Allow::new(&settings.allow);
    let listeners = serve::listen(&settings.listen, &allow).await?;
    let plane = Plane { listen: listeners.iter().map(|(_, address)| *address).collect(), allow };
    let Handovers { images, clones } = keeping.handovers();
    let clones = ClonesMount::new(&settings.clones, clones, is_by_systemd);
    let server = Arc::new(open(&settings, config, plane, clones, demand).await?);
    exports::admit(&server);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let control = ControlServer::start(&settings.socket, api::router(server.clone(), tasks.clone()))?;
    let (asked, has_asked) = watch::channel(false);
    tasks.spawn(refresh::run(server.clone(), asked, stop.clone()));
    for (listener, _) in listeners {
        let told = server.clone();
        let read = server.clone();
        let for_nodes = serve::cache_router(server.cache.clone())
            .merge(serve::metrics_router(move || told.metrics()))
            .merge(serve::written_router(move |image, client| clones::written(read.clone(), image, client)));
        let router = serve::for_nodes(for_nodes, &server.plane.allow)
            .merge(serve::files_router(server.cache.clone(), exports::readers(&server)))
            .merge(serve::boot_router(boot::booting(&server)));
        tasks.spawn(serve::serve(listener, router, server.plane.allow.clone(), None, stop.clone()));
    }
    tasks.spawn(server.space.clone().watch(stop.clone()));
    tasks.spawn(evict::watch(server.clone(), stop.clone()));
    tasks.spawn(seal::watch(server.clone(), stop.clone()));
    tasks.spawn(ready::watch(server.clone(), stop.clone()));
    tasks.spawn(exports::watch_disks(server.clone(), stop.clone()));
    tasks.spawn(exports::watch_folders(server.clone(), stop.clone()));
    tasks.spawn(boot::sweep(server.clone(), stop.clone()));
    tasks.spawn(netboot::watch(server.clone(), stop.clone()));
    tasks.spawn(netboot::watch_signed(server.clone(), stop.clone()));
    tasks.spawn(netboot::answer_solicitations(server.clone(), stop.clone()));
    tasks.spawn(boot::syslog::listen(server.clone(), stop.clone()));
    first_listing(&server, has_asked).await;
    let outcome = match mount(&server, &settings, images, is_by_systemd).await {
        Ok(mounted) => run(&server, mounted, signals).await,
        Err(error) => Err(error),
    };
    stop.cancel();
    tasks.close();
    server.cache.close().await;
    control.stop_after(&tasks).await;
    match outcome {
        Ok(Told::Stop) if is_by_systemd => handover::forget_in_systemd(),
        Err(FsError::Renew(why)) => {
            tracing::info!(why, "asking for a new mount");
            return Ok(ExitCode::from(RENEW_EXIT_CODE as u8));
        }
        outcome => drop(outcome.map_err(Failure::from)?),
    }
    Ok(ExitCode::SUCCESS)
}

async fn open(
    settings: &CacheSettings,
    config: RunningConfig<CacheArgs>,
    plane: Plane,
    clones: ClonesMount,
    demand: &Handle,
) -> anyhow::Result<CacheServer> {
    let trust = settings.trust.load()?;
    if trust.require && trust.keys.is_empty() {
        tracing::warn!(
            "trust.require is set and no key is trusted: no version can be used; run `icbd key trust FILE.pub`"
        );
    }
    let mut masters: Vec<Arc<HttpSource>> = Vec::new();
    let authorities = settings.trust.authorities()?;
    for SourceSettings { url, codec } in &settings.sources {
        let source = HttpSource::known_by(url, TimeOuts::default(), &authorities);
        let source = source.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        masters.push(Arc::new(match codec {
            Some(codec) => source.with_codec(*codec),
            None => source,
        }));
    }
    let list = masters.iter().map(|master| master.clone() as Arc<dyn Source>).collect();
    let sources = Arc::new(Sources::new(list, icbd_fetch::Settings::default()));
    let cache_settings = icbd_cache::Settings {
        in_flight_bytes: settings.in_flight_bytes,
        offline_wait: settings.offline_wait,
        demand_runtime: Some(demand.clone()),
        reserve_bytes: settings.reserve_bytes,
        quota: settings.quota,
        window: settings.window,
        clone_bytes_max: settings.clone_bytes_max,
        clone_reserve_bytes: settings.clone_reserve_bytes,
        ..icbd_cache::Settings::new(&settings.store)
    };
    let cache = Cache::open(cache_settings, sources.clone(), trust.clone()).await.map_err(Failure::from)?;
    Ok(CacheServer {
        cache,
        masters,
        sources,
        plane,
        trust: RwLock::new(trust),
        authorities: Mutex::new(authorities),
        config,
        audit: Audit::open(&settings.store).context("the store is open, but changes could not be recorded")?,
        space: Space::new(&settings.store),
        store: settings.store.clone(),
        mount: settings.mount.clone(),
        mounted: Mutex::new(None),
        unlisted: Mutex::new(None),
        seal_when: RwLock::new(settings.seal_when),
        clone_hook: RwLock::new(settings.clone_hook.clone()),
        ready: Ready::default(),
        exports: Exports::open(&settings.store, settings.iscsi, &settings.nfs),
        clones,
        workstations: Workstations::open(&settings.store),
        boots: Boots::default(),
        journal: Journal::open(&settings.store, settings.boots_keep),
        netboot: Netboot::new(&settings.netboot, &settings.loaders, &settings.store),
        started: Instant::now(),
    })
}

/// Waits a moment for the sources' first answer.
async fn first_listing(server: &CacheServer, mut asked: watch::Receiver<bool>) {
    let _ = tokio::time::timeout(FIRST_LISTING_MAX, asked.wait_for(|asked| *asked)).await;
    let is_online = |source: &icbd_fetch::SourceHealth| matches!(source.state, icbd_fetch::SourceState::Online { .. });
    if !server.sources.health().iter().any(is_online) {
        tracing::info!("no source answers: offline, serving what is here; `icbd status` says more");
    }
}

async fn mount(
    server: &CacheServer,
    settings: &CacheSettings,
    handover: Handover,
    is_by_systemd: bool,
) -> Result<Mounted, FsError> {
    let mount = MountSettings { passthrough: settings.passthrough, ..MountSettings::new(&settings.mount) };
    let mounted = match icbd_fs::mount(server.cache.clone(), mount.clone(), handover).await {
        Err(FsError::Renew(why)) if is_by_systemd => {
            tracing::info!(why, "mounting anew");
            icbd_fs::mount(server.cache.clone(), mount, handover::renew_in_systemd(Kept::Images)?).await
        }
        mounted => mounted,
    }?;
    match server.clones.begin(&server.cache).await {
        Ok(()) => Ok(mounted),
        Err(error @ FsError::Renew(_)) => {
            // The keeper has new descriptors for the clones, and the same for the images.
            mounted.leave();
            Err(error)
        }
        Err(error) => {
            // Everything else works without them.
            tracing::error!(%error, "clones cannot be mounted");
            Ok(mounted)
        }
    }
}

/// From the mount to its end.
async fn run(server: &Arc<CacheServer>, mounted: Mounted, mut signals: Signals) -> Result<Told, FsError> {
    let mounted = Arc::new(mounted);
    *server.mounted.lock().unwrap_or_else(PoisonError::into_inner) = Some(mounted.clone());
    // What came while it was being mounted.
    server.view_changed();
    notify::ready(&format!("serving {}", server.mount.display()));
    let told = loop {
        let told = tokio::select! {
            told = signals.told() => told,
            () = mounted.wait() => {
                tracing::warn!(path = %server.mount.display(), "somebody unmounted the images: stopping");
                Told::Stop
            }
            () = server.clones.lost.notified() => {
                tracing::warn!("somebody unmounted the clones: starting anew");
                Told::Restart
            }
        };
        if told != Told::Reload {
            break told;
        }
        let server = server.clone();
        if let Ok(outcome) = tokio::task::spawn_blocking(move || server.reload()).await {
            config::log(&outcome);
        }
    };
    notify::stopping();
    *server.mounted.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let mounted = Arc::into_inner(mounted).expect("everybody else looks at it under the lock only");
    match told {
        Told::Stop => {
            exports::leave(server).await;
            // The one that cannot be ended keeps the other from nothing.
            let clones = server.clones.unmount().await;
            mounted.unmount().await?;
            clones?;
        }
        Told::Restart | Told::Reload => {
            server.clones.leave().await;
            mounted.leave();
        }
    }
    Ok(told)
}
