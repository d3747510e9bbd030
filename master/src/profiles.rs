//! The boot profiles of a repository's versions, kept beside their manifests.
//!
//! A profile is advice that caches learned: one that is damaged is said once and replaced by the next that is
//! merged; without any, everything else works as before.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Mutex;

use icbd_image::{Head, Profile, Root};

use crate::layout::sync_directory;
use crate::repository::guard;
use crate::{MasterError, Repository};

/// What is shared by those who change profiles.
#[derive(Debug, Default)]
pub(crate) struct Learning {
    /// One who changes a profile at a time.
    turn: Mutex<()>,
    /// Of versions in the catalogue whose profile is damaged: so much was said.
    damaged: Mutex<BTreeSet<Root>>,
}

impl Repository {
    /// What is known of boots of the version with this root, perhaps nothing. Blocks.
    pub fn profile(&self, root: Root) -> Result<Profile, MasterError> {
        if !self.snapshot().has_root(&root) {
            return Err(MasterError::UnknownRoot(root));
        }
        self.kept_profile(root)
    }

    /// Takes over what somebody learned of boots of a version; whether that was anything new. Blocks.
    pub fn merge_profile(&self, learned: &Profile) -> Result<bool, MasterError> {
        if !self.snapshot().has_root(&learned.root()) {
            return Err(MasterError::UnknownRoot(learned.root()));
        }
        self.keep_profile(learned)
    }

    /// Lets a version that is about to exist begin with what is known of the one before.
    pub(crate) fn carry_profile(&self, parent: Option<Root>, head: &Head) {
        // Of a version that was received, the one before need not be here.
        let is_here = |parent: &Root| self.snapshot().version_of(parent).is_some();
        let Some(parent) = parent.filter(|parent| *parent != head.root() && is_here(parent)) else { return };
        let carry = || {
            let profile = self.profile(parent)?;
            if !profile.is_empty() {
                self.keep_profile(&profile.carry(&self.head(parent)?, head))?;
            }
            Ok::<_, MasterError>(())
        };
        if let Err(error) = carry() {
            tracing::warn!(%error, "what boots of the version before read could not be carried over");
        }
    }

    fn kept_profile(&self, root: Root) -> Result<Profile, MasterError> {
        let path = self.layout.profile(&root);
        let read = std::fs::File::open(&path).and_then(|file| {
            let mut bytes = Vec::new();
            // One byte more than there may be, so that a longer one is noticed.
            file.take(Profile::BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map(|_| bytes)
        });
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Profile::new(root)),
            Err(error) => return Err(MasterError::io("read", path)(error)),
        };
        Ok(Profile::decode_expecting(&bytes, root).unwrap_or_else(|error| {
            // Every cache asks for it from time to time.
            if guard(&self.learning.damaged).insert(root) {
                tracing::warn!(path = %path.display(), %error, "a boot profile is ignored");
            }
            Profile::new(root)
        }))
    }

    fn keep_profile(&self, learned: &Profile) -> Result<bool, MasterError> {
        let _turn = guard(&self.learning.turn);
        let root = learned.root();
        let mut profile = self.kept_profile(root)?;
        let is_new = profile.merge(learned);
        if is_new {
            let path = self.layout.profile(&root);
            replace(&path, &profile.encode()).map_err(MasterError::io("write", &path))?;
            sync_directory(&self.layout.profiles())?;
            guard(&self.learning.damaged).remove(&root);
        }
        Ok(is_new)
    }
}

/// All or nothing, whatever happens meanwhile.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(new, path)
}
