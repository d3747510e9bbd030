//! dnsmasq's configuration, and dnsmasq itself.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::signed::SHIM;
use super::{BootNetwork, Dhcp, Loader};
use crate::ServerError;

const PROGRAM: &str = "dnsmasq";
const PACKAGE: &str = "dnsmasq-base";
const CONFIG_FILE: &str = "dnsmasq.conf";
/// Who was given which address.
const LEASES_FILE: &str = "netboot.leases";
/// What an address is given for: longer than a workstation is on, which asks for its own but once, at its boot.
const LEASE: &str = "7d";
/// iPXE's option by which it waits for no other server's word on what to boot.
const NO_PROXY: u8 = 176;

/// A dnsmasq of icbd's own.
#[derive(Debug, Clone)]
pub struct Dnsmasq {
    /// What is made anew at each start, for whoever it runs as.
    folder: PathBuf,
    /// What it keeps.
    leases: PathBuf,
}

impl Dnsmasq {
    /// `kept`: a folder that outlives the machine's restart.
    pub fn new(folder: &Path, kept: &Path) -> Dnsmasq {
        Dnsmasq { folder: folder.to_owned(), leases: kept.join(LEASES_FILE) }
    }

    /// What firmware loads.
    pub fn loaders(&self) -> PathBuf {
        self.folder.join("tftp")
    }

    /// Ends one that was left by a daemon that was killed.
    pub fn end_left(&self) {
        let pid = std::fs::read_to_string(self.pid_file()).ok().and_then(|text| text.trim().parse::<i32>().ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return };
        let told = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let config = self.config();
        let is_ours = told.split(|byte| *byte == 0).any(|word| word.ends_with(config.as_os_str().as_encoded_bytes()));
        if is_ours {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("dnsmasq.pid")
    }

    pub fn config(&self) -> PathBuf {
        self.folder.join(CONFIG_FILE)
    }

    /// The program, to be started: it stays in the foreground, and says all it does on its standard error.
    pub fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        let mut config = std::ffi::OsString::from("--conf-file=");
        config.push(self.config());
        command.arg("--keep-in-foreground").arg(config);
        command
    }

    /// Fails if there is no such program here.
    pub fn check() -> Result<(), ServerError> {
        let output = Command::new(PROGRAM).arg("--version").output();
        match output {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(ServerError::NotInstalled { program: PROGRAM, package: PACKAGE })
            }
            Err(source) => Err(ServerError::Io { doing: "run", path: PROGRAM.into(), source }),
        }
    }

    /// What it is told. `is_signed`: firmware gets what it loads with Secure Boot enforced, too.
    pub fn text(&self, networks: &[BootNetwork], is_signed: bool) -> String {
        let mut text = String::from(HEAD);
        let mut line = |line: std::fmt::Arguments<'_>| {
            let _ = text.write_fmt(line);
            text.push('\n');
        };
        line(format_args!("dhcp-leasefile={}", self.leases.display()));
        line(format_args!("pid-file={}", self.pid_file().display()));
        line(format_args!("tftp-root={}", self.loaders().display()));
        let mut interfaces: Vec<&str> = networks.iter().map(|network| network.interface.as_str()).collect();
        interfaces.dedup();
        for interface in interfaces {
            line(format_args!("interface={interface}"));
            line(format_args!("enable-tftp={interface}"));
        }
        for (number, network) in networks.iter().enumerate().filter(|(_, network)| network.dhcp != Dhcp::Off) {
            let tag = format!("net{number}");
            let BootNetwork { address, subnet, .. } = network;
            line(format_args!("\n# {} by {}", subnet, network.interface));
            let server = network.server();
            match network.pool.filter(|_| network.dhcp == Dhcp::Full) {
                Some(pool) => {
                    line(format_args!(
                        "dhcp-range=set:{tag},{},{},{},{},{LEASE}",
                        pool.first,
                        pool.last,
                        subnet.netmask(),
                        subnet.broadcast()
                    ));
                    let gateway = network.gateway.map_or(String::new(), |gateway| format!(",{gateway}"));
                    line(format_args!("dhcp-option=tag:{tag},option:router{gateway}"));
                    let dns: String = network.dns.iter().map(|dns| format!(",{dns}")).collect();
                    line(format_args!("dhcp-option=tag:{tag},option:dns-server{dns}"));
                    line(format_args!("dhcp-option=tag:{tag},option:log-server,{address}"));
                    line(format_args!("dhcp-option=tag:{tag},tag:ipxe,encap:175,{NO_PROXY},1b"));
                }
                None => line(format_args!("dhcp-range=set:{tag},{},proxy,{}", subnet.network(), subnet.netmask())),
            }
            // iPXE once more, as it says of itself, and then a script. It looks past what a proxy says that names no server.
            line(format_args!("dhcp-boot=tag:{tag},tag:ipxe,http://{server}/boot,,{address}"));
            for loader in Loader::ALL {
                let (kind, name) = match loader {
                    Loader::Efi64 if is_signed => (loader.tag(), SHIM),
                    _ => (loader.tag(), loader.file()),
                };
                match loader.is_by_http() {
                    true => {
                        line(format_args!("dhcp-boot=tag:{tag},tag:!ipxe,tag:{kind},http://{server}/netboot/{name}"))
                    }
                    false => line(format_args!("dhcp-boot=tag:{tag},tag:!ipxe,tag:{kind},{name},,{address}")),
                }
                // Beside another server, PXE asks for a service of its kind; HTTP boot has no such.
                if network.dhcp == Dhcp::Proxy && !loader.is_by_http() {
                    for architecture in loader.pxe_services() {
                        line(format_args!("pxe-service=tag:{tag},tag:!ipxe,{architecture},icbd,{name},{address}"));
                    }
                }
            }
        }
        text
    }
}

