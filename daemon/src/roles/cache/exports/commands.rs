//! What the control socket of a cache server answers about exports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use icbd_export::{Declaration, Offer, OfferName, Protocol, bootable};
use icbd_image::{ImageName, Serial, VersionId, VersionRecord};
use ipnet::IpNet;
use tokio::time::{Instant, timeout_at};

use super::super::state::CacheServer;
use super::{Seen, disk};
use crate::audit::Change;
use crate::control::Peer;
use crate::exports::{ExportReport, ExportSpec, OfferReport, SessionReport, UnexportSpec};
use crate::failure::{Exit, Failure};
use crate::images::find_image;
use crate::near;
use crate::output::counted;

/// What a file is called that was not looked up by then is not said.
const LOOKED_UP_MAX: Duration = Duration::from_secs(2);

pub(in super::super) async fn report(server: &CacheServer, declaration: &Declaration) -> ExportReport {
    match declaration.protocol {
        Protocol::Nfs => of_folders(server, declaration),
        Protocol::Iscsi => of_disks(server, declaration, &server.exports.seen()),
        Protocol::Http => of_files(server, declaration).await,
    }
}

/// What is declared, as if nothing had come of it.
fn declared(server: &CacheServer, declaration: &Declaration) -> ExportReport {
    let Declaration { image, protocol, clients, disk, clone } = declaration.clone();
    let (offers, troubles, connected) = Default::default();
    let view = server.cache.view();
    let next = view.image(&image).and_then(|image| image.version(image.deployed?));
    let ready = next.and_then(|version| server.readiness().get(&version.serial()).copied());
    ExportReport { image, protocol, server: None, clients, disk, clone, ready, offers, troubles, connected }
}

fn of_disks(server: &CacheServer, declaration: &Declaration, seen: &Seen) -> ExportReport {
    let Declaration { image, clients, .. } = declaration;
    let (view, readiness) = (server.cache.view(), server.readiness());
    let ready = |version| view.version(version).and_then(|record| readiness.get(&record.serial())).copied();
    let offers = seen.offered.iter().filter(|offered| offered.version().image == *image).map(|offered| OfferReport {
        version: offered.version().clone(),
        name: offered.name.to_string(),
        url: OfferReport::url(&offered.name, &seen.portals, clients),
        leaving: !seen.wanted.contains(&offered.name),
        ready: ready(offered.version()),
        sessions: offered.sessions.iter().map(SessionReport::from).collect(),
        open_files: 0,
        read_lately: false,
    });
    let troubles = seen.trouble.iter().chain(seen.troubles.get(image).into_iter().flatten());
    ExportReport {
        offers: offers.collect(),
        troubles: troubles.cloned().collect(),
        server: seen.server.map(str::to_owned),
        ..declared(server, declaration)
    }
}

fn of_folders(server: &CacheServer, declaration: &Declaration) -> ExportReport {
    let Declaration { image, clients, .. } = declaration;
    let seen = server.exports.nfs.seen().clone();
    let url = |version: &VersionId| match seen.paths.get(image) {
        Some(path) => {
            let path = format!("{path}/{}", version.number);
            (OfferReport::folder_url(&path, &seen.portals, clients), path)
        }
        // It is not known to be served, and may be in use.
        None => ("-".to_owned(), version.to_string()),
    };
    ExportReport {
        offers: offers(server, image, url).into_values().collect(),
        connected: server.exports.nfs.connected(declaration),
        troubles: seen.trouble.into_iter().collect(),
        server: seen.server.map(str::to_owned),
        ..declared(server, declaration)
    }
}

async fn of_files(server: &CacheServer, declaration: &Declaration) -> ExportReport {
    let Declaration { image, clients, .. } = declaration;
    let portal = OfferReport::portal(&server.plane.listen, clients);
    let url = |version: &VersionId| {
        let path = format!("/files/{image}/{}/", version.number);
        let portal = portal.map_or_else(|| "-".to_owned(), |portal| portal.to_string());
        (format!("http://{portal}{path}"), path)
    };
    let mut offers = offers(server, image, url);
    // A master that is away keeps nobody from the list.
    let until = Instant::now() + LOOKED_UP_MAX;
    let view = server.cache.view();
    for record in view.image(image).into_iter().flat_map(|image| &image.versions) {
        let Some(offer) = offers.get_mut(&record.serial()) else { continue };
        // Of a disk, the file that is one.
        if let Ok(Ok(disk)) = timeout_at(until, super::disk(server, record, declaration)).await {
            offer.url.push_str(&disk);
        }
        let session = |address| SessionReport { initiator: String::new(), addresses: vec![address] };
        offer.sessions = server.exports.http.readers(record.serial()).into_iter().map(session).collect();
        // Others' that have them open are not its readers.
        offer.open_files = 0;
    }
    let troubles = super::http::check(&server.plane).err().map(|failure| failure.message);
    ExportReport {
        offers: offers.into_values().collect(),
        troubles: troubles.into_iter().collect(),
        server: Some("icbd".to_owned()),
        ..declared(server, declaration)
    }
}

