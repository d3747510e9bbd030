//! Rolling back on a cache server alone, as it travels and is shown.

use icbd_image::{ImageName, VersionNumber};
use serde::{Deserialize, Serialize};

/// Which version an image's bare name shall mean on this cache server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LocalSpec {
    pub image: ImageName,
    /// Without it, the one that was deployed before.
    pub to: Option<VersionNumber>,
    /// What the master deploys, again.
    pub clear: bool,
    #[serde(default)]
    pub why: String,
}

/// What it means now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LocalResult {
    pub image: ImageName,
    pub deployed_before: Option<VersionNumber>,
    pub deployed: Option<VersionNumber>,
    /// Programs on this cache server and its clients that go on with the version before until they open it anew.
    pub open_handles: u64,
    /// Of the version that it means now: whether all of it is here.
    pub complete: bool,
}

/// The command, as it is written in the audit log.
impl std::fmt::Display for LocalSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "image rollback {} --local", self.image)?;
        match (self.clear, self.to) {
            (true, _) => write!(f, " --clear"),
            (false, Some(number)) => write!(f, " --to {number}"),
            (false, None) => Ok(()),
        }
    }
}

impl LocalResult {
    /// `lab@8 → lab@7 here`.
    pub(crate) fn words(&self) -> String {
        let image = &self.image;
        let name = |number: Option<VersionNumber>| number.map_or("-".to_owned(), |number| format!("{image}@{number}"));
        let users = match self.open_handles {
            0 => String::new(),
            count => format!("; {count} open files change at their next boot"),
        };
        format!("{} → {} here{users}", name(self.deployed_before), name(self.deployed))
    }
}
