//! icbd's own file among Ganesha's: an `EXPORT` block for each share.
//!
//! File handles have to be the same on all cache servers and after a remount. Ganesha puts into each the export's id, an id of the
//! file system, and the handle that FUSE gave, which is the node id. The file system's is its device number, for want of a better one,
//! and FUSE mounts have another after every mount. With `fsid_type = Major64` it is but the upper half of that number, which is 0 for
//! all that have no device. So Ganesha can serve one such mount this way, and tells of a second one (`EEXIST`).
//! What clients see as the file system's id is `Filesystem_Id`; without it, it would be the device number, too.

use std::num::NonZeroU16;
use std::path::Path;

use icbd_image::ImageName;
use ipnet::IpNet;

use super::{NAME, refused};
use crate::everybody::{halved, joined};
use crate::{ServerError, Share, own_file};

const PSEUDO: &str = "/icbd/";
/// "icbd", as a number; behind it the export's.
const FILESYSTEM: u32 = u32::from_be_bytes(*b"icbd");
/// New versions are in a list that was read before within this, and found by their names at once; versions themselves never change.
const ATTRIBUTES_SECONDS: u32 = 2;
const OPEN: &str = "EXPORT {";
const CLOSE: &str = "}";
const CLIENTS: &str = "    CLIENT { Access_Type = RO; Clients = ";
const CLIENTS_END: &str = "; }";
/// Ganesha reads no longer ones.
const PREFIX_DIGITS_MAX: usize = 2;

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Exports(Vec<Block>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    /// Its lines but for the clients: what Ganesha does not change once it serves it.
    fixed: Vec<String>,
    clients: Option<String>,
}

impl Exports {
    pub(super) fn of(shares: &[Share]) -> Result<Exports, ServerError> {
        for (index, share) in shares.iter().enumerate() {
            if let Some(other) = shares[..index].iter().find(|other| other.id == share.id || other.image == share.image)
            {
                let what = format!("{} and {}", other.image, share.image);
                return Err(refused(what, &format!("both would be export {}", share.id)));
            }
        }
        shares.iter().map(Block::of).collect::<Result<_, _>>().map(Exports)
    }

    /// `None` if there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Exports>, ServerError> {
        let by_hand = || ServerError::HandEdited { path: path.to_owned() };
        let Some(body) = own_file::read(path)? else { return Ok(None) };
        let mut blocks: Vec<Block> = Vec::new();
        for line in body.lines().filter(|line| *line != CLOSE) {
            match line.strip_prefix(CLIENTS).and_then(|line| line.strip_suffix(CLIENTS_END)) {
                _ if line == OPEN => blocks.push(Block { fixed: Vec::new(), clients: None }),
                Some(clients) => blocks.last_mut().ok_or_else(by_hand)?.clients = Some(clients.to_owned()),
                None => blocks.last_mut().ok_or_else(by_hand)?.fixed.push(line.to_owned()),
            }
        }
        Ok(Some(Exports(blocks)))
    }

    pub(super) fn text(&self) -> String {
        own_file::text(&self.body())
    }

    fn body(&self) -> String {
        self.0.iter().map(Block::text).collect()
    }

    /// Nobody who may not read Ganesha's other files reads it.
    pub(super) fn write(&self, path: &Path) -> Result<(), ServerError> {
        own_file::write(path, &self.body(), 0o600)
    }

    /// Without those that `wanted` has otherwise in what Ganesha does not change: it would drop them.
    pub(super) fn kept_for(&self, wanted: &Exports) -> Exports {
        let is_otherwise = |block: &Block| {
            wanted.0.iter().any(|other| other.value(ID) == block.value(ID) && other.fixed != block.fixed)
        };
        Exports(self.0.iter().filter(|block| !is_otherwise(block)).cloned().collect())
    }

    pub(super) fn shares(&self, path: &Path) -> Result<Vec<Share>, ServerError> {
        let strange = |block: &Block| ServerError::Strange {
            server: NAME,
            said: format!("{} has a block {:?}", path.display(), block.text()),
        };
        self.0.iter().map(|block| block.share().ok_or_else(|| strange(block))).collect()
    }
}

const ID: &str = "Export_Id";
const PATH: &str = "Path";
const PSEUDO_PATH: &str = "Pseudo";

impl Block {
    fn of(share: &Share) -> Result<Block, ServerError> {
        let folder = share.folder.to_str().filter(|folder| is_plain(folder));
        let folder = folder.ok_or_else(|| {
            let what = format!("the folder {}", share.folder.display());
            refused(what, "its path is to begin with / and to have neither quotes, backslashes nor control characters")
        })?;
        let clients = share.clients.iter().map(written).collect::<Result<Vec<_>, _>>()?;
        let lines = [
            (ID, share.id.to_string()),
            (PATH, format!("\"{folder}\"")),
            (PSEUDO_PATH, format!("\"{}\"", path(&share.image))),
            ("Filesystem_Id", format!("{FILESYSTEM}.{}", share.id)),
            ("Protocols", "3, 4".to_owned()),
            ("Transports", "TCP".to_owned()),
            ("SecType", "sys".to_owned()),
            // Roots of machines without disks read as root.
            ("Squash", "No_Root_Squash".to_owned()),
            // But for the clients.
            ("Access_Type", "None".to_owned()),
            ("Attr_Expiration_Time", ATTRIBUTES_SECONDS.to_string()),
        ];
        let mut fixed: Vec<String> = lines.map(|(key, value)| format!("    {key} = {value};")).into();
        fixed.push("    FSAL { Name = VFS; fsid_type = Major64; }".to_owned());
        Ok(Block { fixed, clients: (!clients.is_empty()).then(|| clients.join(", ")) })
    }

