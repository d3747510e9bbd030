//! What is to be done, resolved in one step from the configuration file and the command line, which wins.
//!
//! Nothing else reads the configuration file or knows a default.

mod check;
mod file;
mod quantity;
mod reload;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use icbd_cache::{Quota, Window};
use icbd_export::WantedNetwork;
use icbd_fetch::Authorities;
use icbd_image::{ImageName, Trust};
use icbd_master::Retention;
use icbd_wire::Codec;
use ipnet::IpNet;

use crate::args::{CacheArgs, GlobalArgs, MasterArgs};
use crate::failure::{Exit, Failure};
use crate::output::Talk;
use crate::trust;
pub(crate) use file::{File, IscsiServer, LogLevel, NfsServer, Role, SealWhen};
pub(crate) use quantity::{BitRate, OFF, Span};
pub(crate) use reload::{Reloaded, TLS_CERT, TRUST_CA, TRUST_KEYS};

/// Where the configuration is when `--config` names no other place.
const CONFIG_PATH: &str = "/etc/icbd/icbd.toml";
/// Where the daemons' control sockets are.
const RUN_DIR: &str = "/run/icbd";

/// What every command needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub json: bool,
    pub quiet: bool,
    /// The configuration file that `--config` names.
    named: Option<PathBuf>,
    /// The configuration file that was read, if there was one.
    pub config: Option<PathBuf>,
    /// What it says, without defaults.
    pub file: File,
    socket: Option<PathBuf>,
}

/// What a master needs to know.
#[derive(Debug, Clone)]
pub(crate) struct MasterSettings {
    pub repo: PathBuf,
    pub listen: Vec<SocketAddr>,
    pub allow: Vec<IpNet>,
    /// What is shown to whoever connects; without it nothing is encrypted.
    pub tls: Option<TlsFiles>,
    /// What may be kept of packed runs, in bytes; 0: nothing.
    pub keep_packed_bytes: u64,
    pub sign_key: Option<PathBuf>,
    pub retention: Retention,
    pub trust: TrustSettings,
    pub socket: PathBuf,
}

/// What a cache server needs to know.
#[derive(Debug, Clone)]
pub(crate) struct CacheSettings {
    pub sources: Vec<SourceSettings>,
    /// Where boot profiles are served to the master; nowhere if empty.
    pub listen: Vec<SocketAddr>,
    pub allow: Vec<IpNet>,
    pub store: PathBuf,
    pub mount: PathBuf,
    pub passthrough: bool,
    pub offline_wait: Duration,
    pub in_flight_bytes: u64,
    /// Room that prefetch leaves on the disk; `None`: a share of it.
    pub reserve_bytes: Option<u64>,
    pub quota: Option<Quota>,
    pub window: Option<Window>,
    pub seal_when: SealWhen,
    pub iscsi: IscsiServer,
    pub nfs: NfsSettings,
    /// What all clones may take, and what one client's may; `None`: as much as there is room.
    pub clone_reserve_bytes: Option<u64>,
    pub clone_bytes_max: Option<u64>,
    pub clone_hook: Option<CloneHook>,
    /// Where clones are mounted once there is one: beside the socket, which nobody else shares.
    pub clones: PathBuf,
    pub netboot: NetbootSettings,
    /// So long what is known of boots.
    pub boots_keep: Duration,
    /// Where what firmware loads lies: beside the socket, for whoever serves it.
    pub loaders: PathBuf,
    pub trust: TrustSettings,
    pub socket: PathBuf,
}

/// What makes a version's disk a workstation's own, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CloneHook {
    pub program: PathBuf,
    pub timeout: Duration,
}

/// Who serves folders, and where that one is told.
#[derive(Debug, Clone)]
pub(crate) struct NfsSettings {
    pub which: NfsServer,
    pub ganesha_exports: PathBuf,
    pub ganesha_pid_file: PathBuf,
}

/// Who boots by the network, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetbootSettings {
    pub networks: Vec<WantedNetwork>,
    /// What boots if nobody chooses.
    pub default: Option<ImageName>,
    pub menu_timeout: Duration,
    pub secure_boot: bool,
}

