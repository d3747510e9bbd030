//! Who the workstations are: a list that somebody imported, kept across restarts.
//!
//! A workstation has a name, by which its disks are called, and MAC addresses or a UUID, by which it is known when it boots.
//! No name, MAC or UUID is on the list twice. The list is replaced as a whole or not at all. Without one, everybody is whoever
//! it says it is.

mod lab;
mod mac;
mod neighbours;
mod sheet;
mod who;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use icbd_image::{ClientName, ImageRef};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::kept::{Kept, KeptError};
pub use lab::{LabName, LabNameError};
pub use mac::{Mac, MacError};
pub use neighbours::{Neighbours, neighbours};
pub use sheet::{Fault, Faults, Place, Problem, read_sheet, text_of_sheet};
pub use who::{Claims, Spoofed, Stranger, who};

const FORMAT: u32 = 1;
const FILE: &str = "clients.json";

/// A workstation. It has a MAC address or a UUID, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workstation {
    pub name: ClientName,
    /// Of its network cards, in order.
    pub macs: Vec<Mac>,
    /// As its firmware tells it (SMBIOS).
    pub uuid: Option<Uuid>,
    pub lab: Option<LabName>,
    /// What it boots if nobody chooses; with a number, that version instead of the deployed one, as long as somebody may begin
    /// with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boots: Option<ImageRef>,
}

/// The list, in a file of a cache's store.
#[derive(Debug)]
pub struct Workstations {
    kept: Kept,
    list: Mutex<Listed>,
}

/// All workstations in the order of their names; `None` if no list was ever imported. Or why it cannot be read.
pub type Listed = Result<Option<Arc<[Workstation]>>, Arc<KeptError>>;

/// What makes another list of one, in the order of names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub added: Vec<Workstation>,
    /// Those of a name, before and after.
    pub changed: Vec<(Workstation, Workstation)>,
    pub removed: Vec<Workstation>,
    /// How many are as they were.
    pub same: usize,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    format: u32,
    clients: Vec<Workstation>,
}

impl Workstations {
    /// What is kept in a folder.
    pub fn open(folder: &Path) -> Workstations {
        let kept = Kept::new(folder, FILE, FORMAT, "import the list again: `icbd client import`");
        let read = || {
            let Some(OnDisk { mut clients, .. }) = kept.read()? else { return Ok(None) };
            // Somebody may have edited it.
            clients.iter_mut().for_each(|workstation| workstation.macs.sort_unstable());
            clients.sort_by(|one, other| one.name.cmp(&other.name));
            match fault_of(&clients) {
                Some(why) => Err(kept.damaged(why)),
                None => Ok(Some(clients.into())),
            }
        };
        let list = Mutex::new(read().map_err(Arc::new));
        Workstations { kept, list }
    }

