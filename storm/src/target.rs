//! What a storm is let loose on: a disk by path or URL, and one client's hold on it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use crate::file::FileDisk;
use crate::iscsi::IscsiDisk;
use crate::nbd::NbdDisk;
use crate::nfs::NfsDisk;

/// A disk to read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A file or a block device of this machine, such as one below icbd's mount.
    Path(PathBuf),
    /// `nfs://HOST[:PORT]/PATH[?mountport=N]`: NFS version 3 over TCP, without a kernel client.
    Nfs { host: String, port: Option<u16>, mount_port: Option<u16>, path: String },
    /// `iscsi://HOST[:PORT]/IQN/LUN[?initiator=IQN]`: by the name that it is served to alone, if it is.
    Iscsi { host: String, port: u16, name: String, lun: u8, initiator: Option<String> },
    /// `nbd://HOST[:PORT]/EXPORT`.
    Nbd { host: String, port: u16, export: String },
    /// `nbd+unix:///EXPORT?socket=PATH`.
    NbdUnix { socket: PathBuf, export: String },
}

/// A target that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is not a target: {what}")]
pub struct TargetError {
    url: String,
    what: &'static str,
}

const NFS_PORTS: &str = "write nfs://HOST[:PORT]/PATH[?mountport=N]";
const ISCSI_FORM: &str = "write iscsi://HOST[:PORT]/IQN/LUN[?initiator=IQN], LUN from 0 to 255";
const NBD_FORM: &str = "write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH";
const SCHEMES: &str = "it has to be a path, or a URL of nfs, iscsi, nbd or nbd+unix";
/// The ports that the protocols were given by IANA.
const ISCSI_PORT: u16 = 3260;
const NBD_PORT: u16 = 10809;

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Target, TargetError> {
        parse(text).map_err(|what| TargetError { url: text.chars().take(200).collect(), what })
    }
}

fn parse(text: &str) -> Result<Target, &'static str> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return if text.is_empty() { Err(SCHEMES) } else { Ok(Target::Path(PathBuf::from(text))) };
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let query = |name: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == name);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    match scheme {
        "nfs" => {
            let (host, port) = host_and_port(authority).ok_or(NFS_PORTS)?;
            let mount_port = query("mountport").map(|(_, port)| port.parse()).transpose().map_err(|_| NFS_PORTS)?;
            let is_file = !path.is_empty() && !path.ends_with('/');
            is_file.then(|| Target::Nfs { host, port, mount_port, path: format!("/{path}") }).ok_or(NFS_PORTS)
        }
        "iscsi" => {
            let (host, port) = host_and_port(authority).ok_or(ISCSI_FORM)?;
            let (name, lun) = path.split_once('/').ok_or(ISCSI_FORM)?;
            let lun = lun.parse().map_err(|_| ISCSI_FORM)?;
            let initiator = query("initiator").map(|(_, initiator)| initiator.to_owned());
            Ok(Target::Iscsi { host, port: port.unwrap_or(ISCSI_PORT), name: name.to_owned(), lun, initiator })
        }
        "nbd" => {
            let (host, port) = host_and_port(authority).ok_or(NBD_FORM)?;
            Ok(Target::Nbd { host, port: port.unwrap_or(NBD_PORT), export: path.to_owned() })
        }
        "nbd+unix" => {
            let (_, socket) = query("socket").filter(|_| authority.is_empty()).ok_or(NBD_FORM)?;
            Ok(Target::NbdUnix { socket: PathBuf::from(socket), export: path.to_owned() })
        }
        _ => Err(SCHEMES),
    }
}

/// `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(str::parse).transpose().ok()?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Path(path) => write!(f, "{}", path.display()),
            Target::Nfs { host, path, .. } => write!(f, "nfs://{host}{path}"),
            Target::Iscsi { host, port, name, lun, .. } => write!(f, "iscsi://{host}:{port}/{name}/{lun}"),
            Target::Nbd { host, port, export } => write!(f, "nbd://{host}:{port}/{export}"),
            Target::NbdUnix { socket, export } => write!(f, "nbd+unix:///{export}?socket={}", socket.display()),
        }
    }
}

