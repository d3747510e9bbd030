//! Network boot: a dnsmasq of icbd's own that runs as long as it should, and is told what the networks are now.

mod commands;
mod process;
mod signed;
mod solicited;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::stream::{self, Stream};
use icbd_export::{
    BootNetwork, Dnsmasq, Loaders, NetbootEnabled, NetworkError, WantedNetwork, check_signed, interfaces, put_signed,
};
use ipnet::IpNet;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::boot;
use super::state::CacheServer;
use crate::failure::{Exit, Failure};
use crate::netboot::{NetbootReport, NetbootState};
use crate::settings::NetbootSettings;
pub(super) use commands::{change, show};
use process::{Running, Said};
pub(super) use signed::watch as watch_signed;
pub(super) use solicited::answer as answer_solicitations;

/// An address or an interface that comes and goes is seen within this.
const INTERVAL: Duration = Duration::from_secs(5);
/// Who asked for it waits so long for it to serve.
const SETTLED_MAX: Duration = Duration::from_secs(10);
/// A server that ends by itself is started again after a pause, which grows.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Netboot {
    settings: RwLock<NetbootSettings>,
    enabled: NetbootEnabled,
    dnsmasq: Dnsmasq,
    folder: PathBuf,
    wake: Notify,
    /// How often somebody waited for what was changed.
    asked: AtomicU64,
    seen: watch::Sender<Seen>,
}

/// How it is.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// How often it had been asked for by then.
    asked: u64,
    state: NetbootState,
    networks: Vec<BootNetwork>,
    trouble: Option<String>,
}

/// What is to be served, and by which configuration.
#[derive(Debug, Clone, Default)]
struct Wanted {
    networks: Vec<BootNetwork>,
    /// None, where nothing is to be served.
    text: Option<String>,
    trouble: Option<String>,
}

impl Netboot {
    /// `folder`: what is made anew at each start; `store`: what is kept.
    pub(super) fn new(settings: &NetbootSettings, folder: &Path, store: &Path) -> Netboot {
        Netboot {
            settings: RwLock::new(settings.clone()),
            enabled: NetbootEnabled::in_folder(store),
            dnsmasq: Dnsmasq::new(folder, store),
            folder: folder.to_owned(),
            wake: Notify::new(),
            asked: AtomicU64::new(0),
            seen: watch::Sender::default(),
        }
    }

    pub(super) fn settings(&self) -> NetbootSettings {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, settings: &NetbootSettings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings.clone();
        self.wake.notify_one();
    }

    /// Where a file is that firmware loads.
    pub(super) fn loaders(&self) -> PathBuf {
        self.dnsmasq.loaders()
    }

    /// Networks whose workstations ask for their script.
    pub(super) fn clients(&self) -> Vec<IpNet> {
        self.seen.borrow().networks.iter().map(|network| network.subnet.into()).collect()
    }

    /// Something of the networks that are served, whenever it is another.
    pub(super) fn whenever<T, F>(&self, of: F) -> impl Stream<Item = T> + use<T, F>
    where
        T: Clone + PartialEq,
        F: Fn(&[BootNetwork]) -> T + Copy,
    {
        let seen = self.seen.subscribe();
        stream::unfold((seen, None), move |(mut seen, before)| async move {
            let is_other = |seen: &Seen| before.as_ref() != Some(&of(&seen.networks));
            let now = of(&seen.wait_for(is_other).await.ok()?.networks);
            Some((now.clone(), (seen, Some(now))))
        })
    }

    /// Where those are heard who have no address: all networks on which workstations boot, or all that this machine is on.
    pub(super) fn broadcasts(&self) -> Vec<Ipv4Addr> {
        let of_boot = self.seen.borrow().networks.iter().map(|network| network.subnet.broadcast()).collect::<Vec<_>>();
        if !of_boot.is_empty() {
            return of_boot;
        }
        let all = interfaces().unwrap_or_default();
        let addresses = all.iter().flat_map(|interface| &interface.addresses);
        addresses.filter(|address| !address.addr().is_loopback()).map(|address| address.broadcast()).collect()
    }

