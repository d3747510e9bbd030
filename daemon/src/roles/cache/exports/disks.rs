//! Versions as disks by iSCSI: what is served, what should be, and who uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use icbd_export::{
    Clients, Declaration, Offer, OfferName, Offered, Outcome, Plan, Protocol, ServerError, bootable, disk_of,
};
use icbd_image::{ImageName, VersionId, VersionRecord};

use super::{Exports, clones, servers};
use crate::clients::Stage;
use crate::failure::{Exit, Failure};
use crate::roles::cache::boot::{self, Known};
use crate::roles::cache::state::CacheServer;

/// A workstation whose server was restarted logs in again within this, or has been switched off.
const COMES_BACK: Duration = Duration::from_secs(120);

/// Nothing is to be served any more.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct IsOver(pub(super) bool);

/// What the last look saw and did.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) server: Option<&'static str>,
    pub(super) portals: Vec<SocketAddr>,
    pub(super) offered: Vec<Offered>,
    pub(super) wanted: BTreeSet<OfferName>,
    /// What was in use at the last good look, and until when that counts though nobody is logged in: its server was restarted.
    pub(super) in_use: BTreeMap<OfferName, (Offer, Option<Instant>)>,
    /// When somebody was last seen logged in.
    pub(super) used: BTreeMap<OfferName, Instant>,
    /// Since when the server answers each time it is asked.
    pub(super) answers_since: Option<Instant>,
    /// What the server has open may be another thing a moment later.
    pub(super) is_changing: bool,
    /// What it opened before this mount was made and has not opened anew; `None` before the first look.
    stale: Option<BTreeSet<OfferName>>,
    /// Nothing is offered, and nothing is to be.
    pub(super) is_idle: bool,
    /// What concerns all of it.
    pub(super) trouble: Option<String>,
    pub(super) troubles: BTreeMap<ImageName, Vec<String>>,
}

impl Exports {
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
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
        let picked = self.server();
        if serving.0 || picked.is_err() {
            wanted.clear();
        }
        let bootable: BTreeSet<OfferName> = wanted.iter().map(|offer| offer.name.clone()).collect();
        // Another cache server on this machine has its own.
        let is_ours = |offered: &Offered| match &offered.disk {
            Some(disk) => mounts.iter().any(|(mount, _)| disk.starts_with(mount)),
            None => bootable.contains(&offered.name),
        };
        let others = servers::others(picked.as_deref().ok(), is_ours)?;
        let offered = match picked.as_deref().map_or(Ok(Vec::new()), |server| servers::ours(server, is_ours)) {
            Err(error) => {
                if servers::is_down(&error) {
                    // What is not served, nobody uses; what others serve stays.
                    self.seen().offered = others.into_iter().flat_map(|(_, offered)| offered).collect();
                }
                return Err(error);
            }
            Ok(offered) => offered,
        };
        let stale = self.stale(|| offered.iter().chain(others.iter().flat_map(|(_, offered)| offered)), mounts);
        if let (Ok(server), false) = (&picked, others.is_empty()) {
            // Nobody loses what another one serves for one that could not.
            wanted.iter().try_for_each(|offer| server.check(offer))?;
        }
        let kept_elsewhere = servers::take_back(others, &stale)?;
        let see = |offered: Vec<Offered>, portals| {
            let mut seen = self.seen();
            (seen.server, seen.portals) = (picked.as_deref().ok().map(|server| server.name()), portals);
            (seen.is_changing, seen.wanted) = (false, bootable.clone());
            seen.offered = [offered, kept_elsewhere.clone()].concat();
            seen.answers_since.get_or_insert_with(Instant::now);
        };
        let server = match &picked {
            Ok(server) => &**server,
            Err(_) => {
                see(Vec::new(), Vec::new());
                return picked.map(|_| Served::default());
            }
        };
        if !serving.0 {
            let in_use = self.remember(&offered, &stale, &is_there);
            wanted.extend(in_use.into_iter().filter(|offer| !bootable.contains(&offer.name)));
        }
        // What another server has open is written by that alone.
        wanted.retain(|offer| !kept_elsewhere.iter().any(|kept| kept.name == offer.name));
        let mut plan = Plan::new(offered.clone(), &wanted, &stale);
        let kept = [std::mem::take(&mut plan.kept_in_use), kept_elsewhere.clone()].concat();
        if plan.is_empty() {
            see(offered, server.portals()?);
            return Ok(Served { outcome: Outcome::default(), kept });
        }
        self.seen().is_changing = true;
        let outcome = plan.carry_out(server);
        see(servers::ours(server, is_ours)?, server.portals()?);
        // What could not be opened anew is tried again, and nobody else is logged out for that.
        self.seen().stale.iter_mut().for_each(|stale| stale.retain(|name| !outcome.changed.contains(name)));
        Ok(Served { outcome, kept })
    }

    /// What of all that is offered was opened before this mount was made, and is not opened anew yet.
    fn stale<'a, I: Iterator<Item = &'a Offered>>(
        &self,
        offered: impl Fn() -> I,
        mounts: &[(&Path, bool)],
    ) -> BTreeSet<OfferName> {
        let is_new = |disk: &PathBuf| mounts.iter().any(|(mount, adopted)| disk.starts_with(mount) && !adopted);
        let opened_before = || offered().filter(|offered| offered.disk.as_ref().is_none_or(is_new));
        let mut seen = self.seen();
        let stale = seen.stale.get_or_insert_with(|| opened_before().map(|offered| offered.name.clone()).collect());
        stale.retain(|name| offered().any(|offered| offered.name == *name));
        stale.clone()
    }

    /// Takes back what nobody uses, and offers nothing any more. Blocks.
    pub(super) fn leave_disks(&self, server: &CacheServer) {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).0 = true;
        match self.serve(Vec::new(), &[(&server.mount, true), (server.clones.path(), true)], |_| false) {
            Ok(served) => log(&served.outcome),
            // Most likely it was stopped first.
            Err(error) => tracing::debug!(%error, "nothing is taken back"),
        }
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

/// Who is logged in has come so far with its boot.
fn note_boots(server: &CacheServer) {
    let offered = server.exports.seen().offered.clone();
    for offered in &offered {
        let known = Known { version: Some(offered.version().clone()), ..Known::default() };
        for address in offered.sessions.iter().flat_map(|session| &session.addresses) {
            boot::reached(server, *address, Stage::Disk, known.clone());
        }
    }
}

pub(super) async fn look(server: &Arc<CacheServer>) {
    // Where nothing is mounted there is nothing to be opened.
    let Some(is_adopted) = server.is_adopted() else { return };
    if server.exports.all().is_err() {
        // What is served is left as it is until somebody has mended that.
        return;
    }
    let declarations = server.exports.declared_by(Protocol::Iscsi);
    let before = server.exports.seen().clone();
    if declarations.is_empty() && before.is_idle {
        return;
    }
    let (wanted, mut troubles) = wanted(server, &declarations, &before.offered).await;
    let working = server.clone();
    let served = tokio::task::spawn_blocking(move || {
        let (view, declared) = (working.cache.view(), working.exports.declared_by(Protocol::Iscsi));
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
            note_boots(server);
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

pub(super) fn log(outcome: &Outcome) {
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
pub(in super::super) async fn disk(
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
