//! Extended attributes: the published ones, and `user.icbd.*`, which tell what the cache holds.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use icbd_image::{FileIndex, Kind};

use super::{Inside, Place};
use crate::errno::Refusal;

const PREFIX: &[u8] = b"user.icbd.";
/// "held/all", in bytes; zero blocks count as held.
const RESIDENT: &str = "user.icbd.resident";
const ROOT: &str = "user.icbd.root";
const VERSION: &str = "user.icbd.version";
/// "1" when every block is held and durable, else "0".
const COMPLETE: &str = "user.icbd.complete";

/// How much of a file or version this cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) resident_bytes: u64,
    pub(crate) total_bytes: u64,
    pub(crate) complete: bool,
}

impl<'a> Place<'a> {
    /// The value of `name`; `fill` is asked how much of this node is held.
    pub(crate) fn xattr(&self, name: &OsStr, fill: impl FnOnce() -> Option<Fill>) -> Result<Vec<u8>, Refusal> {
        let Place::Inside(it) = self else { return Err(Refusal::NoAttribute) };
        let name = name.as_bytes();
        if !name.starts_with(PREFIX) {
            let found = it.node.xattrs().find(|xattr| xattr.name == name);
            return found.map(|xattr| xattr.value.to_vec()).ok_or(Refusal::NoAttribute);
        }
        let own = it.own_names().iter().find(|own| own.as_bytes() == name).ok_or(Refusal::NoAttribute)?;
        let value = match *own {
            ROOT => it.version.root().to_string(),
            VERSION => format!("{}@{}", it.image.name, it.version.number()),
            RESIDENT => {
                let fill = fill().ok_or(Refusal::NoAttribute)?;
                format!("{}/{}", fill.resident_bytes, fill.total_bytes)
            }
            _ => u8::from(fill().ok_or(Refusal::NoAttribute)?.complete).to_string(),
        };
        Ok(value.into_bytes())
    }

    /// Whether `name` is one for which [`Place::xattr`] asks how much is held.
    pub(crate) fn tells_fill(&self, name: &OsStr) -> bool {
        [RESIDENT, COMPLETE].iter().any(|own| name == *own)
    }

    /// The names of all extended attributes, each ended by a zero byte.
    pub(crate) fn xattr_names(&self) -> Vec<u8> {
        let Place::Inside(it) = self else { return Vec::new() };
        let published = it.node.xattrs().map(|xattr| xattr.name).filter(|name| !name.starts_with(PREFIX));
        let own = it.own_names().iter().map(|name| name.as_bytes());
        let mut names = Vec::new();
        for name in published.chain(own) {
            names.extend_from_slice(name);
            names.push(0);
        }
        names
    }
}

impl Inside<'_> {
    /// Ours on this node. Linux allows `user.*` on files and directories only.
    fn own_names(&self) -> &'static [&'static str] {
        match self.node.kind() {
            Kind::File => &[RESIDENT, COMPLETE, ROOT, VERSION],
            Kind::Directory if self.node.index() == FileIndex::ROOT => &[RESIDENT, COMPLETE, ROOT, VERSION],
            Kind::Directory => &[ROOT, VERSION],
            Kind::Symlink | Kind::CharDevice | Kind::BlockDevice => &[],
        }
    }
}
