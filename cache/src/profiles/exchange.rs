//! What sources know of boots, asked for from time to time; and what this cache knows that they do not.
//!
//! Nobody is sent anything: a cache offers its news with each poll of the listing, and the master asks for it.
//! That it has come is seen by asking the master for its own profile again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use icbd_fetch::ProfileAnswer;
use icbd_image::{Hash, Profile, Root};
use tokio::sync::Notify;

use super::Profiles;
use crate::CacheError;
use crate::core::Core;

/// What other sites learned of a version in use is heard of after this.
const INTERVAL_MAX: Duration = Duration::from_secs(10 * 60);
/// After something was learned here: by then the master, which hears of it with the next poll, has asked. Doubles
/// from then on, for it may never ask.
const INTERVAL_MIN: Duration = Duration::from_secs(30);
/// Kept profiles that are compared with the source's after a start.
const COMPARED_MAX: usize = 256;

/// What is known of what sources know.
#[derive(Debug, Default)]
pub(super) struct Exchanged {
    state: Mutex<State>,
    /// Something was learned here.
    learned: Notify,
}

/// Of versions that this cache shows or showed: bounded as those are.
#[derive(Debug, Default)]
struct State {
    /// Of each root that was asked for the hash of the last answer, if there was one.
    asked: HashMap<Root, Option<Hash>>,
    /// Roots of which a source lacks something.
    news: BTreeSet<Root>,
}

impl Profiles {
    /// Roots of which the source lacks something that is known here.
    pub(crate) fn news(&self) -> Vec<Root> {
        self.exchanged.lock().news.iter().copied().collect()
    }

    /// Has sources asked soon whether they know of it. To be called when it can be found here already.
    pub(super) fn learned(&self, root: Root) {
        self.exchanged.lock().news.insert(root);
        self.exchanged.learned.notify_one();
    }

    fn was_asked(&self, root: Root) -> bool {
        self.exchanged.lock().asked.contains_key(&root)
    }

    /// Takes over what a source answered. Blocks.
    fn heard(&self, root: Root, answer: &ProfileAnswer) -> Result<(), CacheError> {
        let (hash, theirs) = match answer {
            // What is news to it stays so.
            ProfileAnswer::Unchanged => return Ok(()),
            ProfileAnswer::Unknown => (None, Profile::new(root)),
            ProfileAnswer::Bytes(bytes) => {
                let theirs = Profile::decode_expecting(bytes, root).unwrap_or_else(|error| {
                    tracing::warn!(%root, %error, "the boot profile of a source is ignored");
                    Profile::new(root)
                });
                (Some(Hash::of(bytes)), theirs)
            }
        };
        self.merge(&theirs)?;
        let mut state = self.exchanged.lock();
        state.asked.insert(root, hash);
        state.news.remove(&root);
        drop(state);
        // Looked at after the removal: what is learned meanwhile is seen here, or becomes news again by itself.
        if theirs.clone().merge(&self.get(root)) {
            self.exchanged.lock().news.insert(root);
        }
        Ok(())
    }

    /// The roots of the profiles that were changed last.
    fn kept(&self) -> Vec<Root> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut kept: Vec<_> = entries
            .filter_map(|entry| {
                let name = entry.file_name();
                let root = name.to_str()?.strip_suffix(".profile")?.parse::<Root>().ok()?;
                Some((entry.metadata().ok()?.modified().ok()?, root))
            })
            .collect();
        kept.sort_unstable_by(|a, b| b.cmp(a));
        kept.into_iter().map(|(_, root)| root).take(COMPARED_MAX).collect()
    }
}

impl Core {
    /// Asks the sources, in one round, what they know of boots of a version, and takes it over.
    async fn exchange(self: &Arc<Core>, root: Root) -> Result<(), CacheError> {
        let known = self.profiles.exchanged.lock().asked.get(&root).copied().flatten();
        let answer = self.sources.profile(root, known).await?;
        let core = self.clone();
        self.blocking(move || core.profiles.heard(root, &answer)).await?
    }

    /// The same for a root that no source was asked about yet. That none answers is no harm.
    pub(super) async fn exchange_once(self: &Arc<Core>, root: Root) {
        if !self.profiles.was_asked(root)
            && let Err(error) = self.exchange(root).await
        {
            tracing::debug!(%root, %error, "no source says what boots read");
        }
    }

    /// Keeps the profiles of versions in use as the sources know them, and theirs as this cache does.
    pub(crate) async fn keep_exchanging(self: Arc<Core>) {
        let core = self.clone();
        let kept = self.blocking(move || core.profiles.kept()).await.unwrap_or_default();
        let mut due: BTreeSet<Root> = kept.into_iter().collect();
        let mut pause = INTERVAL_MIN;
        loop {
            while let Some(root) = due.pop_first() {
                if let Err(error) = self.exchange(root).await {
                    tracing::debug!(%root, %error, "no source says what boots read");
                    // Of one that is down all else need not be asked now.
                    if !error.is_permanent() {
                        due.insert(root);
                        break;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {
                    due.extend(self.versions.all().iter().map(|version| version.root()));
                    pause = (pause * 2).min(INTERVAL_MAX);
                }
                () = self.profiles.exchanged.learned.notified() => pause = INTERVAL_MIN,
            }
            due.extend(self.profiles.news());
        }
    }
}

impl Exchanged {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }
}