/// Where a certificate and its key are: PEM files, the certificate first and those that vouch for it behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// One source of versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceSettings {
    pub url: String,
    /// How blocks travel from it; `None`: as its measured speed suggests.
    pub codec: Option<Codec>,
}

/// Whose signatures are believed.
#[derive(Debug, Clone)]
pub(crate) struct TrustSettings {
    /// Patterns of the files that hold trusted keys.
    pub keys: Vec<PathBuf>,
    /// Refuse what none of them signed.
    pub require: bool,
    /// Certificates of those who vouch for https sources.
    pub ca: Option<PathBuf>,
}

impl TrustSettings {
    /// Reads the keys.
    pub(crate) fn load(&self) -> anyhow::Result<Trust> {
        let keys = trust::load(&self.keys)?.into_iter().map(|trusted| trusted.key).collect();
        Ok(Trust { keys, require: self.require })
    }

    /// Reads the certificates.
    pub(crate) fn authorities(&self) -> Result<Authorities, Failure> {
        let named = self.ca.as_deref().map_or_else(|| Ok(Authorities::default()), Authorities::with_file);
        named.map_err(|error| Failure::new(Exit::Usage, format!("trust.ca: {error}")))
    }
}

impl Settings {
    /// Reads the configuration file that `global` names, or the default one if there is one.
    pub(crate) fn resolve(global: &GlobalArgs) -> Result<Settings, Failure> {
        Settings::unconfigured(global).again()
    }

    /// What is typed alone, as if there were no configuration file.
    pub(crate) fn unconfigured(global: &GlobalArgs) -> Settings {
        Settings {
            json: global.json,
            quiet: global.quiet,
            named: global.config.clone(),
            config: None,
            file: File::default(),
            socket: global.socket.clone(),
        }
    }

    /// Where the configuration file is, whatever is in it, if there is one.
    pub(crate) fn place(&self) -> Option<PathBuf> {
        let default = Path::new(CONFIG_PATH);
        self.named.clone().or_else(|| default.exists().then(|| default.into()))
    }

    /// The same with the configuration file as it is now.
    pub(crate) fn again(&self) -> Result<Settings, Failure> {
        let config = self.place();
        let file = config.as_deref().map(read).transpose()?.unwrap_or_default();
        Ok(Settings { config, file, ..self.clone() })
    }

    /// How the command speaks.
    pub(crate) fn talk(&self) -> Talk {
        Talk { json: self.json, quiet: self.quiet }
    }

    /// The control sockets to try, the likeliest first.
    pub(crate) fn sockets(&self, likely: Role) -> Vec<PathBuf> {
        if let Some(socket) = &self.socket {
            return vec![socket.clone()];
        }
        match (self.file.role, likely) {
            (Some(role), _) => vec![default_socket(role)],
            (None, Role::Master) => vec![default_socket(Role::Master), default_socket(Role::Cache)],
            (None, Role::Cache) => vec![default_socket(Role::Cache), default_socket(Role::Master)],
        }
    }

    /// Where versions are kept on this machine.
    pub(crate) fn store(&self) -> Result<PathBuf, Failure> {
        match self.file.role {
            Some(Role::Master) => require(self.file.master.repo.clone(), "the directory", "master.repo"),
            Some(Role::Cache) | None => Ok(self.file.clone().with_defaults().store.path.unwrap_or_default()),
        }
    }

    /// What this machine is, if the configuration says so.
    pub(crate) fn role(&self) -> Option<Role> {
        self.file.role
    }

    pub(crate) fn log_level(&self) -> LogLevel {
        self.file.log.level.unwrap_or(LogLevel::Info)
    }

    pub(crate) fn trust(&self) -> TrustSettings {
        let trust = self.file.clone().with_defaults().trust;
        TrustSettings { keys: trust.keys.unwrap_or_default(), require: trust.require.unwrap_or_default(), ca: trust.ca }
    }

