//! Has the servers of this machine offer what was declared, and knows who uses it.
//!
//! One task does it, again and again: servers are restarted, versions come and go, and people meddle. Commands change what is
//! declared and wait until that task has been at it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use icbd_export::{
    Declaration, Declared, Offer, OfferName, Offered, Opened, Outcome, Plan, Protocol, Server, ServerError, Tgt,
    bootable, disk_of,
};
use icbd_image::{ImageName, Serial, VersionId, VersionRecord};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::state::CacheServer;
use crate::audit::Change;
use crate::control::Peer;
use crate::exports::{ExportReport, ExportSpec, OfferReport, SessionReport, UnexportSpec};
use crate::failure::{Exit, Failure};
use crate::images::find_image;
use crate::settings::IscsiServer;

/// So often it is looked whether all is as it should be. A look takes milliseconds.
const INTERVAL: Duration = Duration::from_secs(5);
const SETTLED_MAX: Duration = Duration::from_secs(5);

/// What is declared, and what came of it.
#[derive(Debug)]
pub(super) struct Exports {
    declared: Declared,
    iscsi: RwLock<IscsiServer>,
    seen: Mutex<Seen>,
    wake: Notify,
    turns: watch::Sender<Turns>,
}

/// How often it was looked.
#[derive(Debug, Default, Clone, Copy)]
struct Turns {
    begun: u64,
    done: u64,
}

/// What the last look saw and did.
#[derive(Debug, Default, Clone)]
struct Seen {
    server: Option<&'static str>,
    portals: Vec<SocketAddr>,
    offered: Vec<Offered>,
    wanted: BTreeSet<OfferName>,
    /// What the server has open may be another thing a moment later.
    is_changing: bool,
    /// What it had open before this mount was made is opened anew.
    is_renewed: bool,
    /// What concerns all of it.
    trouble: Option<String>,
    troubles: BTreeMap<ImageName, Vec<String>>,
}

impl Exports {
    pub(super) fn open(store: &Path, iscsi: IscsiServer) -> anyhow::Result<Exports> {
        let declared = Declared::open(store).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let (iscsi, seen, turns) = (RwLock::new(iscsi), Mutex::default(), watch::Sender::new(Turns::default()));
        Ok(Exports { declared, iscsi, seen, wake: Notify::new(), turns })
    }

    /// Something changed that it depends on.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn set_iscsi(&self, iscsi: IscsiServer) {
        *self.iscsi.write().unwrap_or_else(PoisonError::into_inner) = iscsi;
        self.wake();
    }

    /// Waits until what is declared now was seen to, unless the server takes too long for people to wait.
    async fn settle(&self) {
        let mut turns = self.turns.subscribe();
        let next = turns.borrow().begun + 1;
        self.wake();
        // Without a task that looks, nothing is to be waited for.
        let _ = tokio::time::timeout(SETTLED_MAX, turns.wait_for(|turns| turns.done >= next)).await;
    }

    /// How many clients each version has, of which so many files are open: a server holds a disk open whether anybody uses it or not.
    ///
    /// Of a version that is to be offered no more that counts: the server may be slow to let go of it.
    pub(super) fn clients(
        &self,
        mut open: BTreeMap<Serial, u64>,
        serial: impl Fn(&VersionId) -> Option<Serial>,
    ) -> BTreeMap<Serial, u64> {
        let seen = self.seen();
        for offered in seen.offered.iter().filter(|_| !seen.is_changing) {
            let sessions = offered.sessions.len() as u64;
            let Some(count) = serial(offered.version()).and_then(|serial| open.get_mut(&serial)) else { continue };
            if sessions > 0 || seen.wanted.contains(&offered.name) {
                *count = (*count).saturating_sub(1) + sessions;
            }
        }
        open.retain(|_, count| *count > 0);
        open
    }

    /// For people: what is declared and not offered.
    pub(super) fn warnings(&self) -> Vec<String> {
        let seen = self.seen();
        let of_all = seen.trouble.iter().map(|trouble| format!("exports: {trouble}"));
        let of_each = seen
            .troubles
            .iter()
            .flat_map(|(image, troubles)| troubles.iter().map(move |trouble| format!("export of {image}: {trouble}")));
        of_all.chain(of_each).collect()
    }

    /// As it is now.
    pub(super) async fn list(&self) -> Vec<ExportReport> {
        self.settle().await;
        let seen = self.seen();
        self.declared.all().iter().map(|declaration| report(declaration, &seen)).collect()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server that there is.
    fn server(&self) -> Result<Box<dyn Server>, ServerError> {
        match *self.iscsi.read().unwrap_or_else(PoisonError::into_inner) {
            IscsiServer::Auto | IscsiServer::Tgt => Ok(Box::new(Tgt::default())),
            IscsiServer::Off => Err(ServerError::Off { key: "export.iscsi" }),
        }
    }

    /// Has the server serve this, of what lies in `mount`. Blocks.
    fn serve(&self, wanted: &[Offer], mount: &Path, opened: Opened) -> Result<Outcome, ServerError> {
        let server = self.server()?;
        // Another cache server on this machine has its own.
        let is_ours = |offered: &Offered| match &offered.disk {
            Some(disk) => disk.starts_with(mount),
            None => wanted.iter().any(|offer| offer.name == offered.name),
        };
        let ours = || Ok::<_, ServerError>(server.offered()?.into_iter().filter(is_ours).collect::<Vec<_>>());
        let offered = ours()?;
        let plan = Plan::new(offered.clone(), wanted, opened);
        let is_idle = plan.is_empty();
        let look = |offered: Vec<Offered>, portals| {
            let mut seen = self.seen();
            (seen.server, seen.offered, seen.portals) = (Some(server.name()), offered, portals);
            (seen.is_changing, seen.is_renewed) = (false, true);
            seen.wanted = wanted.iter().map(|offer| offer.name.clone()).collect();
        };
        if is_idle {
            look(offered, server.portals()?);
            return Ok(Outcome::default());
        }
        self.seen().is_changing = true;
        let outcome = plan.carry_out(&*server);
        look(ours()?, server.portals()?);
        Ok(outcome)
    }
}

