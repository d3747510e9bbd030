//! Pruning: which versions may go, why the others stay, what it frees; and doing it.
//!
//! A version that is not kept by anything is retired, archived when nobody uses it, and then removed. What is
//! decided is decided again, by the life cycle, when it is done.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use icbd_image::{Force, ImageRecord, Move, NodeUuid, Root, VersionId, VersionNumber, VersionRecord, VersionState};
use icbd_snapshot::{Sealed, Tree};

use crate::repository::guard;
use crate::{MasterError, Repository, trees};

/// What is kept though nobody uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many versions of each image.
    pub last: usize,
    /// Versions that were published less long ago.
    pub younger_than: Duration,
}

/// What becomes of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Stays,
    /// Out of service, its content kept.
    Archived,
    /// Its content goes.
    Removed,
    /// It would go, if it were not used.
    Waits,
}

/// What becomes of one version, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub version: VersionId,
    pub state: VersionState,
    pub fate: Fate,
    pub reason: String,
    /// What it holds on the disk that no other version does.
    pub own_bytes: u64,
}

/// What a pruning does, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruning {
    /// By image and number.
    pub verdicts: Vec<Verdict>,
    /// What is freed when all that goes is gone: more than the sum, where two of them share something.
    pub freed_bytes: u64,
}

impl Repository {
    /// What would become of each version. Nodes that are in `ignored` count as using none.
    pub fn plan_pruning(&self, retention: &Retention, ignored: &[NodeUuid]) -> Result<Pruning, MasterError> {
        let listing = self.listing();
        let mut verdicts = Vec::new();
        for image in &listing.images {
            let needed = self.needed(image)?;
            for record in &image.versions {
                let version = record.statement.statement().version();
                let (fate, reason) = self.judge(image, record, retention, &needed, ignored)?;
                let own_bytes = self.freed_by(std::slice::from_ref(&version))?;
                verdicts.push(Verdict { version, state: record.state, fate, reason, own_bytes });
            }
        }
        let gone = verdicts.iter().filter(|verdict| verdict.fate == Fate::Removed);
        let gone: Vec<VersionId> = gone.map(|verdict| verdict.version.clone()).collect();
        Ok(Pruning { freed_bytes: self.freed_by(&gone)?, verdicts })
    }

