//! What a version's boots will read, from its own and from those of the version before it.

use std::sync::Arc;

use icbd_image::{BootRun, Origin, Profile, Serial, VersionId};

use crate::CacheError;
use crate::core::Core;
use crate::view::Object;

impl Core {
    /// All that is known of boots of a version. What the nearest older version of the image knows is carried over
    /// once, when the version itself knows little and has nothing carried over yet.
    pub(crate) async fn profile(self: &Arc<Core>, serial: Serial) -> Result<Arc<Profile>, CacheError> {
        let version = self.version_once(serial).await?;
        let (core, root) = (self.clone(), version.root());
        self.exchange_once(root).await;
        let known = self.blocking(move || core.profiles.get(root)).await?;
        let carried = known.observations().any(|seen| seen.origin() == Origin::Carried);
        if carried || known.own_count() >= Profile::OWN_MIN {
            return Ok(known);
        }
        let Some((older, profile)) = self.older_with_profile(serial, version.id()).await? else { return Ok(known) };
        let older = self.version_once(older).await?;
        let core = self.clone();
        self.blocking(move || {
            core.profiles.merge(&profile.carry(older.head(), version.head()))?;
            Ok(core.profiles.get(root))
        })
        .await?
    }

    /// What a boot of a version reads, the first first.
    pub(crate) async fn boot_set(self: &Arc<Core>, serial: Serial) -> Result<Vec<BootRun>, CacheError> {
        let profile = self.profile(serial).await?;
        let version = self.version_once(serial).await?;
        self.blocking(move || profile.boot_set(version.head())).await
    }

    async fn older_with_profile(
        self: &Arc<Core>,
        serial: Serial,
        id: &VersionId,
    ) -> Result<Option<(Serial, Arc<Profile>)>, CacheError> {
        let view = self.view();
        let Some(Object::Version(image, _)) = view.object(serial) else { return Ok(None) };
        let older = image.versions.iter().rev().filter(|version| version.number() < id.number);
        let older: Vec<_> = older.map(|version| (version.serial(), version.root())).collect();
        let core = self.clone();
        self.blocking(move || {
            let known = older.into_iter().map(|(serial, root)| (serial, core.profiles.get(root)));
            known.into_iter().find(|(_, profile)| !profile.is_empty())
        })
        .await
    }
}
