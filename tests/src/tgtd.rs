//! A tgtd of a test's own, on loopback, that no other `tgtadm` reaches.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Lab, Output, run_bounded, wait_for};

const DEADLINE: Duration = Duration::from_secs(30);
/// What `serve_plain` serves.
pub const PLAIN: &str = "iqn.2001-04.com.example:plain";
const SUITE_DEADLINE: Duration = Duration::from_secs(120);

/// A running server.
#[derive(Debug)]
pub struct Tgtd {
    server: Child,
    address: SocketAddr,
    socket: PathBuf,
}

impl Tgtd {
    pub fn start(lab: &Lab) -> Result<Tgtd> {
        // The port that was free a moment ago may be another test's by now.
        let start = || {
            let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            Tgtd::start_at(lab, address, lab.unique("tgtd.sock"))
        };
        start().or_else(|_| start())
    }

    /// At an address of this network namespace.
    pub fn start_on(lab: &Lab, address: Ipv4Addr) -> Result<Tgtd> {
        Tgtd::start_at(lab, (address, 3260).into(), lab.unique("tgtd.sock"))
    }

    /// One that was killed, anew: without any targets.
    pub fn start_again(&mut self, lab: &Lab) -> Result<()> {
        self.kill()?;
        *self = Tgtd::start_at(lab, self.address, self.socket.clone())?;
        Ok(())
    }

    pub fn kill(&mut self) -> Result<()> {
        self.server.kill()?;
        self.server.wait()?;
        Ok(())
    }

    fn start_at(lab: &Lab, address: SocketAddr, socket: PathBuf) -> Result<Tgtd> {
        let log = std::fs::File::create(lab.unique("tgtd.log"))?;
        let mut command = Command::new("tgtd");
        command.args(["-f", "--iscsi", &format!("portal={address}")]).env("TGT_IPC_SOCKET", &socket);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let server = command.spawn().context("starting tgtd; install the package tgt")?;
        let server = Tgtd { server, address, socket };
        wait_for("tgtd answers", || Ok((server.adm(&["--op", "show", "--mode", "sys"])?.code == 0).then_some(())))?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `TGT_IPC_SOCKET`.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Serves a plain file as somebody else would, to whom `binding` lets in; `params` as for `--params`. Its URL.
    pub fn serve_plain(&self, disk: &Path, params: Option<&str>, binding: [&str; 2]) -> Result<String> {
        let disk = disk.to_str().context("a path of text")?;
        let of_disk = ["--mode", "logicalunit", "--tid", "77", "--lun", "1"];
        self.adm(&["--op", "new", "--mode", "target", "--tid", "77", "-T", PLAIN])?.ok()?;
        self.adm(&[&["--op", "new"][..], &of_disk, &["-b", disk]].concat())?.ok()?;
        if let Some(params) = params {
            self.adm(&[&["--op", "update"][..], &of_disk, &["--params", params]].concat())?.ok()?;
        }
        self.adm(&[&["--op", "bind", "--mode", "target", "--tid", "77"][..], &binding].concat())?.ok()?;
        Ok(format!("iscsi://{}/{PLAIN}/1", self.address))
    }

    /// What somebody else does there.
    pub fn adm(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new("tgtadm");
        command.args(["--lld", "iscsi"]).args(args).env("TGT_IPC_SOCKET", &self.socket);
        run_bounded(command, DEADLINE)
    }
}

impl Drop for Tgtd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Which tests of libiscsi's SCSI suite fail on a disk.
pub fn scsi_failures(url: &str, args: &[&str]) -> Result<BTreeSet<String>> {
    let mut suite = Command::new("iscsi-test-cu");
    suite.args(["--normal", "-t", "SCSI"]).args(args).arg(url);
    let output = run_bounded(suite, SUITE_DEADLINE)?;
    let ran = output.stdout.lines().find(|line| line.trim_start().starts_with("tests ")).unwrap_or_default();
    let ran: usize = ran.split_whitespace().nth(2).and_then(|count| count.parse().ok()).unwrap_or(0);
    ensure!(ran > 200, "only {ran} tests were run: {output:?}");
    Ok(output.stdout.lines().filter(|line| line.contains(" had failures")).map(str::to_owned).collect())
}

/// A workstation that reads on until it is dropped.
#[derive(Debug)]
pub struct IscsiReader(Child);

impl IscsiReader {
    pub fn start(url: &str) -> Result<IscsiReader> {
        IscsiReader::run(&[url])
    }

    /// One that calls itself so.
    pub fn start_as(initiator: &str, url: &str) -> Result<IscsiReader> {
        IscsiReader::run(&["-i", initiator, url])
    }

    fn run(args: &[&str]) -> Result<IscsiReader> {
        let mut command = Command::new("iscsi-perf");
        command.args(["--runtime", "600"]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(IscsiReader(command.spawn().context("starting iscsi-perf; install the package libiscsi-bin")?))
    }

    pub fn goes_on(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }
}

impl Drop for IscsiReader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
