//! A workstation's boot script: what it gets is decided here, once per boot.
//!
//! This is the only place where a clone is reset by itself: never at a login, and never while somebody is logged in. Who
//! asks twice, or for somebody who runs, gets the clone as it is.

mod journal;
mod menu;
mod scripts;
mod signed;
pub(super) mod syslog;
mod ways;
mod who;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use icbd_cache::{CloneDisk, CloneName, Fate, Layers};
use icbd_export::{Claims, Declaration, Heard, Loader, OfferName, Protocol, bootable};
use icbd_fetch::Source;
use icbd_image::{ClientName, ImageName, ImageRef, VersionRecord};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clients::listed;
use super::clones::personal;
use super::clones::reset::{self, Asks};
use super::exports;
use super::state::CacheServer;
use crate::audit::Change;
use crate::clients::Stage;
use crate::control::Peer;
use crate::failure::{Exit, Failure};
use crate::roles::every::Every;
use crate::serve::{Asking, Booting};
pub(super) use journal::{Journal, Known};
pub(super) use signed::{SIGNED_FILES, signed_entry};
use ways::{Choice, Way};
pub(super) use ways::{PACKAGE, is_booted_as_folder, is_for_somebody};

/// Who is still logged in may be a machine that was switched off: its connection is found dead, or somebody really runs.
const WAIT_MAX: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Who still runs an older version is asked for so often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// One boot of a workstation at a time.
#[derive(Debug, Default)]
pub(super) struct Boots {
    turns: Mutex<HashMap<ClientName, Arc<tokio::sync::Mutex<()>>>>,
    begun: Notify,
}

impl Boots {
    pub(super) fn of(&self, client: &ClientName) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turn| Arc::strong_count(turn) > 1);
        all.entry(client.clone()).or_default().clone()
    }
}

/// What workstations ask when they boot, and the server that answers.
struct Answers(Arc<CacheServer>);

impl Booting for Answers {
    fn menu(&self, asking: Asking, from: IpAddr) -> BoxFuture<'static, Result<String, Failure>> {
        menu::menu(self.0.clone(), asking, from).boxed()
    }

    fn script(&self, image: ImageName, asking: Asking, from: IpAddr) -> BoxFuture<'static, Result<String, Failure>> {
        let (is_of_menu, shown) = (asking.menu.is_some(), image.clone());
        let script = answer(self.0.clone(), image, asking, from);
        let or_why = move |script| match script {
            // iPXE shows nobody what an error says.
            Err(failure) if is_of_menu => Ok(scripts::refusal(&shown, &failure)),
            script => script,
        };
        script.map(or_why).boxed()
    }

    fn beacon(&self, stage: Stage, from: IpAddr) {
        reached(&self.0, from, stage, Known::default());
    }

    fn loader(&self, name: &str) -> Option<PathBuf> {
        let is_known = Loader::ALL.iter().any(|loader| loader.file() == name);
        is_known.then(|| self.0.netboot.loaders().join(name))
    }
}

/// How far a workstation has come, if a line of dnsmasq's says so.
pub(super) fn heard(server: &CacheServer, line: &str) {
    let (from, stage, known) = match Heard::of(line) {
        Some(Heard::Address { mac, address }) => {
            (address, Stage::Address, Known { mac: Some(mac), ..Known::default() })
        }
        Some(Heard::Loader { address, .. }) => (address, Stage::Loader, Known::default()),
        None => return,
    };
    reached(server, from.into(), stage, known);
}

/// Somebody has come so far.
pub(super) fn reached(server: &CacheServer, from: IpAddr, stage: Stage, known: Known) {
    let fetched_bytes = server.masters.iter().map(|master| master.received_bytes()).sum();
    server.journal.reach(from.to_canonical(), stage, known, fetched_bytes);
}

pub(super) fn booting(server: &Arc<CacheServer>) -> Arc<dyn Booting> {
    Arc::new(Answers(server.clone()))
}

/// What a workstation that asks for its script is told.
async fn answer(server: Arc<CacheServer>, image: ImageName, asking: Asking, from: IpAddr) -> Result<String, Failure> {
    let claims = who::claims(&asking)?;
    let work = async move {
        let script = script(&server, &image, &claims, from).await;
        if let Err(failure) = &script {
            tracing::warn!(%image, %from, why = failure.message, "a workstation gets no boot script");
            server.journal.hear(from.to_canonical(), &format!("icbd: {}", failure.message));
        }
        script
    };
    // It is seen through also when whoever asked has gone.
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Failure::new(Exit::Failed, error.to_string())))
}

