//! Has the servers of this machine offer what was declared, and knows who uses it.
//!
//! One task does it, again and again: servers are restarted, versions come and go, and people meddle. Commands change what is
//! declared and wait until that task has been at it.

mod clones;
mod commands;
mod disks;
mod http;
mod nfs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use icbd_cache::Cache;
use icbd_export::{Declaration, Declared, OfferName, Protocol};
use icbd_image::{ImageName, Serial, VersionId};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::state::CacheServer;
use crate::exports::ExportReport;
use crate::failure::{Exit, Failure};
use crate::settings::{IscsiServer, NfsSettings};
pub(super) use clones::{Use, offer_name};
pub(super) use commands::{add, remove};
pub(super) use disks::disk;
use disks::{IsOver, Seen};
use http::Http;
pub(super) use http::readers;
use nfs::Nfs;

/// So often it is looked whether all is as it should be. A look takes milliseconds.
const INTERVAL: Duration = Duration::from_secs(5);
const SETTLED_MAX: Duration = Duration::from_secs(5);
/// Who reads by NFS 3 or by HTTP does not say when it has gone: so long after the last read it counts as there.
const LATELY: Duration = Duration::from_secs(24 * 3600);
/// When a version was read last is known this exactly.
const LATELY_STEP: Duration = Duration::from_secs(600);

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
    pub(super) nfs: Nfs,
    http: Http,
    wake: Notify,
    turns: watch::Sender<Turns>,
}

/// How often it was looked.
#[derive(Debug, Default, Clone, Copy)]
struct Turns {
    begun: u64,
    done: u64,
}

impl Exports {
    pub(super) fn open(store: &Path, iscsi: IscsiServer, nfs: &NfsSettings) -> Exports {
        let declared = Declared::open(store).map_err(|error| error.to_string());
        Exports {
            declared,
            iscsi: RwLock::new(iscsi),
            seen: Mutex::default(),
            serving: Mutex::default(),
            held_back: Mutex::default(),
            nfs: Nfs::new(nfs),
            http: Http::default(),
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

    /// What is declared to be offered by one of the protocols.
    fn declared_by(&self, protocol: Protocol) -> Vec<Declaration> {
        let mut declarations = self.declarations();
        declarations.retain(|declaration| declaration.protocol == protocol);
        declarations
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
        let declarations =
            self.declarations().into_iter().filter(|declaration| declaration.protocol != Protocol::Iscsi);
        let images: BTreeSet<ImageName> = declarations.map(|declaration| declaration.image).collect();
        let versions = images.iter().filter_map(|image| view.image(image)).flat_map(|image| &image.versions);
        let serials = versions.map(|version| version.serial());
        serials.filter(|serial| cache.last_used(*serial).is_some_and(is_lately)).collect()
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
        of_all.chain(of_each).chain(self.nfs.warning()).collect()
    }

    /// As it is now.
    pub(super) async fn list(&self, server: &CacheServer) -> Result<Vec<ExportReport>, Failure> {
        let declared = self.declared()?;
        self.settle().await;
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
}

/// Looks again and again until `stop`.
pub(super) async fn watch(server: Arc<CacheServer>, stop: CancellationToken) {
    let exports = &server.exports;
    loop {
        exports.turns.send_modify(|turns| turns.begun += 1);
        let look = async { tokio::join!(disks::look(&server), nfs::look(&server)) };
        if stop.run_until_cancelled(look).await.is_none() {
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
        working.exports.leave_disks(&working);
        working.exports.nfs.leave(&working.mount);
    });
    if let Err(panicked) = left.await {
        tracing::error!(error = %panicked, "exports could not be taken back");
    }
}

/// Whether whoever read something then may still be there; also if the clock was set back since.
fn is_lately(then: SystemTime) -> bool {
    then.elapsed().is_ok_and(|ago| ago < LATELY + LATELY_STEP) || then > SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_read_a_day_ago_has_gone() {
        let ago = |minutes: u64| is_lately(SystemTime::now() - Duration::from_secs(minutes * 60));
        assert!(ago(0) && ago(24 * 60) && !ago(24 * 60 + 11) && !ago(7 * 24 * 60));
        assert!(is_lately(SystemTime::now() + LATELY), "a clock that was set back");
    }
}
