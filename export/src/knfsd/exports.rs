//! icbd's own file among those in `/etc/exports.d`, and what exports each of its lines stands for.
//!
//! A share is two lines: a comment with its image and id, and the folder with its clients. A line without clients would let everybody
//! in; such a share is a comment, too.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::num::NonZeroU16;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::{NAME, refused};
use crate::everybody::{halved, joined};
use crate::proc::unescaped;
use crate::{ServerError, Share, own_file};

/// Roots of machines without disks read as root. Handles are looked up below the folder of no export in particular: they hold no
/// more than the file, so that they mean the same at every cache server.
const OPTIONS: [&str; 4] = ["ro", "no_root_squash", "no_subtree_check", "sec=sys"];
/// What must not be there beside them.
const WRITABLE: &str = "rw";
const COMMENT: &str = "# ";
/// Everybody may know what is exported, as with `/etc/exports`.
const MODE: u32 = 0o644;

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Exports(Vec<Share>);

/// A folder for one range of clients: what `exportfs` adds and takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    pub(super) folder: PathBuf,
    client: IpNet,
    id: NonZeroU16,
}

/// What is exported, by anybody: a line of `etab`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exported {
    pub(super) folder: PathBuf,
    client: String,
    options: Vec<String>,
}

impl Exports {
    pub(super) fn of(shares: &[Share]) -> Result<Exports, ServerError> {
        for (index, share) in shares.iter().enumerate() {
            let both =
                |other: &&Share| other.id == share.id || other.image == share.image || other.folder == share.folder;
            if let Some(other) = shares[..index].iter().find(both) {
                return Err(refused(format!("{} and {}", other.image, share.image), "both would be the same export"));
            }
            if !share.folder.is_absolute() {
                return Err(refused(format!("the folder {}", share.folder.display()), "its path is to begin with /"));
            }
        }
        Ok(Exports(shares.to_vec()))
    }

    /// `None` if there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Exports>, ServerError> {
        let Some(body) = own_file::read(path)? else { return Ok(None) };
        let lines: Vec<&str> = body.lines().collect();
        let shares = lines.chunks(2).map(share_of).collect::<Option<_>>();
        // It has the right checksum, so it is another icbd's.
        let strange = || ServerError::Strange { server: NAME, said: format!("{} has {body:?}", path.display()) };
        shares.map(|shares| Some(Exports(shares))).ok_or_else(strange)
    }

    /// Where nothing is exported, there is no file.
    pub(super) fn write(&self, path: &Path) -> Result<(), ServerError> {
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| ServerError::Io { doing, path, source }
        };
        if self.0.is_empty() {
            let removed = std::fs::remove_file(path);
            return match removed {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed.map_err(failed("remove", path)),
            };
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed("make", folder))?;
        }
        own_file::write(path, &self.body(), MODE)
    }

    fn body(&self) -> String {
        let lines = |share: &Share| {
            let folder = escaped(share.folder.as_os_str());
            let exports = exports_of(share).map(|export| format!(" {}({})", written(&export.client), export.options()));
            let exports: String = exports.collect();
            let prefix = if exports.is_empty() { COMMENT } else { "" };
            format!("{COMMENT}{} {}\n{prefix}{folder}{exports}\n", share.image, share.id)
        };
        self.0.iter().map(lines).collect()
    }

    pub(super) fn shares(self) -> Vec<Share> {
        self.0
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Export> {
        self.0.iter().flat_map(exports_of)
    }
}

fn exports_of(share: &Share) -> impl Iterator<Item = Export> {
    let (folder, id) = (&share.folder, share.id);
    // A prefix of 0 bits is one of 32 to `rpc.mountd`.
    let clients = share.clients.iter().flat_map(halved);
    clients.map(move |client| Export { folder: folder.clone(), client, id })
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the export of {} to {}", self.folder.display(), self.client)
    }
}

impl Export {
    /// Options as `exportfs` takes them.
    pub(super) fn options(&self) -> String {
        format!("{},{}", OPTIONS.join(","), self.fsid())
    }