/// One client's own open file or connection.
#[derive(Debug)]
pub(crate) enum Disk {
    File(FileDisk),
    /// Boxed: it is much larger than the others.
    Nfs(Box<NfsDisk>),
    Iscsi(IscsiDisk),
    Nbd(NbdDisk),
}

impl Disk {
    /// Opens `target` for client number `client`. `page_cache`: whether this machine's may answer.
    pub(crate) fn open(target: &Target, client: u32, page_cache: bool) -> io::Result<Disk> {
        Ok(match target {
            Target::Path(path) => Disk::File(FileDisk::open(path, page_cache)?),
            Target::Nfs { host, port, mount_port, path } => {
                Disk::Nfs(Box::new(NfsDisk::open(host, *port, *mount_port, path)?))
            }
            Target::Iscsi { initiator: Some(_), .. } if client > 1 => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "an initiator is logged in once; take --clients 1, or no initiator",
                ));
            }
            Target::Iscsi { host, port, name, lun, initiator } => {
                Disk::Iscsi(IscsiDisk::login((host, *port), name, *lun, initiator.as_deref(), client)?)
            }
            Target::Nbd { host, port, export } => Disk::Nbd(NbdDisk::connect((host, *port), export)?),
            Target::NbdUnix { socket, export } => Disk::Nbd(NbdDisk::connect_unix(socket, export)?),
        })
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Disk::File(disk) => disk.bytes(),
            Disk::Nfs(disk) => disk.bytes(),
            Disk::Iscsi(disk) => disk.bytes(),
            Disk::Nbd(disk) => disk.bytes(),
        }
    }

    /// All of `into` from `offset`; the range is within the disk. Returns the part of the disk's own buffer.
    pub(crate) fn read(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        match self {
            Disk::File(disk) => disk.read(offset, bytes),
            Disk::Nfs(disk) => disk.read(offset, bytes),
            Disk::Iscsi(disk) => disk.read(offset, bytes),
            Disk::Nbd(disk) => disk.read(offset, bytes),
        }
    }

    /// Which caches of this machine cannot answer, in words.
    pub(crate) fn cache_note(&self) -> &'static str {
        match self {
            Disk::File(disk) => disk.cache_note(),
            _ => "one connection a client; nothing is cached on this side",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let parse = |text: &str| text.parse::<Target>();
        assert_eq!(parse("/icbd/lab/1/disk.raw"), Ok(Target::Path("/icbd/lab/1/disk.raw".into())));
        assert_eq!(
            parse("nfs://10.0.0.1:2050/icbd/lab/1/disk.raw?mountport=20048"),
            Ok(Target::Nfs {
                host: "10.0.0.1".into(),
                port: Some(2050),
                mount_port: Some(20048),
                path: "/icbd/lab/1/disk.raw".into()
            })
        );
        assert_eq!(
            parse("iscsi://[::1]/iqn.2026-01.org.example:lab/1"),
            Ok(Target::Iscsi {
                host: "::1".into(),
                port: 3260,
                name: "iqn.2026-01.org.example:lab".into(),
                lun: 1,
                initiator: None
            })
        );
        let one = parse("iscsi://h/iqn.x:lab/1?initiator=iqn.x:pc-1").unwrap();
        assert!(matches!(&one, Target::Iscsi { initiator: Some(name), .. } if name == "iqn.x:pc-1"), "{one:?}");
        assert_eq!(Disk::open(&one, 2, false).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(
            parse("nbd+unix:///e?socket=/run/n.sock"),
            Ok(Target::NbdUnix { socket: "/run/n.sock".into(), export: "e".into() })
        );
        assert_eq!(parse("nbd://h"), Ok(Target::Nbd { host: "h".into(), port: 10809, export: String::new() }));
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_form() {
        for (text, says) in [
            ("", "a path"),
            ("http://h/x", "nfs, iscsi"),
            ("nfs://h", "nfs://HOST"),
            ("nfs:///x", "nfs://HOST"),
            ("nfs://h:99999/x", "nfs://HOST"),
            ("iscsi://h/iqn", "LUN"),
            ("iscsi://h/iqn/256", "0 to 255"),
            ("nbd+unix:///e", "socket=PATH"),
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
