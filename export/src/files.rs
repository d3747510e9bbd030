//! Folders of images as servers of files serve them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;

use icbd_image::ImageName;
use ipnet::IpNet;

use crate::ServerError;

/// One image's folder as it is to be served: below it each version is a folder of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub image: ImageName,
    /// Where the server finds it: `<mount>/<image>`.
    pub folder: PathBuf,
    /// Part of every file handle that clients keep: the same on every cache server, and never another image's.
    pub id: NonZeroU16,
    /// Who may read it; in order.
    pub clients: Vec<IpNet>,
}

/// One real server of files on this machine. All of it blocks, and none of it opens what is served.
pub trait FileServer: Send + Sync + fmt::Debug {
    /// For people.
    fn name(&self) -> &'static str;

    /// Below which path clients find the versions of a share.
    fn path(&self, share: &Share) -> String;

    /// Fails if it could not be told to serve these now; with a server that does not run whatever else is amiss.
    fn check(&self, shares: &[Share]) -> Result<(), ServerError>;

    /// Has it serve exactly these for icbd, whatever it serves for others; whether it had to be told anything. What fails or is killed
    /// halfway is put right by the next call.
    ///
    /// The folders have to be there, mounted: a server passes over what it does not find.
    fn serve(&self, shares: &[Share]) -> Result<bool, ServerError>;

    /// Sees to it that many reads that wait keep nobody else from reading; says what it changed.
    fn raise_limits(&self) -> Result<Option<String>, ServerError> {
        Ok(None)
    }

    /// What it was told last to serve for icbd, by whichever process.
    fn served(&self) -> Result<Vec<Share>, ServerError>;

    /// Who is connected now, to whatever it serves; in order, each once.
    fn clients(&self) -> Result<Vec<IpAddr>, ServerError>;

    /// Where it listens.
    fn portals(&self) -> Result<Vec<SocketAddr>, ServerError>;
}