    fn fsid(&self) -> String {
        format!("fsid={}", self.id)
    }

    /// What it is called on the command line of `exportfs`.
    pub(super) fn name(&self) -> OsString {
        let client = written(&self.client);
        // Colons end the client otherwise.
        let mut name = OsString::from(match (self.client, client.split_once('/')) {
            (IpNet::V4(_), _) => client,
            (IpNet::V6(_), None) => format!("[{client}]"),
            (IpNet::V6(_), Some((address, bits))) => format!("[{address}]/{bits}"),
        });
        name.push(":");
        name.push(&self.folder);
        name
    }

    pub(super) fn is_same_place(&self, there: &Exported) -> bool {
        self.folder == there.folder && written(&self.client) == there.client
    }

    /// Whether clients are served as icbd means it.
    pub(super) fn is(&self, there: &Exported) -> bool {
        let has = |option: &str| there.options.iter().any(|found| found == option);
        self.is_same_place(there) && OPTIONS.iter().all(|option| has(option)) && has(&self.fsid()) && !has(WRITABLE)
    }

    /// Whether handles of both would be taken for each other.
    pub(super) fn has_id_of(&self, there: &Exported) -> bool {
        self.folder != there.folder && there.options.contains(&self.fsid())
    }
}

impl Exported {
    /// What `etab` says; lines that are none are passed over.
    pub(super) fn all(etab: &[u8]) -> Vec<Exported> {
        etab.split(|byte| *byte == b'\n').filter_map(Exported::in_line).collect()
    }

    fn in_line(line: &[u8]) -> Option<Exported> {
        let at = line.iter().position(|byte| *byte == b'\t')?;
        let folder = PathBuf::from(OsString::from_vec(unescaped(&line[..at])?));
        let (client, options) = std::str::from_utf8(&line[at + 1..]).ok()?.strip_suffix(')')?.split_once('(')?;
        Some(Exported { folder, client: client.to_owned(), options: options.split(',').map(str::to_owned).collect() })
    }
}

/// The two lines of a share.
fn share_of(lines: &[&str]) -> Option<Share> {
    let [first, second] = lines else { return None };
    let (image, id) = first.strip_prefix(COMMENT)?.split_once(' ')?;
    let mut words = second.strip_prefix(COMMENT).unwrap_or(second).split(' ');
    let folder = PathBuf::from(OsString::from_vec(unescaped(words.next()?.as_bytes())?));
    let clients = words.map(|word| read_net(word.split_once('(')?.0)).collect::<Option<_>>()?;
    Some(Share { image: image.parse().ok()?, folder, id: id.parse().ok()?, clients: joined(clients) })
}

/// A path as a word of an exports file, and for the kernel.
pub(super) fn escaped(path: &OsStr) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'\\');
    let written = |byte: &u8| match is_plain(byte) {
        true => char::from(*byte).to_string(),
        false => format!("\\{byte:03o}"),
    };
    path.as_bytes().iter().map(written).collect()
}