    /// Does what [`Repository::plan_pruning`] says. A version that somebody began to use since then waits.
    pub fn prune(&self, retention: &Retention, ignored: &[NodeUuid]) -> Result<Pruning, MasterError> {
        // What is being published may have the root of what goes.
        let _turn = self.publishing.take(&AtomicBool::new(false), || {})?;
        let mut pruning = self.plan_pruning(retention, ignored)?;
        for verdict in &mut pruning.verdicts {
            let done = match verdict.fate {
                Fate::Stays | Fate::Waits => Ok(()),
                Fate::Archived => self.archive(&verdict.version, ignored),
                Fate::Removed => self.remove(&verdict.version, ignored),
            };
            match done {
                Ok(()) => {}
                Err(MasterError::Refused(refusal)) => {
                    (verdict.fate, verdict.reason) = (Fate::Waits, refusal.to_string());
                }
                Err(planned @ MasterError::Planned(_)) => {
                    (verdict.fate, verdict.reason) = (Fate::Waits, planned.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        if pruning.verdicts.iter().any(|verdict| verdict.fate == Fate::Removed) {
            self.free_deleted();
        }
        Ok(pruning)
    }

    /// Waits for the room of what was removed: who is told so may look at once.
    pub(crate) fn free_deleted(&self) {
        if let Err(error) = self.trees.wait_for_deleted() {
            tracing::warn!(%error, "the room of what was removed comes back later");
        }
    }

    /// Takes a version out of service, unless somebody uses it.
    fn archive(&self, version: &VersionId, ignored: &[NodeUuid]) -> Result<(), MasterError> {
        let number = version.number;
        match self.version(version)?.state {
            VersionState::Archived => return Ok(()),
            VersionState::Ready => drop(self.retire(version, Force::No)?),
            VersionState::Retiring | VersionState::Deployed => {}
        }
        let users = self.users(version, ignored)?;
        self.advance(&version.image, &Move::Archive { number, users }).map(drop)
    }

    fn remove(&self, version: &VersionId, ignored: &[NodeUuid]) -> Result<(), MasterError> {
        self.archive(version, ignored)?;
        let root = self.version(version)?.root();
        // Whoever begins to read it from here on is told that it is gone.
        let users = self.users(version, ignored)?;
        self.advance(&version.image, &Move::Remove { number: version.number, users })?;
        self.serving.forget_all(&root);
        self.packed.forget(&root);
        self.execute();
        self.forget_manifest(&root)
    }

    fn forget_manifest(&self, root: &Root) -> Result<(), MasterError> {
        let _catalogue = guard(&self.catalogue);
        if self.snapshot().has_root(root) {
            return Ok(());
        }
        for path in [self.layout.head(root), self.layout.pages(root), self.layout.profile(root)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(MasterError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Versions that something else needs, and what.
    fn needed(&self, image: &ImageRecord) -> Result<Vec<(VersionNumber, &'static str)>, MasterError> {
        let life = self.lifecycle(&image.name)?;
        let mut needed = Vec::new();
        needed.extend(life.deployed().map(|number| (number, "deployed")));
        needed.extend(life.fallback().map(|number| (number, "the fallback")));
        needed.extend(life.editing().and_then(|editing| editing.of).map(|number| (number, "being edited")));
        let plans = self.plans()?;
        let plans = plans.iter().filter(|plan| plan.version.image == image.name);
        needed.extend(plans.map(|plan| (plan.version.number, "to be deployed")));
        Ok(needed)
    }

    fn judge(
        &self,
        image: &ImageRecord,
        record: &VersionRecord,
        retention: &Retention,
        needed: &[(VersionNumber, &'static str)],
        ignored: &[NodeUuid],
    ) -> Result<(Fate, String), MasterError> {
        let version = record.statement.statement().version();
        if let Some((_, what)) = needed.iter().find(|(number, _)| *number == version.number) {
            return Ok((Fate::Stays, (*what).to_owned()));
        }
        let newer = image.versions.iter().filter(|other| other.number() > version.number).count();
        let age_seconds = self.now().seconds - record.statement.statement().time.seconds;
        let kept = if newer < retention.last {
            Some(format!("one of the newest {}", retention.last))
        } else if age_seconds < retention.younger_than.as_secs() as i64 {
            Some(format!("younger than {} days", retention.younger_than.as_secs().div_ceil(86_400)))
        } else {
            None
        };
        let users = || self.users(&version, ignored);
        let used = |users: Vec<String>| (Fate::Waits, format!("used by {}", users.join(", ")));
        Ok(match (record.state, kept) {
            (VersionState::Deployed, _) => (Fate::Stays, "deployed".to_owned()),
            (VersionState::Ready, Some(kept)) => (Fate::Stays, kept),
            (VersionState::Archived, Some(kept)) => (Fate::Stays, format!("archived, and {kept}")),
            (state, kept) => match (users()?, kept) {
                (users, _) if !users.is_empty() => used(users),
                (_, Some(kept)) => (Fate::Archived, format!("retired, and nobody uses it; its content stays: {kept}")),
                (_, None) if state == VersionState::Ready => (Fate::Removed, "old, and nobody uses it".to_owned()),
                (_, None) => (Fate::Removed, "retired, old, and nobody uses it".to_owned()),
            },
        })
    }

    /// What deleting versions would free, by what their trees alone hold.
    fn freed_by(&self, versions: &[VersionId]) -> Result<u64, MasterError> {
        let (mut sealed, mut bytes): (Vec<Sealed>, u64) = (Vec::new(), 0);
        for version in versions {
            match self.trees.sealed(&trees::version(version)) {
                Ok(tree) => sealed.push(tree),
                Err(_) => bytes += allocated(&self.layout.version(version), &mut BTreeSet::new()),
            }
        }
        let all: Vec<&dyn Tree> = sealed.iter().map(|tree| tree as &dyn Tree).collect();
        Ok(bytes + self.trees.usage(&all)?.exclusive_bytes)
    }
}

/// What the files below a directory that is no tree take on the disk; what they share with others counts, too.
fn allocated(path: &Path, seen: &mut BTreeSet<u64>) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let each = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => allocated(&entry.path(), seen),
        Ok(metadata) if metadata.is_file() && seen.insert(metadata.ino()) => metadata.blocks() * 512,
        _ => 0,
    });
    each.sum()
}
