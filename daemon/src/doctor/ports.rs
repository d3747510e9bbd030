//! Ports that are wanted, and who holds them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use icbd_export::{Dhcp, Dnsmasq};

use super::Finding;
use crate::settings::{CacheSettings, IscsiServer, MasterSettings, NfsServer};

const ISCSI: u16 = 3260;
const NFS: u16 = 2049;
const DHCP: u16 = 67;
const TFTP: u16 = 69;
const PROXY_DHCP: u16 = 4011;
const SYSLOG: u16 = 514;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

/// A port that others have to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub transport: Transport,
    pub number: u16,
    pub what: &'static str,
    /// Where it is taken, and by whom it should be; `None`: by whom it is served is said elsewhere.
    taken: Option<(IpAddr, Ours)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Ours {
    /// icbd itself.
    Daemon,
    /// The same, and it works without.
    Wished,
    /// Several may hold it, each for its networks; the command line of icbd's own contains this.
    Shared(String),
}

/// Somebody who listens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listener {
    transport: Transport,
    address: SocketAddr,
    inode: u64,
}

impl Transport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }
}

pub(super) fn of_master(settings: &MasterSettings) -> Vec<Port> {
    plane(&settings.listen, "the master's HTTP")
}

pub(super) fn of_cache(settings: &CacheSettings) -> Vec<Port> {
    let mut ports = plane(&settings.listen, "the cache server's HTTP");
    let elsewhere = |number, what| Port { transport: Transport::Tcp, number, what, taken: None };
    ports.extend((settings.iscsi != IscsiServer::Off).then(|| elsewhere(ISCSI, "iSCSI")));
    ports.extend((settings.nfs.which != NfsServer::Off).then(|| elsewhere(NFS, "NFS")));
    let dhcp: Vec<Dhcp> = settings.netboot.networks.iter().map(|network| network.dhcp).collect();
    let config = Dnsmasq::new(&settings.loaders, &settings.store).config().display().to_string();
    let mut udp = |number, what, ours| {
        let taken = Some((Ipv4Addr::UNSPECIFIED.into(), ours));
        ports.push(Port { transport: Transport::Udp, number, what, taken });
    };
    let of_dnsmasq = || Ours::Shared(config.clone());
    if dhcp.iter().any(|dhcp| *dhcp != Dhcp::Off) {
        udp(DHCP, "DHCP", of_dnsmasq());
    }
    if dhcp.contains(&Dhcp::Proxy) {
        udp(PROXY_DHCP, "proxy DHCP", of_dnsmasq());
    }
    if !dhcp.is_empty() {
        udp(TFTP, "TFTP", of_dnsmasq());
        udp(SYSLOG, "what workstations say when they boot", Ours::Wished);
    }
    ports
}

/// Where others than this machine itself reach a daemon.
fn plane(listen: &[SocketAddr], what: &'static str) -> Vec<Port> {
    let reached = listen.iter().filter(|address| !address.ip().is_loopback() && address.port() > 0);
    let port = |address: &SocketAddr| Port {
        transport: Transport::Tcp,
        number: address.port(),
        what,
        taken: Some((address.ip(), Ours::Daemon)),
    };
    reached.map(port).collect()
}

pub(super) fn look(ports: &[Port]) -> Vec<Finding> {
    let listeners = listeners();
    let mut holders = None;
    let mut findings = Vec::new();
    for port in ports {
        let Some((at, ours)) = &port.taken else { continue };
        let is_meant = |listener: &&Listener| {
            (listener.transport, listener.address.port()) == (port.transport, port.number)
                && overlap(*at, listener.address.ip())
                // By UDP only networks are served.
                && !(port.transport == Transport::Udp && listener.address.ip().is_loopback())
        };
        let meant: Vec<&Listener> = listeners.iter().filter(is_meant).collect();
        if meant.is_empty() {
            continue;
        }
        let holders = holders.get_or_insert_with(holders_by_socket);
        let holder = |listener: &Listener| holders.get(&listener.inode);
        let has_ours = meant.iter().any(|listener| holder(listener).is_some_and(|holder| ours.is(holder)));
        findings.extend(meant.iter().filter_map(|listener| held(port, ours, listener, holder(listener), has_ours)));
    }
    findings.dedup();
    findings
}

/// Whoever takes the one is in the way of the other.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    one == other || one.is_unspecified() || other.is_unspecified()
}

impl Ours {
    fn is(&self, holder: &Holder) -> bool {
        match self {
            Ours::Daemon | Ours::Wished => holder.name == "icbd",
            Ours::Shared(config) => holder.command.contains(config),
        }
    }
}

