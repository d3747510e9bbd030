//! Images and versions as the commands list them, from a master's listing or a cache's view of it.

use icbd_image::{
    ImageName, ImageRecord, ImageRef, KeyId, Root, Serial, Timestamp, VersionId, VersionNumber, VersionRecord,
    VersionState,
};
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::moves::PlanReport;
use crate::near;

/// So many versions are named where one is not there.
const VERSIONS_SHOWN: usize = 8;

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageSummary {
    pub name: ImageName,
    pub deployed: Option<VersionNumber>,
    /// Where a rollback leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<VersionNumber>,
    /// What is to be deployed, and when; only a master knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanReport>,
    pub changed: Timestamp,
    pub versions: Vec<VersionSummary>,
}

/// A version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VersionSummary {
    pub version: VersionId,
    pub state: VersionState,
    pub data_bytes: u64,
    pub published: Timestamp,
    pub root: Root,
    pub parent: Option<Root>,
    pub serial: Serial,
    /// Fingerprints of the keys that signed it, by the signature's own word.
    pub signers: Vec<String>,
    pub note: String,
    /// What of it is not as it was published, on a master that noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Why a cache does not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
}

impl From<&ImageRecord> for ImageSummary {
    fn from(image: &ImageRecord) -> ImageSummary {
        ImageSummary {
            name: image.name.clone(),
            deployed: image.deployed,
            fallback: image.fallback,
            plan: None,
            changed: image.changed,
            versions: image.versions.iter().map(VersionSummary::from).collect(),
        }
    }
}

impl ImageSummary {
    /// Where one of its versions stands, in words.
    pub(crate) fn state(&self, version: &VersionSummary) -> String {
        let number = version.version.number;
        let is_fallback = version.state == VersionState::Ready && self.fallback == Some(number);
        let state = if is_fallback { "fallback".to_owned() } else { version.state.to_string() };
        let state = if version.damage.is_some() { format!("{state}, damaged") } else { state };
        let state = if version.withheld.is_some() { format!("{state}, withheld") } else { state };
        match self.plan.as_ref().filter(|plan| plan.version.number == number) {
            Some(plan @ PlanReport { failed: None, .. }) => format!("{state}, deployed {}", plan.when()),
            Some(plan) => format!("{state}, was not deployed {}", plan.when()),
            None => state,
        }
    }
}

impl From<&VersionRecord> for VersionSummary {
    fn from(record: &VersionRecord) -> VersionSummary {
        let statement = record.statement.statement();
        VersionSummary {
            version: statement.version(),
            state: record.state,
            data_bytes: record.data_bytes,
            published: statement.time,
            root: statement.root,
            parent: statement.parent,
            serial: statement.serial,
            signers: record.statement.signers().map(|key: KeyId| key.to_string()).collect(),
            note: record.note.clone(),
            damage: None,
            withheld: None,
        }
    }
}

/// The image with this name; near names are shown where there is none.
pub(crate) fn find_image<'a>(images: &'a [ImageSummary], name: &ImageName) -> Result<&'a ImageSummary, Failure> {
    images.iter().find(|image| image.name == *name).ok_or_else(|| {
        let hint = near::hint(name.as_str(), images.iter().map(|image| image.name.as_str()));
        let list = if hint.is_empty() { "; `icbd image list` shows those there are" } else { "" };
        Failure::new(Exit::Absent, format!("there is no image {name}{hint}{list}"))
    })
}

/// The version that is meant: the deployed one where no number is given.
pub(crate) fn find_version<'a>(images: &'a [ImageSummary], wanted: &ImageRef) -> Result<&'a VersionSummary, Failure> {
    let image = find_image(images, &wanted.image)?;
    let Some(number) = wanted.number.or(image.deployed) else {
        let name = &image.name;
        let message = format!(
            "no version of {name} is deployed; name one, such as {name}@1, or deploy one with \
            `icbd image deploy`"
        );
        return Err(Failure::new(Exit::Absent, message));
    };
    image.versions.iter().find(|version| version.version.number == number).ok_or_else(|| {
        let newest = image.versions.iter().rev().take(VERSIONS_SHOWN);
        let have: Vec<String> = newest.map(|version| version.version.to_string()).collect();
        let older = match image.versions.len().saturating_sub(VERSIONS_SHOWN) {
            0 => String::new(),
            older => format!(" and {older} older; `icbd image list {}` shows them all", image.name),
        };
        let hint = if have.is_empty() { String::new() } else { format!("; there is {}{older}", have.join(", ")) };
        Failure::new(Exit::Absent, format!("there is no version {wanted}{hint}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u32) -> VersionSummary {
        VersionSummary {
            version: VersionId { image: "debian-lab".parse().unwrap(), number: VersionNumber::new(number).unwrap() },
            state: VersionState::Ready,
            data_bytes: 0,
            published: Timestamp::default(),
            root: Root::of(b""),
            parent: None,
            serial: Serial::new(1).unwrap(),
            signers: Vec::new(),
            note: String::new(),
            damage: None,
            withheld: None,
        }
    }

    fn images() -> Vec<ImageSummary> {
        vec![ImageSummary {
            name: "debian-lab".parse().unwrap(),
            deployed: VersionNumber::new(1),
            fallback: None,
            plan: None,
            changed: Timestamp::default(),
            versions: vec![version(1), version(2)],
        }]
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_is() {
        let mut images = images();
        let check = |wanted: &str, says: &str| {
            let failure = find_version(&images, &wanted.parse().unwrap()).unwrap_err();
            assert_eq!((failure.exit, failure.message.as_str()), (Exit::Absent, says));
        };
        check("debain-lab", "there is no image debain-lab; did you mean \"debian-lab\"?");
        check("win", "there is no image win; `icbd image list` shows those there are");
        check("debian-lab@7", "there is no version debian-lab@7; there is debian-lab@2, debian-lab@1");
        let many = (1..=10).map(version).collect();
        images[0].versions = many;
        let failure = find_version(&images, &"debian-lab@11".parse().unwrap()).unwrap_err();
        assert!(failure.message.contains("debian-lab@10, "), "{}", failure.message);
        assert!(failure.message.ends_with("debian-lab@3 and 2 older; `icbd image list debian-lab` shows them all"));
        let number = |wanted: &str| find_version(&images, &wanted.parse().unwrap()).unwrap().version.number.get();
        assert_eq!((number("debian-lab"), number("debian-lab@2")), (1, 2));
    }
}