/// Clients as exports name them.
fn written(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn read_net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(image: &str, id: u16, clients: &[&str]) -> Share {
        Share {
            image: image.parse().unwrap(),
            folder: format!("/srv/a b/{image}").into(),
            id: NonZeroU16::new(id).unwrap(),
            clients: clients.iter().map(|client| client.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exports.d/icbd.exports");
        assert_eq!(Exports::read(&path).unwrap(), None);
        let odd = Share { folder: OsStr::from_bytes(b"/srv/\"\\#\t\xff").into(), ..share("odd", 9, &["10.0.0.1/32"]) };
        let all = [
            share("win11-lab", 7, &["0.0.0.0/0", "10.1.2.0/24", "10.1.3.9/32", "::/0", "fd00::/64", "fd00::1/128"]),
            share("debian.12", 65535, &[]),
            odd,
        ];
        for shares in [&all[..], &all[1..], &all[..1]] {
            Exports::of(shares).unwrap().write(&path).unwrap();
            assert_eq!(Exports::read(&path).unwrap().unwrap().shares(), shares);
        }
        let text = Exports::of(&all).unwrap().body();
        let wanted = "# win11-lab 7\n/srv/a\\040b/win11-lab 0.0.0.0/1(ro,no_root_squash,no_subtree_check,sec=sys,fsid=7) 128.0.0.0/1(";
        assert!(text.starts_with(wanted), "{text}");
        assert!(text.contains(" 10.1.3.9(") && text.contains(" fd00::/64(") && text.contains(" fd00::1("), "{text}");
        // Nobody is let in, rather than everybody.
        assert!(text.contains("\n# debian.12 65535\n# /srv/a\\040b/debian.12\n"), "{text}");
        assert!(text.contains("\n/srv/\\042\\134\\043\\011\\377 10.0.0.1("), "{text}");
        Exports::default().write(&path).unwrap();
        assert!(!path.exists());
        Exports::default().write(&path).unwrap();
    }

    #[test]
    fn what_was_edited_or_is_not_understood_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("icbd.exports");
        Exports::of(&[share("lab", 7, &["10.1.2.0/24"])]).unwrap().write(&path).unwrap();
        let ours = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, ours.replace("(ro,", "(rw,")).unwrap();
        assert!(matches!(Exports::read(&path), Err(ServerError::HandEdited { .. })));
        for body in ["# lab 7\n", "# lab\n/srv/lab\n", "# lab 0\n/srv/lab\n", "# lab 7\n/srv/lab nobody(ro)\n"] {
            own_file::write(&path, body, MODE).unwrap();
            assert!(matches!(Exports::read(&path), Err(ServerError::Strange { .. })), "{body}");
        }
    }

    #[test]
    fn names_are_as_exportfs_reads_them() {
        let share = share("lab", 7, &["10.1.2.0/24", "10.1.3.9/32", "::/0", "fd00::1/128"]);
        let names: Vec<_> = exports_of(&share).map(|export| export.name().into_string().unwrap()).collect();
        let wanted = ["10.1.2.0/24", "10.1.3.9", "[::]/1", "[8000::]/1", "[fd00::1]"]
            .map(|client| format!("{client}:/srv/a b/lab"));
        assert_eq!(names, wanted);
    }

    #[test]
    fn what_is_exported_is_known() {
        let share = share("lab", 7, &["10.1.2.0/24"]);
        let export = exports_of(&share).next().unwrap();
        let line = |options: &str| format!("/srv/a\\040b/lab\t10.1.2.0/24({options})\n");
        let right =
            line("ro,sync,wdelay,secure,no_root_squash,no_all_squash,no_subtree_check,fsid=7,sec=sys,ro,secure");
        let others = "/srv/theirs\t*(rw,fsid=7)\n\n/srv/strange\n/srv/a\\040b/lab\tpc-7(ro)\n";
        let there = Exported::all(format!("{others}{right}").as_bytes());
        assert_eq!(there.len(), 3, "{there:?}");
        assert_eq!(there.iter().map(|there| export.is(there)).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(there.iter().map(|there| export.has_id_of(there)).collect::<Vec<_>>(), [true, false, false]);
        for wrong in [
            right.replace("ro,sync", "rw,sync"),
            right.replace("fsid=7", "fsid=70"),
            right.replace("no_root_squash", "root_squash"),
            right.replace("sec=sys", "sec=krb5"),
        ] {
            let there = Exported::all(wrong.as_bytes());
            assert!(export.is_same_place(&there[0]) && !export.is(&there[0]), "{wrong}");
        }
    }

    #[test]
    fn what_would_be_the_same_export_is_refused() {
        assert!(Exports::of(&[share("lab", 7, &[]), share("other", 7, &[])]).is_err());
        assert!(Exports::of(&[share("lab", 7, &[]), share("lab", 8, &[])]).is_err());
        let folder = share("lab", 7, &[]).folder;
        assert!(Exports::of(&[share("lab", 7, &[]), Share { folder, ..share("other", 8, &[]) }]).is_err());
        assert!(Exports::of(&[Share { folder: "srv/lab".into(), ..share("lab", 7, &[]) }]).is_err());
    }
}
