//! The ways a version can go: icbd's blocks, rsync, and streams of btrfs through a pipe.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{FileSystem, Lab, Master, Ssh, Volume, icbd_path, run_bounded, wait_for};

use super::images::{IMAGE, Sender, btrfs, sync};
use crate::network::{MASTER, Network, SITE, Side};
use crate::process::{Process, run};

const VOLUME_BYTES: u64 = 6 << 30;
const MASTER_PORT: u16 = 7070;
const RSYNC_PORT: u16 = 8873;
/// For all versions.
const PACKED: &str = "2GiB";
/// No version takes longer.
const DEADLINE: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `icbd image replicate`, as it comes.
    Icbd,
    /// With `--compress`.
    IcbdWith(&'static str),
    /// From a master that packed all of it when it was published (`master.keep_packed`).
    IcbdPacked,
    /// With `--stream btrfs --compress`.
    IcbdStream(&'static str),
    /// The same, packed by Zstandard, with `--via ssh:`.
    IcbdBySsh,
    Rsync,
    RsyncZstd,
    /// `btrfs send` by protocol 1 or 2, through a program that packs, and its counterpart.
    Stream(u32, Option<(&'static str, &'static str)>),
    /// What lies packed on the disk goes as it lies there.
    StreamAsStored,
    /// A stream of protocol 2, packed by Zstandard, through SSH.
    StreamBySsh,
}

pub(super) const WAYS: [Way; 21] = [
    Way::Icbd,
    Way::IcbdWith("none"),
    Way::IcbdWith("lz4"),
    Way::IcbdWith("zstd"),
    Way::IcbdPacked,
    Way::IcbdStream("none"),
    Way::IcbdStream("lz4"),
    Way::IcbdStream("zlib"),
    Way::IcbdStream("snappy"),
    Way::IcbdStream("zstd"),
    Way::IcbdStream("stored"),
    Way::IcbdBySsh,
    Way::Rsync,
    Way::RsyncZstd,
    Way::Stream(1, None),
    Way::Stream(2, None),
    Way::Stream(2, Some(("lz4 -q -1", "lz4 -q -d"))),
    Way::Stream(2, Some(("pigz -1", "pigz -d"))),
    Way::Stream(2, Some(("zstd -q -3 -T0", "zstd -q -d"))),
    Way::StreamAsStored,
    Way::StreamBySsh,
];

/// The other end of a way.
pub(super) trait Receiver {
    /// Takes a version, which follows the one before.
    fn take(&mut self, network: &Network, step: usize) -> Result<()>;
    /// Where its disk is then.
    fn disk(&self, step: usize) -> PathBuf;
}

impl Way {
    pub(super) fn name(self) -> String {
        match self {
            Way::Icbd => "icbd".to_owned(),
            Way::IcbdWith(codec) => format!("icbd, {codec}"),
            Way::IcbdPacked => "icbd, packed when published".to_owned(),
            Way::IcbdBySsh => "icbd, btrfs stream, zstd, SSH".to_owned(),
            Way::StreamBySsh => "btrfs stream, protocol 2, zstd, SSH".to_owned(),
            Way::IcbdStream("stored") => "icbd, btrfs stream, as stored".to_owned(),
            Way::IcbdStream(codec) => format!("icbd, btrfs stream, {codec}"),
            Way::Rsync => "rsync".to_owned(),
            Way::RsyncZstd => "rsync, zstd".to_owned(),
            Way::Stream(1, None) => "btrfs stream".to_owned(),
            Way::Stream(protocol, None) => format!("btrfs stream, protocol {protocol}"),
            Way::Stream(protocol, Some((packer, _))) => {
                let packer = packer.split(' ').next().unwrap_or(packer);
                format!("btrfs stream, protocol {protocol}, {packer}")
            }
            Way::StreamAsStored => "btrfs stream, as stored".to_owned(),
        }
    }

    pub(super) fn is_ours(self) -> bool {
        matches!(self, Way::Icbd | Way::IcbdWith(_) | Way::IcbdPacked | Way::IcbdStream(_) | Way::IcbdBySsh)
    }

    /// Whether it is a stream of btrfs, whoever carries it.
    pub(super) fn is_stream(self) -> bool {
        matches!(self, Way::IcbdStream(_) | Way::IcbdBySsh | Way::Stream(..) | Way::StreamAsStored | Way::StreamBySsh)
    }

    /// Whether both ends lie on file systems that pack.
    fn is_stored(self) -> bool {
        matches!(self, Way::StreamAsStored | Way::IcbdStream("stored"))
    }

    pub(super) fn start<'a>(
        self,
        lab: &'a Lab,
        sender: &'a Sender,
        network: &Network,
    ) -> Result<Box<dyn Receiver + 'a>> {
        let options = if self.is_stored() { "noatime,compress-force=zstd" } else { "noatime" };
        let volume = Volume::with_options(lab, FileSystem::Btrfs, VOLUME_BYTES, options)?;
        Ok(match self {
            Way::Icbd => Box::new(Replica::start(lab, sender.repository(false), network, volume, vec![])?),
            Way::IcbdWith(codec) => {
                Box::new(Replica::start(lab, sender.repository(false), network, volume, vec!["--compress", codec])?)
            }
            Way::IcbdStream(codec) => {
                let how = vec!["--stream", "btrfs", "--compress", codec];
                Box::new(Replica::start(lab, sender.repository(self.is_stored()), network, volume, how)?)
            }
            Way::IcbdPacked => {
                let config = lab.path("packed.toml");
                std::fs::write(&config, format!("[master]\nkeep_packed = \"{PACKED}\"\n"))?;
                let config = ["--config", config.to_str().context("a path of text")?];
                let replica = Replica::start_with(lab, sender.repository(false), network, volume, vec![], &config)?;
                wait_for("all is packed", || {
                    Ok((replica.from.status()?["packed"]["is_complete"] == true).then_some(()))
                })?;
                Box::new(replica)
            }
            Way::IcbdBySsh => {
                let how = vec!["--stream", "btrfs", "--compress", "zstd"];
                let mut replica = Replica::start(lab, sender.repository(false), network, volume, how)?;
                replica.ssh = Some(ssh(lab, network)?);
                Box::new(replica)
            }
            Way::Rsync => Box::new(Rsynced::start(lab, sender, network, volume, false)?),
            Way::RsyncZstd => Box::new(Rsynced::start(lab, sender, network, volume, true)?),
            Way::Stream(protocol, packers) => Box::new(Piped {
                sender,
                volume,
                send: format!("--proto {protocol}"),
                packers: packers.unwrap_or(("cat", "cat")),
                as_stored: false,
                ssh: None,
            }),
            Way::StreamBySsh => Box::new(Piped {
                sender,
                volume,
                send: "--proto 2".to_owned(),
                packers: ("zstd -q -3 -T0", "zstd -q -d"),
                as_stored: false,
                ssh: Some(ssh(lab, network)?),
            }),
            Way::StreamAsStored => Box::new(Piped {
                sender,
                volume,
                send: "--proto 2 --compressed-data".to_owned(),
                packers: ("cat", "cat"),
                as_stored: true,
                ssh: None,
            }),
        })
    }
}

