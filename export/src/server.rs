//! What every server of block devices can be asked for.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use icbd_image::VersionId;
use ipnet::IpNet;

use crate::{Offer, OfferName, ServerError};

/// One real server on this machine. All of it blocks; each call is one change, so that a kill between two leaves a state that
/// the next [`crate::Plan`] goes on from.
pub trait Server: Send + Sync + fmt::Debug {
    /// For people.
    fn name(&self) -> &'static str;

    /// Fails if it could not serve that, to exactly these clients; with a server that does not run whatever else is amiss.
    fn check(&self, offer: &Offer) -> Result<(), ServerError>;

    /// What it serves for icbd, whatever else it serves.
    fn offered(&self) -> Result<Vec<Offered>, ServerError>;

    /// Serves something that it does not serve yet.
    fn offer(&self, offer: &Offer) -> Result<(), ServerError>;

    /// Has exactly these clients use what it serves; those that do go on.
    fn allow(&self, name: &OfferName, clients: &[IpNet]) -> Result<(), ServerError>;

    /// Serves something no more.
    fn withdraw(&self, name: &OfferName, how: Withdrawal) -> Result<(), ServerError>;

    /// Where it listens.
    fn portals(&self) -> Result<Vec<SocketAddr>, ServerError>;
}

/// What becomes of those who use what is served no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawal {
    /// There are none, or it is refused.
    Unused,
    /// They are logged out.
    Forced,
}

/// What a server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    pub name: OfferName,
    /// `None`: it was killed, or somebody meddled, before it was whole.
    pub disk: Option<PathBuf>,
    pub clients: Clients,
    /// Whether nobody can write to it.
    pub is_read_only: bool,
    pub sessions: Vec<Session>,
}

/// Who may use what is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clients {
    /// In order.
    These(Vec<IpNet>),
    /// Some that were let in by somebody else, in a way that icbd does not.
    Others,
}

/// Somebody who uses it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// As it calls itself.
    pub initiator: String,
    pub addresses: Vec<IpAddr>,
}

impl Offered {
    pub fn version(&self) -> &VersionId {
        &self.name.version
    }
}
