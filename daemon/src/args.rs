//! The command line as it is typed. [`crate::settings`] turns it, with the configuration file, into what is done.

mod boot_package;
mod client;
mod clone;
mod edits;
mod export;
mod moves;
mod netboot;
mod prefetch;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use icbd_image::{ImageName, ImageRef, VersionId};
use icbd_storm::{CLIENTS_MAX, Target};
use icbd_wire::Codec;
use ipnet::IpNet;

pub(crate) use boot_package::BootPackageArgs;
pub(crate) use client::ClientCommand;
pub(crate) use clone::{CloneArgs, CloneCommand};
pub(crate) use edits::{DiscardArgs, EditArgs, NodeCommand, PruneArgs, SaveArgs};
pub(crate) use export::ExportCommand;
pub(crate) use moves::{DeployArgs, MadeArgs, RollbackArgs};
pub(crate) use netboot::NetbootCommand;
pub(crate) use prefetch::{AddArgs, PrefetchCommand, TermArgs, WhatArgs};
pub(crate) use store::StoreCommand;

use crate::replicas::{Compress, StreamKind, Via};

/// Boots virtual-machine images from a master far away as fast as from local disks.
#[derive(Debug, Parser)]
#[command(name = "icbd", version)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 no such thing, 4 refused by state or use, \
    5 promise missed, 6 peer unreachable, 7 verification failed, 8 partly done, 130 interrupted.")]
