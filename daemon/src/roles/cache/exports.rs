//! Has the servers of this machine offer what was declared, and knows who uses it.
//!
//! One task does it, again and again: servers are restarted, versions come and go, and people meddle. Commands change what is
//! declared and wait until that task has been at it.

mod clones;
mod commands;
mod disks;
mod health;
mod http;
mod nfs;
mod rounds;
mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use icbd_cache::Cache;
use icbd_export::{Declaration, Declared, OfferName, Offered, Protocol};
use icbd_image::{ImageName, Serial, VersionId};
use tokio_util::sync::CancellationToken;

use super::state::{CacheServer, Plane};
use crate::exports::ExportReport;
use crate::failure::Failure;
use crate::settings::{IscsiServer, NfsSettings};
pub(super) use clones::{Use, is_in_service, offer_name};
pub(super) use commands::{add, remove, report};
pub(super) use disks::disk;
use disks::{IsOver, Seen};
pub(super) use health::examine;
use http::Http;
pub(super) use http::readers;
use nfs::Nfs;
use rounds::Rounds;

/// Who reads by NFS 3 or by HTTP does not say when it has gone: so long after the last read it counts as there.
const LATELY: Duration = Duration::from_secs(24 * 3600);
/// The same where somebody is connected who may sleep, or have all that it needs for now.
const LATELY_CONNECTED: Duration = Duration::from_secs(7 * 24 * 3600);
/// When a version was read last is known this exactly.
const LATELY_STEP: Duration = Duration::from_secs(600);

/// What is declared, and what came of it.
#[derive(Debug)]
pub(super) struct Exports {
    store: PathBuf,
    /// Once it could be read: that it cannot is no reason not to serve what is mounted.
    declared: Mutex<Option<Arc<Declared>>>,
    iscsi: RwLock<IscsiServer>,
    seen: Mutex<Seen>,
    /// Held by whoever has the server do something; whether nothing is to be offered any more.
    serving: Mutex<IsOver>,
    /// Clones that are about to be reset: they are offered to nobody meanwhile.
    held_back: Mutex<BTreeSet<OfferName>>,
    pub(super) nfs: Nfs,
    http: Http,
    /// Each goes on by itself, so that a server that takes long keeps nobody from the other.
    disk_rounds: Rounds,
    nfs_rounds: Rounds,
}

impl Exports {
    pub(super) fn open(store: &Path, iscsi: IscsiServer, nfs: &NfsSettings) -> Exports {
        Exports {
            store: store.to_owned(),
            declared: Mutex::default(),
            iscsi: RwLock::new(iscsi),
            seen: Mutex::default(),
            serving: Mutex::default(),
            held_back: Mutex::default(),
            nfs: Nfs::new(nfs),
            http: Http::default(),
            disk_rounds: Rounds::default(),
            nfs_rounds: Rounds::default(),
        }
    }

    /// What is declared; a file that could not be read is looked at again.
    fn declared(&self) -> Result<Arc<Declared>, Failure> {
        let mut declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(declared) = &*declared {
            return Ok(declared.clone());
        }
        let opened = Arc::new(Declared::open(&self.store).map_err(Failure::from)?);
        Ok(declared.insert(opened).clone())
    }

    /// All that is declared, or why that is not known.
    pub(super) fn all(&self) -> Result<Vec<Declaration>, Failure> {
        self.declared().map(|declared| declared.all())
    }

    pub(super) fn declarations(&self) -> Vec<Declaration> {
        self.all().unwrap_or_default()
    }

    /// What is declared to be offered by one of the protocols.
    fn declared_by(&self, protocol: Protocol) -> Vec<Declaration> {
        let mut declarations = self.declarations();
        declarations.retain(|declaration| declaration.protocol == protocol);
        declarations
    }

    /// Something changed that it depends on.
    pub(super) fn wake(&self) {
        self.disk_rounds.wake();
        self.nfs_rounds.wake();
    }

    pub(super) fn set_iscsi(&self, iscsi: IscsiServer) {
        *self.iscsi.write().unwrap_or_else(PoisonError::into_inner) = iscsi;
        // What another one serves is to be taken back.
        self.seen().is_idle = false;
        self.wake();
    }

    /// Waits until the server of disks was seen to, unless it takes too long for people to wait.
    pub(super) async fn settle(&self) {
        self.disk_rounds.settle().await;
    }

    /// The same of all servers.
    async fn settle_all(&self) {
        tokio::join!(self.disk_rounds.settle(), self.nfs_rounds.settle());
    }

    /// How many clients each version has, of which so many files are open: a server holds a disk open whether anybody uses it or not.
    /// For people: what was seen last may be seconds old.
    pub(super) fn clients(
        &self,
        open: BTreeMap<Serial, u64>,
        serial: impl Fn(&VersionId) -> Option<Serial>,
    ) -> BTreeMap<Serial, u64> {
        self.counting(open, serial, |offered| offered.sessions.len() as u64)
    }

    /// How many files of each version are open, of so many, to whoever does not read a disk.
    fn open_elsewhere(
        &self,
        open: BTreeMap<Serial, u64>,
        serial: impl Fn(&VersionId) -> Option<Serial>,
    ) -> BTreeMap<Serial, u64> {
        self.counting(open, serial, |_| 0)
    }

    /// With each disk that a server holds open counted as so much.
    fn counting(
        &self,
        mut open: BTreeMap<Serial, u64>,
        serial: impl Fn(&VersionId) -> Option<Serial>,
        of_disk: impl Fn(&Offered) -> u64,
    ) -> BTreeMap<Serial, u64> {
        let seen = self.seen();
        for offered in seen.offered.iter().filter(|_| !seen.is_changing) {
            let Some(count) = serial(offered.version()).and_then(|serial| open.get_mut(&serial)) else { continue };
            *count = (*count).saturating_sub(1) + of_disk(offered);
        }
        open.retain(|_, count| *count > 0);
        open
    }

