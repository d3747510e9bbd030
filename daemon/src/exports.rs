//! What workstations are offered, as it travels between command and cache server.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use icbd_export::{KeptError, OfferName, Protocol, ServerError};
use icbd_image::ImageName;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::output::{counted, plain, table};

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
    /// One for each version that somebody may begin to use, or still uses.
    pub offers: Vec<OfferReport>,
    /// Why not all is offered.
    pub troubles: Vec<String>,
}

/// A version that is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfferReport {
    pub name: String,
    /// What workstations are told.
    pub url: String,
    /// Offered to nobody new, but to those who use it.
    pub leaving: bool,
    pub sessions: Vec<SessionReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionReport {
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

    /// Where clients find the server.
    pub(crate) fn portal(portals: &[SocketAddr], clients: &[IpNet]) -> Option<SocketAddr> {
        let shown = |portal: &SocketAddr| match portal.ip().is_unspecified() {
            true => SocketAddr::new(clients.iter().find_map(towards).unwrap_or(portal.ip()), portal.port()),
            false => *portal,
        };
        portals.first().map(shown)
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
        format!("{} ({})", addresses.join(", "), plain(&self.initiator))
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
            let row = |target: String, users: String| [&head[..], &[target, users]].concat();
            let offer = |offer: &OfferReport| {
                let leaving = if offer.leaving { " (leaving)" } else { "" };
                row(format!("{}{leaving}", offer.url), users(&offer.sessions))
            };
            let none = export.offers.is_empty().then(|| row("-".to_owned(), "nobody".to_owned()));
            export.offers.iter().map(offer).chain(none).collect::<Vec<_>>()
        });
        let list = table(&["IMAGE", "BY", "CLIENTS", "TARGET", "IN USE BY"], rows.collect::<Vec<_>>());
        let troubles = exports
            .iter()
            .flat_map(|export| export.troubles.iter().map(|trouble| format!("! {}: {}", export.image, plain(trouble))));
        std::iter::once(list).chain(troubles).collect::<Vec<_>>().join("\n")
    }
}

fn nets(clients: &[IpNet]) -> String {
    clients.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Some of them by address, and how many more there are.
fn users(sessions: &[SessionReport]) -> String {
    const SHOWN_MAX: usize = 3;
    let address = |session: &SessionReport| session.addresses.first().map_or("-".to_owned(), IpAddr::to_string);
    let mut shown: Vec<String> = sessions.iter().take(SHOWN_MAX).map(address).collect();
    if let more @ 1.. = sessions.len().saturating_sub(SHOWN_MAX) {
        shown.push(format!("and {}", counted(more as u64, "other")));
    }
    if shown.is_empty() { "nobody".to_owned() } else { shown.join(", ") }
}
