//! Versions that are made on a workstation, as they travel between command and daemons.

use std::fmt;
use std::path::PathBuf;

use icbd_image::{ClientName, ImageName, Timestamp, VersionId};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::output::{bytes, time};
use crate::replicas::{self, Via};
use crate::roles::master::PublishResult;

/// Whose clone is to become a version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EditCloneSpec {
    pub image: ImageName,
    pub client: ClientName,
    #[serde(default)]
    pub why: String,
}

/// A clone that is to become a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EditCloneReport {
    pub version: VersionId,
    pub client: ClientName,
    /// Whether it was made for this.
    pub is_new: bool,
    /// What is written to it already.
    pub written_bytes: u64,
    pub since: Timestamp,
    pub in_use: bool,
    /// The version that others boot.
    pub deployed: Option<VersionId>,
    /// Where the master finds it.
    pub url: String,
}

/// What a workstation wrote is to become a version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImproveSpec {
    pub image: ImageName,
    pub client: ClientName,
    /// The cache server that has its clone.
    pub from: String,
    /// Through where that is reached.
    pub via: Option<Via>,
    /// The socket at this end of that way, which the command holds open.
    pub socket: Option<PathBuf>,
    /// Whether there may be a newer version than the one that was written over.
    pub force: bool,
    pub note: String,
    /// The file of the key to sign with, absolute; the daemon's own key if there is none.
    pub sign: Option<PathBuf>,
}

/// What was saved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImproveResult {
    #[serde(flatten)]
    pub saved: PublishResult,
    /// The version that was written over.
    pub of: VersionId,
    pub client: ClientName,
    /// What was written, as the disk counts it.
    pub written_bytes: u64,
    /// As it travelled.
    pub received_bytes: u64,
    /// How the disk was left, as far as that is to be worried about.
    pub warnings: Vec<String>,
}

/// The command, as it is written in the audit log.
impl fmt::Display for EditCloneSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image edit {} --client {}", self.image, self.client)
    }
}

/// The same.
impl fmt::Display for ImproveSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image save {} --client {} --from {}", self.image, self.client, self.from)?;
        if self.force {
            f.write_str(" --force")?;
        }
        self.via.as_ref().map_or(Ok(()), |via| write!(f, " --via {via}"))
    }
}

impl ImproveSpec {
    /// The cache server's host and port.
    pub(crate) fn target(&self) -> Result<String, Failure> {
        replicas::authority(&self.from)
    }
}

impl EditCloneReport {
    pub(crate) fn words(&self) -> String {
        let EditCloneReport { version, client, url, .. } = self;
        let image = &version.image;
        let mut lines = vec![match self.is_new {
            true => format!("{client} has a clone of {version} now, which is kept until it is saved or removed"),
            false => format!("{client}'s clone of {version} is kept until it is saved or removed"),
        }];
        lines.extend(self.notes().into_iter().map(|note| format!("! {note}")));
        lines.push(format!("1. boot {client} from {image}, change what is to be changed, and shut it down"));
        lines.push("2. on the master:".to_owned());
        lines.push(format!("   icbd image save {image} --client {client} --from {url} -m \"what was changed\""));
        lines.push(format!("3. here, when it is saved or is not to be: icbd clone remove {client} {version}"));
        lines.join("\n")
    }

    fn notes(&self) -> Vec<String> {
        let EditCloneReport { version, client, .. } = self;
        let mut notes = Vec::new();
        if self.written_bytes > 0 {
            notes.push(format!(
                "it has {} in it that were written since {}, and they will be in the new version; `icbd clone remove {client} \
                 {version}` and this command again begin without",
                bytes(self.written_bytes),
                time(self.since)
            ));
        }
        if self.in_use {
            notes.push(format!("{client} is logged in to it now"));
        }
        match &self.deployed {
            Some(deployed) if deployed != version => notes.push(format!(
                "{deployed} is deployed, and {client} boots {version} nevertheless; what is newer than {version} would not be in the new \
                 version"
            )),
            _ => {}
        }
        notes
    }
}

impl ImproveResult {
    /// What is to be known beside the name of the version.
    pub(crate) fn notes(&self) -> Vec<String> {
        let ImproveResult { of, client, written_bytes, received_bytes, .. } = self;
        let image = &of.image;
        let mut notes = vec![format!(
            "{} that {client} wrote over {of}, {} over the line; it is ready: `icbd image deploy {}` has it booted",
            bytes(*written_bytes),
            bytes(*received_bytes),
            self.saved.version
        )];
        notes.extend(self.warnings.iter().map(|warning| format!("! {warning}")));
        notes.push(format!(
            "{client} boots what it wrote until its clone goes: `icbd clone remove {client} {of}` on the cache server of {image}"
        ));
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_done_next_is_said() {
        let report = EditCloneReport {
            version: "lab@1".parse().unwrap(),
            client: "pc-1".parse().unwrap(),
            is_new: false,
            written_bytes: 12 << 20,
            since: Timestamp { seconds: 0, nanoseconds: 0 },
            in_use: true,
            deployed: "lab@2".parse().ok(),
            url: "http://cache1:7071".to_owned(),
        };
        let words = report.words();
        for says in [
            "! it has 12.0 MiB in it",
            "! pc-1 is logged in to it now",
            "! lab@2 is deployed, and pc-1 boots lab@1 nevertheless",
            "icbd image save lab --client pc-1 --from http://cache1:7071 -m",
            "icbd clone remove pc-1 lab@1",
        ] {
            assert!(words.contains(says), "{words}");
        }
        let fresh = EditCloneReport { is_new: true, written_bytes: 0, in_use: false, deployed: None, ..report };
        assert!(!fresh.words().contains('!') && fresh.words().starts_with("pc-1 has a clone of lab@1 now"));
    }
}
