//! Versions offered to workstations by the servers that a machine has.
//!
//! An administrator *declares* what is offered: an image, by a protocol, to ranges of clients ([`Declared`] keeps that). What a
//! server has to serve for it follows from the versions there are ([`bootable`], [`disk_of`]): an [`Offer`] each, named by the
//! version, which never changes its content. A [`Plan`] tells a server what it lacks and what is offered no more, one at a time; what
//! others set up there is never touched.
//!
//! How workstations find all that when they are switched on, network boot says ([`Dnsmasq`], [`snippet`]).
//!
//! Who the workstations are, a list says that somebody imported ([`Workstations`]).

mod bootable;
mod declared;
mod disk;
mod error;
mod everybody;
mod files;
mod ganesha;
mod kept;
mod knfsd;
mod lio;
mod netboot;
mod offer;
mod own_file;
mod plan;
mod proc;
mod program;
mod server;
mod tgt;
mod workstations;

pub use bootable::bootable;
pub use declared::{Declaration, Declared, Protocol};
pub use disk::{DiskError, disk_of};
pub use error::ServerError;
pub use files::{FileServer, Share};
pub use ganesha::Ganesha;
pub use kept::KeptError;
pub use knfsd::{Knfsd, Raised};
pub use lio::{Lio, Step};
pub use netboot::{
    BootNetwork, Dhcp, Dialect, Dnsmasq, GRUB_MENU, Heard, Interface, Loader, Loaders, LoadersError, NetbootEnabled,
    NetworkError, NoRouter, Pool, PoolError, Rival, SignedEntry, WantedNetwork, check_signed, grub_menu, interfaces,
    put_signed, rivals, snippet,
};
pub use offer::{LUN, Offer, OfferName, OfferNameError};
pub use plan::{Outcome, Plan};
pub use server::{Clients, Offered, Server, Session, Withdrawal};
pub use tgt::Tgt;
pub use workstations::{
    Claims, Difference, Fault, Faults, LabName, LabNameError, Listed, Mac, MacError, Neighbours, Place, Problem,
    Spoofed, Stranger, Workstation, Workstations, neighbours, read_sheet, text_of_sheet, who,
};
