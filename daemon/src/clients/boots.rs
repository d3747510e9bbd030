//! Boots of workstations, by how far they came and when.

use std::net::IpAddr;

use icbd_export::{Claims, Mac};
use icbd_image::{ClientName, Timestamp, VersionId};
use serde::{Deserialize, Serialize};

use crate::output::{bytes, plain, table, time};

/// Whose boots are shown.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct BootsSpec {
    /// Everybody's, if nobody is named.
    pub client: Option<Claims>,
}

/// How far a boot has come, in the order in which that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// It has an address, or was told what to load.
    Address,
    /// It has loaded iPXE.
    Loader,
    /// It was shown what there is.
    Menu,
    /// It was told where what it boots is.
    Script,
    /// It is logged in to its disk.
    Disk,
    /// The kernel of the boot package has a network.
    Kernel,
    /// The root is mounted.
    Root,
    /// The machine says that it is up.
    Up,
    Failed,
}

/// A boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BootEntry {
    pub began: Timestamp,
    pub address: IpAddr,
    pub mac: Option<Mac>,
    pub client: Option<ClientName>,
    pub version: Option<VersionId>,
    pub stages: Vec<StageEntry>,
    /// What came from sources meanwhile, for this boot and all others.
    pub from_source_bytes: u64,
    /// Nothing more is expected of it.
    pub ended: bool,
    /// What it said last by syslog, unless it is up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StageEntry {
    pub stage: Stage,
    /// Since it began.
    pub after_ms: u64,
}

impl Stage {
    fn word(self) -> &'static str {
        match self {
            Stage::Address => "address",
            Stage::Loader => "loader",
            Stage::Menu => "menu",
            Stage::Script => "script",
            Stage::Disk => "disk",
            Stage::Kernel => "kernel",
            Stage::Root => "root",
            Stage::Up => "up",
            Stage::Failed => "failed",
        }
    }
}

impl BootEntry {
    pub(crate) fn last(&self) -> Option<StageEntry> {
        self.stages.iter().copied().max_by_key(|entry| entry.after_ms)
    }

    /// When each stage was reached: `script 1.2 s, root 4.0 s`.
    fn way(&self) -> String {
        let stage = |entry: &StageEntry| format!("{} {:.1} s", entry.stage.word(), entry.after_ms as f64 / 1000.0);
        self.stages.iter().map(stage).collect::<Vec<_>>().join(", ")
    }

    /// How it is called by who looks for it.
    fn who(&self) -> String {
        let named = self.client.as_ref().map(ClientName::to_string);
        named.or_else(|| self.mac.map(|mac| mac.to_string())).unwrap_or_else(|| self.address.to_string())
    }

    fn state(&self) -> &'static str {
        match (self.last().map(|last| last.stage), self.ended) {
            (Some(Stage::Up), _) => "up",
            (Some(Stage::Failed), _) => "FAILED",
            (Some(Stage::Disk | Stage::Root), true) => "booted",
            (_, true) => "NOT FINISHED",
            (_, false) => "booting",
        }
    }
}

/// The newest first; `in_full`: with what they said.
pub(crate) fn words(boots: &[BootEntry], in_full: bool) -> String {
    if boots.is_empty() {
        return "no boot was seen yet".to_owned();
    }
    let rows = boots.iter().map(|boot| {
        let version = boot.version.as_ref().map_or_else(|| "-".to_owned(), VersionId::to_string);
        let state = boot.state().to_owned();
        vec![time(boot.began), boot.who(), version, state, bytes(boot.from_source_bytes), boot.way()]
    });
    let table = table(&["BEGAN", "CLIENT", "IMAGE@N", "STATE", "FROM SOURCES", "STAGES"], rows.collect::<Vec<_>>());
    let spoke = boots.iter().filter(|boot| in_full && !boot.said.is_empty());
    let lines = spoke.flat_map(|boot| {
        let head = format!("{} of {} said last:", boot.who(), time(boot.began));
        [head].into_iter().chain(boot.said.iter().map(|line| format!("  {}", plain(line))))
    });
    [table].into_iter().chain(lines).collect::<Vec<_>>().join("\n")
}
