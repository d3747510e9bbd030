//! What workstations are offered, as it travels between command and cache server.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use icbd_export::{KeptError, OfferName, Protocol, ServerError};
use icbd_image::{ImageName, VersionId};
use icbd_wire::Readiness;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::output::{counted, plain, table};
use crate::readiness;

/// What is to be offered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExportSpec {
    pub image: ImageName,
    pub protocol: Protocol,
    pub clients: Vec<IpNet>,
    /// Which file is the disk, where that is not plain.
    pub disk: Option<String>,
    /// Whether each client gets a writable disk of its own.
    #[serde(default)]
    pub clone: bool,
    #[serde(default)]
    pub why: String,
}

/// What is to be offered no more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UnexportSpec {
    pub image: ImageName,
    pub protocol: Protocol,
    #[serde(default)]
    pub why: String,
}

/// An image that is offered, and how that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExportReport {
    pub image: ImageName,
    pub protocol: Protocol,
    /// The program that serves it, if one could be found.
    pub server: Option<String>,
    pub clients: Vec<IpNet>,
    pub disk: Option<String>,
    /// Whether each client gets a writable disk of its own.
    #[serde(default)]
    pub clone: bool,
    /// How much is here of the version that a workstation gets at its next boot.
    #[serde(default, with = "crate::readiness")]
    pub ready: Option<Readiness>,
    /// One for each version that somebody may begin to use, or still uses.
    pub offers: Vec<OfferReport>,
    /// Why not all is offered.
    pub troubles: Vec<String>,
    /// Who is connected of those that cannot be told apart by what they use.
    #[serde(default)]
    pub connected: Vec<IpAddr>,
}

/// A version that is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfferReport {
    pub version: VersionId,
    pub name: String,
    /// What workstations are told.
    pub url: String,
    /// Offered to nobody new, but to those who use it.
    pub leaving: bool,
    /// How much of it is here.
    #[serde(default, with = "crate::readiness")]
    pub ready: Option<Readiness>,
    pub sessions: Vec<SessionReport>,
    /// How many files a server of folders has open.
    #[serde(default)]
    pub open_files: u64,
    /// Somebody may be using it who reads without saying when it has gone.
    #[serde(default)]
    pub read_lately: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionReport {
    /// As it calls itself; empty where nobody does.
    pub initiator: String,
    pub addresses: Vec<IpAddr>,
}

/// The command, as it is written in the audit log.
impl fmt::Display for ExportSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "export add {} --{}", self.image, self.protocol)?;
        self.clients.iter().try_for_each(|client| write!(f, " --clients {client}"))?;
        self.disk.as_ref().map_or(Ok(()), |disk| write!(f, " --disk {disk}"))?;
        if self.clone { f.write_str(" --clone") } else { Ok(()) }
    }
}

impl fmt::Display for UnexportSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "export remove {} --{}", self.image, self.protocol)
    }
}

impl From<KeptError> for Failure {
    fn from(error: KeptError) -> Failure {
        Failure::new(Exit::Failed, error.to_string()).of_disk(&error)
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Failure {
        Failure::new(Exit::Refused, error.to_string())
    }
}

impl OfferReport {
    /// `portals`: where the server listens.
    pub(crate) fn url(name: &OfferName, portals: &[SocketAddr], clients: &[IpNet]) -> String {
        let address = OfferReport::portal(portals, clients).map_or_else(|| "-".to_owned(), |portal| portal.to_string());
        format!("iscsi://{address}/{name}/{}", icbd_export::LUN)
    }

    /// The same of a folder.
    pub(crate) fn folder_url(path: &str, portals: &[SocketAddr], clients: &[IpNet]) -> String {
        const PORT: u16 = 2049;
        let host = OfferReport::portal(portals, clients).map_or_else(
            || "-".to_owned(),
            |portal| match portal.port() {
                PORT if portal.is_ipv6() => format!("[{}]", portal.ip()),
                PORT => portal.ip().to_string(),
                _ => portal.to_string(),
            },
        );
        format!("nfs://{host}{path}")
    }

