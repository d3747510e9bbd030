//! What iPXE is told.

use std::net::{IpAddr, SocketAddr};

use icbd_export::{LUN, OfferName};
use icbd_image::{FileIndex, ImageName, VersionId, VersionRecord};

use super::ways::{CMDLINE, INITRD, KERNEL};
use crate::exports::OfferReport;
use crate::failure::{Exit, Failure};
use crate::roles::cache::state::CacheServer;

/// What iPXE was given: who boots need not ask for it again, which takes seconds.
const LEASE: &str = "icbd.ip=${netX/ip}:${netX/gateway}:${netX/netmask}:${netX/hostname}:${netX/dns}";
/// A kernel takes twice as much, and what icbd tells it has to have room.
const CMDLINE_BYTES_MAX: u64 = 1024;

/// Boots from a disk.
pub(super) fn sanboot(server: &CacheServer, name: &OfferName, from: IpAddr) -> Result<String, Failure> {
    let portal = portal(server, name, from)?;
    let initiator = name.initiator().map(|initiator| format!("set initiator-iqn {initiator}\n")).unwrap_or_default();
    let (address, port) = (portal.ip(), portal.port());
    Ok(format!("#!ipxe\n{initiator}sanboot iscsi:{address}::{port}:{LUN}:{name}\n"))
}

/// Where a kernel finds a disk.
pub(super) fn disk(server: &CacheServer, name: &OfferName, from: IpAddr) -> Result<String, Failure> {
    let portal = portal(server, name, from)?;
    let root = format!("icbd.root=iscsi:{}:{}:{LUN}:{name}", portal.ip(), portal.port());
    Ok(match name.initiator() {
        Some(initiator) => format!("{root} icbd.initiator={initiator} icbd.rw=clone"),
        None => root,
    })
}

fn portal(server: &CacheServer, name: &OfferName, from: IpAddr) -> Result<SocketAddr, Failure> {
    let portal = OfferReport::portal(&server.exports.portals(), &[from.into()]);
    portal.filter(|_| server.exports.has_offered(name)).ok_or_else(|| not_yet(&name.to_string()))
}

/// Where it finds a folder.
pub(super) fn folder(server: &CacheServer, version: &VersionId, from: IpAddr) -> Result<String, Failure> {
    let found = server.exports.nfs.folder(&version.image).ok_or_else(|| not_yet(&version.to_string()))?;
    let (path, portals) = found;
    let portal = OfferReport::portal(&portals, &[from.into()]).ok_or_else(|| not_yet(&version.to_string()))?;
    Ok(format!("icbd.root=nfs:{}:{}:{path}/{}", portal.ip(), portal.port(), version.number))
}

/// Tells who sits before it why nothing is booted.
pub(super) fn refusal(image: &ImageName, failure: &Failure) -> String {
    format!("#!ipxe\necho {image} cannot be booted: {}\nexit 1\n", plain_words(&failure.message))
}

/// What iPXE takes for nothing but words.
pub(super) fn plain_words(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|c| !c.is_control() && !"|&;$".contains(*c)).collect()
}

fn not_yet(what: &str) -> Failure {
    Failure::new(Exit::Failed, format!("{what} is not offered yet; `icbd export list` says why"))
}

/// Loads the kernel of a version's boot package, which finds the rest as it is told.
pub(super) async fn kernel(
    server: &CacheServer,
    record: &VersionRecord,
    root: String,
    from: IpAddr,
) -> Result<String, Failure> {
    let version = record.statement.statement().version();
    let VersionId { image, number } = &version;
    let http = http(server, from)?;
    let arguments = arguments(server, record, &root, &http).await?;
    let path = |file: &str| format!("{http}/files/{image}/{number}/{file}");
    Ok(format!(
        "#!ipxe\nkernel {} initrd=initrd.img {arguments} BOOTIF=01-${{netX/mac:hexhyp}} {LEASE}\ninitrd --name initrd.img {}\nboot\n",
        path(KERNEL),
        path(INITRD)
    ))
}

/// What a kernel is told, but for which network card it was booted by.
pub(super) async fn arguments(
    server: &CacheServer,
    record: &VersionRecord,
    root: &str,
    http: &str,
) -> Result<String, Failure> {
    let (more, version) = (cmdline(server, record).await?, record.statement.statement().version());
    Ok(format!("boot=icbd{more} {root} icbd.server={http} icbd.version={version}"))
}

/// Where whoever asks from there finds this HTTP.
pub(super) fn http(server: &CacheServer, from: IpAddr) -> Result<String, Failure> {
    let listen = OfferReport::portal(&server.plane.listen, &[from.into()]);
    let listen = listen.ok_or_else(|| Failure::new(Exit::Failed, "nothing is served by HTTP"))?;
    Ok(format!("http://{listen}"))
}

/// What a version's boot package adds to the command line.
async fn cmdline(server: &CacheServer, record: &VersionRecord) -> Result<String, Failure> {
    let version = server.cache.version(record.serial()).await.map_err(Failure::from)?;
    let file = |index: FileIndex| version.file(index).ok();
    let Some(file) = version.head().follow(CMDLINE.as_bytes()).and_then(file) else { return Ok(String::new()) };
    if file.size() > CMDLINE_BYTES_MAX {
        let message = format!(
            "{CMDLINE} of {} has {} bytes, and a kernel takes {CMDLINE_BYTES_MAX} beside what icbd tells it",
            version.id(),
            file.size()
        );
        return Err(Failure::new(Exit::Refused, message));
    }
    let bytes = file.read(0, CMDLINE_BYTES_MAX as usize).await.map_err(Failure::from)?;
    let text = String::from_utf8_lossy(&bytes);
    let words = plain_words(&text);
    Ok(if words.is_empty() { words } else { format!(" {words}") })
}