    /// As it is now.
    pub fn list(&self) -> Listed {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What another list would change. Of one that is damaged nothing is known.
    pub fn difference(&self, list: &[Workstation]) -> Result<Difference, Arc<KeptError>> {
        match self.list() {
            Ok(before) => Ok(Difference::new(before.as_deref().unwrap_or_default(), list)),
            Err(error) if is_replaceable(&error) => Ok(Difference::new(&[], list)),
            Err(error) => Err(error),
        }
    }

    /// Has this be the list, which has nobody twice and is in the order of names. Nothing is changed that is not kept.
    pub fn replace(&self, list: Vec<Workstation>) -> Result<Difference, Arc<KeptError>> {
        let mut known = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let difference = match &*known {
            Ok(before) => Difference::new(before.as_deref().unwrap_or_default(), &list),
            Err(error) if is_replaceable(error) => Difference::new(&[], &list),
            Err(error) => return Err(error.clone()),
        };
        let on_disk = OnDisk { format: FORMAT, clients: list };
        self.kept.write(&on_disk)?;
        *known = Ok(Some(on_disk.clients.into()));
        Ok(difference)
    }
}

/// Whether a list may be written over what is there: not over what another icbd understands.
fn is_replaceable(error: &KeptError) -> bool {
    matches!(error, KeptError::Damaged { .. })
}

/// What must not be in a list, which is in the order of names.
fn fault_of(list: &[Workstation]) -> Option<String> {
    let mut seen = BTreeSet::new();
    for Workstation { name, macs, uuid, .. } in list {
        let all = macs.iter().map(Mac::to_string).chain(uuid.map(|uuid| uuid.to_string()));
        let twice = std::iter::once(name.to_string()).chain(all).find(|what| !seen.insert(what.clone()));
        if let Some(what) = twice {
            return Some(format!("{what} is there twice"));
        }
        if macs.is_empty() && uuid.is_none() {
            return Some(format!("{name} has neither a MAC address nor a UUID"));
        }
    }
    None
}

impl Difference {
    fn new(before: &[Workstation], after: &[Workstation]) -> Difference {
        let by_name = |list: &'_ [Workstation]| -> BTreeMap<ClientName, Workstation> {
            list.iter().map(|workstation| (workstation.name.clone(), workstation.clone())).collect()
        };
        let (mut before, mut difference) = (by_name(before), Difference::default());
        for (name, is) in by_name(after) {
            match before.remove(&name) {
                None => difference.added.push(is),
                Some(was) if was == is => difference.same += 1,
                Some(was) => difference.changed.push((was, is)),
            }
        }
        difference.removed = before.into_values().collect();
        difference
    }

    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[Workstation]) -> Vec<&str> {
        list.iter().map(|workstation| workstation.name.as_str()).collect()
    }

    #[test]
    fn what_is_imported_is_kept_and_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let workstations = Workstations::open(folder.path());
        assert!(workstations.list().unwrap().is_none());
        let first = read_sheet("name,mac\npc-2,52:54:00:00:00:02\npc-1,52:54:00:00:00:01\n").unwrap();
        assert_eq!(names(&workstations.difference(&first).unwrap().added), ["pc-1", "pc-2"]);
        assert!(workstations.list().unwrap().is_none(), "looking changes nothing");
        workstations.replace(first).unwrap();
        let second = "name,mac,lab\npc-2,52:54:00:00:00:02,\npc-3,52:54:00:00:00:03,\npc-1,52:54:00:00:00:01,R2\n";
        let difference = workstations.replace(read_sheet(second).unwrap()).unwrap();
        assert_eq!(names(&difference.added), ["pc-3"]);
        assert_eq!((difference.changed.len(), difference.removed.len(), difference.same), (1, 0, 1));
        let third = "name,mac\npc-2,52:54:00:00:00:02\n";
        let difference = workstations.replace(read_sheet(third).unwrap()).unwrap();
        assert_eq!(names(&difference.removed), ["pc-1", "pc-3"]);
        let again = Workstations::open(folder.path());
        assert_eq!(names(&again.list().unwrap().unwrap()), ["pc-2"]);
        assert!(again.difference(&read_sheet(third).unwrap()).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_kept_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let workstations = Workstations::open(folder.path());
        std::fs::create_dir(folder.path().join("clients.json.new")).unwrap();
        let list = read_sheet("name,mac\npc-1,52:54:00:00:00:01\n").unwrap();
        assert!(workstations.replace(list).is_err());
        assert!(workstations.list().unwrap().is_none());
    }

    #[test]
    fn what_is_damaged_or_newer_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let open = |text: &str| {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            Workstations::open(folder.path())
        };
        let entry = |name: &str, mac: &str| format!(r#"{{"name":"{name}","macs":[{mac}],"uuid":null,"lab":null}}"#);
        let (one, other) = (entry("pc-1", r#""52:54:00:00:00:01""#), entry("pc-2", r#""52-54-00-00-00-01""#));
        let list = |entries: &[&str]| format!(r#"{{"format":1,"clients":[{}]}}"#, entries.join(","));
        for (text, says) in [
            ("{".to_owned(), "EOF"),
            (list(&[&one, &other]), "52:54:00:00:00:01 is there twice"),
            (list(&[&one, &one]), "pc-1 is there twice"),
            (list(&[&entry("pc-1", "")]), "neither"),
            (list(&[&entry("PC 1", r#""52:54:00:00:00:01""#)]), "no name"),
            (list(&[&one.replace("lab", "room")]), "room"),
        ] {
            let error = open(&text).list().unwrap_err();
            assert!(matches!(*error, KeptError::Damaged { .. }), "{error}");
            let words = error.to_string();
            assert!(words.contains(says) && words.contains("icbd client import"), "{words}");
        }
        // A list takes the place of a damaged one, and not of one that somebody else can read.
        let fresh = || read_sheet("name,mac\npc-1,52:54:00:00:00:01\n").unwrap();
        let damaged = open("{");
        assert_eq!(damaged.replace(fresh()).unwrap().added.len(), 1);
        assert_eq!(names(&damaged.list().unwrap().unwrap()), ["pc-1"]);
        let newer = open(r#"{"format":2,"clients":{}}"#);
        assert!(matches!(*newer.list().unwrap_err(), KeptError::Newer { format: 2, .. }));
        assert!(newer.replace(fresh()).is_err() && newer.difference(&fresh()).is_err());
    }
}