/// A server at the master's end.
fn ssh(lab: &Lab, network: &Network) -> Result<Ssh> {
    network.inside(Side::Master, || Ssh::start(lab, MASTER.into(), "any"))
}

/// A second master.
struct Replica {
    from: Master,
    to: Master,
    how: Vec<&'static str>,
    /// A way that it goes.
    ssh: Option<Ssh>,
}

impl Replica {
    fn start(
        lab: &Lab,
        repository: &Path,
        network: &Network,
        volume: Volume,
        how: Vec<&'static str>,
    ) -> Result<Replica> {
        Replica::start_with(lab, repository, network, volume, how, &[])
    }

    /// With these arguments for the master that gives.
    fn start_with(
        lab: &Lab,
        repository: &Path,
        network: &Network,
        volume: Volume,
        how: Vec<&'static str>,
        args: &[&str],
    ) -> Result<Replica> {
        let master = |side, repository: &Path, address, args: &[&str]| {
            network.inside(side, || {
                let args = [&["--allow", "10.77.0.0/24"], args].concat();
                let master = Master::start_at(lab, repository, (address, MASTER_PORT).into(), &args)?;
                master.daemon.allow_log("");
                Ok(master)
            })
        };
        let from = master(Side::Master, repository, MASTER, args)?;
        let to = master(Side::Site, &volume.path().join("repository"), SITE, &[])?;
        Ok(Replica { from, to, how, ssh: None })
    }
}

impl Receiver for Replica {
    fn take(&mut self, network: &Network, step: usize) -> Result<()> {
        network.inside(Side::Site, || replicate(&self.to, &self.from, step, &self.how, self.ssh.as_ref()))
    }

    fn disk(&self, step: usize) -> PathBuf {
        self.to.repo().join(format!("versions/{IMAGE}/{}/disk.raw", step + 1))
    }
}