    pub(crate) fn master(&self, args: &MasterArgs) -> Result<MasterSettings, Failure> {
        self.expect_role(Role::Master)?;
        let mut file = self.file.clone();
        file.master.repo = args.repo.clone().or(file.master.repo);
        file.master.listen = or_file(&args.listen, file.master.listen);
        file.master.allow = or_file(&args.allow, file.master.allow);
        let repo = require(file.master.repo, "--repo DIR", "master.repo")?;
        let file = File { master: file::Master { repo: Some(repo.clone()), ..file.master }, ..file }.with_defaults();
        let tls = match (file.master.tls_cert.clone(), file.master.tls_key.clone()) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            _ => {
                let message = "master.tls_cert and master.tls_key go together; name both files, or neither";
                return Err(Failure::new(Exit::Usage, message));
            }
        };
        let younger_than = file.retain.younger_than.map_or(Duration::ZERO, |span| span.0);
        let retention = Retention { last: file.retain.last.unwrap_or_default(), younger_than };
        Ok(MasterSettings {
            repo: absolute(&repo)?,
            listen: file.master.listen.unwrap_or_default(),
            allow: file.master.allow.unwrap_or_default(),
            tls,
            keep_packed_bytes: file.master.keep_packed.map_or(0, |keep| keep.0),
            sign_key: file.sign.key,
            retention,
            trust: self.trust(),
            socket: self.socket.clone().unwrap_or_else(|| default_socket(Role::Master)),
        })
    }

    pub(crate) fn cache(&self, args: &CacheArgs) -> Result<CacheSettings, Failure> {
        self.expect_role(Role::Cache)?;
        let given = args.master.iter().map(|url| (url, None));
        let named = self.file.source.iter().map(|source| (&source.url, source.codec));
        let named = named.filter(|_| args.master.is_empty());
        if args.master.is_empty() && self.file.source.is_empty() {
            let message = "no source is named; pass --master http://HOST:7070 or add a [[source]] with a url \
                to the configuration";
            return Err(Failure::new(Exit::Usage, message));
        }
        let source = |(url, codec): (&String, Option<Codec>)| {
            check_url(url).map(|url| SourceSettings { url, codec: args.codec.or(codec) })
        };
        let sources = given.chain(named).map(source).collect::<Result<_, _>>()?;
        let file = self.file.clone().with_defaults();
        let path =
            |given: &Option<PathBuf>, named: Option<PathBuf>| absolute(&given.clone().or(named).unwrap_or_default());
        let (store, mount) = (path(&args.store, file.store.path)?, path(&args.mount, file.mount.path)?);
        check_apart(&store, &mount)?;
        let socket = self.socket.clone().unwrap_or_else(|| default_socket(Role::Cache));
        Ok(CacheSettings {
            sources,
            listen: or_file(&args.listen, file.serve.listen).unwrap_or_default(),
            allow: or_file(&args.allow, file.serve.allow).unwrap_or_default(),
            store,
            mount,
            passthrough: !args.no_passthrough,
            offline_wait: file.mount.offline_wait.map(|span| span.0).unwrap_or_default(),
            in_flight_bytes: file.memory.in_flight.map(|bytes| bytes.0).unwrap_or_default(),
            reserve_bytes: file.store.min_free.map(|bytes| bytes.0),
            quota: file.store.quota.map(|portion| portion.0),
            window: window(&file.window),
            seal_when: file.store.seal_when.unwrap_or(SealWhen::Never),
            iscsi: file.export.iscsi.unwrap_or(IscsiServer::Off),
            nfs: NfsSettings {
                which: file.export.nfs.unwrap_or(NfsServer::Off),
                ganesha_exports: absolute(&file.ganesha.exports.unwrap_or_default())?,
                ganesha_pid_file: absolute(&file.ganesha.pid_file.unwrap_or_default())?,
            },
            clone_reserve_bytes: file.clone.reserve.map(|bytes| bytes.0),
            clone_bytes_max: file.clone.per_client.map(|bytes| bytes.0),
            clone_hook: file.clone.hook.map(|program| CloneHook {
                program,
                timeout: file.clone.hook_timeout.map(|span| span.0).unwrap_or_default(),
            }),
            clones: absolute(&socket.with_extension("clones"))?,
            netboot: netboot(&file.network, &file.netboot),
            boots_keep: file.log.boots_keep.map(|span| span.0).unwrap_or_default(),
            loaders: absolute(&socket.with_extension("netboot"))?,
            trust: self.trust(),
            socket,
        })
    }

    /// Who boots by the network, and where the cache server's HTTP is, whatever else is configured.
    pub(crate) fn netboot(&self) -> (NetbootSettings, Vec<SocketAddr>) {
        let file = self.file.clone().with_defaults();
        (netboot(&file.network, &file.netboot), file.serve.listen.unwrap_or_default())
    }

    fn expect_role(&self, role: Role) -> Result<(), Failure> {
        match (self.file.role, &self.config) {
            (Some(other), Some(path)) if other != role => {
                let (ours, theirs) = (role.as_str(), other.as_str());
                let message = format!(
                    "{} says role = {theirs:?}; run `icbd {theirs}`, or name another \
                    file with --config to run a {ours}",
                    path.display()
                );
                Err(Failure::new(Exit::Usage, message))
            }
            _ => Ok(()),
        }
    }
}

