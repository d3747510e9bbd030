//! DHCP as others do it: a client that is not a virtual machine, and a dnsmasq that is not icbd's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{Lab, LanMachine, wait_for};

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