/// `has_ours`: icbd's own holds it, too.
fn held(port: &Port, ours: &Ours, listener: &Listener, holder: Option<&Holder>, has_ours: bool) -> Option<Finding> {
    let Port { transport, number, what, .. } = port;
    let name = match holder {
        Some(holder) => format!("{} (process {})", holder.name, holder.pid),
        None => "somebody".to_owned(),
    };
    let port = format!("{} port {number} of {what}", transport.name());
    let is_on_all = listener.address.ip().is_unspecified();
    if holder.is_some_and(|holder| ours.is(holder)) {
        let whose = if matches!(ours, Ours::Shared(_)) { "icbd's " } else { "" };
        return Some(Finding::ok("ports", format!("{port} is held by {whose}{name}")));
    }
    match ours {
        Ours::Daemon => Some(Finding::wrong(
            "ports",
            format!("{port} is taken by {name}, at {}", listener.address),
            "end that, or have icbd listen on another one",
        )),
        Ours::Wished if has_ours => None,
        Ours::Wished => Some(Finding::warning(
            "ports",
            format!(
                "{port} is taken by {name}, at {}: they boot, and `icbd client boots` does not know what they say",
                listener.address
            ),
            "have that listen on other addresses, if you want to know",
        )),
        // Whoever takes it for all addresses leaves none for others.
        Ours::Shared(_) if *number == TFTP && is_on_all => Some(Finding::wrong(
            "ports",
            format!("{port} is taken by {name} on all addresses"),
            "end that server of TFTP, or have it listen on other addresses",
        )),
        Ours::Shared(_) if *number == TFTP => None,
        // Servers of DHCP that know of each other share it.
        Ours::Shared(_) if is_on_all && !has_ours && holder.is_none_or(|holder| holder.name != "dnsmasq") => {
            Some(Finding::warning(
                "ports",
                format!(
                    "{port} is held by {name} on all addresses: unless that shares it, icbd's dnsmasq cannot start"
                ),
                "end that, or write dhcp = \"off\" and give it what `icbd netboot snippet` prints",
            ))
        }
        Ours::Shared(_) => {
            let what = format!("{port} is held by {name}, too: no harm where that serves other networks");
            Some(Finding::note("ports", what))
        }
    }
}

/// A process that has a socket open.
struct Holder {
    pid: u32,
    name: String,
    command: String,
}

/// By the numbers of their sockets; of processes that may be looked at.
fn holders_by_socket() -> BTreeMap<u64, Holder> {
    let mut holders = BTreeMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return holders };
    for pid in processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for link in open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()) {
            let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                let text = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
                let (name, command) = (text("comm").trim().to_owned(), text("cmdline").replace('\0', " "));
                holders.entry(inode).or_insert(Holder { pid, name, command });
            }
        }
    }
    holders
}

fn listeners() -> Vec<Listener> {
    let tables = [("tcp", Transport::Tcp), ("tcp6", Transport::Tcp), ("udp", Transport::Udp), ("udp6", Transport::Udp)];
    let read = |(table, transport)| {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        text.lines().filter_map(|line| listener(line, transport)).collect::<Vec<_>>()
    };
    tables.into_iter().flat_map(read).collect()
}

/// One line of the kernel's table, of whoever waits for others.
fn listener(line: &str, transport: Transport) -> Option<Listener> {
    /// The states of TCP and UDP sockets that nobody is connected to.
    const WAITING: [&str; 2] = ["0A", "07"];
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?.parse().ok()?);
    let (ip, port) = address.split_once(':')?;
    let waits = state == &WAITING[if transport == Transport::Tcp { 0 } else { 1 }];
    let address = SocketAddr::new(self::address(ip)?, u16::from_str_radix(port, 16).ok()?);
    waits.then_some(Listener { transport, address, inode })
}

/// In words of 32 bits, each as the machine has it.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let line =
            "   0: 0100007F:1B9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1603 1 0 100";
        let found = listener(line, Transport::Tcp).unwrap();
        assert_eq!((found.address, found.inode), ("127.0.0.1:7070".parse().unwrap(), 1603));
        assert_eq!(listener(&line.replace(" 0A ", " 01 "), Transport::Tcp), None, "somebody is connected");
        assert_eq!(listener(line, Transport::Udp), None);
        let all = "  1: 00000000000000000000000000000000:0045 0:0 07 0:0 0:0 0 0 0 77 2 0";
        assert_eq!(listener(all, Transport::Udp).unwrap().address, "[::]:69".parse().unwrap());
        let mapped = address("0000000000000000FFFF00000100007F").unwrap();
        assert_eq!(mapped.to_canonical(), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(listener("  sl  local_address rem_address   st", Transport::Tcp), None);
    }

    #[test]
    fn who_listens_on_all_addresses_is_in_the_way_of_each() {
        let ip = |text: &str| text.parse().unwrap();
        assert!(overlap(ip("10.0.0.1"), ip("0.0.0.0")) && overlap(ip("::"), ip("10.0.0.1")));
        assert!(overlap(ip("::ffff:10.0.0.1"), ip("10.0.0.1")) && !overlap(ip("10.0.0.2"), ip("10.0.0.1")));
    }

    #[test]
    fn this_process_is_found_by_its_socket() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let found = listeners().into_iter().find(|found| found.address == address).unwrap();
        assert_eq!(holders_by_socket()[&found.inode].pid, std::process::id());
    }
}
