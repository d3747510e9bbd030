//! `icbd export` as it is typed.

use clap::{Args, Subcommand};
use icbd_export::Protocol;
use icbd_image::ImageName;
use ipnet::IpNet;

#[derive(Debug, Subcommand)]
pub(crate) enum ExportCommand {
    /// Offer an image to workstations: its deployed version, the one before, and newer ones to be tried out
    ///
    /// Each version is a folder or a target of its own, whose name says which and whose content never changes: who uses one
    /// goes on with it whatever is deployed. Nobody can write to it; with --iscsi --clone each workstation writes to a copy
    /// of its own, which costs what it writes.
    Add {
        image: ImageName,
        #[command(flatten)]
        by: ByArgs,
        /// Who may use it, in the place of who could before; may be repeated. 0.0.0.0/0 is everybody, by IPv4 and IPv6
        #[arg(long, required = true, value_name = "CIDR", value_parser = network)]
        clients: Vec<IpNet>,
        /// The file that is the disk [default: the only *.raw at the top of the version]
        #[arg(long, value_name = "PATH", conflicts_with_all = ["nfs", "http"])]
        disk: Option<String>,
        /// Give each workstation a disk of its own that it may write to, made when it boots and reset at its next boot
        #[arg(long, conflicts_with_all = ["nfs", "http"])]
        clone: bool,
        /// Why, for the audit log
        #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = super::moves::why)]
        message: String,
    },
    /// Show what is offered, to whom, and who uses it
    List,
    /// Offer an image no more; refused while somebody uses it
    Remove {
        image: ImageName,
        #[command(flatten)]
        by: ByArgs,
        /// Why, for the audit log
        #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = super::moves::why)]
        message: String,
    },
}

#[derive(Debug, Clone, Copy, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ByArgs {
    /// As folders, by NFS 3 and 4
    #[arg(long)]
    nfs: bool,
    /// As a disk, by iSCSI
    #[arg(long)]
    iscsi: bool,
    /// As files, by HTTP
    #[arg(long)]
    http: bool,
}

impl ByArgs {
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            ByArgs { nfs: true, .. } => Protocol::Nfs,
            ByArgs { http: true, .. } => Protocol::Http,
            ByArgs { .. } => Protocol::Iscsi,
        }
    }
}

/// A network, or one address; bits behind the prefix are a mistake.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let example = "write a network such as 10.1.2.0/24, or one address";
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(address.into());
    }
    let net: IpNet = text.parse().map_err(|_| example.to_owned())?;
    match net.trunc() == net {
        true => Ok(net),
        false => Err(format!("{net} is an address within {}; {example}", net.trunc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_networks() {
        assert_eq!(network("10.1.2.0/24").unwrap().to_string(), "10.1.2.0/24");
        assert_eq!(network("10.1.2.7").unwrap().to_string(), "10.1.2.7/32");
        assert_eq!(network("fd00::/8").unwrap().to_string(), "fd00::/8");
        assert!(network("10.1.2.7/24").unwrap_err().contains("within 10.1.2.0/24"));
        for text in ["", "10.1.2", "10.1.2.0/33", "lab", "10.1.2.0-10.1.2.9"] {
            assert!(network(text).unwrap_err().contains("such as"), "{text}");
        }
    }
}
