//! Taking a clone from nobody: it is reset or removed only once its server has let go of it.
//!
//! A server has a clone's file open as long as it offers it. So it is offered no more first, which the server refuses while
//! somebody is logged in; then its file is closed, and only then is anything changed.

use std::sync::Arc;
use std::time::Duration;

use icbd_cache::{CloneDisk, CloneName, Layers};

use crate::exports::SessionReport;
use crate::failure::{Exit, Failure};
use crate::roles::cache::exports::Use;
use crate::roles::cache::state::CacheServer;

/// A server closes a file at once, and the kernel says so a moment later.
const CLOSED_MAX: Duration = Duration::from_secs(10);

/// Who wants it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Asks {
    /// Somebody who is believed to know that it is not in use, where its server does not say.
    Person,
    /// Nobody who knows.
    Boot,
}

/// Has a clone be as it began. Refused while it is used.
pub(in super::super) async fn reset(
    server: &Arc<CacheServer>,
    name: &CloneName,
    asks: Asks,
    layers: Layers,
) -> Result<(), Failure> {
    let _held_back = free(server, name, asks).await?;
    server.cache.clones().reset(name, layers).await.map_err(Failure::from)
}

/// Deletes a clone. Refused while it is used.
pub(in super::super) async fn remove(server: &Arc<CacheServer>, name: &CloneName, asks: Asks) -> Result<(), Failure> {
    if server.cache.clones().damaged().contains_key(name) {
        // Nobody has been able to use it.
        return server.cache.clones().remove(name).await.map_err(Failure::from);
    }
    let _held_back = free(server, name, asks).await?;
    server.cache.clones().remove(name).await.map_err(Failure::from)
}

/// Has nobody use it, as long as what is given back lives.
pub(super) async fn free<'a>(
    server: &'a Arc<CacheServer>,
    name: &CloneName,
    asks: Asks,
) -> Result<impl Drop + use<'a>, Failure> {
    if server.in_use().is_none() {
        let message = "the mounts are not taken over yet, so what is in use is not known; try again";
        return Err(Failure::new(Exit::Refused, message));
    }
    let exports = &server.exports;
    let clone = server.cache.clones().get(name);
    let clone = clone.ok_or_else(|| Failure::from(icbd_cache::CacheError::UnknownClone(name.to_string())))?;
    let refused = |why: String| Failure::new(Exit::Refused, why);
    let mut is_patient = true;
    loop {
        exports.settle().await;
        match exports.use_of(name) {
            Use::Nobody => break,
            // Once: whoever comes and goes uses it.
            Use::Lately(left) if std::mem::take(&mut is_patient) => tokio::time::sleep(left).await,
            Use::Lately(_) | Use::Somebody => return Err(refused(in_use(server, name))),
            Use::Unknown if asks == Asks::Person && !clone.is_open() => break,
            Use::Unknown => {
                let why = exports.trouble_of(name).unwrap_or_else(|| "its server has not answered yet".to_owned());
                return Err(refused(format!("nobody knows whether {name} is in use: {why}")));
            }
        }
    }
    let held_back = exports.hold_back(name);
    exports.settle().await;
    if exports.is_offered(name) {
        return Err(refused(in_use(server, name)));
    }
    closed(server, &clone).await?;
    Ok(held_back)
}

/// Waits for it to be closed.
pub(super) async fn closed(server: &CacheServer, clone: &CloneDisk) -> Result<(), Failure> {
    let closed = tokio::time::timeout(CLOSED_MAX, server.cache.clones().closed(clone)).await;
    closed.map_err(|_| {
        Failure::new(
            Exit::Refused,
            format!(
                "{} is open in some program; `lsof` says in which, `losetup --list` whether it is mounted",
                clone.name()
            ),
        )
    })
}

fn in_use(server: &CacheServer, name: &CloneName) -> String {
    let sessions: Vec<String> = sessions_of(server, name).iter().map(SessionReport::words).collect();
    let by = if sessions.is_empty() { "somebody a moment ago".to_owned() } else { sessions.join(", ") };
    format!("{name} is in use by {by}; shut {} down first", name.client)
}

pub(super) fn sessions_of(server: &CacheServer, name: &CloneName) -> Vec<SessionReport> {
    server.exports.sessions_of(name).iter().map(SessionReport::from).collect()
}