    /// The same for whoever decides what may go: no version is less used than it has files open, or than was seen, and
    /// what somebody `lately` read may still be used.
    pub(super) fn leases(
        &self,
        mut open: BTreeMap<Serial, u64>,
        lately: Vec<Serial>,
        serial: impl Fn(&VersionId) -> Option<Serial>,
    ) -> BTreeMap<Serial, u64> {
        for serial in lately {
            let count = open.entry(serial).or_default();
            *count = (*count).max(1);
        }
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

    /// The versions that somebody may be using of whom no server says when it has gone.
    pub(super) fn read_lately(&self, cache: &Cache) -> Vec<Serial> {
        let view = cache.view();
        let mut images: BTreeMap<ImageName, Duration> = BTreeMap::new();
        for declaration in self.declarations().iter().filter(|declaration| declaration.protocol != Protocol::Iscsi) {
            let is_nfs = declaration.protocol == Protocol::Nfs;
            let is_connected = is_nfs && !self.nfs.connected(declaration).is_empty();
            let within = images.entry(declaration.image.clone()).or_default();
            *within = (*within).max(if is_connected { LATELY_CONNECTED } else { LATELY });
        }
        if self.declared().is_err() {
            // Nobody knows any more what was exported, and is.
            images.extend(view.images().iter().map(|image| (image.name.clone(), LATELY)));
        }
        let lately = |(image, within): (&ImageName, &Duration)| {
            let shown = view.image(image).into_iter().flat_map(|image| &image.versions);
            // What is withheld from others is not taken from those who read it.
            let all = shown.chain(view.withheld_of(image).map(|(record, _)| record));
            let is_lately = |serial: &Serial| cache.last_used(*serial).is_some_and(|then| was_lately(then, *within));
            all.map(|record| record.serial()).filter(is_lately).collect::<Vec<_>>()
        };
        images.iter().flat_map(lately).collect()
    }

    /// For people: what is declared and not offered.
    pub(super) fn warnings(&self, plane: &Plane) -> Vec<String> {
        let seen = self.seen();
        let unknown = self.declared().err().map(|failure| failure.message);
        let has_http = unknown.is_none() && !self.declared_by(Protocol::Http).is_empty();
        let of_all = unknown.into_iter().chain(seen.trouble.clone()).map(|trouble| format!("exports: {trouble}"));
        let of_each = seen
            .troubles
            .iter()
            .flat_map(|(image, troubles)| troubles.iter().map(move |trouble| format!("export of {image}: {trouble}")));
        let of_http = has_http.then(|| http::check(plane).err()).flatten();
        let of_http = of_http.map(|failure| format!("exports by HTTP: {}", failure.message));
        of_all.chain(of_each).chain(self.nfs.warning()).chain(of_http).collect()
    }

    /// As it is now.
    pub(super) async fn list(&self, server: &CacheServer) -> Result<Vec<ExportReport>, Failure> {
        let declared = self.declared()?;
        self.settle_all().await;
        let mut reports = Vec::new();
        for declaration in declared.all() {
            reports.push(commands::report(server, &declaration).await);
        }
        Ok(reports)
    }

    /// Versions of an image that were in use until their server ended, and whose users may be about to log in again.
    fn awaited(&self, image: &ImageName) -> Vec<String> {
        let seen = self.seen();
        let awaited = seen.in_use.iter().filter(|(name, (_, until))| name.version.image == *image && until.is_some());
        awaited.map(|(name, _)| format!("whoever used {} until its server ended", name.version)).collect()
    }
}

/// Looks after disks until `stop`.
pub(super) async fn watch_disks(server: Arc<CacheServer>, stop: CancellationToken) {
    server.exports.disk_rounds.run(|| disks::look(&server), &stop).await;
}

/// Looks after folders until `stop`.
pub(super) async fn watch_folders(server: Arc<CacheServer>, stop: CancellationToken) {
    server.exports.nfs_rounds.run(|| nfs::look(&server), &stop).await;
}

/// Has those connect whom something is exported to, or who boot by the network.
pub(super) fn admit(server: &CacheServer) {
    let exported = server.exports.declarations().into_iter().flat_map(|declaration| declaration.clients);
    server.plane.allow.set_workstations(exported.chain(server.netboot.clients()).collect());
}

/// Before the mount ends: takes back what nobody uses, which would hold it, and offers nothing any more.
pub(super) async fn leave(server: &Arc<CacheServer>) {
    let working = server.clone();
    let left = tokio::task::spawn_blocking(move || {
        working.exports.leave_disks(&working);
        working.exports.nfs.leave(&working.mount, &working.exports.declared_by(Protocol::Nfs));
    });
    if let Err(panicked) = left.await {
        tracing::error!(error = %panicked, "exports could not be taken back");
    }
}

/// Whether whoever read something then may still be there; also if the clock was set back since.
fn was_lately(then: SystemTime, within: Duration) -> bool {
    then.elapsed().map_or(true, |ago| ago < within + LATELY_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_read_a_day_ago_has_gone() {
        let ago = |minutes: u64| was_lately(SystemTime::now() - Duration::from_secs(minutes * 60), LATELY);
        assert!(ago(0) && ago(24 * 60) && !ago(24 * 60 + 11) && !ago(7 * 24 * 60));
        assert!(was_lately(SystemTime::now() + LATELY, LATELY), "a clock that was set back");
    }
}
