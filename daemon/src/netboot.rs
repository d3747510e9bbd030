//! Network boot as it travels between command and cache server.

use std::fmt;
use std::net::Ipv4Addr;

use icbd_export::{BootNetwork, Dhcp};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::output::plain;

/// That workstations are to boot by the network, or no more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NetbootSpec {
    pub enable: bool,
    #[serde(default)]
    pub why: String,
}

/// How network boot is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetbootReport {
    pub enabled: bool,
    pub state: NetbootState,
    pub networks: Vec<NetworkReport>,
    /// Files that were written for it.
    pub files: Vec<String>,
    /// Why not all is as it should be.
    pub troubles: Vec<String>,
}

/// How its server is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NetbootState {
    #[default]
    Off,
    Starting,
    Serving,
    /// It is started again and again.
    Failed,
}

/// A network on which workstations boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkReport {
    pub interface: String,
    pub subnet: Ipv4Net,
    pub relayed: bool,
    pub dhcp: Dhcp,
    pub address: Ipv4Addr,
    /// Where workstations find their script.
    pub url: String,
}

impl From<&BootNetwork> for NetworkReport {
    fn from(network: &BootNetwork) -> NetworkReport {
        NetworkReport {
            interface: network.interface.clone(),
            subnet: network.subnet,
            relayed: network.is_relayed,
            dhcp: network.dhcp,
            address: network.address,
            url: format!("http://{}/boot", network.server()),
        }
    }
}

/// The command, as it is written in the audit log.
impl fmt::Display for NetbootSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "netboot {}", if self.enable { "enable" } else { "disable" })
    }
}

impl NetbootReport {
    pub(crate) fn words(&self) -> String {
        let mut lines = vec![match (self.enabled, self.state) {
            (false, _) => "network boot is off".to_owned(),
            (true, NetbootState::Serving) => "network boot is on".to_owned(),
            (true, NetbootState::Failed) => "network boot is on, and its dnsmasq does not run".to_owned(),
            (true, NetbootState::Off | NetbootState::Starting) => "network boot is on, and begins".to_owned(),
        }];
        lines.extend(self.networks.iter().map(|network| {
            let NetworkReport { interface, subnet, url, .. } = network;
            let relayed = if network.relayed { ", behind a relay" } else { "" };
            let dhcp = match network.dhcp {
                Dhcp::Full => "gives addresses, and says what to boot",
                Dhcp::Proxy => "says what to boot, beside the server that gives addresses",
                Dhcp::Off => "another DHCP server has to say it: `icbd netboot snippet` shows how",
            };
            format!("{interface}, {subnet}{relayed}: {dhcp}: {url}")
        }));
        lines.extend(self.files.iter().map(|file| format!("written: {file}")));
        lines.extend(self.troubles.iter().map(|trouble| format!("! {}", plain(trouble))));
        lines.join("\n")
    }
}