/// The versions of an image that somebody may begin to use or still does, each with its URL and its name.
fn offers(
    server: &CacheServer,
    image: &ImageName,
    url: impl Fn(&VersionId) -> (String, String),
) -> BTreeMap<Serial, OfferReport> {
    let view = server.cache.view();
    let serial = |version: &VersionId| view.version(version).map(VersionRecord::serial);
    let open = server.exports.open_elsewhere(server.in_use().unwrap_or_default(), serial);
    let (lately, readiness) = (server.exports.read_lately(&server.cache), server.readiness());
    let Some(record) = view.image(image) else { return BTreeMap::new() };
    let first: BTreeSet<_> = bootable(record).map(VersionRecord::serial).collect();
    let offer = |version: &VersionRecord| {
        let serial = version.serial();
        let open_files = open.get(&serial).copied().unwrap_or_default();
        let leaving = !first.contains(&serial);
        let read_lately = lately.contains(&serial);
        if leaving && open_files == 0 && !read_lately {
            return None;
        }
        let version = version.statement.statement().version();
        let (url, name) = url(&version);
        let ready = readiness.get(&serial).copied();
        Some((
            serial,
            OfferReport { version, name, url, leaving, ready, sessions: Vec::new(), open_files, read_lately },
        ))
    };
    record.versions.iter().filter_map(offer).collect()
}

/// Offers an image, with both ends of it in the audit log.
pub(in super::super) async fn add(
    server: Arc<CacheServer>,
    peer: Peer,
    spec: ExportSpec,
) -> anyhow::Result<ExportReport> {
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    server.audit.both_ends(&peer, change, act_on_add(&server, &spec)).await
}

async fn act_on_add(server: &Arc<CacheServer>, spec: &ExportSpec) -> anyhow::Result<ExportReport> {
    find_image(&server.images(), &spec.image)?;
    let ExportSpec { image, protocol, disk: named, clone, .. } = spec.clone();
    let mut clients = spec.clients.clone();
    clients.sort_unstable();
    clients.dedup();
    if clients.iter().any(|client| client.prefix_len() == 0) {
        // Everybody, whatever they speak.
        clients = vec![IpNet::default()];
    }
    let declaration = Declaration { image, protocol, clients, disk: named, clone };
    // What cannot be served at all is refused now; what comes later is told when it comes.
    let view = server.cache.view();
    let image = view.image(&spec.image);
    let first = image.and_then(|image| image.version(image.deployed?));
    let first = first.or_else(|| image.and_then(|image| bootable(image).last())).ok_or_else(|| {
        let message = format!("no version of {} is ready; publish or restore one first", spec.image);
        Failure::new(Exit::Refused, message)
    })?;
    let offer = match protocol {
        Protocol::Iscsi => Some(first_offer(server, first, &declaration).await?),
        _ => None,
    };
    check_same_kind(server, first, &declaration).await?;
    check_left_out(server, &declaration).await?;
    let (working, meant) = (server.clone(), declaration.clone());
    let answers = tokio::task::spawn_blocking(move || match protocol {
        Protocol::Nfs => {
            let mut all = working.exports.declared_by(Protocol::Nfs);
            all.retain(|other| other.image != meant.image);
            all.push(meant);
            working.exports.nfs.check(&super::nfs::shares(&working.cache.view(), &working.mount, &all))
        }
        Protocol::Iscsi => {
            let server = working.exports.server()?;
            offer.map_or(Ok(()), |offer| server.check(&offer))
        }
        Protocol::Http => Ok(()),
    });
    answers.await?.map_err(Failure::from)?;
    if protocol == Protocol::Http {
        super::http::check(&server.plane)?;
    }
    server.exports.declared()?.add(declaration).map_err(Failure::from)?;
    super::admit(server);
    let exports = server.exports.list(server).await?;
    let export = exports.into_iter().find(|export| (&export.image, export.protocol) == (&spec.image, protocol));
    export.ok_or_else(|| Failure::new(Exit::Refused, "somebody removed it meanwhile").into())
}

/// What a workstation that boots now would be offered, whoever it is.
async fn first_offer(server: &CacheServer, first: &VersionRecord, declaration: &Declaration) -> Result<Offer, Failure> {
    let (version, path) = (first.statement.statement().version(), disk(server, first, declaration).await?);
    let disk = server.mount.join(version.image.as_str()).join(version.number.to_string()).join(path);
    let client = declaration.clone.then(|| "workstation".parse().ok()).flatten();
    Ok(Offer { name: OfferName { version, client }, disk, clients: declaration.clients.clone() })
}