/// The iPXE script by which a workstation boots an image.
async fn script(
    server: &Arc<CacheServer>,
    image: &ImageName,
    claims: &Claims,
    from: IpAddr,
) -> Result<String, Failure> {
    let client = who::named(server, claims);
    let Choice { record, declaration, way } = ways::choose(server, image, from, client.as_ref()).await?;
    let version = record.statement.statement().version();
    let known = Known { mac: claims.mac, client, version: Some(version.clone()) };
    let name = if declaration.clone {
        let client = who::client(server, image, claims, from)?;
        let turn = server.boots.of(&client);
        let _turn = turn.lock().await;
        let name = CloneName { version, client };
        begin(server, &declaration, &record, &name, from).await?;
        exports::offer_name(&name)
    } else {
        OfferName { version, client: None }
    };
    let script = match way {
        Way::Disk => scripts::sanboot(server, &name, from)?,
        Way::KernelAndDisk => scripts::kernel(server, &record, scripts::disk(server, &name, from)?, from).await?,
        Way::KernelAndFolder => {
            scripts::kernel(server, &record, scripts::folder(server, &name.version, from)?, from).await?
        }
    };
    reached(server, from, Stage::Script, known);
    Ok(script)
}

/// How an image is exported as a disk.
pub(super) fn declaration(server: &CacheServer, image: &ImageName) -> Result<Declaration, Failure> {
    let is_meant = |it: &Declaration| it.image == *image && it.protocol == Protocol::Iscsi;
    let mut declarations = server.exports.all()?.into_iter();
    declarations.find(is_meant).ok_or_else(|| not_exported(image, Protocol::Iscsi))
}

/// That nobody is to get an image by a protocol.
pub(super) fn not_exported(image: &ImageName, protocol: Protocol) -> Failure {
    let message = format!(
        "{image} is not exported by {protocol}; on the cache server `icbd export add {image} --{protocol} --clients CIDR` does"
    );
    Failure::new(Exit::Refused, message)
}

/// The same by any of which somebody boots.
pub(super) fn not_bootable(image: &ImageName) -> Failure {
    let message = format!(
        "{image} is exported neither as a disk nor as a folder; on the cache server `icbd export add {image} --iscsi --clients CIDR` \
         does, or --nfs for one with a boot package"
    );
    Failure::new(Exit::Refused, message)
}

/// Refused for whoever asks from elsewhere.
pub(super) fn check_is_for(declaration: &Declaration, from: IpAddr) -> Result<(), Failure> {
    if declaration.is_for(from) {
        return Ok(());
    }
    let image = &declaration.image;
    let message = format!("{from} is in no network that {image} is exported to; `icbd export list` shows them");
    Err(Failure::new(Exit::Refused, message))
}

/// The version that a workstation boots: the one over which it writes what is to become a version, else the one that it is to
/// try, else the deployed one.
pub(super) fn booted(
    server: &CacheServer,
    image: &ImageName,
    client: Option<&ClientName>,
) -> Result<VersionRecord, Failure> {
    let Some(clone) = client.and_then(|client| edited(server, image, client)) else {
        let tried = client.and_then(|client| tried(server, image, client));
        return tried.map_or_else(|| deployed(server, image), Ok);
    };
    let CloneName { version, client } = clone.name();
    let view = server.cache.view();
    let record = view.version(version).filter(|record| exports::is_in_service(record)).cloned();
    record.ok_or_else(|| {
        let message = format!(
            "{client} edits {version}, which is not in service any more; restore it with `icbd image restore {version}`, or have \
             {client} boot the deployed version with `icbd clone keep {client} {version} --no`"
        );
        Failure::new(Exit::Refused, message)
    })
}

/// A client's clone that is to become a version of an image.
pub(super) fn edited(server: &CacheServer, image: &ImageName, client: &ClientName) -> Option<Arc<CloneDisk>> {
    let is_own = |name: &CloneName| (&name.version.image, &name.client) == (image, client);
    let clones = server.cache.clones().all();
    clones.into_iter().rev().find(|clone| clone.fate() == Fate::Edited && is_own(clone.name()))
}

/// The version that the list of workstations has one boot, as long as somebody may begin with it.
pub(super) fn tried(server: &CacheServer, image: &ImageName, client: &ClientName) -> Option<VersionRecord> {
    let wish = wish(server, client).filter(|wish| wish.image == *image)?;
    let (number, view) = (wish.number?, server.cache.view());
    bootable(view.image(image)?).find(|record| record.number() == number).cloned()
}