/// Has `to` take the version of a step from `from`.
fn replicate(to: &Master, from: &Master, step: usize, how: &[&str], ssh: Option<&Ssh>) -> Result<()> {
    let (version, url) = (format!("{IMAGE}@{}", step + 1), from.url());
    let mut command = Command::new(icbd_path()?);
    command.args(["image", "replicate", &version, "--from", &url, "--quiet", "--socket", to.socket()]).args(how);
    if let Some(ssh) = ssh {
        command.args(["--via", &ssh.via()]).env("PATH", ssh.path()?);
    }
    run_bounded(command, DEADLINE)?.ok().map(drop)
}

/// A daemon of rsync's, and a folder in which each version begins as the one before.
struct Rsynced {
    volume: Volume,
    packs: bool,
    _daemon: Process,
}

impl Rsynced {
    fn start(lab: &Lab, sender: &Sender, network: &Network, volume: Volume, packs: bool) -> Result<Rsynced> {
        let config = lab.path("rsyncd.conf");
        let path = sender.folder().display();
        std::fs::write(
            &config,
            format!("use chroot = no\nuid = root\ngid = root\n[lab]\npath = {path}\nread only = yes\n"),
        )?;
        let mut daemon = network.command(Side::Master, "rsync");
        daemon.args(["--daemon", "--no-detach", &format!("--address={MASTER}"), &format!("--port={RSYNC_PORT}")]);
        daemon.arg(format!("--config={}", config.display()));
        let mut daemon = Process::start(daemon, &lab.path("rsyncd.log"))?;
        daemon.wait_ready(|| network.inside(Side::Master, || Ok(TcpStream::connect((MASTER, RSYNC_PORT))?)).is_ok())?;
        Ok(Rsynced { volume, packs, _daemon: daemon })
    }
}

impl Receiver for Rsynced {
    fn take(&mut self, network: &Network, step: usize) -> Result<()> {
        let folder = self.volume.path().join(format!("v{}", step + 1));
        match step.checked_sub(1) {
            None => btrfs(&["subvolume", "create"], &[&folder])?,
            Some(before) => {
                btrfs(&["subvolume", "snapshot"], &[&self.volume.path().join(format!("v{}", before + 1)), &folder])?;
            }
        }
        let mut rsync = Command::new("rsync");
        rsync.args(["-q", "--times", "--sparse", "--inplace", "--no-whole-file"]);
        if self.packs {
            rsync.args(["--compress", "--compress-choice=zstd", "--compress-level=3"]);
        }
        rsync.arg(format!("rsync://{MASTER}:{RSYNC_PORT}/lab/v{}/disk.raw", step + 1)).arg(folder.join("disk.raw"));
        network.inside(Side::Site, || run(rsync))?;
        sync(self.volume.path())
    }

    fn disk(&self, step: usize) -> PathBuf {
        self.volume.path().join(format!("v{}/disk.raw", step + 1))
    }
}

/// `btrfs send`, a program that packs, a connection, and the same backwards.
struct Piped<'a> {
    sender: &'a Sender,
    volume: Volume,
    send: String,
    packers: (&'static str, &'static str),
    as_stored: bool,
    ssh: Option<Ssh>,
}

impl Receiver for Piped<'_> {
    fn take(&mut self, network: &Network, step: usize) -> Result<()> {
        let snapshot = |step| self.sender.snapshot(step, self.as_stored).display().to_string();
        let parent = step.checked_sub(1).map(|before| format!("-p {} ", snapshot(before))).unwrap_or_default();
        let send = format!("btrfs -q send {} {parent}{} | {}", self.send, snapshot(step), self.packers.0);
        let receive = format!("{} | btrfs -q receive {}", self.packers.1, self.volume.path().display());
        if let Some(ssh) = &self.ssh {
            let pipe = format!("{} | {receive}", ssh.shell(&send));
            network.inside(Side::Site, || run(shell(&pipe)))?;
            return sync(self.volume.path());
        }
        let listener = network.inside(Side::Site, || Ok(TcpListener::bind((SITE, 0))?))?;
        let address = listener.local_addr()?;
        let connected = network.inside(Side::Master, || Ok(TcpStream::connect(address)?))?;
        let (accepted, _) = listener.accept()?;
        let mut sender = shell(&send).stdin(Stdio::null()).stdout(OwnedFd::from(connected)).spawn()?;
        let received = shell(&receive).stdin(OwnedFd::from(accepted)).status().context("receiving")?;
        let sent = sender.wait()?;
        ensure!(sent.success() && received.success(), "{send}: {sent}; {receive}: {received}");
        sync(self.volume.path())
    }

    fn disk(&self, step: usize) -> PathBuf {
        self.volume.path().join(format!("v{}/disk.raw", step + 1))
    }
}

fn shell(pipe: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", pipe]);
    command
}
