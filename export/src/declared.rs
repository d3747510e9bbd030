//! What an administrator wants offered, kept across restarts.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use icbd_image::ImageName;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::kept::{Kept, KeptError};

/// 2 since declarations say whether clients get disks of their own, 3 since there are protocols besides iSCSI; what was
/// written before is read, too.
const FORMAT: u32 = 3;
const FILE: &str = "exports.json";

/// How a version reaches workstations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Nfs,
    Iscsi,
    Http,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Nfs => "nfs",
            Protocol::Iscsi => "iscsi",
            Protocol::Http => "http",
        })
    }
}

/// An image offered by a protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    pub image: ImageName,
    pub protocol: Protocol,
    /// Who may use it; in order.
    pub clients: Vec<IpNet>,
    /// Which file is the disk, where a version has several.
    pub disk: Option<String>,
    /// Whether each client gets a writable disk of its own.
    #[serde(default)]
    pub clone: bool,
}

impl Declaration {
    /// Whether whoever has that address may use it.
    pub fn is_for(&self, address: IpAddr) -> bool {
        self.clients.iter().any(|net| net.prefix_len() == 0 || net.contains(&address))
    }
}

/// All of them, in a file of a cache's store.
#[derive(Debug)]
pub struct Declared {
    kept: Kept,
    all: Mutex<Vec<Declaration>>,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    format: u32,
    exports: Vec<Declaration>,
}

impl Declared {
    /// What is kept in a folder; nothing, if there is no such file yet.
    pub fn open(folder: &Path) -> Result<Declared, KeptError> {
        let kept = Kept::new(folder, FILE, FORMAT, "move it away and add the exports again");
        let mut exports = kept.read::<OnDisk>()?.map(|on_disk| on_disk.exports).unwrap_or_default();
        // Somebody may have edited it.
        exports.iter_mut().for_each(|declaration| declaration.clients.sort_unstable());
        Ok(Declared { kept, all: Mutex::new(exports) })
    }

    pub fn all(&self) -> Vec<Declaration> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Declares something, in the place of what was declared of the same image and protocol; whether that is something new.
    pub fn add(&self, declaration: Declaration) -> Result<bool, KeptError> {
        self.change(|all| {
            let is_same =
                |other: &Declaration| (&other.image, other.protocol) == (&declaration.image, declaration.protocol);
            if all.contains(&declaration) {
                return false;
            }
            all.retain(|other| !is_same(other));
            all.push(declaration);
            all.sort_by(|a, b| (&a.image, a.protocol).cmp(&(&b.image, b.protocol)));
            true
        })
    }

    /// Declares it no more; whether it was.
    pub fn remove(&self, image: &ImageName, protocol: Protocol) -> Result<bool, KeptError> {
        self.change(|all| {
            let before = all.len();
            all.retain(|other| (&other.image, other.protocol) != (image, protocol));
            all.len() < before
        })
    }

    /// Nothing is changed here that is not kept.
    fn change(&self, change: impl FnOnce(&mut Vec<Declaration>) -> bool) -> Result<bool, KeptError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = all.clone();
        if !change(&mut changed) {
            return Ok(false);
        }
        self.kept.write(&OnDisk { format: FORMAT, exports: changed.clone() })?;
        *all = changed;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declaration(image: &str, client: &str) -> Declaration {
        let clients = vec![client.parse().unwrap()];
        Declaration { image: image.parse().unwrap(), protocol: Protocol::Iscsi, clients, disk: None, clone: false }
    }

    #[test]
    fn what_is_declared_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Declared::open(folder.path()).unwrap();
        let declared = open();
        assert!(declared.all().is_empty());
        let debian = declaration("debian-lab", "10.1.2.0/24");
        assert!(declared.add(debian.clone()).unwrap());
        assert!(!declared.add(debian.clone()).unwrap(), "nothing new");
        let (wider, win11) = (declaration("debian-lab", "10.1.0.0/16"), declaration("win11-lab", "10.1.2.0/24"));
        assert!(declared.add(win11.clone()).unwrap() && declared.add(wider.clone()).unwrap());
        assert_eq!(open().all(), [wider, win11.clone()]);
        assert!(declared.remove(&debian.image, Protocol::Iscsi).unwrap());
        assert!(!declared.remove(&debian.image, Protocol::Iscsi).unwrap());
        assert_eq!(open().all(), [win11]);
    }

    #[test]
    fn what_cannot_be_kept_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let declared = Declared::open(folder.path()).unwrap();
        std::fs::create_dir(folder.path().join("exports.json.new")).unwrap();
        assert!(declared.add(declaration("debian-lab", "10.1.2.0/24")).is_err());
        assert!(declared.all().is_empty());
    }

    #[test]
    fn what_is_damaged_or_newer_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let open = |text: &str| {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            Declared::open(folder.path())
        };
        assert!(matches!(open("{"), Err(KeptError::Damaged { .. })));
        assert!(matches!(open(r#"{"format":1,"exports":[{"image":"A B"}]}"#), Err(KeptError::Damaged { .. })));
        assert!(matches!(open(r#"{"format":4,"exports":{}}"#), Err(KeptError::Newer { format: 4, .. })));
        let old =
            r#"{"format":1,"exports":[{"image":"lab","protocol":"iscsi","clients":["10.1.2.0/24"],"disk":null}]}"#;
        assert_eq!(open(old).unwrap().all(), [declaration("lab", "10.1.2.0/24")]);
    }
}
