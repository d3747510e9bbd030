//! An NFS-Ganesha of a test's own, in a network of its own, with clients that read from it.
//!
//! It sees what is mounted in its lab, also later; its `/run` and its rpcbind are nobody else's. Traffic goes over a pair of virtual
//! interfaces, for Ganesha does not listen on loopback for both versions of NFS.

mod client;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use crate::master::text;
use crate::{CacheSettings, Lab, Lan, Output, SERVER, run_bounded, wait_for};
pub use client::{FileHandle, Nfs, NfsReader};

const DEADLINE: Duration = Duration::from_secs(30);
const READY: &str = "NFS SERVER INITIALIZED";
/// Networks of four addresses in 198.18.0.0/15, which RFC 2544 has for tests.
const NETWORKS: u32 = 1 << 15;
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A running server.
#[derive(Debug)]
pub struct Ganesha {
    /// Both namespaces are its.
    rpcbind: Child,
    /// `None` before it is first started.
    server: Option<Child>,
    link: String,
    here: Ipv4Addr,
    there: Ipv4Addr,
    log: PathBuf,
    /// Of NFS, that it speaks.
    versions: &'static str,
    lab: Lab,
}

impl Ganesha {
    /// Before anything is mounted in the lab. `settings` are lines for its configuration.
    pub fn start(lab: &Lab, settings: &str) -> Result<Ganesha> {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let network = FIRST + 4 * (std::process::id().wrapping_mul(4).wrapping_add(count) % NETWORKS);
        let (here, there) = (Ipv4Addr::from(network + 1), Ipv4Addr::from(network + 2));
        let link = format!("i{}-{count}", std::process::id());
        Ganesha::start_at(lab, settings, link, (here, there, 30), |link| {
            ip(&["address", "add", &format!("{here}/30"), "dev", link])
        })
    }

    /// The same as a machine of a lab's network.
    pub fn start_in(lab: &Lab, settings: &str, _: &Lan) -> Result<Ganesha> {
        let there = Ipv4Addr::from(u32::from(SERVER) + 1);
        Ganesha::start_at(lab, settings, "nfs-lan".to_owned(), (SERVER, there, 24), |link| {
            ip(&["link", "set", link, "master", "lan"])
        })
    }

    fn start_at(
        lab: &Lab,
        settings: &str,
        link: String,
        (here, there, prefix): (Ipv4Addr, Ipv4Addr, u8),
        join: impl FnOnce(&str) -> Result<()>,
    ) -> Result<Ganesha> {
        share_mounts(lab)?;
        let rpcbind = rpcbind(lab)?;
        let pid = rpcbind.id();
        let (log, lab) = (PathBuf::new(), lab.clone());
        let mut ganesha = Ganesha { rpcbind, server: None, link, here, there, log, versions: "3, 4", lab };
        let link = &ganesha.link;
        ip(&["link", "add", link, "type", "veth", "peer", "name", "nfs", "netns", &pid.to_string()])?;
        join(link)?;
        ip(&["link", "set", link, "up"])?;
        ganesha.inside("ip", &["address", "add", &format!("{there}/{prefix}"), "dev", "nfs"])?.ok()?;
        ganesha.inside("ip", &["link", "set", "nfs", "up"])?.ok()?;
        ganesha.inside("ip", &["link", "set", "lo", "up"])?.ok()?;
        ganesha.set(settings)?;
        wait_for("rpcbind answers", || Ok((ganesha.inside("rpcinfo", &[])?.code == 0).then_some(())))?;
        ganesha.start_again()?;
        Ok(ganesha)
    }

    /// Where the one in a lab writes its process id.
    pub fn pid_file(lab: &Lab) -> PathBuf {
        lab.path("ganesha.pid")
    }

    /// The file that icbd writes for it.
    fn exports(&self) -> PathBuf {
        self.lab.path("icbd.conf")
    }

    /// The line that brings that file in.
    pub fn include(&self) -> String {
        format!("%include \"{}\"", self.exports().display())
    }

    /// For a cache server that is to find it.
    pub fn cache_settings(&self) -> CacheSettings {
        let (exports, pid_file) = (self.exports(), Ganesha::pid_file(&self.lab));
        let config = format!(
            "[export]\nnfs = \"ganesha\"\n[ganesha]\nexports = \"{}\"\npid_file = \"{}\"\n",
            exports.display(),
            pid_file.display()
        );
        CacheSettings { config, ..CacheSettings::default() }
    }