    /// Where clients find the server.
    pub(crate) fn portal(portals: &[SocketAddr], clients: &[IpNet]) -> Option<SocketAddr> {
        // Nobody is told of an address from where no way leads to them.
        let shown = |portal: &SocketAddr| match portal.ip().is_unspecified() {
            true => {
                // No way leads to everybody where none leads out of the lab.
                let any = || clients.iter().any(|clients| clients.prefix_len() == 0).then_some(portal.ip());
                clients.iter().find_map(towards).or_else(any).map(|address| SocketAddr::new(address, portal.port()))
            }
            false => Some(*portal),
        };
        // One that workstations reach, if there is any.
        let is_of_others = |portal: &&SocketAddr| !portal.ip().is_loopback();
        portals.iter().find(is_of_others).or(portals.first()).and_then(shown)
    }
}

/// The address of this machine that clients of a network see; nothing is sent.
fn towards(clients: &IpNet) -> Option<IpAddr> {
    let unspecified: IpAddr = if clients.addr().is_ipv4() { [0, 0, 0, 0].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((unspecified, 0)).ok()?;
    socket.connect((clients.hosts().next()?, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

impl From<&icbd_export::Session> for SessionReport {
    fn from(session: &icbd_export::Session) -> SessionReport {
        SessionReport { initiator: session.initiator.clone(), addresses: session.addresses.clone() }
    }
}

impl SessionReport {
    pub(crate) fn words(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        match self.initiator.as_str() {
            "" => addresses.join(", "),
            // Its server does not say from where.
            initiator if addresses.is_empty() => plain(initiator),
            initiator => format!("{} ({})", addresses.join(", "), plain(initiator)),
        }
    }
}

impl ExportReport {
    /// What was added.
    pub(crate) fn words(&self) -> String {
        let by = self.server.as_deref().map_or(String::new(), |server| format!(", by {server}"));
        let mut lines = vec![format!("{} is declared for {}{by}", self.image, nets(&self.clients))];
        lines.extend(self.offers.iter().map(|offer| offer.url.clone()));
        lines.extend(self.troubles.iter().map(|trouble| format!("! {}", plain(trouble))));
        lines.join("\n")
    }

    pub(crate) fn list(exports: &[ExportReport]) -> String {
        if exports.is_empty() {
            return "nothing is exported; `icbd export add IMAGE --iscsi --clients 10.1.2.0/24` does".to_owned();
        }
        let rows = exports.iter().flat_map(|export| {
            let by = if export.clone { format!("{}, clones", export.protocol) } else { export.protocol.to_string() };
            let head = [export.image.to_string(), by, nets(&export.clients)];
            let row = |target: String, ready: Option<Readiness>, users: String| {
                [&head[..], &[target, readiness::shown(ready).to_owned(), users]].concat()
            };
            let offer = |offer: &OfferReport| {
                let leaving = if offer.leaving { " (leaving)" } else { "" };
                row(format!("{}{leaving}", offer.url), offer.ready, offer.users())
            };
            let none = export.offers.is_empty().then(|| row("-".to_owned(), export.ready, "nobody".to_owned()));
            export.offers.iter().map(offer).chain(none).collect::<Vec<_>>()
        });
        let list = table(&["IMAGE", "BY", "CLIENTS", "TARGET", "READY", "IN USE BY"], rows.collect::<Vec<_>>());
        let connected = exports.iter().filter(|export| !export.connected.is_empty()).map(|export| {
            let (who, by) = (some(export.connected.iter().map(IpAddr::to_string)), export.protocol);
            format!("connected by {by}, from the networks of {}: {who}", export.image)
        });
        let troubles = exports
            .iter()
            .flat_map(|export| export.troubles.iter().map(|trouble| format!("! {}: {}", export.image, plain(trouble))));
        std::iter::once(list).chain(connected).chain(troubles).collect::<Vec<_>>().join("\n")
    }
}

fn nets(clients: &[IpNet]) -> String {
    clients.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl OfferReport {
    /// Who uses it, as far as its server says.
    fn users(&self) -> String {
        let address = |session: &SessionReport| match session.addresses.first() {
            Some(address) => address.to_string(),
            None => session.words(),
        };
        match self {
            OfferReport { sessions, .. } if !sessions.is_empty() => some(sessions.iter().map(address)),
            OfferReport { open_files: open @ 1.., .. } => format!("{} open", counted(*open, "file")),
            OfferReport { read_lately: true, .. } => "read within a day".to_owned(),
            _ => "nobody".to_owned(),
        }
    }
}

/// Some of them, and how many more there are.
fn some(all: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN_MAX: usize = 3;
    let more = all.len().saturating_sub(SHOWN_MAX);
    let mut shown: Vec<String> = all.take(SHOWN_MAX).collect();
    if more > 0 {
        shown.push(format!("and {}", counted(more as u64, "other")));
    }
    shown.join(", ")
}
