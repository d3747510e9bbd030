//! What a workstation would get at its next boot, and why, in plain sentences.

use icbd_export::Protocol;
use icbd_image::{ClientName, ImageName, Timestamp, VersionId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ClientReport, UnmetReport};
use crate::exports::SessionReport;
use crate::output::{bytes, time};

/// What a workstation would get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExplainReport {
    pub client: ClientReport,
    /// Whether a list of workstations was ever imported.
    pub imported: bool,
    /// Why no boot script is served at all.
    pub trouble: Option<String>,
    /// That it cannot boot what the list of workstations says.
    #[serde(default)]
    pub unmet: Option<UnmetReport>,
    /// One for each image that is exported.
    pub images: Vec<BootReport>,
}

/// What a workstation would get of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BootReport {
    pub image: ImageName,
    pub protocol: Protocol,
    /// From where it has to ask.
    pub networks: Vec<IpNet>,
    /// The deployed one, or the one that it edits.
    pub version: Option<VersionId>,
    /// Whether it boots that because it is to make the next version of it.
    #[serde(default)]
    pub edited: bool,
    /// Whether it boots that because the list of workstations says so.
    #[serde(default)]
    pub tried: bool,
    /// Where the disk is, or will be once the workstation boots.
    pub url: Option<String>,
    /// Of a folder: whether who boots the image has it as its root.
    #[serde(default)]
    pub root: bool,
    /// Of an export with clones; absent where it would get none.
    pub clone: Option<CloneOutlook>,
    /// Whether its clone begins as something else than the version.
    #[serde(default)]
    pub personal: Option<PersonalOutlook>,
    /// Clones of other versions of the image.
    pub older: Vec<OlderReport>,
    /// Why it would get nothing.
    pub refused: Option<String>,
}

/// What clone.hook has to do with a clone when its workstation boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PersonalOutlook {
    /// It made the clone this workstation's own.
    Made,
    /// It does so first.
    ToMake,
}

/// A clone of a version that is not the one it would boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OlderReport {
    pub version: VersionId,
    pub written_bytes: u64,
    pub kept: bool,
    pub in_use: bool,
}

/// What becomes of a clone when its workstation boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outlook")]
pub(crate) enum CloneOutlook {
    /// There is none.
    Made,
    /// Nothing is written in it.
    Untouched,
    /// It is never reset.
    Kept { written_bytes: u64, since: Timestamp },
    /// It is as the version is afterwards.
    Reset { written_bytes: u64, since: Timestamp },
    /// Somebody uses it, or nobody knows.
    NotNow { written_bytes: u64, since: Timestamp, sessions: Vec<SessionReport>, why: String },
}

impl ExplainReport {
    pub(crate) fn words(&self) -> String {
        let mut lines = vec![format!("{}, at its next boot:", self.client.title())];
        if !self.imported {
            let name = &self.client.name;
            lines.push(format!("! no list of workstations is imported: whoever calls itself {name} is believed"));
        }
        lines.extend(self.trouble.iter().map(|trouble| format!("! {trouble}")));
        lines.extend(self.unmet.iter().map(|unmet| format!("! {unmet}")));
        if self.images.is_empty() {
            lines.push("nothing is exported; `icbd export add IMAGE --iscsi --clients 10.1.2.0/24` does".to_owned());
        }
        lines.extend(self.images.iter().flat_map(|image| image.lines(&self.client.name)));
        lines.join("\n")
    }
}

impl BootReport {
    fn lines(&self, client: &ClientName) -> Vec<String> {
        let BootReport { image, protocol, version, url, .. } = self;
        let mut lines = Vec::new();
        match (&self.refused, version) {
            (Some(why), _) => lines.push(format!("{image}: nothing, because {why}")),
            (None, None) => lines.push(format!("{image}: nothing, because no version of it is deployed")),
            (None, Some(version)) => {
                let url = url.as_ref().map_or_else(String::new, |url| format!(" from {url}"));
                let why = match (self.edited, self.tried) {
                    (true, _) => "which it edits",
                    (false, true) => "which the list of workstations has it boot",
                    (false, false) => "the deployed version",
                };
                lines.push(format!("{image}: {version}, {why}, by {protocol}{url}"));
                lines.push(match (&self.clone, protocol) {
                    (Some(clone), _) => format!("  {}", clone.words(version, client)),
                    (None, Protocol::Iscsi) => "  read-only, the same disk for all".to_owned(),
                    (None, Protocol::Nfs) if self.root => {
                        "  read-only, the root of its kernel, the same for all".to_owned()
                    }
                    (None, _) => format!("  read-only, for whoever asks for that; /boot/{image} does not lead there"),
                });
            }
        }
        lines.extend(self.personal.map(|personal| match personal {
            PersonalOutlook::Made => format!("  it begins as clone.hook made it for {client}"),
            PersonalOutlook::ToMake => format!("  clone.hook makes it {client}'s own first"),
        }));
        let boots = version.as_ref().filter(|_| self.refused.is_none() && !self.edited);
        let older = self.older.iter().map(|older| format!("  {}", older.words(boots)));
        lines.extend(older);
        let networks: Vec<String> = self.networks.iter().map(IpNet::to_string).collect();
        if self.refused.is_none() && version.is_some() {
            lines.push(format!("  if it asks from {}", networks.join(" or ")));
        }
        lines
    }
}