    /// One that was killed, anew, at the same address.
    pub fn start_again(&mut self) -> Result<()> {
        self.kill()?;
        self.log = self.lab.unique("ganesha.log");
        let mut command = self.command("ganesha.nfsd");
        command.args(["-F", "-N", "EVENT", "-f", text(&self.settings()), "-L", text(&self.log)]);
        command.args(["-p", text(&Ganesha::pid_file(&self.lab))]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.server = Some(command.spawn().context("starting ganesha.nfsd; install the package nfs-ganesha")?);
        let is_ready = || Ok(self.log().contains(READY).then_some(()));
        wait_for("Ganesha is ready", is_ready).with_context(|| self.log())
    }

    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            server.kill()?;
            server.wait()?;
        }
        Ok(())
    }

    /// Gives it other lines of configuration, which it has yet to read.
    pub fn set(&self, settings: &str) -> Result<()> {
        let (address, recovery) = (self.there, self.lab.folder("ganesha")?);
        // A short grace, or clients of version 4 would wait a minute and a half for a server that was killed.
        let own = format!(
            "NFS_CORE_PARAM {{ NFS_Port = 2049; MNT_Port = 20048; Bind_addr = {address}; Mount_Path_Pseudo = true;\n\
             \tEnable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; Protocols = {}; }}\n\
             NFSv4 {{ RecoveryBackend = fs; RecoveryRoot = {}; Lease_Lifetime = 2; Grace_Period = 2; }}\n\
             MDCACHE {{ FD_LWMark_Percent = 0; LRU_Run_Interval = 1; }}\n\
             LOG {{ Default_Log_Level = EVENT; }}\n{settings}\n",
            self.versions,
            recovery.display()
        );
        Ok(fs::write(self.settings(), own)?)
    }

    /// Ends it, and starts one that speaks these versions only, with these lines of configuration.
    pub fn speak_only(&mut self, versions: &'static str, settings: &str) -> Result<()> {
        self.versions = versions;
        self.set(settings)?;
        self.start_again()
    }

    /// Has nobody get an answer from its rpcbind, as behind a firewall that says nothing.
    pub fn hide_rpcbind(&self) -> Result<()> {
        let rules = "add table inet lab; add chain inet lab input { type filter hook input priority 0; }; \
                     add rule inet lab input meta l4proto { tcp, udp } th dport 111 drop";
        self.inside("nft", &[rules])?.ok().map(drop)
    }

    fn settings(&self) -> PathBuf {
        self.lab.path("ganesha.conf")
    }

    pub fn address(&self) -> IpAddr {
        self.there.into()
    }

    /// From where a test reaches it.
    pub fn client(&self) -> IpAddr {
        self.here.into()
    }

    /// What it has said since it was started.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What it has open of a folder and all below.
    pub fn open_below(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let server = self.server.as_ref().context("it was killed")?;
        let entries = fs::read_dir(format!("/proc/{}/fd", server.id()))?.map_while(Result::ok);
        let paths = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        Ok(paths.filter(|path| path.starts_with(folder)).collect())
    }

    /// For the tools of libnfs.
    pub fn url(&self, path: &str, version: u8) -> String {
        format!("nfs://{}{path}?version={version}", self.there)
    }

    /// Runs one of the tools of libnfs.
    pub fn tool(&self, name: &str, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(name);
        command.args(args);
        run_bounded(command, DEADLINE)
    }

    /// Reads all of a file.
    pub fn read(&self, path: &str, version: u8) -> Result<Vec<u8>> {
        let mut reader = NfsReader::start(&self.url(path, version))?;
        reader.rest()
    }

    fn command(&self, program: &str) -> Command {
        let spaces = format!("/proc/{}/ns", self.rpcbind.id());
        let mut command = Command::new("nsenter");
        command.args([format!("--net={spaces}/net"), format!("--mount={spaces}/mnt"), program.to_owned()]);
        command
    }

    fn inside(&self, program: &str, args: &[&str]) -> Result<Output> {
        let mut command = self.command(program);
        command.args(args);
        run_bounded(command, DEADLINE)
    }
}

impl Drop for Ganesha {
    fn drop(&mut self) {
        for process in self.server.iter_mut().chain([&mut self.rpcbind]) {
            let _ = process.kill();
            let _ = process.wait();
        }
        // With its other end, if the namespace has not taken both along yet.
        let _ = ip(&["link", "delete", &self.link]);
    }
}

/// Has namespaces that are made from now on see what is mounted in the lab.
fn share_mounts(lab: &Lab) -> Result<()> {
    ensure!(lab.mounts()?.is_empty(), "Ganesha is to be started before anything is mounted");
    let none = None::<&str>;
    mount(Some(lab.dir()), lab.dir(), none, MsFlags::MS_BIND, none).context("mounting the lab on itself")?;
    mount(none, lab.dir(), none, MsFlags::MS_SHARED, none).context("sharing the lab's mounts")
}

/// In namespaces of its own, with its own `/run`.
fn rpcbind(lab: &Lab) -> Result<Child> {
    let log = fs::File::create(lab.unique("rpcbind.log"))?;
    let script = "mount -t tmpfs tmpfs /run && mkdir /run/rpcbind /run/ganesha && exec rpcbind -f -w";
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "slave", "sh", "-c", script]);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().context("starting rpcbind; install the package rpcbind")?;
    // Until then its namespaces are not its own.
    let comm = format!("/proc/{}/comm", child.id());
    wait_for("rpcbind runs", || {
        ensure!(child.try_wait()?.is_none(), "rpcbind has ended");
        Ok((fs::read_to_string(&comm)?.trim() == "rpcbind").then_some(()))
    })?;
    Ok(child)
}

fn ip(args: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(args);
    run_bounded(command, DEADLINE)?.ok().map(drop)
}