/// Neither may lie in the other: the one is hidden by what is mounted, the other would be taken for a part of the store.
fn check_apart(store: &Path, mount: &Path) -> Result<(), Failure> {
    if !store.starts_with(mount) && !mount.starts_with(store) {
        return Ok(());
    }
    let (store, mount) = (store.display(), mount.display());
    let message = format!(
        "the store {store} and the mount point {mount} lie in each other; name directories apart, with --store and --mount"
    );
    Err(Failure::new(Exit::Usage, message))
}

/// The hours of background fill; `None`: always.
fn window(window: &file::Window) -> Option<Window> {
    let (hours, outside) = (window.hours?, window.outside?);
    let outside_bytes_per_second = NonZeroU64::new(outside.bytes_per_second())?;
    (hours.from != hours.to).then_some(Window { from: hours.from, to: hours.to, outside_bytes_per_second })
}

fn netboot(networks: &[file::Network], menu: &file::Netboot) -> NetbootSettings {
    let wanted = |network: &file::Network| {
        let file::Network { interface, dhcp, subnet, pool, gateway, dns } = network.clone();
        WantedNetwork { interface, dhcp, subnet, pool, gateway, dns }
    };
    NetbootSettings {
        networks: networks.iter().map(wanted).collect(),
        default: menu.default.clone(),
        menu_timeout: menu.menu_timeout.map(|span| span.0).unwrap_or_default(),
        secure_boot: menu.secure_boot.unwrap_or_default(),
    }
}

/// A daemon's paths hold whatever becomes of the directory it was started in.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::new(Exit::Usage, format!("{:?} is not a path: {error}", path.display())))
}

fn default_socket(role: Role) -> PathBuf {
    Path::new(RUN_DIR).join(role.as_str()).with_extension("sock")
}

fn or_file<T: Clone>(given: &[T], named: Option<Vec<T>>) -> Option<Vec<T>> {
    if given.is_empty() { named } else { Some(given.to_vec()) }
}

fn require<T>(value: Option<T>, argument: &str, key: &str) -> Result<T, Failure> {
    let message = || format!("{key} is not set; pass {argument} or set it in the configuration");
    value.ok_or_else(|| Failure::new(Exit::Usage, message()))
}

/// Reads and checks the configuration file at `path`.
fn read(path: &Path) -> Result<File, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the configuration {}: {error}", path.display());
        Failure::new(Exit::Usage, message)
    })?;
    check::read(&text).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|problem| format!("{}:{problem}", path.display())).collect();
        Failure::new(Exit::Usage, lines.join("\n"))
    })
}

