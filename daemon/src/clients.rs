//! Workstations as they travel between command and cache server.

mod boots;
mod explain;

use std::fmt;
use std::net::IpAddr;

use icbd_export::{Claims, Difference, LabName, Mac, Protocol, Workstation};
use icbd_image::{ClientName, ImageRef, Timestamp, VersionId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::output::{bytes, counted, plain, table, time};
pub(crate) use boots::{BootEntry, BootsSpec, Stage, StageEntry, words as boots_words};
pub(crate) use explain::{BootReport, CloneOutlook, ExplainReport, OlderReport, PersonalOutlook};

/// A list of ten thousand workstations is smaller.
pub(crate) const SHEET_BYTES_MAX: usize = 1 << 20;

/// A list of workstations that is to be the list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImportSpec {
    /// The text of the CSV file.
    pub sheet: String,
    /// What it is called, for the audit log.
    pub file: String,
    /// Only say what it would change.
    pub dry_run: bool,
    #[serde(default)]
    pub why: String,
}

/// What a list changed, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImportReport {
    pub dry_run: bool,
    /// There was no list before.
    pub first: bool,
    pub difference: Difference,
    /// Clones of workstations that are not on the list.
    pub left: Vec<LeftReport>,
    /// What the list has workstations boot, and nobody can now.
    #[serde(default)]
    pub unmet: Vec<UnmetReport>,
}

/// That a workstation cannot boot what the list says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnmetReport {
    pub client: ClientName,
    pub boots: ImageRef,
    pub why: String,
}

/// A clone of a workstation that is not on the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftReport {
    pub client: ClientName,
    pub version: VersionId,
}

/// All workstations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientsReport {
    /// Whether a list was ever imported.
    pub imported: bool,
    /// Those on the list, then those that have clones without being on it.
    pub clients: Vec<ClientReport>,
}

/// Which workstation is meant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ClientSpec {
    pub client: Claims,
}

/// Who is to be woken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WakeSpec {
    pub clients: Vec<Claims>,
}

/// A workstation, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientReport {
    pub name: ClientName,
    /// Whether it is on the list.
    pub listed: bool,
    pub macs: Vec<Mac>,
    pub uuid: Option<Uuid>,
    pub lab: Option<LabName>,
    /// What it boots if nobody chooses, if the list says so.
    #[serde(default)]
    pub boots: Option<ImageRef>,
    /// What it uses now.
    pub runs: Vec<RunReport>,
    pub clones: Vec<ClientClone>,
}

/// A version that a workstation uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunReport {
    pub version: VersionId,
    pub protocol: Protocol,
    pub addresses: Vec<IpAddr>,
    /// Whether it is a disk of its own.
    pub clone: bool,
}

/// A clone of a workstation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientClone {
    pub version: VersionId,
    pub written_bytes: u64,
    pub kept: bool,
    /// When it was made or reset.
    pub since: Timestamp,
}

/// The command, as it is written in the audit log.
impl fmt::Display for ImportSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client import {}", self.file)
    }
}

/// `3 added, 1 changed, 0 removed`.
pub(crate) fn counts(difference: &Difference) -> String {
    let Difference { added, changed, removed, .. } = difference;
    format!("{} added, {} changed, {} removed", added.len(), changed.len(), removed.len())
}

impl ImportReport {
    pub(crate) fn words(&self) -> String {
        /// More are a list that nobody reads.
        const SHOWN_MAX: usize = 50;
        let Difference { added, changed, removed, same } = &self.difference;
        let as_before = if *same == 0 { String::new() } else { format!(", {same} as before") };
        let would = if self.dry_run { "would be: " } else { "" };
        let head = format!("{would}{}{as_before}", counts(&self.difference));
        let each = added
            .iter()
            .map(|workstation| format!("+ {}", line(workstation)))
            .chain(changed.iter().map(|(was, is)| format!("~ {} (was {})", line(is), line(was))))
            .chain(removed.iter().map(|workstation| format!("- {}", line(workstation))));
        let mut lines: Vec<String> = std::iter::once(head).chain(each.take(SHOWN_MAX)).collect();
        if let more @ 1.. = (added.len() + changed.len() + removed.len()).saturating_sub(SHOWN_MAX) {
            lines.push(format!("  and {more} more; --json has all"));
        }
        lines.extend(self.left.iter().map(|LeftReport { client, version }| {
            format!(
                "! {client} is not on the list and has a clone of {version}, which stays until it is removed: \
                 `icbd clone remove {client} {version}`"
            )
        }));
        lines.extend(self.unmet.iter().map(|unmet| format!("! {unmet}")));
        match (self.dry_run, self.first) {
            (true, _) => lines.push("nothing was changed".to_owned()),
            (false, true) => {
                lines.push("from now on only workstations on the list get clones when they boot".to_owned());
            }
            (false, false) => {}
        }
        lines.join("\n")
    }
}

