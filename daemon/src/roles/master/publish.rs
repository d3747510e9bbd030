//! Publishing, for the daemon and for the command that has a repository to itself.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use icbd_image::{ImageName, Root, SecretKey, Serial, VersionId};
use icbd_master::{Phase, PublishRequest, Published, Repository};
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::output::Progress;

/// What to publish, as it travels to the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PublishSpec {
    pub image: ImageName,
    /// Absolute.
    #[serde(with = "sent_path")]
    pub path: PathBuf,
    /// Whether disk images of other formats are converted to raw ones.
    #[serde(default)]
    pub raw: bool,
    pub note: String,
    pub deploy: bool,
    /// The file of the key to sign with, absolute; the daemon's own key if there is none.
    pub sign: Option<PathBuf>,
}

/// What was published.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PublishResult {
    pub version: VersionId,
    pub root: Root,
    pub serial: Serial,
    pub deployed: bool,
    pub files: u64,
    pub data_bytes: u64,
    /// Bytes that were read to hash them; all others are those of the version before.
    #[serde(default)]
    pub hashed_bytes: u64,
    /// Whether it is the same as the version before.
    #[serde(default)]
    pub unchanged: bool,
    /// What of the tree is not in the version, each with its reason.
    pub skipped: Vec<String>,
    pub skipped_count: u64,
}

/// A path in JSON: a text, or its bytes where it is none.
mod sent_path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Sent {
        Text(PathBuf),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => text.serialize(serializer),
            None => path.as_os_str().as_bytes().serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(match Sent::deserialize(deserializer)? {
            Sent::Text(path) => path,
            Sent::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }
}

/// What is left out is named so many times; the rest is counted.
const SKIPPED_SHOWN_MAX: usize = 20;

/// Publishes. Blocks; `cancel` ends it soon, with nothing left behind.
pub(crate) fn publish(
    repository: &Repository,
    spec: PublishSpec,
    progress: &(dyn Fn(Progress) + Sync),
    cancel: &AtomicBool,
) -> anyhow::Result<PublishResult> {
    if !spec.path.is_absolute() {
        let message = format!("{} is not an absolute path", spec.path.display());
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let sign = spec.sign.as_deref().map(read_secret_key).transpose()?.map(Arc::new);
    let PublishSpec { image, path, raw, note, deploy, .. } = spec;
    let request = PublishRequest { image, path, raw, note, deploy, sign };
    let published = repository.publish(&request, &|now| progress(self::progress(now)), cancel);
    Ok(PublishResult::new(published.map_err(Failure::from)?, deploy))
}

/// How far a publish is, in words.
pub(super) fn progress(now: icbd_master::Progress) -> Progress {
    let what = match (now.phase, now.walked) {
        (Phase::Waiting, _) => "waiting for another publish",
        (Phase::Storing, _) => "storing",
        (Phase::Syncing, _) => "syncing",
    };
    let total_bytes = if now.walked { now.found_bytes } else { 0 };
    Progress { what: what.to_owned(), done_bytes: now.done_bytes, total_bytes }
}

impl PublishResult {
    pub(super) fn new(published: Published, deployed: bool) -> PublishResult {
        PublishResult {
            version: published.version,
            root: published.record.root(),
            serial: published.record.serial(),
            deployed,
            files: published.files,
            data_bytes: published.record.data_bytes,
            hashed_bytes: published.hashed_bytes,
            unchanged: published.record.statement.statement().parent == Some(published.record.root()),
            skipped: published.skipped.iter().take(SKIPPED_SHOWN_MAX).map(ToString::to_string).collect(),
            skipped_count: published.skipped_count,
        }
    }
}

pub(crate) fn read_secret_key(path: &Path) -> anyhow::Result<SecretKey> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => format!("; `icbd key create {shown}` makes one"),
            _ => String::new(),
        };
        Failure::new(Exit::Absent, format!("cannot read the key {shown}: {error}{remedy}"))
    })?;
    let key = text.parse().with_context(|| format!("{shown} is not a key to sign with"))?;
    if std::fs::metadata(path).is_ok_and(|found| found.mode() & 0o007 != 0) {
        let message = format!(
            "everybody on this machine can read the secret key {shown}: nothing is signed with it; run `chmod 600 {shown}`"
        );
        return Err(Failure::new(Exit::Refused, message).into());
    }
    Ok(key)
}