    fn text(&self) -> String {
        let clients = self.clients.iter().map(|clients| format!("{CLIENTS}{clients}{CLIENTS_END}"));
        let lines = self.fixed.iter().cloned().chain(clients);
        let lines: String = lines.map(|line| line + "\n").collect();
        format!("{OPEN}\n{lines}{CLOSE}\n")
    }

    fn value(&self, key: &str) -> Option<&str> {
        let values = self.fixed.iter().filter_map(|line| line.trim().strip_suffix(';')?.split_once(" = "));
        values.into_iter().find(|(found, _)| *found == key).map(|(_, value)| value.trim_matches('"'))
    }

    fn share(&self) -> Option<Share> {
        let id: NonZeroU16 = self.value(ID)?.parse().ok()?;
        let image = self.value(PSEUDO_PATH)?.strip_prefix(PSEUDO)?.parse().ok()?;
        let nets = self.clients.iter().flat_map(|clients| clients.split(", "));
        let clients = joined(nets.map(read_net).collect::<Option<_>>()?);
        Some(Share { image, folder: self.value(PATH)?.into(), id, clients })
    }
}

/// Where clients find an image.
pub(super) fn path(image: &ImageName) -> String {
    format!("{PSEUDO}{image}")
}

fn is_plain(folder: &str) -> bool {
    folder.starts_with('/') && !folder.chars().any(|c| matches!(c, '"' | '\\') || c.is_control())
}

/// A network as Ganesha reads it: it knows no prefix of 0 bits, and takes `0.0.0.0` for everybody of IPv6, too.
fn written(net: &IpNet) -> Result<String, ServerError> {
    match net.prefix_len() {
        0 => Ok(halved(net).iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ")),
        bits if bits == net.max_prefix_len() => Ok(net.addr().to_string()),
        bits if bits.to_string().len() > PREFIX_DIGITS_MAX => {
            Err(refused(format!("the clients {net}"), "it reads no prefix of 100 to 127 bits; name them one by one"))
        }
        _ => Ok(net.to_string()),
    }
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
        let path = folder.path().join("icbd.conf");
        assert_eq!(Exports::read(&path).unwrap(), None);
        let all = [
            share("win11-lab", 7, &["0.0.0.0/0", "10.1.2.0/24", "10.1.3.9/32", "::/0", "fd00::/64", "fd00::1/128"]),
            share("debian.12", 65535, &[]),
        ];
        for shares in [&all[..], &all[1..], &[]] {
            let exports = Exports::of(shares).unwrap();
            exports.write(&path).unwrap();
            let read = Exports::read(&path).unwrap().unwrap();
            assert_eq!((&read, read.shares(&path).unwrap().as_slice()), (&exports, shares));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), exports.text());
        }
        let text = Exports::of(&all).unwrap().text();
        assert!(text.contains("Clients = 0.0.0.0/1, 128.0.0.0/1, 10.1.2.0/24, 10.1.3.9, ::/1, 8000::/1,"), "{text}");
        assert!(text.contains("Path = \"/srv/a b/win11-lab\";") && text.contains("Access_Type = None;"), "{text}");
    }

    #[test]
    fn what_ganesha_would_not_understand_is_refused() {
        for folder in ["srv", "/srv/\"x", "/srv/x\\", "/srv/\n"] {
            let refused = Exports::of(&[Share { folder: folder.into(), ..share("lab", 7, &[]) }]);
            assert!(matches!(refused, Err(ServerError::Refused { .. })), "{folder}");
        }
        assert!(Exports::of(&[share("lab", 7, &["fd00::/112"])]).is_err());
        assert!(Exports::of(&[share("lab", 7, &[]), share("other", 7, &[])]).is_err());
        assert!(Exports::of(&[share("lab", 7, &[]), share("lab", 8, &[])]).is_err());
    }

    #[test]
    fn only_clients_are_changed_in_place() {
        let exports = |shares: &[Share]| Exports::of(shares).unwrap();
        let there = exports(&[share("a", 1, &["10.1.2.0/24"]), share("b", 2, &[]), share("c", 3, &[])]);
        let moved = Share { folder: "/icbd/b".into(), ..share("b", 2, &[]) };
        let wanted = exports(&[share("a", 1, &["10.9.0.0/16"]), moved]);
        assert_eq!(there.kept_for(&wanted), exports(&[share("a", 1, &["10.1.2.0/24"]), share("c", 3, &[])]));
        assert_eq!(there.kept_for(&there), there);
    }
}
