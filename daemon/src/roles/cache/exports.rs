//! Has the servers of this machine offer what was declared, and knows who uses it.
//!
//! One task does it, again and again: servers are restarted, versions come and go, and people meddle. Commands change what is
//! declared and wait until that task has been at it.

mod clones;
mod commands;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use icbd_export::{
    Clients, Declaration, Declared, Offer, OfferName, Offered, Outcome, Plan, Server, ServerError, Tgt, bootable,
    disk_of,
};
use icbd_image::{ImageName, Serial, VersionId, VersionRecord};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::state::CacheServer;
use crate::exports::ExportReport;
use crate::failure::{Exit, Failure};
use crate::settings::IscsiServer;
pub(super) use clones::{Use, offer_name};
pub(super) use commands::{add, remove};

/// So often it is looked whether all is as it should be. A look takes milliseconds.
const INTERVAL: Duration = Duration::from_secs(5);
const SETTLED_MAX: Duration = Duration::from_secs(5);
/// A workstation whose server was restarted logs in again within this, or has been switched off.
const COMES_BACK: Duration = Duration::from_secs(120);

/// What is declared, and what came of it.
#[derive(Debug)]
pub(super) struct Exports {
    /// Or why it cannot be read: that is no reason not to serve what is mounted.
    declared: Result<Declared, String>,
    iscsi: RwLock<IscsiServer>,
    seen: Mutex<Seen>,
    /// Held by whoever has the server do something; whether nothing is to be offered any more.
    serving: Mutex<IsOver>,
    /// Clones that are about to be reset: they are offered to nobody meanwhile.
    held_back: Mutex<BTreeSet<OfferName>>,
    wake: Notify,
    turns: watch::Sender<Turns>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct IsOver(bool);

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
    /// What was in use at the last good look, and until when that counts though nobody is logged in: its server was restarted.
    in_use: BTreeMap<OfferName, (Offer, Option<Instant>)>,
    /// When somebody was last seen logged in.
    used: BTreeMap<OfferName, Instant>,
    /// Since when the server answers each time it is asked.
    answers_since: Option<Instant>,
    /// What the server has open may be another thing a moment later.
    is_changing: bool,
    /// What it opened before this mount was made and has not opened anew; `None` before the first look.
    stale: Option<BTreeSet<OfferName>>,
    /// Nothing is offered, and nothing is to be.
    is_idle: bool,
    /// What concerns all of it.
    trouble: Option<String>,
    troubles: BTreeMap<ImageName, Vec<String>>,
}

impl Exports {
    pub(super) fn open(store: &Path, iscsi: IscsiServer) -> Exports {
        let declared = Declared::open(store).map_err(|error| error.to_string());
        Exports {
            declared,
            iscsi: RwLock::new(iscsi),
            seen: Mutex::default(),
            serving: Mutex::default(),
            held_back: Mutex::default(),
            wake: Notify::new(),
            turns: watch::Sender::default(),
        }
    }

    fn declared(&self) -> Result<&Declared, Failure> {
        self.declared.as_ref().map_err(|error| Failure::new(Exit::Failed, error.clone()))
    }

