//! DHCP as others do it: a client that is not a virtual machine, and a dnsmasq that is not icbd's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddrV6, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{Lab, LanMachine, wait_for};

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Who answers does so at once.
const ROUTER_DEADLINE: Duration = Duration::from_secs(2);

/// A socket for neighbour discovery on an interface, once that can be used.
fn icmp6(interface: &str) -> Result<UdpSocket> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
    let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6)?;
    setsockopt(&socket, sockopt::BindToDevice, &interface.into())?;
    Ok(UdpSocket::from(socket))
}

/// Sends something to all of one kind: 1, everybody, or 2, routers.
fn send(socket: &UdpSocket, packet: &[u8], group: u16) -> Result<()> {
    let index = nix::net::if_::if_nametoindex("card")?;
    let to = SocketAddrV6::new([0xff02, 0, 0, 0, 0, 0, 0, group].into(), 0, 0, index);
    // Its own address is looked for on the network first.
    wait_for("an address of IPv6", || Ok(socket.send_to(packet, to).ok().map(drop)))
}

/// What a machine was given.
#[derive(Debug)]
pub struct Lease(BTreeMap<String, String>);

impl Lease {
    pub fn address(&self) -> Result<Ipv4Addr> {
        self.ip("ip")
    }

    /// Who gave it.
    pub fn server(&self) -> Result<Ipv4Addr> {
        self.ip("serverid")
    }

    /// From where what is to be booted is loaded.
    pub fn next_server(&self) -> Result<Ipv4Addr> {
        self.ip("siaddr")
    }

    /// What is to be booted; nothing if nobody said.
    pub fn boot_file(&self) -> &str {
        ["bootfile", "boot_file"].iter().find_map(|name| self.0.get(*name)).map_or("", String::as_str)
    }

    /// Something else, by udhcpc's name of it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn ip(&self, name: &str) -> Result<Ipv4Addr> {
        let text = self.0.get(name).with_context(|| format!("no {name} in {:?}", self.0))?;
        Ok(text.parse()?)
    }
}

impl LanMachine {
    /// Asks for an address as a BIOS does that boots by the network, or as iPXE does.
    pub fn ask_for_address(&self, lab: &Lab, is_ipxe: bool) -> Result<Lease> {
        let (script, told) = (lab.unique("udhcpc"), lab.unique("lease"));
        fs::write(&script, "#!/bin/sh\n[ \"$1\" != bound ] || env >\"$TOLD\"\n")?;
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let mut command = Command::new("busybox");
        command.args(["udhcpc", "-f", "-q", "-n", "-i", "card", "-t", "8", "-T", "1", "-s"]).arg(&script);
        // The name of a file is asked for; 93 is the architecture.
        command.args(["-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "93:0000", "-O", "bootfile", "-O", "tftp"]);
        if is_ipxe {
            command.args(["-x", "175:0101"]);
        }
        let output = self.run({
            command.env("TOLD", &told);
            command
        })?;
        ensure!(output.code == 0, "{} got no address: {}", self.mac, output.stderr);
        let told = fs::read_to_string(&told).context("what udhcpc was told")?;
        let pairs = told.lines().filter_map(|line| line.split_once('='));
        Ok(Lease(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    /// Asks for a router of IPv6, as a machine that boots does: whether somebody says within a while that it is one, for how many
    /// seconds; nothing if nobody answers.
    pub fn ask_for_router(&self) -> Result<Option<u16>> {
        self.inside(|| {
            let socket = icmp6("card")?;
            send(&socket, &[SOLICITATION, 0, 0, 0, 0, 0, 0, 0], 2)?;
            let until = Instant::now() + ROUTER_DEADLINE;
            let mut packet = [0; 1500];
            loop {
                socket.set_read_timeout(Some(
                    until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)),
                ))?;
                match socket.recv(&mut packet) {
                    Ok(bytes) if bytes >= 16 && packet[0] == ADVERTISEMENT => {
                        return Ok(Some(u16::from_be_bytes([packet[6], packet[7]])));
                    }
                    Ok(_) => {}
                    Err(_) if Instant::now() >= until => return Ok(None),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
        })
    }

    /// Says that it is a router of IPv6, for so many seconds.
    pub fn advertise(&self, seconds: u16) -> Result<()> {
        self.inside(|| {
            let mut packet = [0; 16];
            packet[0] = ADVERTISEMENT;
            packet[6..8].copy_from_slice(&seconds.to_be_bytes());
            send(&icmp6("card")?, &packet, 1)
        })
    }

    /// Loads a file by TFTP.
    pub fn load(&self, lab: &Lab, server: Ipv4Addr, file: &str) -> Result<Vec<u8>> {
        let copy = lab.unique("loaded");
        let mut command = Command::new("busybox");
        command.args(["tftp", "-g", "-r", file, "-l"]).arg(&copy).arg(server.to_string());
        self.run(command)?.ok()?;
        Ok(fs::read(copy)?)
    }
}

/// A dnsmasq of somebody else's, ended when it is dropped.
#[derive(Debug)]
pub struct Dnsmasq {
    server: Child,
    log: PathBuf,
    leases: PathBuf,
}

impl Dnsmasq {
    /// One on a machine, or where the cache server is.
    pub fn start(lab: &Lab, machine: Option<&LanMachine>, args: &[&str]) -> Result<Dnsmasq> {
        let (log, leases) = (lab.unique("others.log"), lab.unique("others.leases"));
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--bind-interfaces"]);
        command.args(["--except-interface=lo", "--no-ping", "--log-dhcp", "--log-facility=-"]).args(args);
        command.arg(format!("--dhcp-leasefile={}", leases.display()));
        command.arg(format!("--pid-file={}", lab.unique("others.pid").display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let server = match machine {
            Some(machine) => machine.spawn(command)?,
            None => command.spawn().context("starting dnsmasq; install the package dnsmasq-base")?,
        };
        let mut dnsmasq = Dnsmasq { server, log, leases };
        wait_for("another's dnsmasq", || {
            ensure!(dnsmasq.is_running()?, "it ended: {}", dnsmasq.log());
            Ok(dnsmasq.log().contains("started, version").then_some(()))
        })?;
        Ok(dnsmasq)
    }

    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.server.try_wait()?.is_none())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it gave to whom, by MAC.
    pub fn given(&self) -> Result<BTreeMap<String, Ipv4Addr>> {
        let text = fs::read_to_string(&self.leases).unwrap_or_default();
        let lease = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let (mac, address) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
            Some((mac, address))
        };
        Ok(text.lines().filter_map(lease).collect())
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
