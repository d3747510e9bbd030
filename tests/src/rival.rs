//! A DHCP server that is none of icbd's.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::Result;

use crate::{Lab, LanMachine, wait_for};

/// A DHCP server of somebody else's, ended with its scenario.
#[derive(Debug)]
pub struct Rival(Child);

impl Rival {
    pub fn start(lab: &Lab, machine: &LanMachine) -> Result<Rival> {
        let log = lab.path("rival.log");
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=card",
            "--bind-interfaces",
        ]);
        command.args(["--no-ping", "--log-facility=-", "--dhcp-range=10.88.0.200,10.88.0.220"]);
        command.arg(format!("--dhcp-leasefile={}", lab.path("rival.leases").display()));
        command.arg(format!("--pid-file={}", lab.path("rival.pid").display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let rival = Rival(machine.spawn(command)?);
        wait_for("a DHCP server", || {
            Ok(fs::read_to_string(&log)?.contains("sockets bound exclusively").then_some(()))
        })?;
        Ok(rival)
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