impl CloneOutlook {
    fn words(&self, version: &VersionId, client: &ClientName) -> String {
        match self {
            CloneOutlook::Made => format!("a disk of its own is made then: it has no clone of {version} yet"),
            CloneOutlook::Untouched => {
                format!("its clone as it is: nothing was written to it since it was made, so it is what {version} is")
            }
            CloneOutlook::Kept { written_bytes, since } => format!(
                "its clone as it is, with {} written since {}: it is kept, until `icbd clone keep {client} {version} --no`",
                bytes(*written_bytes),
                time(*since)
            ),
            CloneOutlook::Reset { written_bytes, since } => format!(
                "its clone is reset: nobody uses it, and it is not kept; {} written since {} go",
                bytes(*written_bytes),
                time(*since)
            ),
            CloneOutlook::NotNow { written_bytes, since, why, .. } => format!(
                "its clone cannot be reset now: {why}; as long as that is so, a boot gets it with {} written since {}",
                bytes(*written_bytes),
                time(*since)
            ),
        }
    }
}

impl OlderReport {
    /// `boots`: what the workstation would boot.
    fn words(&self, boots: Option<&VersionId>) -> String {
        let OlderReport { version, written_bytes, .. } = self;
        let what = format!("its clone of {version}, with {} written,", bytes(*written_bytes));
        match (self.kept, boots) {
            (true, _) => format!("{what} stays: it is kept"),
            (false, None) => format!("{what} stays as long as nothing else is booted"),
            (false, Some(_)) if self.in_use => format!("{what} stays until nobody uses it any more, and goes then"),
            (false, Some(boots)) => format!("{what} goes once it has booted {boots}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(clone: Option<CloneOutlook>) -> BootReport {
        BootReport {
            image: "lab".parse().unwrap(),
            protocol: Protocol::Iscsi,
            networks: vec!["10.1.2.0/24".parse().unwrap()],
            version: "lab@2".parse().ok(),
            edited: false,
            tried: false,
            url: Some("iscsi://10.1.2.1:3260/x/1".to_owned()),
            root: false,
            clone,
            personal: None,
            older: Vec::new(),
            refused: None,
        }
    }

    #[test]
    fn each_outlook_is_a_sentence() {
        let (written_bytes, since) = (1 << 20, Timestamp { seconds: 0, nanoseconds: 0 });
        let why = "10.1.2.17 is logged in".to_owned();
        for (clone, says) in [
            (None, "read-only, the same disk for all"),
            (Some(CloneOutlook::Made), "a disk of its own is made then: it has no clone of lab@2 yet"),
            (Some(CloneOutlook::Untouched), "its clone as it is: nothing was written"),
            (Some(CloneOutlook::Kept { written_bytes, since }), "it is kept, until `icbd clone keep pc-1 lab@2 --no`"),
            (
                Some(CloneOutlook::Reset { written_bytes, since }),
                "its clone is reset: nobody uses it, and it is not kept; 1.0 MiB",
            ),
            (
                Some(CloneOutlook::NotNow { written_bytes, since, sessions: Vec::new(), why }),
                "cannot be reset now: 10.1.2.17 is logged in; as long as that is so, a boot gets it with 1.0 MiB written",
            ),
        ] {
            let lines = boot(clone).lines(&"pc-1".parse().unwrap());
            assert_eq!(lines[0], "lab: lab@2, the deployed version, by iscsi from iscsi://10.1.2.1:3260/x/1");
            assert!(lines[1].contains(says), "{lines:?}");
            assert_eq!(lines[2], "  if it asks from 10.1.2.0/24");
        }
    }

    #[test]
    fn what_is_got_by_nobody_says_why() {
        let none = BootReport { version: None, url: None, ..boot(None) };
        assert_eq!(none.lines(&"pc-1".parse().unwrap()), ["lab: nothing, because no version of it is deployed"]);
        let refused = BootReport { refused: Some("tgtd does not answer".to_owned()), ..boot(None) };
        assert_eq!(refused.lines(&"pc-1".parse().unwrap()), ["lab: nothing, because tgtd does not answer"]);
    }

    #[test]
    fn older_clones_stay_or_go() {
        let older = |kept, in_use| OlderReport { version: "lab@1".parse().unwrap(), written_bytes: 0, kept, in_use };
        let deployed: VersionId = "lab@2".parse().unwrap();
        assert!(older(true, true).words(Some(&deployed)).ends_with("stays: it is kept"));
        assert!(older(false, true).words(Some(&deployed)).ends_with("goes then"));
        assert!(older(false, false).words(Some(&deployed)).ends_with("goes once it has booted lab@2"));
        assert!(older(false, false).words(None).ends_with("stays as long as nothing else is booted"));
    }
}
