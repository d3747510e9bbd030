//! The configuration file's shape: what [`File`] can hold is what this version supports.
//!
//! Every value is optional here; [`File::with_defaults`] is the one place that knows the defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use icbd_export::{Dhcp, Pool};
use icbd_image::ImageName;
use icbd_wire::Codec;
use ipnet::{IpNet, Ipv4Net};
use jiff::civil::Time;
use serde::{Deserialize, Serialize};

use super::quantity::{BitRate, ByteCount, Hours, Keep, Portion, Span};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Master,
    Cache,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Cache => "cache",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// `icbd.toml`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    pub source: Vec<Source>,
    pub trust: Trust,
    pub store: Store,
    pub mount: Mount,
    pub window: Window,
    pub memory: Memory,
    pub serve: Serve,
    pub export: Export,
    pub ganesha: Ganesha,
    pub clone: Clone,
    pub network: Vec<Network>,
    pub netboot: Netboot,
    pub master: Master,
    pub sign: Sign,
    pub retain: Retain,
    pub log: Log,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec: Option<Codec>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Trust {
    pub keys: Option<Vec<PathBuf>>,
    pub require: Option<bool>,
    /// Who vouches for https sources, beside those whom the machine believes.
    pub ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Store {
    pub path: Option<PathBuf>,
    /// Without it, a share of the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_free: Option<ByteCount>,
    /// Without it, as full as `min_free` leaves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<Portion>,
    pub seal_when: Option<SealWhen>,
}

/// Which versions a cache seals by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SealWhen {
    /// Each that is complete.
    Complete,
    /// Those of them that programs have open.
    Hot,
    Never,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Window {
    pub hours: Option<Hours>,
    pub outside: Option<BitRate>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Mount {
    pub path: Option<PathBuf>,
    pub offline_wait: Option<Span>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Memory {
    pub in_flight: Option<ByteCount>,
}

/// What a cache server serves over TCP, read-only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Serve {
    pub listen: Option<Vec<SocketAddr>>,
    pub allow: Option<Vec<IpNet>>,
}

/// Who serves workstations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Export {
    pub nfs: Option<NfsServer>,
    pub iscsi: Option<IscsiServer>,
}

/// Where nfs-ganesha is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ganesha {
    /// The file of icbd's own that its configuration brings in.
    pub exports: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
}

/// Who serves folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NfsServer {
    /// What there is.
    Auto,
    /// The kernel's.
    Knfsd,
    Ganesha,
    Off,
}

/// What workstations may write.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Clone {
    /// Of all of them.
    pub reserve: Option<ByteCount>,
    pub per_client: Option<ByteCount>,
    /// The program that makes a version's disk a workstation's own.
    pub hook: Option<PathBuf>,
    pub hook_timeout: Option<Span>,
}

/// A network on which workstations boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Network {
    pub interface: String,
    #[serde(default)]
    pub dhcp: Dhcp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Ipv4Net>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<Ipv4Addr>,
}

/// The menu of workstations that boot by the network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Netboot {
    /// What boots if nobody chooses; the local disk if none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<ImageName>,
    pub menu_timeout: Option<Span>,
    /// UEFI gets what it loads with Secure Boot enforced.
    pub secure_boot: Option<bool>,
}

/// Who serves disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IscsiServer {
    /// What there is.
    Auto,
    Tgt,
    /// The kernel's.
    Lio,
    Off,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Master {
    pub repo: Option<PathBuf>,
    pub listen: Option<Vec<SocketAddr>>,
    pub allow: Option<Vec<IpNet>>,
    /// Both, or none: then whoever reads on the way reads what is in the images.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// What may be kept of what is packed ahead of its use.
    pub keep_packed: Option<Keep>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Sign {
    pub key: Option<PathBuf>,
}

/// What pruning leaves beside what is deployed, a fallback or used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Retain {
    pub last: Option<usize>,
    pub younger_than: Option<Span>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub level: Option<LogLevel>,
    /// So long what is known of boots.
    pub boots_keep: Option<Span>,
}

/// The default of `mount.offline_wait`: long enough for a master's restart, short enough for a person to wait.
const OFFLINE_WAIT: Duration = Duration::from_secs(120);
/// The default of `memory.in_flight`.
const IN_FLIGHT_BYTES: u64 = 64 << 20;
/// The default of `window`: background fill may always use the whole line; if only hours are named, outside of
/// them a fifth of a 100 Mbit/s line.
const ALWAYS: Hours = Hours { from: Time::midnight(), to: Time::midnight() };
const OUTSIDE: BitRate = BitRate::from_mbit(20);
/// The defaults of `retain`: a month of weekly versions.
const RETAIN_LAST: usize = 4;
const RETAIN_YOUNGER_THAN: Duration = Duration::from_secs(30 * 86_400);
const LISTEN_PORT: u16 = 7070;
/// The default of `log.boots_keep`: a term of lessons.
const BOOTS_KEEP: Duration = Duration::from_secs(90 * 86_400);
/// The default of `clone.hook_timeout`: somebody waits in front of a dark screen.
const HOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// The default of `netboot.menu_timeout`: time to read a menu.
const MENU_TIMEOUT: Duration = Duration::from_secs(10);

impl File {
    /// The file with every value that has a default.
    pub(crate) fn with_defaults(mut self) -> File {
        let or = |value: &mut Option<PathBuf>, default: &str| {
            value.get_or_insert_with(|| default.into());
        };
        self.trust.keys.get_or_insert_with(|| vec!["/etc/icbd/trusted/*.pub".into()]);
        self.trust.require.get_or_insert(false);
        or(&mut self.store.path, "/var/lib/icbd");
        self.store.seal_when.get_or_insert(SealWhen::Complete);
        or(&mut self.mount.path, "/icbd");
        self.mount.offline_wait.get_or_insert(Span(OFFLINE_WAIT));
        self.window.hours.get_or_insert(ALWAYS);
        self.window.outside.get_or_insert(OUTSIDE);
        self.memory.in_flight.get_or_insert(ByteCount(IN_FLIGHT_BYTES));
        or(&mut self.master.repo, "/srv/icbd");
        self.master.keep_packed.get_or_insert(Keep(0));
        self.serve.listen.get_or_insert_default();
        self.serve.allow.get_or_insert_default();
        self.export.nfs.get_or_insert(NfsServer::Auto);
        or(&mut self.ganesha.exports, "/etc/ganesha/icbd.conf");
        or(&mut self.ganesha.pid_file, "/var/run/ganesha/ganesha.pid");
        self.export.iscsi.get_or_insert(IscsiServer::Auto);
        self.clone.hook_timeout.get_or_insert(Span(HOOK_TIMEOUT));
        self.netboot.menu_timeout.get_or_insert(Span(MENU_TIMEOUT));
        self.netboot.secure_boot.get_or_insert(false);
        self.master.listen.get_or_insert_with(|| vec![([127, 0, 0, 1], LISTEN_PORT).into()]);
        self.master.allow.get_or_insert_default();
        self.retain.last.get_or_insert(RETAIN_LAST);
        self.retain.younger_than.get_or_insert(Span(RETAIN_YOUNGER_THAN));
        self.log.level.get_or_insert(LogLevel::Info);
        self.log.boots_keep.get_or_insert(Span(BOOTS_KEEP));
        self
    }
}