pub(crate) struct Args {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct GlobalArgs {
    /// Print JSON instead of tables and text
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// The configuration file [default: /etc/icbd/icbd.toml if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The daemon's control socket [default: /run/icbd/master.sock, /run/icbd/cache.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a master: publishes versions and serves them
    Master(MasterArgs),
    /// Run a cache server: mounts a master's images and keeps what is read
    Cache(CacheArgs),
    /// Show how the daemon on this machine is
    Status {
        /// List every version, also those of which nothing is here
        #[arg(long)]
        all: bool,
    },
    /// Say in one line whether all is well, for Nagios and its kin
    #[command(after_help = "Exit codes: 0 OK, 1 WARNING, 2 CRITICAL (also when no daemon answers), 3 UNKNOWN.")]
    Check,
    /// Look for what keeps icbd from working on this machine: rights, kernel, store, sources, clock, ports, firewall, network
    /// cards, other DHCP servers and relays; each finding with its remedy
    #[command(after_help = "No daemon has to run. Exit codes: 0 nothing is wrong, 1 something is.")]
    Doctor,
    /// Images and their versions
    #[command(subcommand)]
    Image(ImageCommand),
    /// The cache servers that a master was told of (on a master)
    #[command(subcommand)]
    Node(NodeCommand),
    /// Fetch before somebody reads (on a cache)
    #[command(subcommand)]
    Prefetch(PrefetchCommand),
    /// What workstations are offered (on a cache)
    #[command(subcommand)]
    Export(ExportCommand),
    /// Workstations: who they are, what they run and what they would get (on a cache)
    #[command(subcommand)]
    Client(ClientCommand),
    /// Disks of workstations that they may write to (on a cache)
    #[command(subcommand)]
    Clone(CloneCommand),
    /// Workstations without a disk: what they are told when they are switched on (on a cache)
    #[command(subcommand)]
    Netboot(NetbootCommand),
    /// What boots of a version read (on a cache)
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Keys that sign versions, and whose signatures are believed
    #[command(subcommand)]
    Key(KeyCommand),
    /// The configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Where versions are kept
    #[command(subcommand)]
    Store(StoreCommand),
    /// Measure what clients get, from icbd or anybody else
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print the audit log: who changed what, when and why
    Log {
        /// Only what was done since: 2h, 3d, 08:45, 2026-03-01 or 2026-03-01T08:45
        #[arg(long, value_name = "TIME", value_parser = moves::since)]
        since: Option<icbd_image::Timestamp>,
    },
    /// Write the manual pages (man/) and the completions of shells (completions/) into a folder: how packages get them
    #[command(hide = true)]
    Generate {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Write a tar file for those who help; works while something hangs
    SupportBundle {
        /// The file to write [default: icbd-support-TIME.tar here]
        #[arg(value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

impl Command {
    /// Whether it asks a daemon that runs, and needs nothing of the configuration but where that is.
    pub(crate) fn is_for_daemon(&self) -> bool {
        match self {
            Command::Netboot(command) => !matches!(command, NetbootCommand::Snippet { .. }),
            Command::Status { .. }
            | Command::Prefetch(_)
            | Command::Export(_)
            | Command::Client(_)
            | Command::Clone(_)
            | Command::Profile(_)
            | Command::Log { .. }
            | Command::SupportBundle { .. } => true,
            _ => false,
        }
    }
}

#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct MasterArgs {
    /// The repository; created if the directory is missing or empty
    #[arg(long, value_name = "DIR")]
    pub repo: Option<PathBuf>,
    /// Serve on this address, read-only; may be repeated [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Let this network connect, besides this machine; may be repeated
    #[arg(long, value_name = "CIDR", value_parser = export::network)]
    pub allow: Vec<IpNet>,
}

#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct CacheArgs {
    /// Where versions come from, in order of preference; may be repeated
    #[arg(long, value_name = "URL")]
    pub master: Vec<String>,
    /// How blocks travel: none, lz4, zstd, zstd6, zlib or snappy [default: as the measured speed suggests]
    #[arg(long, value_name = "CODEC")]
    pub codec: Option<Codec>,
    /// Serve on this address, read-only: metrics, and for the master what is known of boots; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Let this network connect, besides this machine; may be repeated
    #[arg(long, value_name = "CIDR", value_parser = export::network)]
    pub allow: Vec<IpNet>,
    /// Where blocks are kept [default: /var/lib/icbd]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Where the images are mounted [default: /icbd]
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Read complete files through the daemon, too
    #[arg(long)]
    pub no_passthrough: bool,
    /// systemd keeps the mount while the daemon restarts (its unit needs FileDescriptorStoreMax=4)
    #[arg(long)]
    pub fd_store: bool,
    /// The mounts' descriptors: how the keeper starts the daemon
    #[arg(long, hide = true, value_name = "FUSE,TABLE,FUSE,TABLE", value_delimiter = ',', num_args = 1)]
    pub handover: Vec<i32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Publish a directory or a file as the next version of an image (on a master)
    Publish(PublishArgs),
    /// Make a writable working copy of the newest version in service, and print where it is (on a master); or have a
    /// workstation change it (on a cache)
    ///
    /// With --client nothing is copied: the workstation's own disk is kept, and booted by it whatever is deployed, until
    /// `icbd image save --client` on the master has made a version of it and `icbd clone remove` lets it go.
    Edit(EditArgs),
    /// Make the working copy, or what a workstation wrote, the next version, ready; it costs what was changed (on a master)
    ///
    /// With --client what the workstation wrote is fetched from the cache server, and nothing else. It has to be shut down.
    Save(SaveArgs),
    /// Throw the working copy away (on a master)
    Discard(DiscardArgs),
    /// Make the next version of a Linux image, ready, with what workstations need to boot it by the network (on a master)
    ///
    /// A kernel and an initramfs that finds its root on the cache server are put into the version, in its folder icbd: of
    /// a tree that holds a Linux, or of the only disk at its top. They are made by the initramfs-tools of that Linux; disks
    /// need open-iscsi in it, too.
    BootPackage(BootPackageArgs),
    /// Show which versions may go and why the others stay; with --yes, remove them (on a master)
    Prune(PruneArgs),
    /// List images, or the versions of one
    List {
        /// List the versions of this one
        image: Option<ImageName>,
    },
    /// Show one version
    Show {
        #[arg(value_name = "IMAGE[@N]")]
        version: ImageRef,
    },
    /// Read every block that is here and compare it with the manifest
    Verify {
        #[arg(value_name = "IMAGE[@N]")]
        version: ImageRef,
    },
    /// Make a version the one that `current` means (on a master)
    Deploy(DeployArgs),
    /// Deploy the version that was deployed before, or another ready one (on a master)
    Rollback(RollbackArgs),
    /// Offer a version to nobody new; who uses it goes on (on a master)
    Retire {
        #[arg(value_name = "IMAGE@N")]
        version: VersionId,
        /// Also the deployed one, or the one to go back to
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        made: MadeArgs,
    },
    /// Keep what is here of a version, whatever room is lacking (on a cache)
    Pin {
        #[arg(value_name = "IMAGE@N")]
        version: VersionId,
        /// Not for ever: HH:MM, or 2026-03-01T02:00 with or without an offset
        #[arg(long, value_name = "TIME", value_parser = moves::until)]
        until: Option<icbd_image::Timestamp>,
        /// Why, for the audit log
        #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = moves::why)]
        message: String,
    },
    /// Fetch a version from another master: for a copy, or for a site that wants everything (on a master)
    ///
    /// Only what no version here has is fetched; what was interrupted goes on where it stopped. It is ready afterwards,
    /// with the statement and signatures of the other master. An empty repository becomes a copy of the other one.
    /// A stream of btrfs begins anew instead, and is obeyed while it comes: take one only from a master that you would
    /// let write here. A cache server has all of a version here, from one of its own sources.
    Replicate {
        /// Which: the name of an image alone means the version that is deployed there
        #[arg(value_name = "IMAGE[@N]")]
        version: ImageRef,
        /// The other master
        #[arg(long, value_name = "URL")]
        from: String,
        /// What travels
        #[arg(long, value_enum, default_value_t = StreamKind::Blocks)]
        stream: StreamKind,
        /// How: none, lz4, zstd, zstd6, zlib, snappy, or stored: as packed as it lies there, for btrfs [default: for blocks as
        /// the measured speed suggests, for btrfs zstd]
        #[arg(long, value_name = "CODEC")]
        compress: Option<Compress>,
        /// Through SSH, as whoever runs this: ssh:[USER@]HOST[:PORT]. URL is then the master's as HOST knows it, such as
        /// http://127.0.0.1:7070
        #[arg(long, value_name = "ssh:HOST")]
        via: Option<Via>,
    },
    /// Complete a version, verify it and freeze it as a read-only snapshot (on a cache)
    Seal {
        #[arg(value_name = "IMAGE[@N]")]
        version: ImageRef,
        /// Why, for the audit log
        #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = moves::why)]
        message: String,
    },
    /// Let it go again when room is lacking (on a cache)
    Unpin {
        #[arg(value_name = "IMAGE@N")]
        version: VersionId,
        /// Why, for the audit log
        #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = moves::why)]
        message: String,
    },
    /// Make a retired version ready again (on a master)
    Restore {
        #[arg(value_name = "IMAGE@N")]
        version: VersionId,
        #[command(flatten)]
        made: MadeArgs,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PublishArgs {
    /// Its name; the first publish makes the image
    pub image: ImageName,
    /// A directory (disk.raw, vmlinuz, initrd …) or one file
    pub path: PathBuf,
    /// A note about this version
    #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub message: String,
    /// Convert disk images of other formats (qcow2, vmdk, vhdx) to raw ones, which iSCSI can serve
    #[arg(long)]
    pub raw: bool,
    /// Make it the version that `current` means
    #[arg(long)]
    pub deploy: bool,
    /// Sign with this secret key [default: the configuration's sign.key]
    #[arg(long, value_name = "KEY")]
    pub sign: Option<PathBuf>,
    #[command(flatten)]
    pub repo: RepoArgs,
}

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct RepoArgs {
    /// Work on this repository, when no daemon serves it
    #[arg(long, value_name = "DIR")]
    pub repo: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Show what the next boot of a version will most likely read, and from how many boots that is known
    Show {
        #[arg(value_name = "IMAGE[@N]")]
        version: ImageRef,
    },
    /// Write what is known of boots of a version to a file
    Export {
        #[arg(value_name = "IMAGE@N")]
        version: VersionId,
        /// The file to write; must not exist yet [default: IMAGE@N.profile here]
        file: Option<PathBuf>,
    },
    /// Take over what was learned elsewhere
    Import {
        file: PathBuf,
        /// Of which version, if it is not the one that it was learned from: by path and position
        #[arg(value_name = "IMAGE@N")]
        version: Option<ImageRef>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key pair: FILE (keep it secret) and FILE.pub
    Create {
        /// The secret key; must not exist yet
        file: PathBuf,
        /// Who or what the key is for
        #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
        comment: String,
    },
    /// List the keys whose signatures are believed
    List,
    /// Believe signatures of this public key
    Trust {
        #[arg(value_name = "PUBFILE")]
        file: PathBuf,
    },
    /// No longer believe signatures of the key with this fingerprint
    Revoke {
        #[arg(value_name = "FINGERPRINT")]
        key: String,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether the configuration file is right, and if not, where
    Check,
    /// Show the configuration
    Show {
        /// With all defaults filled in
        #[arg(long, required = true)]
        effective: bool,
    },
    /// Have the daemon take over what changed; says what needs a restart
    Reload,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Let many light clients replay a recorded boot at once, and say how long it took
    Storm(StormArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StormArgs {
    /// The disk: a path below a mount, nfs://HOST/PATH, iscsi://HOST/IQN/LUN (?initiator=IQN for a clone),
    /// nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH
    pub target: Target,
    /// How many workstations boot at once
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CLIENTS_MAX)))]
    pub clients: u32,
    /// The recorded boot [default: a Debian 12 machine of 1.5 GiB]
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Let each client think between reads as long as the recorded machine did
    #[arg(long)]
    pub think: bool,
    /// Let one more client read the whole disk meanwhile, as an antivirus does
    #[arg(long)]
    pub scan: bool,
    /// Let the clients share this machine's page cache, as those of one NFS server do
    #[arg(long)]
    pub page_cache: bool,
    /// Hash what was read, to compare two targets; costs a little time
    #[arg(long)]
    pub digest: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        let args = Args::try_parse_from(["icbd", "image", "list", "--json", "--socket", "/s"]).unwrap();
        assert!(args.global.json && args.global.socket.is_some());
    }

    #[test]
    fn names_are_checked_with_a_reason() {
        let check = |line: &[&str], says: &str| {
            let message = Args::try_parse_from(line).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        };
        check(&["icbd", "image", "publish", "a/b", "x"], "contains '/'");
        check(&["icbd", "image", "publish", "..", "x"], "begin and end");
        check(&["icbd", "image", "deploy", "debian-lab"], "write IMAGE@N");
        check(&["icbd", "imag", "list"], "image");
    }
}