    /// The networks as they are named, each with its address now.
    fn networks(&self, listen: &[SocketAddr]) -> Result<Vec<BootNetwork>, Failure> {
        let refused = |error: String| Failure::new(Exit::Refused, error);
        let interfaces = interfaces().map_err(|error| refused(format!("cannot list network interfaces: {error}")))?;
        BootNetwork::all(&self.settings().networks, &interfaces, listen).map_err(|error| refused(error.to_string()))
    }

    /// Fails if other networks were named that cannot be served: what is served goes on.
    pub(super) fn check_other(&self, new: &NetbootSettings, listen: &[SocketAddr]) -> Result<(), Failure> {
        let known = self.settings().networks;
        let others: Vec<&WantedNetwork> = new.networks.iter().filter(|network| !known.contains(network)).collect();
        if others.is_empty() || !self.enabled.get().unwrap_or_default() {
            return Ok(());
        }
        // What was named before may have lost its address since: that is told, and keeps nobody from the others.
        let interfaces = interfaces().unwrap_or_default();
        let alone = |network: &WantedNetwork| BootNetwork::all(std::slice::from_ref(network), &interfaces, listen);
        let wrong = others.into_iter().find_map(|network| alone(network).err());
        let wrong = wrong.or_else(|| match BootNetwork::some(&new.networks, &interfaces, listen).1 {
            Some(error @ NetworkError::Twice { .. }) => Some(error),
            _ => None,
        });
        wrong.map_or(Ok(()), |error| {
            let message = format!("[[network]] {error}; nothing of the configuration was taken over");
            Err(Failure::new(Exit::Refused, message))
        })
    }

    fn wanted(&self, listen: &[SocketAddr]) -> Wanted {
        let trouble = |trouble: String| Wanted { trouble: Some(trouble), ..Wanted::default() };
        match self.enabled.get() {
            Err(error) => return trouble(error.to_string()),
            Ok(false) => return Wanted::default(),
            Ok(true) => {}
        }
        // One that lost its address keeps nobody from the others.
        let mut troubles = Vec::new();
        let networks = match self.networks(listen) {
            Ok(all) => all,
            Err(failure) => {
                troubles.push(failure.message);
                BootNetwork::some(&self.settings().networks, &interfaces().unwrap_or_default(), listen).0
            }
        };
        // Without what it needs, all others boot as before.
        let signed = if self.settings().secure_boot { check_signed() } else { Ok(()) };
        let is_signed = self.settings().secure_boot && signed.is_ok();
        troubles.extend(signed.err().map(|error| format!("netboot.secure_boot: {error}")));
        let text = (!networks.is_empty()).then(|| self.dnsmasq.text(&networks, is_signed));
        Wanted { networks, text, trouble: troubles.pop() }
    }

    /// Has what it serves be there.
    fn write(&self, text: &str) -> Result<(), String> {
        let loaders = self.dnsmasq.loaders();
        Loaders::default().put(&loaders).map_err(|error| error.to_string())?;
        if self.settings().secure_boot && check_signed().is_ok() {
            put_signed(&loaders).map_err(|error| error.to_string())?;
        }
        let config = self.dnsmasq.config();
        std::fs::write(&config, text).map_err(|error| format!("cannot write {}: {error}", config.display()))
    }

    /// Waits until what was changed was seen to, unless that takes too long for people to wait.
    async fn settle(&self) {
        let mut seen = self.seen.subscribe();
        let asked = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake.notify_one();
        let is_settled = |seen: &Seen| seen.asked >= asked && seen.state != NetbootState::Starting;
        let _ = tokio::time::timeout(SETTLED_MAX, seen.wait_for(is_settled)).await;
    }

    pub(super) fn report(&self) -> NetbootReport {
        let seen = self.seen.borrow().clone();
        let (enabled, unreadable) = match self.enabled.get() {
            Ok(enabled) => (enabled, None),
            Err(error) => (false, Some(error.to_string())),
        };
        let files = seen.networks.first().map(|_| self.dnsmasq.config().display().to_string());
        NetbootReport {
            enabled,
            state: seen.state,
            networks: seen.networks.iter().map(Into::into).collect(),
            files: files.into_iter().collect(),
            // A look that came after it says the same.
            troubles: unreadable.or(seen.trouble).into_iter().collect(),
        }
    }