/// Why nobody can be booted what the list of workstations says, as it is now.
pub(super) fn unmet(server: &CacheServer, wish: &ImageRef) -> Option<String> {
    let view = server.cache.view();
    let Some(image) = view.image(&wish.image) else { return Some(format!("there is no image {}", wish.image)) };
    let number = wish.number?;
    match bootable(image).any(|record| record.number() == number) {
        true => None,
        false if image.version(number).is_none() => Some(format!("there is no version {wish}")),
        false => Some(format!("{wish} is older than what is deployed, or not in service")),
    }
}

/// What the list of workstations has one boot.
fn wish(server: &CacheServer, client: &ClientName) -> Option<ImageRef> {
    let list = listed(server).ok().flatten()?;
    list.iter().find(|known| known.name == *client)?.boots.clone()
}

/// The version that is deployed.
fn deployed(server: &CacheServer, image: &ImageName) -> Result<VersionRecord, Failure> {
    let view = server.cache.view();
    let record = view.image(image).and_then(|image| image.version(image.deployed?)).cloned();
    record.ok_or_else(|| {
        Failure::new(Exit::Refused, format!("no version of {image} is deployed; `icbd image deploy` does"))
    })
}

/// A client's clone before it boots, by what becomes of it.
pub(super) enum Before {
    /// There is none: it is made.
    Nothing,
    /// Nothing is written in it.
    Untouched,
    Kept(Arc<CloneDisk>),
    /// It is of another file of the version than the one that is exported: it goes.
    Other(Arc<CloneDisk>),
    /// What a kill of clone.hook left, or what of a failed one could not be removed: it is reset, or nobody gets it.
    Unfinished(Arc<CloneDisk>),
    /// It is reset, unless somebody may be using it.
    Written(Arc<CloneDisk>),
}

pub(super) async fn before(
    server: &CacheServer,
    declaration: &Declaration,
    record: &VersionRecord,
    name: &CloneName,
) -> Result<Before, Failure> {
    let clones = server.cache.clones();
    let Some(clone) = clones.get(name) else { return Ok(Before::Nothing) };
    if let Some(exported) = other_disk(server, declaration, record, &clone).await {
        if clone.is_kept() {
            let message = format!(
                "{name} is of {}, and kept; {exported} is what is exported now: export the other one again, or end it with `icbd clone \
                 remove {} {}`",
                clone.file(),
                name.client,
                name.version
            );
            return Err(Failure::new(Exit::Refused, message));
        }
        return Ok(Before::Other(clone));
    }
    Ok(match clone {
        clone if clone.is_unfinished() => Before::Unfinished(clone),
        clone if clone.is_kept() => Before::Kept(clone),
        clone if clones.is_untouched(&clone).await.map_err(Failure::from)? => Before::Untouched,
        clone => Before::Written(clone),
    })
}

/// What is exported, if a clone is of another file of its version. What is not known now was known when it was made.
pub(super) async fn other_disk(
    server: &CacheServer,
    declaration: &Declaration,
    record: &VersionRecord,
    clone: &CloneDisk,
) -> Option<String> {
    let exported = exports::disk(server, record, declaration).await.ok();
    exported.filter(|exported| *exported != clone.file())
}

/// Has the client's clone be there, offered, and as the version is unless somebody may be using it.
async fn begin(
    server: &Arc<CacheServer>,
    declaration: &Declaration,
    record: &VersionRecord,
    name: &CloneName,
    from: IpAddr,
) -> Result<(), Failure> {
    match before(server, declaration, record, name).await? {
        Before::Untouched | Before::Kept(_) => {}
        Before::Other(_) => {
            reset::remove(server, name, Asks::Boot).await?;
            note(server, "remove", name, "another disk of its image is exported now");
            make(server, declaration, record, name).await?;
        }
        Before::Unfinished(_) => reset::reset(server, name, Asks::Boot, Layers::Session).await?,
        Before::Written(clone) => renew(server, &clone, from).await,
        Before::Nothing => make(server, declaration, record, name).await?,
    }
    personal::ensure(server, name).await?;
    server.boots.begun.notify_one();
    server.exports.settle().await;
    match server.exports.is_offered(name) {
        true => Ok(()),
        false => {
            let why = server.exports.trouble_of(name).unwrap_or_else(|| "its server takes long".to_owned());
            Err(Failure::new(Exit::Failed, format!("{name} cannot be offered now: {why}")))
        }
    }
}

