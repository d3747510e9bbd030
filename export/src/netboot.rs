//! Network boot: a dnsmasq of icbd's own that tells workstations of chosen networks what they load, or a part of the
//! configuration of somebody else's DHCP server that says the same.
//!
//! Firmware loads iPXE, by TFTP or HTTP; iPXE asks the cache server's HTTP for a script, and all else follows from that.

mod dnsmasq;
mod enabled;
mod interfaces;
mod loaders;
mod network;
mod no_router;
mod rival;
mod said;
mod signed;
mod snippet;

pub use dnsmasq::Dnsmasq;
pub use enabled::NetbootEnabled;
pub use interfaces::{Interface, interfaces};
pub use loaders::{Loader, Loaders, LoadersError};
pub use network::{BootNetwork, Dhcp, NetworkError, Pool, PoolError, WantedNetwork};
pub use no_router::NoRouter;
pub use rival::{Rival, rivals};
pub use said::Heard;
pub use signed::{GRUB_MENU, SignedEntry, check_signed, grub_menu, put_signed};
pub use snippet::{Dialect, snippet};
