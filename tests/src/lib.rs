//! The harness of the whole-system scenarios: it starts the real binary, mounts real mounts and boots real machines.
//!
//! Nothing here uses icbd's own crates: what a scenario compares with is made by other means, or a fault shared by
//! both sides would go unseen. Everything a scenario starts is ended by its owner's `Drop`, by process id, and
//! everything it mounts is unmounted, also when it fails. All traffic is on loopback, or in network namespaces of a
//! scenario's own.
//!
//! Needs root, FUSE and the packages that `tests/lab/packages.sh` installs.

mod boot;
mod cache;
mod daemon;
mod lab;
mod master;
mod program;

mod content;
mod ganesha;
mod kernel;
mod random;
mod ssh;
mod tgtd;
mod tree;
mod volume;

mod dhcp;
mod http;
mod lan;
mod metrics;
mod proxy;

mod debian;
mod kernel_machine;
mod package;
mod small;
mod vm;

pub use boot::{BootTarget, boot_script, listens};
pub use cache::{CacheServer, CacheSettings, Residency, wait_for};
pub use content::{MIB, block_of, fill, pattern, solid, write_sparse};
pub use daemon::Daemon;
pub use debian::{BOOT_DEADLINE, BootRead, debian_image, netboot_image, recorded_boot, touched_blocks, upgraded_image};
pub use dhcp::{Dnsmasq, Lease};
pub use ganesha::{FileHandle, Ganesha, Nfs, NfsReader};
pub use http::{Answer, get, get_with};
pub use kernel::{Handle, read_mapped};
pub use kernel_machine::{NfsServer, is_in_kernel_machine, run_in_kernel_machine};
pub use lab::Lab;
pub use lan::{LAN, Lan, LanMachine, SERVER, set_address};
pub use master::Master;
pub use metrics::Metrics;
pub use package::{bare_machine, build_package};
pub use program::{Output, icbd, icbd_path, mount_icbd_path, run_bounded};
pub use proxy::{Fault, Proxy};
pub use random::Random;
pub use small::small_image;
pub use ssh::Ssh;
pub use tgtd::{IscsiReader, PLAIN, Tgtd, scsi_failures};
pub use tree::{compare_trees, files_below, sample_tree};
pub use vm::{Vm, disk_argument};
pub use volume::{FileSystem, Volume};
