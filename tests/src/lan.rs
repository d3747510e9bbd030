//! A lab's network: a bridge on which the cache server is, and workstations, each with a network card of its own.
//!
//! All of it is in network namespaces without a name, held by this process: nothing has to be removed, also after a kill.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Answer, Output, get, run_bounded};

/// Nothing on a network takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where the cache server is.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
pub const LAN: &str = "10.88.0.0/24";

/// Has an interface of this thread's namespace have its address, or none.
pub fn set_address(interface: &str, address: Option<Ipv4Addr>) -> Result<()> {
    match address {
        Some(address) => ip(&format!("address add {address}/24 dev {interface}")),
        None => ip(&format!("address flush dev {interface}")),
    }
}

/// The side of the server: the namespace of the thread that made it and of all that this starts from then on.
#[derive(Debug)]
pub struct Lan(());

/// A machine on the network, with nothing but an address.
#[derive(Debug)]
pub struct LanMachine {
    namespace: File,
    pub mac: String,
    pub address: Ipv4Addr,
}

impl Lan {
    /// Moves this thread onto a network of its own.
    pub fn new() -> Result<Lan> {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace (this needs root)")?;
        ip("link set lo up")?;
        ip("link add lan type bridge")?;
        ip(&format!("address add {SERVER}/24 dev lan"))?;
        ip("link set lan up")?;
        Ok(Lan(()))
    }

    /// The `number`th machine, from 2.
    pub fn machine(&self, number: u8) -> Result<LanMachine> {
        let [a, b, c, _] = SERVER.octets();
        let machine = self.machine_on("lan", Ipv4Addr::new(a, b, c, number))?;
        machine.take("card", machine.address)?;
        Ok(machine)
    }

    /// Another network of machines, on which the server is if it has an address there.
    pub fn bridge(&self, name: &str, address: Option<Ipv4Addr>) -> Result<()> {
        ip(&format!("link add {name} type bridge"))?;
        // An address of IPv6 would come at some moment, and servers listen at it from then on.
        ip(&format!("link set {name} addrgenmode none"))?;
        address.map_or(Ok(()), |address| set_address(name, Some(address)))?;
        ip(&format!("link set {name} up"))
    }

    /// A machine on one of the networks that is meant to have an address, and has none yet.
    pub fn machine_on(&self, bridge: &str, address: Ipv4Addr) -> Result<LanMachine> {
        let namespace = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("opening a network namespace")
        });
        let namespace = namespace.join().expect("nothing there panics")?;
        let [_, _, net, number] = address.octets();
        let machine = LanMachine { namespace, mac: format!("52:54:00:00:{net:02x}:{number:02x}"), address };
        machine.plug(bridge, "card", address)?;
        Ok(machine)
    }

    /// A machine that passes packets on between the network of the server and another one, on which it has an address.
    pub fn router(&self, number: u8, bridge: &str, address: Ipv4Addr) -> Result<LanMachine> {
        let router = self.machine(number)?;
        router.plug(bridge, "far", address)?;
        router.take("far", address)?;
        router.inside(|| Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))?;
        let [a, b, c, _] = address.octets();
        ip(&format!("route add {a}.{b}.{c}.0/24 via {}", router.address))?;
        Ok(router)
    }
}

impl Lan {
    /// Takes away the cable of the `number`th machine.
    pub fn unplug(&self, number: u8) -> Result<()> {
        ip(&format!("link delete m0-{number}"))
    }

    /// A network card for a virtual machine, plugged into the `number`th socket: its interface, and its address.
    pub fn card(&self, number: u8) -> Result<(String, String)> {
        let (interface, mac) = (format!("tap{number}"), format!("52:54:00:00:00:{number:02x}"));
        ip(&format!("tuntap add {interface} mode tap"))?;
        ip(&format!("link set {interface} master lan up"))?;
        Ok((interface, mac))
    }
}

impl LanMachine {
    /// GETs a path as this machine.
    pub fn get(&self, server: SocketAddr, path: &str) -> Result<Answer> {
        self.inside(|| get(server, path))
    }

    /// Starts a program as on this machine.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        self.inside(move || command.spawn().context("starting a program"))
    }

    /// Runs a program as on this machine, to its end.
    pub fn run(&self, command: Command) -> Result<Output> {
        self.inside(move || run_bounded(command, DEADLINE))
    }

    /// Hears what is sent to everybody on its network, at a port.
    pub fn listen(&self, port: u16) -> Result<UdpSocket> {
        self.inside(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            socket.set_read_timeout(Some(DEADLINE))?;
            Ok(socket)
        })
    }

    /// Has a network card have an address.
    pub fn take(&self, card: &str, address: Ipv4Addr) -> Result<()> {
        self.inside(|| {
            ip("link set lo up")?;
            set_address(card, Some(address))
        })
    }

    /// A way to other networks.
    pub fn route_by(&self, gateway: Ipv4Addr) -> Result<()> {
        self.inside(|| ip(&format!("route add default via {gateway}")))
    }

    /// A network card by that name in one of the networks.
    fn plug(&self, bridge: &str, card: &str, address: Ipv4Addr) -> Result<()> {
        let (pid, fd) = (std::process::id(), self.namespace.as_raw_fd());
        let [_, _, net, number] = address.octets();
        let (plug, mac) = (format!("m{net}-{number}"), format!("52:54:00:00:{net:02x}:{number:02x}"));
        ip(&format!("link add {plug} type veth peer name {card} address {mac} netns /proc/{pid}/fd/{fd}"))?;
        ip(&format!("link set {plug} master {bridge} up"))?;
        self.inside(|| ip(&format!("link set {card} up")))
    }

    pub(crate) fn inside<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
                what()
            });
            inside.join().expect("what runs inside does not panic")
        })
    }
}

fn ip(args: &str) -> Result<()> {
    let output =
        Command::new("ip").args(args.split(' ')).output().context("starting ip; install the package iproute2")?;
    ensure!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
