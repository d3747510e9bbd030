//! Versions offered to workstations by the servers that a machine has.
//!
//! An administrator *declares* what is offered: an image, by a protocol, to ranges of clients ([`Declared`] keeps that). What a
//! server has to serve for it follows from the versions there are ([`bootable`], [`disk_of`]): an [`Offer`] each, named by the
//! version, which never changes its content. A [`Plan`] tells a server what it lacks and what is offered no more, one at a time; what
//! others set up there is never touched.

mod bootable;
mod declared;
mod disk;
mod error;
mod everybody;
mod files;
mod ganesha;
mod knfsd;
mod offer;
mod own_file;
mod plan;
mod proc;
mod server;
mod tgt;

pub use bootable::bootable;
pub use declared::{Declaration, Declared, DeclaredError, Protocol};
pub use disk::{DiskError, disk_of};
pub use error::ServerError;
pub use files::{FileServer, Share};
pub use ganesha::Ganesha;
pub use knfsd::{Knfsd, Raised};
pub use offer::{LUN, Offer, OfferName, OfferNameError};
pub use plan::{Outcome, Plan};
pub use server::{Clients, Offered, Server, Session, Withdrawal};
pub use tgt::Tgt;