/// `bind-dynamic` serves interfaces that come later, and nothing but those that are named.
const HEAD: &str = "\
# Written by icbd from its [[network]]s, again and again: `icbd netboot disable` ends it.
port=0
bind-dynamic
except-interface=lo
no-hosts
no-resolv
no-ping
log-facility=-
log-dhcp
log-async=25
# Files that this server itself serves, as whoever owns them.
tftp-no-fail
tftp-lowercase
dhcp-match=set:ipxe,175
dhcp-userclass=set:ipxe,iPXE
dhcp-match=set:bios,option:client-arch,0
dhcp-match=set:efi64,option:client-arch,7
dhcp-match=set:efi64,option:client-arch,9
dhcp-match=set:http64,option:client-arch,16
# UEFI HTTP boot takes no other answer than that to its own class.
dhcp-option-force=tag:http64,tag:!ipxe,60,HTTPClient
pxe-prompt=tag:!ipxe,icbd,0
";

#[cfg(test)]
mod tests {
    use super::*;

    fn network(interface: &str, net: u8, dhcp: Dhcp) -> BootNetwork {
        let is_full = dhcp == Dhcp::Full;
        BootNetwork {
            interface: interface.to_owned(),
            address: [10, 1, net, 1].into(),
            port: 7071,
            subnet: format!("10.1.{net}.0/24").parse().unwrap(),
            is_relayed: false,
            dhcp,
            pool: is_full.then(|| format!("10.1.{net}.100-10.1.{net}.199").parse().unwrap()),
            gateway: None,
            dns: if is_full { vec![[10, 0, 0, 53].into()] } else { Vec::new() },
        }
    }

    #[test]
    fn each_network_is_told_of_its_own_server() {
        let networks =
            [network("lan", 2, Dhcp::Full), network("eth1.204", 3, Dhcp::Proxy), network("mgmt", 4, Dhcp::Off)];
        let text = Dnsmasq::new(Path::new("/run/n"), Path::new("/s")).text(&networks, false);
        for line in [
            "interface=lan",
            "interface=mgmt",
            "enable-tftp=eth1.204",
            "dhcp-range=set:net0,10.1.2.100,10.1.2.199,255.255.255.0,10.1.2.255,7d",
            // Nobody is told of a gateway or a name server that there is not.
            "dhcp-option=tag:net0,option:router",
            "dhcp-option=tag:net0,option:dns-server,10.0.0.53",
            "dhcp-option=tag:net0,tag:ipxe,encap:175,176,1b",
            "dhcp-boot=tag:net0,tag:ipxe,http://10.1.2.1:7071/boot,,10.1.2.1",
            "dhcp-range=set:net1,10.1.3.0,proxy,255.255.255.0",
            "dhcp-boot=tag:net1,tag:ipxe,http://10.1.3.1:7071/boot,,10.1.3.1",
            "pxe-service=tag:net1,tag:!ipxe,x86PC,icbd,undionly.kpxe,10.1.3.1",
            "dhcp-boot=tag:net0,tag:!ipxe,tag:http64,http://10.1.2.1:7071/netboot/snponly.efi",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} in\n{text}");
        }
        assert!(!text.contains("net2") && !text.contains("shim"), "{text}");
        let text = Dnsmasq::new(Path::new("/run/n"), Path::new("/s")).text(&networks, true);
        for line in [
            "dhcp-boot=tag:net0,tag:!ipxe,tag:efi64,shimx64.efi,,10.1.2.1",
            "pxe-service=tag:net1,tag:!ipxe,X86-64_EFI,icbd,shimx64.efi,10.1.3.1",
            "dhcp-boot=tag:net0,tag:!ipxe,tag:bios,undionly.kpxe,,10.1.2.1",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} in\n{text}");
        }
    }
}