/// Looks again and again until `stop`.
pub(super) async fn watch(server: Arc<CacheServer>, stop: CancellationToken) {
    let exports = &server.exports;
    loop {
        exports.turns.send_modify(|turns| turns.begun += 1);
        if stop.run_until_cancelled(look(&server)).await.is_none() {
            return;
        }
        exports.turns.send_modify(|turns| turns.done = turns.begun);
        tokio::select! {
            () = stop.cancelled() => return,
            () = exports.wake.notified() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Before the mount ends: takes back what nobody uses, which would hold it. Who uses something has been asked for nothing.
pub(super) async fn leave(server: &Arc<CacheServer>) {
    let working = server.clone();
    let left = tokio::task::spawn_blocking(move || working.exports.serve(&[], &working.mount, Opened::Valid)).await;
    match left {
        Ok(Ok(outcome)) => log(&outcome),
        // Most likely it was stopped first.
        Ok(Err(error)) => tracing::debug!(%error, "nothing is taken back"),
        Err(panicked) => tracing::error!(error = %panicked, "exports could not be taken back"),
    }
}

async fn look(server: &Arc<CacheServer>) {
    // Where nothing is mounted there is nothing to be opened.
    let Some(is_adopted) = server.is_adopted() else { return };
    let declarations = server.exports.declared.all();
    let before = server.exports.seen().clone();
    if declarations.is_empty() && before.is_renewed && before.offered.is_empty() {
        return;
    }
    let (wanted, mut troubles) = wanted(server, &declarations, &before.offered).await;
    let opened = if is_adopted || before.is_renewed { Opened::Valid } else { Opened::Stale };
    let working = server.clone();
    let served = tokio::task::spawn_blocking(move || working.exports.serve(&wanted, &working.mount, opened)).await;
    let mut trouble = None;
    match served {
        Err(panicked) => tracing::error!(error = %panicked, "exports could not be looked at"),
        Ok(Ok(outcome)) => {
            log(&outcome);
            for (name, error) in &outcome.failed {
                troubles.entry(name.version.image.clone()).or_default().push(format!("{}: {error}", name.version));
            }
        }
        Ok(Err(error)) => {
            // Whoever never exports anything needs no server.
            trouble = (!declarations.is_empty()).then(|| error.to_string());
            let mut seen = server.exports.seen();
            // What it does not serve, nobody uses.
            seen.offered.clear();
            (seen.is_changing, seen.is_renewed) = (false, seen.is_renewed || declarations.is_empty());
        }
    }
    if trouble != before.trouble {
        match &trouble {
            Some(trouble) => tracing::warn!(trouble, "nothing is exported"),
            None => tracing::info!("exports are as they should be again"),
        }
    }
    for trouble in
        troubles.iter().filter(|(image, list)| before.troubles.get(*image) != Some(list)).flat_map(|(_, list)| list)
    {
        tracing::warn!(trouble, "not all is exported");
    }
    let mut seen = server.exports.seen();
    (seen.trouble, seen.troubles) = (trouble, troubles);
}

fn log(outcome: &Outcome) {
    let each = |names: &[OfferName], what: &'static str| {
        names.iter().for_each(|name| tracing::info!(%name, "{what}"));
    };
    each(&outcome.offered, "exported");
    each(&outcome.changed, "exported otherwise");
    each(&outcome.withdrawn, "exported no more");
}

/// What is to be served, and why something cannot be.
async fn wanted(
    server: &CacheServer,
    declarations: &[Declaration],
    offered: &[Offered],
) -> (Vec<Offer>, BTreeMap<ImageName, Vec<String>>) {
    let (mut wanted, mut troubles): (_, BTreeMap<ImageName, Vec<String>>) = (Vec::new(), BTreeMap::new());
    let view = server.cache.view();
    for declaration in declarations {
        let versions = view.image(&declaration.image).into_iter().flat_map(bootable);
        for record in versions {
            let version = record.statement.statement().version();
            let name = OfferName { version, client: None };
            let known = offered.iter().find(|offered| offered.name == name).and_then(|offered| offered.disk.clone());
            let clients = declaration.clients.clone();
            match disk(server, record, declaration).await {
                Ok(path) => {
                    let VersionId { image, number } = &name.version;
                    let disk = server.mount.join(image.as_str()).join(number.to_string()).join(path);
                    wanted.push(Offer { name, disk, clients });
                }
                Err(Failure { exit, message }) => {
                    // A master that is away takes nothing from anybody.
                    if let (Some(disk), false) = (known, exit == Exit::Refused) {
                        wanted.push(Offer { name, disk, clients });
                    } else {
                        troubles.entry(declaration.image.clone()).or_default().push(message);
                    }
                }
            }
        }
    }
    (wanted, troubles)
}

/// Where in a version its disk is; refused if it has none.
async fn disk(server: &CacheServer, record: &VersionRecord, declaration: &Declaration) -> Result<String, Failure> {
    let version = server.cache.version(record.serial()).await.map_err(Failure::from)?;
    disk_of(version.head(), declaration.disk.as_deref()).map_err(|error| {
        let message = format!("{} cannot be offered by {}: {error}", version.id(), declaration.protocol);
        Failure::new(Exit::Refused, message)
    })
}

fn report(declaration: &Declaration, seen: &Seen) -> ExportReport {
    let Declaration { image, protocol, clients, disk } = declaration.clone();
    let offers = seen.offered.iter().filter(|offered| offered.version().image == image).map(|offered| {
        let session = |session: &icbd_export::Session| SessionReport {
            initiator: session.initiator.clone(),
            addresses: session.addresses.clone(),
        };
        OfferReport {
            name: offered.name.to_string(),
            url: OfferReport::url(&offered.name, &seen.portals, &clients),
            leaving: !seen.wanted.contains(&offered.name),
            sessions: offered.sessions.iter().map(session).collect(),
        }
    });
    let troubles = seen.trouble.iter().chain(seen.troubles.get(&image).into_iter().flatten());
    ExportReport {
        offers: offers.collect(),
        troubles: troubles.cloned().collect(),
        server: seen.server.map(str::to_owned),
        image,
        protocol,
        clients,
        disk,
    }
}

/// Offers an image, with both ends of it in the audit log.
pub(super) async fn add(server: Arc<CacheServer>, peer: Peer, spec: ExportSpec) -> anyhow::Result<ExportReport> {
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    server.audit.both_ends(&peer, change, act_on_add(&server, &spec)).await
}

async fn act_on_add(server: &Arc<CacheServer>, spec: &ExportSpec) -> anyhow::Result<ExportReport> {
    find_image(&server.images(), &spec.image)?;
    let ExportSpec { image, protocol, disk: named, .. } = spec.clone();
    let mut clients = spec.clients.clone();
    clients.sort_unstable();
    clients.dedup();
    let declaration = Declaration { image, protocol, clients, disk: named };
    // What cannot be served at all is refused now; what comes later is told when it comes.
    let view = server.cache.view();
    let newest = view.image(&spec.image).and_then(|image| bootable(image).last());
    let newest = newest.ok_or_else(|| {
        let message = format!("no version of {} is ready; publish or restore one first", spec.image);
        Failure::new(Exit::Refused, message)
    })?;
    disk(server, newest, &declaration).await?;
    let working = server.clone();
    let answers = tokio::task::spawn_blocking(move || working.exports.server()?.offered()).await?;
    answers.map_err(|error| Failure::new(Exit::Refused, error.to_string()))?;
    server.exports.declared.add(declaration).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let exports = server.exports.list().await;
    let export = exports.into_iter().find(|export| (&export.image, export.protocol) == (&spec.image, protocol));
    export.ok_or_else(|| Failure::new(Exit::Refused, "somebody removed it meanwhile").into())
}

/// Offers it no more, with both ends of it in the audit log.
pub(super) async fn remove(server: Arc<CacheServer>, peer: Peer, spec: UnexportSpec) -> anyhow::Result<()> {
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    server.audit.both_ends(&peer, change, act_on_remove(&server, spec.image.clone(), spec.protocol)).await
}

async fn act_on_remove(server: &Arc<CacheServer>, image: ImageName, protocol: Protocol) -> anyhow::Result<()> {
    let exports = server.exports.list().await;
    let Some(export) = exports.iter().find(|export| (&export.image, export.protocol) == (&image, protocol)) else {
        let hint = crate::near::hint(image.as_str(), exports.iter().map(|export| export.image.as_str()));
        let message = format!("{image} is not exported by {protocol}{hint}; `icbd export list` shows what is");
        return Err(Failure::new(Exit::Absent, message).into());
    };
    let sessions: Vec<String> =
        export.offers.iter().flat_map(|offer| &offer.sessions).map(SessionReport::words).collect();
    if !sessions.is_empty() {
        let message = format!("{image} is in use by {}; shut these down first", sessions.join(", "));
        return Err(Failure::new(Exit::Refused, message).into());
    }
    server.exports.declared.remove(&image, protocol).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    server.exports.settle().await;
    Ok(())
}