pub(super) async fn make(
    server: &Arc<CacheServer>,
    declaration: &Declaration,
    record: &VersionRecord,
    name: &CloneName,
) -> Result<(), Failure> {
    let clones = server.cache.clones();
    if is_short(server).await? {
        // What it wrote over another version goes with this boot.
        let is_own = |other: &CloneName| (&other.client, &other.version.image) == (&name.client, &name.version.image);
        for clone in clones.all().iter().filter(|clone| is_own(clone.name()) && !clone.is_kept()) {
            drop_one(server, clone.name()).await;
        }
    }
    if is_short(server).await? {
        let failure = no_room(&name.client);
        tracing::warn!("{}", failure.message);
        return Err(failure);
    }
    let path = exports::disk(server, record, declaration).await?;
    let version = server.cache.version(record.serial()).await.map_err(Failure::from)?;
    let index = version.head().resolve(path.as_bytes());
    let index = index.ok_or_else(|| Failure::new(Exit::Failed, format!("{} has no file {path}", version.id())))?;
    let file = version.file(index).map_err(Failure::from)?;
    server.clones.ensure(&server.cache).await.map_err(Failure::from)?;
    clones.prepare(name, &file, &path).await.map_err(Failure::from)?;
    Ok(())
}

/// Whether clones take so much that nobody should begin with one.
pub(super) async fn is_short(server: &CacheServer) -> Result<bool, Failure> {
    server.cache.clones().fill().await.map(|fill| fill.is_short()).map_err(Failure::from)
}

pub(super) fn no_room(client: &ClientName) -> Failure {
    let message = format!(
        "{client} cannot begin: clones take nine tenths of what they may; enlarge clone.reserve, or remove some with \
         `icbd clone remove`"
    );
    Failure::new(Exit::Refused, message)
}

/// Resets it once nobody uses it, or leaves it as it is.
async fn renew(server: &Arc<CacheServer>, clone: &Arc<CloneDisk>, from: IpAddr) {
    let until = Instant::now() + WAIT_MAX;
    let refused = loop {
        match reset::reset(server, clone.name(), Asks::Boot, Layers::Session).await {
            Ok(()) => return note(server, "reset", clone.name(), &format!("its boot script was fetched by {from}")),
            Err(refused) if Instant::now() >= until => break refused,
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    };
    tracing::warn!(clone = %clone.name(), why = refused.message, "a workstation boots what it wrote before: it could not be reset");
}

/// Notes in the audit log what was done to a clone though nobody gave the word.
fn note(server: &CacheServer, verb: &str, name: &CloneName, why: &str) {
    let what = format!("clone {verb} {} {}", name.client, name.version);
    server.audit.record(&Peer::this_process(), Change { what: &what, why }, &Ok::<(), anyhow::Error>(()));
}

/// Removes what a workstation wrote over a version that it boots no more, unless somebody may be using it.
async fn drop_one(server: &Arc<CacheServer>, name: &CloneName) {
    match reset::remove(server, name, Asks::Boot).await {
        Ok(()) => note(server, "remove", name, "its workstation boots another version"),
        Err(refused) => {
            tracing::debug!(clone = %name, why = refused.message, "what was written over another version stays for now");
        }
    }
}

/// Has what workstations wrote over versions that they boot no more go, again and again until `stop`.
pub(super) async fn sweep(server: Arc<CacheServer>, stop: CancellationToken) {
    let mut every = Every::new(SWEEP_INTERVAL, stop);
    let turn = async || {
        server.journal.sweep();
        drop_older(&server).await;
    };
    while every.turn_or(server.boots.begun.notified(), turn()).await.is_some() {}
}

async fn drop_older(server: &Arc<CacheServer>) {
    // As long as nobody knows what is open, nothing goes.
    if server.in_use().is_none() {
        return;
    }
    let all = server.cache.clones().all();
    let is_booted = |name: &CloneName| {
        let record = booted(server, &name.version.image, Some(&name.client));
        record.is_ok_and(|record| record.number() == name.version.number)
    };
    for clone in all.iter().filter(|clone| !clone.is_kept() && !is_booted(clone.name())) {
        let name = clone.name();
        let boots_another = |other: &CloneName| {
            (&other.client, &other.version.image) == (&name.client, &name.version.image) && is_booted(other)
        };
        if all.iter().any(|other| boots_another(other.name())) {
            let turn = server.boots.of(&name.client);
            // Who boots just now is looked at the next time.
            let Ok(_turn) = turn.try_lock() else { continue };
            // Somebody may have kept it, or its workstation boots it again.
            if server.cache.clones().get(name).is_some_and(|clone| !clone.is_kept() && !is_booted(name)) {
                drop_one(server, name).await;
            }
        }
    }
}
