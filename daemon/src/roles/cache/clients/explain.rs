//! What a workstation would get at its next boot: asked of the same code that decides when it boots, and nothing is done.

use std::sync::Arc;

use icbd_cache::{CloneDisk, CloneName};
use icbd_export::{Declaration, OfferName, Protocol};
use icbd_image::{ImageName, Timestamp, VersionId, VersionRecord};

use super::{Seen, absent, find, listed, named, unmet};
use crate::clients::{BootReport, ClientClone, ClientReport, ClientSpec, CloneOutlook, ExplainReport, OlderReport};
use crate::exports::{OfferReport, SessionReport};
use crate::failure::{Exit, Failure};
use crate::roles::cache::boot::{self, Before};
use crate::roles::cache::clones::personal;
use crate::roles::cache::exports::{self, Use};
use crate::roles::cache::state::CacheServer;

/// What a workstation would get of each image that is exported.
pub(in super::super) async fn explain(server: Arc<CacheServer>, spec: ClientSpec) -> anyhow::Result<ExplainReport> {
    let listed = listed(&server)?;
    let seen = Seen::of(&server).await?;
    // Whether it can be read what is exported, and how that is now.
    server.exports.list(&server).await?;
    let name = named(listed.as_deref(), &spec.client)?;
    let client = match (find(&seen, listed.as_deref(), &name), &listed) {
        (Ok(client), _) => client,
        // Whoever boots is believed.
        (Err(_), None) => seen.stranger(&name),
        (Err(error), Some(_)) => return Err(error),
    };
    let is_known = listed.is_none() || client.listed;
    let stranger = (!is_known).then(|| absent(listed.as_deref(), &name).message);
    let mut images = Vec::new();
    for declaration in server.exports.declarations() {
        images.push(of_image(&server, &client, &declaration, stranger.as_deref()).await?);
    }
    let is_silent = server.plane.listen.is_empty();
    let silent = "no boot script is served: write `listen = [\"0.0.0.0:7071\"]` under [serve] in the configuration, and restart the \
                  cache";
    let trouble = is_silent.then(|| silent.to_owned());
    let unmet = client.boots.as_ref().and_then(|boots| unmet(&server, &client.name, boots));
    Ok(ExplainReport { client, imported: listed.is_some(), trouble, unmet, images })
}

async fn of_image(
    server: &CacheServer,
    client: &ClientReport,
    declaration: &Declaration,
    stranger: Option<&str>,
) -> anyhow::Result<BootReport> {
    let Declaration { image, protocol, clients, clone, .. } = declaration;
    let mut report = BootReport {
        image: image.clone(),
        protocol: *protocol,
        networks: clients.clone(),
        version: None,
        edited: false,
        tried: false,
        url: None,
        root: false,
        clone: None,
        personal: None,
        older: Vec::new(),
        refused: None,
    };
    let owner = (*clone && *protocol == Protocol::Iscsi).then_some(&client.name);
    report.tried = boot::tried(server, image, &client.name).is_some();
    let record = match boot::booted(server, image, Some(&client.name)) {
        Ok(record) => record,
        Err(failure) => {
            report.older = older(server, client, image, None);
            return Ok(BootReport { refused: Some(failure.message), ..report });
        }
    };
    let name = CloneName { version: record.statement.statement().version(), client: client.name.clone() };
    report.edited = owner.is_some_and(|client| boot::edited(server, image, client).is_some());
    if *protocol != Protocol::Iscsi {
        let export = exports::report(server, declaration).await;
        let offer = export.offers.into_iter().find(|offer| offer.version == name.version && offer.url != "-");
        let why = || export.troubles.first().map_or("its server has not answered yet", String::as_str).to_owned();
        report.refused = offer.is_none().then(|| format!("{} is not offered yet: {}", name.version, why()));
        report.root = *protocol == Protocol::Nfs
            && boot::is_booted_as_folder(server, &record, declaration).await.unwrap_or(false);
        (report.url, report.version) = (offer.map(|offer| offer.url), Some(name.version));
        return Ok(report);
    }
    report.older = older(server, client, image, Some(&name));
    let offer = OfferName { version: name.version.clone(), client: clone.then(|| name.client.clone()) };
    report.url = Some(OfferReport::url(&offer, &server.exports.portals(), clients));
    report.version = Some(name.version.clone());
    let refused = match (clone, stranger) {
        (true, Some(stranger)) => Some(stranger.to_owned()),
        (true, None) => match outlook(server, declaration, &record, &name).await {
            Ok(outlook) => {
                report.personal = personal::outlook(server, &name, &outlook);
                report.clone = Some(outlook);
                None
            }
            Err(failure) => Some(failure.message),
        },
        (false, _) => (!server.exports.has_offered(&offer)).then(|| not_offered(server, &name)),
    };
    Ok(BootReport { refused, ..report })
}