/// A target never changes its content: another disk is another export.
async fn check_same_kind(server: &CacheServer, first: &VersionRecord, new: &Declaration) -> Result<(), Failure> {
    let known = server.exports.declared_by(new.protocol).into_iter().find(|known| known.image == new.image);
    let Some(known) = known else { return Ok(()) };
    // What is named may be what was meant anyway.
    let is_other_disk =
        known.disk != new.disk && disk(server, first, &known).await.ok() != Some(disk(server, first, new).await?);
    let how = match (is_other_disk, known.clone) {
        (false, is) if is == new.clone => return Ok(()),
        (true, _) => "with another disk",
        (false, true) => "with clones",
        (false, false) => "without clones",
    };
    let image = &new.image;
    let message = format!(
        "{image} is exported {how}, and a target never changes its content; end that first with `icbd export remove {image} \
         --{}`",
        new.protocol
    );
    Err(Failure::new(Exit::Refused, message))
}

/// Offers it no more, with both ends of it in the audit log.
pub(in super::super) async fn remove(server: Arc<CacheServer>, peer: Peer, spec: UnexportSpec) -> anyhow::Result<()> {
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    server.audit.both_ends(&peer, change, act_on_remove(&server, spec.image.clone(), spec.protocol)).await
}

async fn act_on_remove(server: &Arc<CacheServer>, image: ImageName, protocol: Protocol) -> anyhow::Result<()> {
    let exports = server.exports.list(server).await?;
    let Some(export) = exports.iter().find(|export| (&export.image, export.protocol) == (&image, protocol)) else {
        let hint = near::hint(image.as_str(), exports.iter().map(|export| export.image.as_str()));
        let message = format!("{image} is not exported by {protocol}{hint}; `icbd export list` shows what is");
        return Err(Failure::new(Exit::Absent, message).into());
    };
    let sessions = users(server, export);
    if !sessions.is_empty() {
        let how = match protocol {
            Protocol::Http => "read by HTTP within the last ten minutes; wait until they have gone",
            _ => "shut these down first",
        };
        let message = format!("{image} is in use by {}: {how}", sessions.join(", "));
        return Err(Failure::new(Exit::Refused, message).into());
    }
    server.exports.declared()?.remove(&image, protocol).map_err(Failure::from)?;
    super::admit(server);
    server.exports.settle_all().await;
    if protocol != Protocol::Nfs {
        return Ok(());
    }
    let (working, of) = (server.clone(), image.clone());
    let is_served = tokio::task::spawn_blocking(move || working.exports.nfs.has(&of, &working.mount)).await?;
    match is_served {
        false => Ok(()),
        true => {
            let why = server.exports.nfs.seen().trouble.clone();
            let why = why.unwrap_or_else(|| "it takes long".to_owned());
            let message = format!("{image} is declared no more, but its server serves it still: {why}");
            Err(Failure::new(Exit::Partly, message).into())
        }
    }
}

/// Whoever uses it, or is connected and may have read it, goes on with it.
async fn check_left_out(server: &CacheServer, new: &Declaration) -> Result<(), Failure> {
    let known = server.exports.declared_by(new.protocol).into_iter().find(|known| known.image == new.image);
    let Some(known) = known else { return Ok(()) };
    let export = report(server, &known).await;
    let is_read = export.offers.iter().any(|offer| offer.open_files > 0 || offer.read_lately);
    let connected = export.connected.iter().filter(|_| is_read);
    let users = export.offers.iter().flat_map(|offer| &offer.sessions).flat_map(|session| &session.addresses);
    let left: BTreeSet<IpAddr> = users.chain(connected).copied().filter(|address| !new.is_for(*address)).collect();
    if left.is_empty() {
        return Ok(());
    }
    let left: Vec<String> = left.iter().map(IpAddr::to_string).collect();
    let message = format!(
        "{} is in use by {}, whom these networks leave out: they take the place of those that were named before. Shut these \
         down first, or name their network, too",
        new.image,
        left.join(", ")
    );
    Err(Failure::new(Exit::Refused, message))
}

/// Who uses an export, in words.
fn users(server: &CacheServer, export: &ExportReport) -> Vec<String> {
    let sessions = export.offers.iter().flat_map(|offer| &offer.sessions).map(SessionReport::words);
    match export.protocol {
        Protocol::Nfs => {}
        Protocol::Iscsi => return sessions.chain(server.exports.awaited(&export.image)).collect(),
        Protocol::Http => return sessions.collect::<BTreeSet<String>>().into_iter().collect(),
    }
    let open: u64 = export.offers.iter().map(|offer| offer.open_files).sum();
    let is_read = open > 0 || export.offers.iter().any(|offer| offer.read_lately);
    match export.connected.iter().map(|address| format!("{address} (connected)")).collect::<Vec<_>>() {
        connected if is_read && !connected.is_empty() => connected,
        _ if open > 0 => vec![format!("whoever has {} of it open", counted(open, "file"))],
        _ => Vec::new(),
    }
}
