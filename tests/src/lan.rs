//! A lab's network: a bridge on which the cache server is, and workstations, each with a network card of its own.
//!
//! All of it is in network namespaces without a name, held by this process: nothing has to be removed, also after a kill.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Answer, get};

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
        let namespace = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("opening a network namespace")
        });
        let namespace = namespace.join().expect("nothing there panics")?;
        let (mac, address) = (format!("52:54:00:00:00:{number:02x}"), Ipv4Addr::new(10, 88, 0, number));
        let machine = LanMachine { namespace, mac, address };
        let (pid, fd) = (std::process::id(), machine.namespace.as_raw_fd());
        ip(&format!("link add m{number} type veth peer name card address {} netns /proc/{pid}/fd/{fd}", machine.mac))?;
        ip(&format!("link set m{number} master lan up"))?;
        machine.inside(|| {
            ip("link set lo up")?;
            ip(&format!("address add {address}/24 dev card"))?;
            ip("link set card up")
        })?;
        Ok(machine)
    }
}

impl Lan {
    /// Takes away the cable of the `number`th machine.
    pub fn unplug(&self, number: u8) -> Result<()> {
        ip(&format!("link delete m{number}"))
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

    fn inside<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
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
