//! What the control socket of a cache server answers about boots: what is known, to be shown, carried off and brought.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use icbd_image::{BLOCK_BYTES, FileIndex, ImageRef, Profile, VersionId};

use super::state::CacheServer;
use crate::control::Peer;
use crate::failure::{Exit, Failure};
use crate::profiles::{Bytes, FileReport, ImportBody, ImportResult, ProfileReport};

impl CacheServer {
    /// What is known of boots of a version.
    pub(super) async fn profile_report(&self, wanted: &ImageRef) -> Result<ProfileReport> {
        let summary = self.find_version(wanted)?;
        let profile = self.cache.profile(summary.serial).await.map_err(Failure::from)?;
        if profile.is_empty() {
            return Err(never_booted(&summary.version).into());
        }
        let version = self.cache.version(summary.serial).await.map_err(Failure::from)?;
        let runs = self.cache.boot_set(summary.serial).await.map_err(Failure::from)?;
        let mut files: BTreeMap<FileIndex, (u64, u64)> = BTreeMap::new();
        for run in &runs {
            let (count, blocks) = files.entry(run.file).or_default();
            (*count, *blocks) = (*count + 1, *blocks + u64::from(run.count));
        }
        let size = |file: FileIndex| version.head().node(file).map_or(0, |node| node.size());
        let files = files.into_iter().map(|(file, (runs, blocks))| FileReport {
            path: version.path(file).display().to_string(),
            runs,
            bytes: (blocks * BLOCK_BYTES).min(size(file)),
        });
        Ok(ProfileReport::new(summary.version, &profile, files.collect()))
    }

    /// What is known of boots of a version, as bytes.
    pub(super) async fn export_profile(&self, wanted: &ImageRef) -> Result<Bytes> {
        let summary = self.find_version(wanted)?;
        let profile = self.cache.profile(summary.serial).await.map_err(Failure::from)?;
        match profile.is_empty() {
            true => Err(never_booted(&summary.version).into()),
            false => Ok(Bytes(profile.encode())),
        }
    }

    /// Takes over what somebody brings; it is noted who.
    pub(super) async fn import_profile(&self, peer: &Peer, body: ImportBody) -> Result<ImportResult> {
        let named = body.version.as_ref().map(ToString::to_string).unwrap_or_default();
        let imported = self.import(body).await;
        let what = imported.as_ref().map_or(named, |imported| imported.version.to_string());
        self.audit.record(peer, &format!("profile import {what}"), &imported);
        imported
    }

    async fn import(&self, body: ImportBody) -> Result<ImportResult> {
        let profile = Profile::decode(&body.profile.0);
        let profile = profile.map_err(|error| Failure::new(Exit::Verification, error.to_string()))?;
        let view = self.cache.view();
        let of = view.with_root(profile.root());
        let version = match &body.version {
            Some(version) => self.find_version(version)?,
            None => {
                let of = of.ok_or_else(|| unknown(&profile))?.statement.statement().version();
                self.find_version(&ImageRef { image: of.image, number: Some(of.number) })?
            }
        };
        let (profile, learned_on) = if version.root == profile.root() {
            (profile, None)
        } else {
            let of = of.ok_or_else(|| unknown(&profile))?;
            let from = self.cache.version(of.serial()).await.map_err(Failure::from)?;
            let to = self.cache.version(version.serial).await.map_err(Failure::from)?;
            let carry = move || profile.carry(from.head(), to.head());
            let carried = tokio::task::spawn_blocking(carry).await.context("carrying a profile over panicked")?;
            (carried, Some(of.statement.statement().version()))
        };
        if let (Some(of), true) = (&learned_on, profile.is_empty()) {
            let message = format!("nothing that boots of {of} read is in {}; nothing was taken over", version.version);
            return Err(Failure::new(Exit::Refused, message).into());
        }
        let boots = profile.observations().count();
        let is_new = self.cache.import_profile(profile).await.map_err(Failure::from)?;
        let of = ImageRef { image: version.version.image.clone(), number: Some(version.version.number) };
        let boot_set_bytes = self.profile_report(&of).await.ok().map(|report| report.bytes);
        Ok(ImportResult { version: version.version, learned_on, boot_set_bytes, boots, is_new })
    }
}

fn never_booted(version: &VersionId) -> Failure {
    let message = format!(
        "nobody has booted {version} or an older version of it, as far as this cache and its master know; a boot is \
        noted when it is over, after about a minute without new reads"
    );
    Failure::new(Exit::Absent, message)
}

fn unknown(profile: &Profile) -> Failure {
    let message = format!(
        "the boot profile is of a version with root {}, which this cache does not know; `icbd image show IMAGE@N` \
        shows roots",
        profile.root()
    );
    Failure::new(Exit::Refused, message)
}