impl fmt::Display for UnmetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnmetReport { client, boots, why } = self;
        write!(
            f,
            "{client} is to boot {boots} by the list of workstations: {why}; as long as that is so, it boots what others do"
        )
    }
}

/// A workstation in one line.
fn line(workstation: &Workstation) -> String {
    let Workstation { name, macs, uuid, lab, boots } = workstation;
    let known = identities(macs, uuid.as_ref());
    let lab = lab.as_ref().map(|lab| format!("lab {lab}"));
    let boots = boots.as_ref().map(|boots| format!("boots {boots}"));
    std::iter::once(name.to_string()).chain(known).chain(lab).chain(boots).collect::<Vec<_>>().join(" ")
}

fn identities(macs: &[Mac], uuid: Option<&Uuid>) -> Vec<String> {
    macs.iter().map(Mac::to_string).chain(uuid.map(Uuid::to_string)).collect()
}

fn or_none(words: Vec<String>) -> String {
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

impl ClientsReport {
    pub(crate) fn words(&self) -> String {
        let row = |client: &ClientReport| {
            let lab = client.lab.as_ref().map_or_else(|| "-".to_owned(), |lab| lab.to_string());
            let known = or_none(identities(&client.macs, client.uuid.as_ref().filter(|_| client.macs.is_empty())));
            let clones = client.clones.iter().map(ClientClone::words).collect();
            let runs = client.runs.iter().map(RunReport::words).collect();
            vec![client.name.to_string(), known, lab, or_none(runs), or_none(clones)]
        };
        let list = table(&["CLIENT", "MAC", "LAB", "RUNS", "CLONES"], self.clients.iter().map(row));
        let mut lines: Vec<String> = if self.clients.is_empty() { Vec::new() } else { vec![list] };
        if self.imported {
            let strangers = self.clients.iter().filter(|client| !client.listed);
            lines.extend(strangers.map(|client| {
                format!("! {} is not on the list: its clones stay, and it gets none when it boots", client.name)
            }));
        } else {
            let what = "no list of workstations is imported, so whoever boots is believed its name; `icbd client import FILE.csv` \
                        imports one";
            lines.push(what.to_owned());
        }
        lines.join("\n")
    }
}

impl ClientReport {
    /// `pc-17 (52:54:00:00:00:01, lab R2)`.
    fn title(&self) -> String {
        let lab = self.lab.as_ref().map(|lab| format!("lab {lab}"));
        let known: Vec<String> = identities(&self.macs, self.uuid.as_ref()).into_iter().chain(lab).collect();
        if known.is_empty() { self.name.to_string() } else { format!("{} ({})", self.name, known.join(", ")) }
    }

    pub(crate) fn words(&self) -> String {
        let mut lines = vec![
            ("client", self.name.to_string()),
            ("mac", or_none(self.macs.iter().map(Mac::to_string).collect())),
            ("uuid", or_none(self.uuid.iter().map(Uuid::to_string).collect())),
            ("lab", or_none(self.lab.iter().map(LabName::to_string).collect())),
            ("boots", or_none(self.boots.iter().map(ImageRef::to_string).collect())),
            ("runs", or_none(self.runs.iter().map(RunReport::words).collect())),
        ];
        if self.clones.is_empty() {
            lines.push(("clone", "-".to_owned()));
        }
        lines.extend(self.clones.iter().map(|clone| ("clone", clone.all_words())));
        if !self.listed {
            lines.push(("list", "it is not on the list of workstations".to_owned()));
        }
        let lines: Vec<String> = lines.iter().map(|(key, value)| format!("{key:<6} {}", plain(value))).collect();
        lines.join("\n")
    }
}

impl RunReport {
    fn words(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        let what = if self.clone { "" } else { ", read-only" };
        format!("{}{what} from {}", self.version, addresses.join(", "))
    }
}

impl ClientClone {
    fn words(&self) -> String {
        let kept = if self.kept { ", kept" } else { "" };
        format!("{} {}{kept}", self.version, bytes(self.written_bytes))
    }

    fn all_words(&self) -> String {
        let fate = if self.kept { "kept" } else { "reset at boot" };
        format!("{}, {} written since {}, {fate}", self.version, bytes(self.written_bytes), time(self.since))
    }
}

/// What a failed import says of a file that is wrong.
pub(crate) fn faults_of(file: &str, lines: &[String], more: usize) -> String {
    let mut text = format!("{file} is not imported, and nothing was changed:\n{}", lines.join("\n"));
    if more > 0 {
        text += &format!("\nand {} more", counted(more, "fault"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use icbd_export::read_sheet;

    fn list(text: &str) -> Vec<Workstation> {
        read_sheet(&format!("name,mac,lab\n{text}")).unwrap()
    }

    fn report(difference: Difference) -> ImportReport {
        ImportReport { dry_run: false, first: false, difference, left: Vec::new(), unmet: Vec::new() }
    }

    #[test]
    fn an_import_says_what_it_changed() {
        let of = |text: &str| list(text);
        let (one, two) = (of("pc-1,52:54:00:00:00:01,\n"), of("pc-2,52:54:00:00:00:02,R2\n"));
        let was = of("pc-2,52:54:00:00:00:09,R2\n");
        let changed = vec![(was[0].clone(), two[0].clone())];
        let difference = Difference { added: one.clone(), changed, removed: of("pc-3,52:54:00:00:00:03,\n"), same: 85 };
        let left = vec![LeftReport { client: "pc-3".parse().unwrap(), version: "lab@1".parse().unwrap() }];
        let words = ImportReport { left, ..report(difference.clone()) }.words();
        assert_eq!(
            words,
            "1 added, 1 changed, 1 removed, 85 as before\n\
             + pc-1 52:54:00:00:00:01\n\
             ~ pc-2 52:54:00:00:00:02 lab R2 (was pc-2 52:54:00:00:00:09 lab R2)\n\
             - pc-3 52:54:00:00:00:03\n\
             ! pc-3 is not on the list and has a clone of lab@1, which stays until it is removed: \
             `icbd clone remove pc-3 lab@1`"
        );
        let dry = ImportReport { dry_run: true, first: true, ..report(difference.clone()) }.words();
        assert!(dry.starts_with("would be: 1 added") && dry.ends_with("nothing was changed"), "{dry}");
        let first = ImportReport { first: true, ..report(difference) }.words();
        assert!(first.ends_with("only workstations on the list get clones when they boot"), "{first}");
    }

    #[test]
    fn a_long_list_is_cut() {
        let all: String = (1..=60).map(|number| format!("pc-{number},52:54:00:00:00:{number:02x},\n")).collect();
        let words = report(Difference { added: list(&all), ..Difference::default() }).words();
        assert!(words.lines().count() == 52 && words.ends_with("and 10 more; --json has all"), "{words}");
    }

    #[test]
    fn a_list_says_who_runs_what() {
        let client = |name: &str| ClientReport {
            name: name.parse().unwrap(),
            listed: true,
            macs: vec!["52:54:00:00:00:01".parse().unwrap()],
            uuid: Some(Uuid::from_u128(7)),
            lab: "R2".parse().ok(),
            boots: "lab@4".parse().ok(),
            runs: Vec::new(),
            clones: Vec::new(),
        };
        let version: VersionId = "lab@1".parse().unwrap();
        let since = Timestamp { seconds: 0, nanoseconds: 0 };
        let runs = vec![RunReport {
            version: version.clone(),
            protocol: Protocol::Iscsi,
            addresses: vec!["10.1.2.17".parse().unwrap()],
            clone: true,
        }];
        let clones = vec![ClientClone { version, written_bytes: 12 << 20, kept: true, since }];
        let running = ClientReport { runs, clones: clones.clone(), ..client("pc-1") };
        let stranger =
            ClientReport { listed: false, macs: Vec::new(), uuid: None, lab: None, clones, ..client("pc-9") };
        let report = ClientsReport { imported: true, clients: vec![running.clone(), client("pc-2"), stranger] };
        let words = report.words();
        let lines: Vec<Vec<&str>> = words.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..6], ["pc-1", "52:54:00:00:00:01", "R2", "lab@1", "from", "10.1.2.17"]);
        assert_eq!(lines[1][6..], ["lab@1", "12.0", "MiB,", "kept"]);
        assert_eq!(lines[2], ["pc-2", "52:54:00:00:00:01", "R2", "-", "-"]);
        assert!(
            words.ends_with("! pc-9 is not on the list: its clones stay, and it gets none when it boots"),
            "{words}"
        );
        let none = ClientsReport { imported: false, clients: Vec::new() }.words();
        assert!(none.starts_with("no list of workstations is imported"), "{none}");
        let all = running.words();
        assert!(all.contains("uuid   00000000-0000-0000-0000-000000000007"), "{all}");
        assert!(all.contains("clone  lab@1, 12.0 MiB written since 1970-01-01 00:00:00Z, kept"), "{all}");
    }
}
