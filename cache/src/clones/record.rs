//! What a clone is, in a small file beside it.

use std::io;
use std::path::{Path, PathBuf};

use icbd_image::{ClientName, Root, Serial, VersionId};
use serde::{Deserialize, Serialize};

use crate::disk::{Barrier, Disk, Missing, Wait};
use crate::layout;

/// Of a clone that begins as its version, which every icbd knows.
const FORMAT: u32 = 1;
/// Of one that does not, or is being made to.
const FORMAT_PERSONAL: u32 = 2;
const FILE: &str = "clone.json";
const UNFINISHED: &str = "clone.json.new";
/// Longer ones are none of ours.
const BYTES_MAX: usize = 64 << 10;

/// Whose disk it is, and of what: `win11-lab@7` for `pc-17`. The name of the clone is `win11-lab.7.pc-17`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloneName {
    pub version: VersionId,
    pub client: ClientName,
}

/// What is kept of a clone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) serial: Serial,
    pub(super) root: Root,
    /// The path of the disk in its version.
    pub(super) file: String,
    pub(super) size: u64,
    /// The layer that is written to; another one after each reset. It is also the clone's number for the kernel.
    pub(super) session: u64,
    /// The layer that each session begins as, and which nobody writes to any more.
    #[serde(default)]
    pub(super) personal: Option<u64>,
    /// What each session begins as is being made, in this one: nobody is to use it until that is done, or it is reset.
    #[serde(default)]
    pub(super) unfinished: bool,
    /// Never reset.
    pub(super) kept: bool,
    /// It is to become a version, and is what its workstation boots until then.
    #[serde(default)]
    pub(super) edited: bool,
    /// Seconds since 1970.
    pub(super) made: u64,
}

/// What becomes of a clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is reset when its workstation boots.
    Reset,
    /// It is never reset.
    Kept,
    /// Nor this one; and whatever is deployed, its workstation boots it: it is to become a version.
    Edited,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    format: u32,
    #[serde(flatten)]
    record: Record,
}

impl std::fmt::Display for CloneName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.version.image, self.version.number, self.client)
    }
}

impl CloneName {
    /// Where all of it is.
    pub(super) fn folder(&self) -> PathBuf {
        let VersionId { image, number } = &self.version;
        PathBuf::from(format!("{}/{image}/{number}/{}", layout::CLONES, self.client))
    }
}

impl Record {
    pub(super) fn fate(&self) -> Fate {
        match (self.kept, self.edited) {
            (_, true) => Fate::Edited,
            (true, false) => Fate::Kept,
            (false, false) => Fate::Reset,
        }
    }

    pub(super) fn with_fate(self, fate: Fate) -> Record {
        Record { kept: fate != Fate::Reset, edited: fate == Fate::Edited, ..self }
    }

    /// What lies in a folder; `None` if nothing does.
    pub(super) fn read(disk: &dyn Disk, folder: &Path) -> io::Result<Option<Record>> {
        let file = match disk.open(&folder.join(FILE), Missing::Fail) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; BYTES_MAX];
        let read = file.read(0, &mut bytes, Wait::Yes)?;
        let damaged = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let parsed: OnDisk = serde_json::from_slice(&bytes[..read]).map_err(|error| damaged(error.to_string()))?;
        match parsed.format {
            FORMAT | FORMAT_PERSONAL => Ok(Some(parsed.record)),
            format => Err(damaged(format!("it is of a newer icbd (format {format})"))),
        }
    }

    /// Durable when it returns: the old one or this one, after a power cut at any moment.
    pub(super) fn write(&self, disk: &dyn Disk, folder: &Path) -> io::Result<()> {
        // An icbd that does not know the one layer would show the other without it.
        let format = if self.personal.is_some() || self.unfinished { FORMAT_PERSONAL } else { FORMAT };
        let text = serde_json::to_vec(&OnDisk { format, record: self.clone() })?;
        let (unfinished, place) = (folder.join(UNFINISHED), folder.join(FILE));
        let file = disk.open(&unfinished, Missing::Replace)?;
        file.write(0, &[&text])?;
        file.sync()?;
        disk.rename(&unfinished, &place)?;
        disk.sync(Barrier::Names(folder))
    }

    /// What lies in a folder is no clone any more, durably.
    pub(super) fn remove(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
        disk.remove(&folder.join(FILE))?;
        disk.sync(Barrier::Names(folder))
    }

    /// Whether a file of a clone's folder is of this record.
    pub(super) fn owns(&self, name: &str) -> bool {
        let mut layers = [self.session].into_iter().chain(self.personal);
        name == FILE || name.split('.').next().is_some_and(|stem| layers.any(|layer| stem == layer_name(layer)))
    }
}

/// A layer's name in the folder of its clone.
pub(super) fn layer_name(layer: u64) -> String {
    format!("{layer:016x}")
}