    pub(super) fn declarations(&self) -> Vec<Declaration> {
        self.declared.as_ref().map(Declared::all).unwrap_or_default()
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
    pub(super) async fn settle(&self) {
        let mut turns = self.turns.subscribe();
        let next = turns.borrow().begun + 1;
        self.wake();
        // Without a task that looks, nothing is to be waited for.
        let _ = tokio::time::timeout(SETTLED_MAX, turns.wait_for(|turns| turns.done >= next)).await;
    }

    /// How many clients each version has, of which so many files are open: a server holds a disk open whether anybody uses it or not.
    /// For people: what was seen last may be seconds old.
    pub(super) fn clients(
        &self,
        mut open: BTreeMap<Serial, u64>,
        serial: impl Fn(&VersionId) -> Option<Serial>,
    ) -> BTreeMap<Serial, u64> {
        let seen = self.seen();
        for offered in seen.offered.iter().filter(|_| !seen.is_changing) {
            let Some(count) = serial(offered.version()).and_then(|serial| open.get_mut(&serial)) else { continue };
            *count = (*count).saturating_sub(1) + offered.sessions.len() as u64;
        }
        open.retain(|_, count| *count > 0);
        open
    }

    /// The same for whoever decides what may go: no version is less used than it has files open, or than was seen.
    pub(super) fn leases(
        &self,
        mut open: BTreeMap<Serial, u64>,
        serial: impl Fn(&VersionId) -> Option<Serial>,
    ) -> BTreeMap<Serial, u64> {
        let seen = self.seen();
        for offered in &seen.offered {
            let Some(count) = serial(offered.version()).map(|serial| open.entry(serial).or_default()) else { continue };
            let sessions = offered.sessions.len() as u64;
            *count = (*count).max(sessions.min(1)) + sessions.saturating_sub(1);
        }
        // They are about to log in again.
        for name in seen.in_use.keys() {
            if let Some(count) = serial(&name.version).map(|serial| open.entry(serial).or_default()) {
                *count = (*count).max(1);
            }
        }
        open.retain(|_, count| *count > 0);
        open
    }

    /// For people: what is declared and not offered.
    pub(super) fn warnings(&self) -> Vec<String> {
        let seen = self.seen();
        let of_all =
            self.declared.as_ref().err().into_iter().chain(&seen.trouble).map(|trouble| format!("exports: {trouble}"));
        let of_each = seen
            .troubles
            .iter()
            .flat_map(|(image, troubles)| troubles.iter().map(move |trouble| format!("export of {image}: {trouble}")));
        of_all.chain(of_each).collect()
    }

    /// As it is now.
    pub(super) async fn list(&self) -> Result<Vec<ExportReport>, Failure> {
        let declared = self.declared()?;
        self.settle().await;
        let seen = self.seen();
        Ok(declared.all().iter().map(|declaration| commands::report(declaration, &seen)).collect())
    }

    /// Versions of an image that were in use until their server ended, and whose users may be about to log in again.
    fn awaited(&self, image: &ImageName) -> Vec<String> {
        let seen = self.seen();
        let awaited = seen.in_use.iter().filter(|(name, (_, until))| name.version.image == *image && until.is_some());
        awaited.map(|(name, _)| format!("whoever used {} until its server ended", name.version)).collect()
    }

    /// A target never changes its content: another disk is another export.
    fn check_same_kind(&self, new: &Declaration) -> Result<(), Failure> {
        let declared = self.declared()?.all();
        match declared.iter().find(|known| (&known.image, known.protocol) == (&new.image, new.protocol)) {
            Some(known) if (&known.disk, known.clone) != (&new.disk, new.clone) => {
                let image = &new.image;
                let how = match known.clone {
                    _ if known.disk != new.disk => "with another disk",
                    true => "with clones",
                    false => "without clones",
                };
                let message = format!(
                    "{image} is exported {how}, and a target never changes its content; end that first with \
                     `icbd export remove {image} --{}`",
                    new.protocol
                );
                Err(Failure::new(Exit::Refused, message))
            }
            _ => Ok(()),
        }
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

    /// Has the server serve this, of what lies in `mounts`, and what is in use besides. Each mount with whether it
    /// is an adopted one: what was opened before one that is not is opened anew. Blocks.
    fn serve(
        &self,
        mut wanted: Vec<Offer>,
        mounts: &[(&Path, bool)],
        is_there: impl Fn(&VersionId) -> bool,
    ) -> Result<Served, ServerError> {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let (server, refused) = match self.server() {
            Ok(server) => (server, None),
            // What it was told before is taken back.
            Err(off) => (Box::<Tgt>::default() as Box<dyn Server>, Some(off)),
        };
        if serving.0 || refused.is_some() {
            wanted.clear();
        }
        let bootable: BTreeSet<OfferName> = wanted.iter().map(|offer| offer.name.clone()).collect();
        // Another cache server on this machine has its own.
        let is_ours = |offered: &Offered| match &offered.disk {
            Some(disk) => mounts.iter().any(|(mount, _)| disk.starts_with(mount)),
            None => bootable.contains(&offered.name),
        };
        let ours = || {
            let mut ours: Vec<Offered> = server.offered()?.into_iter().filter(is_ours).collect();
            ours.sort_by(|one, other| one.name.cmp(&other.name));
            Ok::<_, ServerError>(ours)
        };
        let offered = ours()?;
        let stale = {
            let is_new = |disk: &PathBuf| mounts.iter().any(|(mount, adopted)| disk.starts_with(mount) && !adopted);
            let opened_before = offered.iter().filter(|offered| offered.disk.as_ref().is_none_or(is_new));
            let names = opened_before.map(|offered| offered.name.clone());
            let mut seen = self.seen();
            let stale = seen.stale.get_or_insert_with(|| names.collect());
            stale.retain(|name| offered.iter().any(|offered| offered.name == *name));
            stale.clone()
        };
        if !serving.0 && refused.is_none() {
            let in_use = self.remember(&offered, &stale, &is_there);
            wanted.extend(in_use.into_iter().filter(|offer| !bootable.contains(&offer.name)));
        }
        let plan = Plan::new(offered.clone(), &wanted, &stale);
        let see = |offered: Vec<Offered>, portals| {
            let mut seen = self.seen();
            (seen.server, seen.offered, seen.portals) = (Some(server.name()), offered, portals);
            (seen.is_changing, seen.wanted) = (false, bootable.clone());
            seen.answers_since.get_or_insert_with(Instant::now);
        };
        if plan.is_empty() {
            see(offered, server.portals()?);
            return refused.map_or(Ok(Served { outcome: Outcome::default(), kept: plan.kept_in_use }), Err);
        }
        self.seen().is_changing = true;
        let mut plan = plan;
        let kept = std::mem::take(&mut plan.kept_in_use);
        let outcome = plan.carry_out(&*server);
        see(ours()?, server.portals()?);
        // What could not be opened anew is tried again, and nobody else is logged out for that.
        self.seen().stale.iter_mut().for_each(|stale| stale.retain(|name| !outcome.changed.contains(name)));
        refused.map_or(Ok(Served { outcome, kept }), Err)
    }

    /// Takes note of what is in use, and gives what is to be served for that, as long as its version is there. A server that was
    /// restarted knows of nobody until they log in again.
    fn remember(
        &self,
        offered: &[Offered],
        stale: &BTreeSet<OfferName>,
        is_there: &dyn Fn(&VersionId) -> bool,
    ) -> Vec<Offer> {
        let (mut seen, now) = (self.seen(), Instant::now());
        let used = offered.iter().filter(|offered| !offered.sessions.is_empty());
        seen.used.extend(used.map(|offered| (offered.name.clone(), now)));
        seen.used.retain(|_, when| now.duration_since(*when) < COMES_BACK);
        for offered in offered.iter().filter(|offered| !offered.sessions.is_empty()) {
            if let (Some(disk), Clients::These(clients)) = (&offered.disk, &offered.clients) {
                let offer = Offer { name: offered.name.clone(), disk: disk.clone(), clients: clients.clone() };
                seen.in_use.insert(offered.name.clone(), (offer, None));
            }
        }
        seen.in_use.retain(|name, (_, until)| {
            match offered.iter().find(|offered| offered.name == *name) {
                // It was there all the time, and they logged out.
                Some(offered) if offered.sessions.is_empty() && until.is_none() => return false,
                // They will be logged out for it to be opened anew.
                Some(_) if stale.contains(name) => *until = Some(now + COMES_BACK),
                Some(_) => {}
                None => _ = until.get_or_insert(now + COMES_BACK),
            }
            is_there(&name.version) && until.is_none_or(|until| now < until)
        });
        seen.in_use.values().map(|(offer, _)| offer.clone()).collect()
    }
}

/// What came of a look at the server.
#[derive(Debug, Default)]
struct Served {
    outcome: Outcome,
    /// What is to be served otherwise, or no more, once nobody uses it.
    kept: Vec<Offered>,
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

/// Before the mount ends: takes back what nobody uses, which would hold it, and offers nothing any more.
pub(super) async fn leave(server: &Arc<CacheServer>) {
    let working = server.clone();
    let left = tokio::task::spawn_blocking(move || {
        working.exports.serving.lock().unwrap_or_else(PoisonError::into_inner).0 = true;
        working.exports.serve(Vec::new(), &[(&working.mount, true), (working.clones.path(), true)], |_| false)
    });
    match left.await {
        Ok(Ok(served)) => log(&served.outcome),
        // Most likely it was stopped first.
        Ok(Err(error)) => tracing::debug!(%error, "nothing is taken back"),
        Err(panicked) => tracing::error!(error = %panicked, "exports could not be taken back"),
    }
}

async fn look(server: &Arc<CacheServer>) {
    // Where nothing is mounted there is nothing to be opened.
    let Some(is_adopted) = server.is_adopted() else { return };
    if server.exports.declared.is_err() {
        // What is served is left as it is until somebody has mended that.
        return;
    }
    let declarations = server.exports.declarations();
    let before = server.exports.seen().clone();
    if declarations.is_empty() && before.is_idle {
        return;
    }
    let (wanted, mut troubles) = wanted(server, &declarations, &before.offered).await;
    let working = server.clone();
    let served = tokio::task::spawn_blocking(move || {
        let (view, declared) = (working.cache.view(), working.exports.declarations());
        let is_declared = |image: &ImageName| declared.iter().any(|declaration| declaration.image == *image);
        let is_there = |version: &VersionId| view.version(version).is_some() && is_declared(&version.image);
        working.exports.serve(
            wanted,
            &[(&working.mount, is_adopted), (working.clones.path(), working.clones.is_adopted())],
            is_there,
        )
    });
    let (mut trouble, mut is_idle) = (None, false);
    match served.await {
        Err(panicked) => tracing::error!(error = %panicked, "exports could not be looked at"),
        Ok(Ok(Served { outcome, kept })) => {
            log(&outcome);
            let mut add = |version: &VersionId, what: String| {
                troubles.entry(version.image.clone()).or_default().push(format!("{version}: {what}"));
            };
            outcome.failed.iter().for_each(|(name, error)| add(&name.version, error.to_string()));
            let otherwise = "it is in use; it is offered otherwise once nobody uses it";
            kept.iter().for_each(|kept| add(kept.version(), otherwise.to_owned()));
            is_idle = declarations.is_empty() && server.exports.seen().offered.is_empty();
        }
        Ok(Err(error)) => {
            let mut seen = server.exports.seen();
            (seen.is_changing, seen.answers_since) = (false, None);
            if matches!(error, ServerError::NotRunning { .. } | ServerError::NotInstalled { .. }) {
                // What is not served, nobody uses.
                seen.offered.clear();
            }
            // Whoever never exports anything needs no server.
            is_idle = declarations.is_empty() && seen.offered.is_empty();
            trouble = (!declarations.is_empty()).then(|| error.to_string());
        }
    }
    if trouble != before.trouble {
        match &trouble {
            Some(trouble) => tracing::warn!(trouble, "nothing is exported"),
            None => tracing::info!("exports are looked after again"),
        }
    }
    let is_new = |(image, list): &(&ImageName, &Vec<String>)| before.troubles.get(*image) != Some(*list);
    for trouble in troubles.iter().filter(is_new).flat_map(|(_, list)| list) {
        tracing::warn!(trouble, "not all is exported as it is declared");
    }
    let mut seen = server.exports.seen();
    (seen.trouble, seen.troubles, seen.is_idle) = (trouble, troubles, is_idle);
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
        if declaration.clone {
            wanted.extend(clones::wanted(server, declaration));
            continue;
        }
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
pub(super) async fn disk(
    server: &CacheServer,
    record: &VersionRecord,
    declaration: &Declaration,
) -> Result<String, Failure> {
    let version = server.cache.version_once(record.serial()).await.map_err(Failure::from)?;
    disk_of(version.head(), declaration.disk.as_deref()).map_err(|error| {
        let message = format!("{} cannot be offered by {}: {error}", version.id(), declaration.protocol);
        Failure::new(Exit::Refused, message)
    })
}
