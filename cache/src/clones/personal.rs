//! What each session of a clone begins as, besides its version: made once, in the clone itself, and never written to again.

use std::sync::atomic::Ordering;

use super::record::Record;
use super::{CloneName, Clones, fresh_number};
use crate::CacheError;

impl Clones {
    /// Notes, durably, that what is written to it from now on is what each session is to begin as. Until [`Clones::make_personal`]
    /// or a reset it is nothing that anybody may use. Refused if it is kept.
    pub async fn begin_personal(&self, name: &CloneName) -> Result<(), CacheError> {
        let _turn = self.turn().await?;
        let disk = self.get(name).ok_or_else(|| CacheError::UnknownClone(name.to_string()))?;
        if disk.is_kept() || disk.has_personal() {
            return Err(CacheError::Refused(format!(
                "{name} is kept, or begins as something else than its version already"
            )));
        }
        let (core, of) = (self.core.clone(), disk.clone());
        let write = move || Record { unfinished: true, ..of.record() }.write(&*core.disk, &of.name().folder());
        self.core.blocking(write).await?.map_err(CacheError::disk("note in the clone", name.folder()))?;
        disk.set_unfinished();
        Ok(())
    }

    /// Has each of its sessions begin as it is now. Refused while it is used, and if they begin as something already.
    pub async fn make_personal(&self, name: &CloneName) -> Result<(), CacheError> {
        let _turn = self.turn().await?;
        let old = self.begin_to_leave(name)?;
        let is_back = || old.is_leaving.store(false, Ordering::Release);
        // Whatever was not flushed would be lost by a power cut, and never be made again.
        old.flush().await.inspect_err(|_| is_back())?;
        let closing = old.clone();
        self.core.blocking(move || closing.close()).await?;
        let new = match old.has_personal() {
            true => Err(CacheError::Refused(format!("the sessions of {name} begin as something already"))),
            false => fresh_number().map(|session| {
                let record = old.record();
                Record { personal: Some(record.session), session, unfinished: false, ..record }
            }),
        };
        self.renew(&old, new, "make the personal layer of").await?;
        tracing::info!(clone = %name, "has a personal layer");
        Ok(())
    }
}
