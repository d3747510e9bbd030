//! The tools that are compared: icbd, and what a user would pick instead, each from its Debian package and at its best.
//!
//! How each is set up was tried for this trace and these lines; their defaults are far worse.

mod lazy;
mod ours;
mod plain;
mod whole;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use icbd_tests::disk_argument;

use super::depot::Depot;
use crate::network::Network;

pub(crate) use ours::site;

/// One way to boot from a disk that is far away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// The image on this machine's disk: what all would like to be.
    Local,
    /// icbd with an empty store that knows nothing of the image.
    Icbd,
    /// icbd with an empty store and the profile of a boot at another site.
    IcbdProfile,
    /// qemu-storage-daemon, copy-on-read, over a compressed image with clusters of so many KiB, by HTTP.
    Qemu(u32),
    Nbdkit,
    Rclone,
    Nfs,
    /// The whole compressed image first, by HTTP.
    Curl,
    /// The whole image first, by rsync.
    Rsync,
}

pub(crate) const TOOLS: [Tool; 11] = [
    Tool::Local,
    Tool::Icbd,
    Tool::IcbdProfile,
    Tool::Qemu(64),
    Tool::Qemu(256),
    Tool::Qemu(1024),
    Tool::Nbdkit,
    Tool::Rclone,
    Tool::Nfs,
    Tool::Curl,
    Tool::Rsync,
];

impl Tool {
    pub(crate) fn name(self) -> String {
        match self {
            Tool::Local => "local disk".to_owned(),
            Tool::Icbd => "icbd, first boot ever".to_owned(),
            Tool::IcbdProfile => "icbd, profile known".to_owned(),
            Tool::Qemu(kib) => format!("qemu {kib}k"),
            Tool::Nbdkit => "nbdkit curl + cache".to_owned(),
            Tool::Rclone => "rclone mount".to_owned(),
            Tool::Nfs => "plain NFS".to_owned(),
            Tool::Curl => "whole image, curl".to_owned(),
            Tool::Rsync => "whole image, rsync".to_owned(),
        }
    }

    /// What the command line calls it.
    pub(crate) fn key(self) -> String {
        match self {
            Tool::Local => "local".to_owned(),
            Tool::Icbd => "icbd".to_owned(),
            Tool::IcbdProfile => "icbd-profile".to_owned(),
            Tool::Qemu(kib) => format!("qemu-{kib}k"),
            Tool::Nbdkit => "nbdkit".to_owned(),
            Tool::Rclone => "rclone".to_owned(),
            Tool::Nfs => "nfs".to_owned(),
            Tool::Curl => "curl".to_owned(),
            Tool::Rsync => "rsync".to_owned(),
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Tool::Icbd | Tool::IcbdProfile)
    }

    pub(crate) fn is_rival(self) -> bool {
        !self.is_ours() && self != Tool::Local
    }

    /// Does what is done once, by somebody else, long before.
    pub(crate) fn prepare(self, depot: &Depot<'_>, network: &Network) -> Result<()> {
        if self == Tool::IcbdProfile { ours::learned(depot, network).map(drop) } else { Ok(()) }
    }

    /// Gets the tool ready on `network`, with nothing of the image on the site. `Err` says why it cannot be measured.
    pub(crate) fn start(self, depot: &Depot<'_>, network: &Network) -> Result<Ready> {
        let work = depot.lab.path("site");
        if work.exists() {
            std::fs::remove_dir_all(&work)?;
        }
        std::fs::create_dir(&work)?;
        match self {
            Tool::Local => Ok(Ready::new(depot.disk.display(), ())),
            Tool::Icbd => ours::cold(depot, network),
            Tool::IcbdProfile => ours::profiled(depot, network),
            Tool::Qemu(kib) => lazy::qemu(depot, network, &work, kib),
            Tool::Nbdkit => lazy::nbdkit(depot, network, &work),
            Tool::Rclone => lazy::rclone(depot, network, &work),
            Tool::Nfs => plain::nfs(depot, network, &work),
            Tool::Curl => whole::curl(depot, network, &work),
            Tool::Rsync => whole::rsync(depot, network, &work),
        }
    }
}

/// A tool that waits for clients. Dropping it ends what it started.
pub(crate) struct Ready {
    /// What `icbd bench storm` is let loose on.
    pub(crate) target: String,
    /// What has to happen before the first client can boot, and was timed: a whole copy.
    pub(crate) before: Duration,
    _running: Box<dyn std::any::Any>,
}

impl Ready {
    pub(crate) fn new(target: impl std::fmt::Display, running: impl std::any::Any) -> Ready {
        Ready { target: target.to_string(), before: Duration::ZERO, _running: Box::new(running) }
    }

    /// The target as QEMU wants it. Its NFS URLs know no ports: it asks the server's rpcbind for them.
    pub(crate) fn machine_disk(&self) -> String {
        match self.target.strip_prefix("nfs://").and_then(|rest| rest.split_once('/')) {
            Some((host, rest)) => {
                let (host, path) = (host.split(':').next().unwrap_or(host), rest.split('?').next().unwrap_or(rest));
                format!("nfs://{host}/{path}")
            }
            None => disk_argument(Path::new(&self.target)),
        }
    }
}

/// The URL of a Unix socket that speaks NBD.
fn nbd_url(socket: &Path, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}