    /// For the status.
    pub(super) fn warning(&self) -> Option<String> {
        self.seen.borrow().trouble.as_ref().map(|trouble| format!("network boot: {trouble}"))
    }
}

/// Has it be served as it should be, until `stop`.
pub(super) async fn watch(server: Arc<CacheServer>, stop: CancellationToken) {
    let netboot = &server.netboot;
    netboot.dnsmasq.end_left();
    let (mut running, mut failed): (Option<Running>, Option<String>) = (None, None);
    let (mut not_before, mut pause) = (Instant::now(), PAUSE_MIN);
    loop {
        let asked = netboot.asked.load(Ordering::Acquire);
        let wanted = netboot.wanted(&server.plane.listen);
        if let Some(before) = running.as_mut().filter(|running| Some(&running.text) != wanted.text.as_ref()) {
            failed = before.end().await.err();
            if failed.is_none() {
                running = None;
            }
        } else if running.as_ref().is_some_and(|running| running.is_serving) {
            failed = None;
        }
        if running.is_none()
            && Instant::now() >= not_before
            && let Some(text) = &wanted.text
        {
            let written = netboot.write(text);
            match written.and_then(|()| Running::start(&netboot.dnsmasq, text)) {
                Ok(started) => running = Some(started),
                Err(why) => {
                    failed = Some(why);
                    later(&mut not_before, &mut pause);
                }
            }
        }
        if wanted.text.is_none() && running.is_none() {
            failed = None;
            // Of one that is not served nothing is left.
            let _ = std::fs::remove_dir_all(&netboot.folder);
        }
        let is_serving = running.as_ref().is_some_and(|running| running.is_serving);
        see(&server, asked, wanted, is_serving, failed.clone());
        let wait = match (&running, &failed) {
            (None, Some(_)) => not_before.saturating_duration_since(Instant::now()),
            _ => INTERVAL,
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = netboot.wake.notified() => (not_before, pause) = (Instant::now(), PAUSE_MIN),
            // One that has run for so long is not one that ends at once.
            () = tokio::time::sleep(wait) => if running.is_some() { pause = PAUSE_MIN },
            said = process::next(&mut running, |line| boot::heard(&server, line)) => match said {
                Said::Serving => failed = None,
                Said::Ended(why) => {
                    tracing::warn!(why, "the dnsmasq of network boot ended; it is started again");
                    (running, failed) = (None, Some(why));
                    later(&mut not_before, &mut pause);
                }
            },
        }
    }
    if let Some(running) = &mut running
        && let Err(why) = running.end().await
    {
        tracing::error!(why, "network boot goes on without this cache server");
    }
}

/// Has the next start wait, and the one after that longer.
fn later(not_before: &mut Instant, pause: &mut Duration) {
    *not_before = Instant::now() + *pause;
    *pause = (*pause * 2).min(PAUSE_MAX);
}

/// Tells how it is, and whom that admits.
fn see(server: &CacheServer, asked: u64, wanted: Wanted, is_serving: bool, failed: Option<String>) {
    let state = match (&wanted.text, is_serving, &failed) {
        (None, _, _) if wanted.trouble.is_some() || failed.is_some() => NetbootState::Failed,
        (None, _, _) => NetbootState::Off,
        (Some(_), _, Some(_)) => NetbootState::Failed,
        (Some(_), true, None) => NetbootState::Serving,
        (Some(_), false, None) => NetbootState::Starting,
    };
    let seen = Seen { asked, state, networks: wanted.networks, trouble: failed.or(wanted.trouble) };
    let before = server.netboot.seen.send_replace(seen.clone());
    if before.networks != seen.networks {
        super::exports::admit(server);
    }
    if before.trouble != seen.trouble
        && let Some(trouble) = &seen.trouble
    {
        tracing::warn!(trouble, "network boot is not as it should be");
    }
}
