//! Clones among what is offered: which, and whether somebody uses one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::Duration;

use icbd_cache::{CloneDisk, CloneName, Fate};
use icbd_export::{Declaration, Offer, OfferName, Offered, bootable};
use icbd_image::{VersionRecord, VersionState};

use super::Exports;
use crate::roles::cache::state::CacheServer;

/// Whose connection broke is logged in again within this; to have switched a machine off and on takes longer.
const QUIET: Duration = Duration::from_secs(10);

/// The clones of an image that somebody may begin to use. None is made here.
pub(super) fn wanted(server: &CacheServer, declaration: &Declaration) -> Vec<Offer> {
    let view = server.cache.view();
    let records = view.image(&declaration.image).into_iter().flat_map(bootable);
    let versions: BTreeSet<_> = records.map(|record: &VersionRecord| record.statement.statement().version()).collect();
    let held_back = server.exports.held_back.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let clones = server.cache.clones().all();
    // Of an older version, too, as long as it is in service: somebody has not finished with it.
    let is_edited = |clone: &CloneDisk| {
        clone.fate() == Fate::Edited && view.version(&clone.name().version).is_some_and(is_in_service)
    };
    // One of another disk goes when its workstation boots.
    let is_of_disk = |clone: &CloneDisk| declaration.disk.as_deref().is_none_or(|disk| disk == clone.file());
    let is_meant = |clone: &CloneDisk| {
        !clone.is_unfinished() && is_of_disk(clone) && (versions.contains(&clone.name().version) || is_edited(clone))
    };
    let clones = clones.iter().filter(|clone| clone.name().version.image == declaration.image && is_meant(clone));
    let offers = clones.map(|clone| Offer {
        name: offer_name(clone.name()),
        disk: server.clones.file(clone.name()),
        clients: Vec::new(),
    });
    offers.filter(|offer| !held_back.contains(&offer.name)).collect()
}

pub(in super::super) fn is_in_service(record: &VersionRecord) -> bool {
    matches!(record.state, VersionState::Ready | VersionState::Deployed)
}

pub(in super::super) fn offer_name(clone: &CloneName) -> OfferName {
    OfferName { version: clone.version.clone(), client: Some(clone.client.clone()) }
}

/// A clone that is offered to nobody as long as this lives.
pub(in super::super) struct HeldBack<'a> {
    exports: &'a Exports,
    name: OfferName,
}

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        self.exports.held_back.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.exports.wake();
    }
}

/// Whether a clone can be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Use {
    /// Nobody is logged in, and nobody was a moment ago.
    Nobody,
    /// Nobody is logged in, but whoever was may be again within this.
    Lately(Duration),
    /// Somebody is, or was until the server ended.
    Somebody,
    /// The server does not say.
    Unknown,
}

impl Exports {
    /// Whether somebody uses a clone, as it was at the last look.
    pub(in super::super) fn use_of(&self, clone: &CloneName) -> Use {
        let (seen, name) = (self.seen(), offer_name(clone));
        let is_logged_in = seen.offered.iter().any(|offered| offered.name == name && !offered.sessions.is_empty());
        if is_logged_in || seen.in_use.contains_key(&name) {
            return Use::Somebody;
        }
        let Some(answers_since) = seen.answers_since else { return Use::Unknown };
        // Whoever lost its server, or this daemon its memory, has the time to be seen again.
        let last = seen.used.get(&name).copied().max(Some(answers_since)).unwrap_or(answers_since);
        match QUIET.checked_sub(last.elapsed()).filter(|left| !left.is_zero()) {
            Some(left) => Use::Lately(left),
            None => Use::Nobody,
        }
    }

    /// Has nobody be offered a clone any more. Whoever is logged in stays.
    pub(in super::super) fn hold_back(&self, clone: &CloneName) -> HeldBack<'_> {
        let name = offer_name(clone);
        self.held_back.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        HeldBack { exports: self, name }
    }

    /// Whether it is offered now.
    pub(in super::super) fn is_offered(&self, clone: &CloneName) -> bool {
        self.has_offered(&offer_name(clone))
    }

    pub(in super::super) fn has_offered(&self, name: &OfferName) -> bool {
        self.seen().offered.iter().any(|offered| offered.name == *name)
    }

    /// Why nothing is offered, or not as it should be.
    pub(in super::super) fn trouble(&self) -> Option<String> {
        self.seen().trouble.clone()
    }

    /// Why it is not, if it should be.
    pub(in super::super) fn trouble_of(&self, clone: &CloneName) -> Option<String> {
        let seen = self.seen();
        let of_image = seen.troubles.get(&clone.version.image).and_then(|troubles| troubles.first());
        seen.trouble.as_ref().or(of_image).cloned()
    }

    /// Who is logged in to a clone.
    pub(in super::super) fn sessions_of(&self, clone: &CloneName) -> Vec<icbd_export::Session> {
        let (seen, name) = (self.seen(), offer_name(clone));
        let offered = seen.offered.iter().find(|offered| offered.name == name);
        offered.map(|offered| offered.sessions.clone()).unwrap_or_default()
    }

    /// All that is offered, and who uses it.
    pub(in super::super) fn offered(&self) -> Vec<Offered> {
        self.seen().offered.clone()
    }

    /// Where the server of disks listens.
    pub(in super::super) fn portals(&self) -> Vec<SocketAddr> {
        self.seen().portals.clone()
    }
}