/// Takes `url` as the address of a source: `http://HOST[:PORT]`.
fn check_url(url: &str) -> Result<String, Failure> {
    let refuse = |why: &str| {
        let message = format!("source {url:?} {why}; write http://HOST:PORT or https://HOST:PORT");
        Err(Failure::new(Exit::Usage, message))
    };
    let Ok(uri) = url.parse::<http::Uri>() else { return refuse("is not a URL") };
    let has_port = |authority: &http::uri::Authority| {
        authority
            .as_str()
            .rsplit_once(':')
            .is_none_or(|(_, port)| port.ends_with(']') || port.parse::<u16>().is_ok_and(|port| port > 0))
    };
    if uri.authority().is_some_and(|authority| !has_port(authority)) {
        return refuse("has no port from 1 to 65535");
    }
    match (uri.scheme_str(), uri.authority(), uri.path(), uri.query()) {
        (Some("http" | "https"), Some(_), "/", None) => Ok(url.trim_end_matches('/').to_owned()),
        (Some("http" | "https"), Some(_), _, _) => refuse("has a path"),
        _ => refuse("does not begin with http:// or https://"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let file = check::read(text).unwrap();
        Settings { json: false, quiet: false, named: None, config: Some("x.toml".into()), file, socket: None }
    }

    #[test]
    fn the_command_line_wins() {
        let settings = settings(
            "[[source]]\nurl = \"http://a:1\"\ncodec = \"lz4\"\n[store]\npath = \"/s\"\n[mount]\noffline_wait = \"3s\"\n",
        );
        let plain = settings.cache(&CacheArgs::default()).unwrap();
        let source = |url: &str, codec| vec![SourceSettings { url: url.to_owned(), codec }];
        assert_eq!((plain.sources, plain.store), (source("http://a:1", Some(Codec::Lz4)), "/s".into()));
        assert_eq!((plain.offline_wait, plain.mount), (Duration::from_secs(3), "/icbd".into()));
        let args = CacheArgs { master: vec!["http://b:2/".into()], store: Some("/t".into()), ..CacheArgs::default() };
        let given = settings.cache(&args).unwrap();
        assert_eq!((given.sources, given.store), (source("http://b:2", None), "/t".into()));
        let given = settings.cache(&CacheArgs { codec: Some(Codec::Snappy), ..CacheArgs::default() }).unwrap();
        assert_eq!(given.sources, source("http://a:1", Some(Codec::Snappy)));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let check = |settings: Settings, args: CacheArgs, says: &str| {
            let failure = settings.cache(&args).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.message.contains(says), "{failure}");
        };
        check(settings(""), CacheArgs::default(), "pass --master");
        check(settings("role = \"master\""), CacheArgs::default(), "run `icbd master`");
        let from = |url: &str| CacheArgs { master: vec![url.into()], ..CacheArgs::default() };
        check(settings(""), from("ftp://a"), "does not begin with http:// or https://");
        check(settings(""), from("img:7070"), "does not begin");
        check(settings(""), from("http://a/files"), "has a path");
        check(settings(""), from("http://a:99999"), "has no port");
        check(settings(""), from("http://a:0"), "has no port");
        let inside = CacheArgs { store: Some("/icbd/store".into()), ..from("http://[::1]") };
        check(settings(""), inside, "lie in each other");
        assert!(settings("").master(&MasterArgs::default()).unwrap_err().message.contains("--repo DIR"));
    }

    /// What is shipped can be used as it is.
    #[test]
    fn the_sample_configurations_are_right() {
        let cache = settings(include_str!("../../mount-helpers/icbd-cache.toml"));
        assert_eq!(cache.cache(&CacheArgs::default()).unwrap().mount, PathBuf::from("/icbd"));
        let master = settings(include_str!("../../mount-helpers/icbd-master.toml"));
        assert_eq!(master.master(&MasterArgs::default()).unwrap().allow.len(), 1);
    }

    #[test]
    fn the_role_says_which_socket() {
        let names = |text: &str, likely| settings(text).sockets(likely);
        assert_eq!(names("role = \"cache\"", Role::Master), [PathBuf::from("/run/icbd/cache.sock")]);
        assert_eq!(names("", Role::Master)[0], PathBuf::from("/run/icbd/master.sock"));
    }
}