fn not_offered(server: &CacheServer, name: &CloneName) -> String {
    let why = server.exports.trouble_of(name).unwrap_or_else(|| "its server has not answered yet".to_owned());
    format!("{} is not offered yet: {why}", name.version)
}

/// What would become of its clone.
async fn outlook(
    server: &CacheServer,
    declaration: &Declaration,
    record: &VersionRecord,
    name: &CloneName,
) -> Result<CloneOutlook, Failure> {
    let before = boot::before(server, declaration, record, name).await?;
    if let Before::Nothing = before {
        let is_own = |other: &CloneName| (&other.client, &other.version.image) == (&name.client, &name.version.image);
        let mut clones = server.cache.clones().all().into_iter();
        let makes_room = clones.any(|clone| is_own(clone.name()) && !clone.is_kept());
        if !makes_room && boot::is_short(server).await? {
            return Err(boot::no_room(&name.client));
        }
        // Refused of a version without a disk.
        exports::disk(server, record, declaration).await?;
        return match server.exports.trouble() {
            Some(trouble) => Err(cannot(name, &trouble)),
            None => Ok(CloneOutlook::Made),
        };
    }
    if let Some(trouble) = server.exports.trouble_of(name).filter(|_| !server.exports.is_offered(name)) {
        return Err(cannot(name, &trouble));
    }
    let of = |disk: &CloneDisk| (disk.allocated().unwrap_or(0), since(disk));
    Ok(match before {
        Before::Nothing => CloneOutlook::Made,
        Before::Untouched => CloneOutlook::Untouched,
        Before::Kept(disk) => {
            let (written_bytes, since) = of(&disk);
            CloneOutlook::Kept { written_bytes, since }
        }
        Before::Unfinished(disk) => {
            let (written_bytes, since) = of(&disk);
            CloneOutlook::Reset { written_bytes, since }
        }
        Before::Written(disk) | Before::Other(disk) => {
            let (written_bytes, since) = of(&disk);
            match in_use(server, name) {
                None => CloneOutlook::Reset { written_bytes, since },
                Some((why, sessions)) => CloneOutlook::NotNow { written_bytes, since, sessions, why },
            }
        }
    })
}

fn cannot(name: &CloneName, trouble: &str) -> Failure {
    Failure::new(Exit::Failed, format!("{name} cannot be offered now: {trouble}"))
}

/// Why a clone cannot be reset now, and who is logged in.
fn in_use(server: &CacheServer, name: &CloneName) -> Option<(String, Vec<SessionReport>)> {
    let sessions: Vec<SessionReport> = server.exports.sessions_of(name).iter().map(SessionReport::from).collect();
    let by: Vec<String> = sessions.iter().map(SessionReport::words).collect();
    let why = match server.exports.use_of(name) {
        Use::Nobody => return None,
        Use::Lately(left) => format!("somebody used it a moment ago; it can be reset in {} s", left.as_secs() + 1),
        Use::Somebody if by.is_empty() => {
            "somebody used it until its server ended, and may be about to log in again".to_owned()
        }
        Use::Somebody => format!("{} is logged in to it", by.join(", ")),
        Use::Unknown => {
            let why = server.exports.trouble_of(name).unwrap_or_else(|| "its server has not answered yet".to_owned());
            format!("nobody knows whether it is in use: {why}")
        }
    };
    Some((why, sessions))
}

/// What it has written over other versions of an image.
fn older(
    server: &CacheServer,
    client: &ClientReport,
    image: &ImageName,
    deployed: Option<&CloneName>,
) -> Vec<OlderReport> {
    let is_older =
        |version: &VersionId| version.image == *image && deployed.is_none_or(|deployed| deployed.version != *version);
    let others = client.clones.iter().filter(|clone| is_older(&clone.version));
    let report = |clone: &ClientClone| {
        let name = CloneName { version: clone.version.clone(), client: client.name.clone() };
        OlderReport {
            version: clone.version.clone(),
            written_bytes: clone.written_bytes,
            kept: clone.kept,
            in_use: server.exports.use_of(&name) != Use::Nobody,
        }
    };
    others.map(report).collect()
}

fn since(disk: &CloneDisk) -> Timestamp {
    Timestamp { seconds: i64::try_from(disk.made()).unwrap_or(i64::MAX), nanoseconds: 0 }
}
