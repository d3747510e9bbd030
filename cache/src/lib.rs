//! The local store: which blocks of which versions this machine holds, and how they get here.
//!
//! A version is a tree of sparse files on the local disk, byte for byte the master's where resident. A
//! [`Cache`] shows images and versions ([`View`]); a [`Version`] has a head and [`File`]s; a file is read
//! at once where it is here ([`File::read_now`]) and fetched, verified and kept where it is not
//! ([`File::read`]). A block is called durable only when a power cut cannot take it back.
//!
//! What this crate does not do: it shows nothing to a kernel (`fs/`), knows no protocol (`fetch/`),
//! and decides neither when room is made nor what clients use. FORMAT.md, "Cache store on disk", describes every byte it writes.

mod bitmap;
mod bits;
mod boot;
mod budget;
mod cache;
mod catalogue;
mod clones;
mod core;
mod disk;
mod error;
mod evict;
mod file;
mod filling;
mod flight;
mod flights;
mod health;
mod inherit;
mod layout;
mod ledger;
mod local;
mod losses;
mod pins;
mod prefetch;
mod profiles;
mod refresh;
mod resident;
mod reuse;
mod seal;
mod serving;
mod settings;
mod slots;
mod spoilt;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod trust;
mod verify;
mod version;
mod view;
mod waiting;
mod writeback;

pub use cache::Cache;
pub use clones::{
    CloneDisk, CloneFill, CloneName, CloneStatus, CloneUse, Clones, Fate, Layers, Refused, Written, WrittenPart,
};
pub use error::CacheError;
pub use evict::{Holding, Room, Stay};
pub use file::{File, Passthrough, ReadNow};
pub use health::StoreState;
pub use local::LocalRollback;
pub use pins::Pin;
pub use prefetch::{
    Deadline, ExplainedVersion, Explanation, Order, OrderChange, OrderId, OrderState, OrderStatus, Priority, Rate,
    Verdict, Weekdays, WeekdaysError, What, Window, Zone, ZoneError,
};
pub use refresh::Refresh;
pub use seal::SealReport;
pub use serving::{Served, ServedRun};
pub use settings::{Quota, Settings};
pub use spoilt::Spoilt;
pub use status::{CacheStatus, VersionStatus};
pub use verify::{BadBlock, Pace, VerifyProgress, VerifyReport};
pub use version::{Residency, Version};
pub use view::{Object, View};
pub use waiting::{GivenUp, Waiting};
