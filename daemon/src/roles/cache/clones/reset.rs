//! Taking a clone from nobody: it is reset or removed only once its server has let go of it.
//!
//! A server has a clone's file open as long as it offers it. So it is offered no more first, which the server refuses while
//! somebody is logged in; then its file is closed, and only then is anything changed.

use std::sync::Arc;
use std::time::Duration;

use icbd_cache::CloneName;

use crate::exports::SessionReport;
use crate::failure::{Exit, Failure};
use crate::roles::cache::exports::Use;
use crate::roles::cache::state::CacheServer;

/// A server closes a file at once, and the kernel says so a moment later.
const CLOSED_MAX: Duration = Duration::from_secs(10);

/// Has a clone be as its version is. Refused while it is used.
pub(in super::super) async fn reset(server: &Arc<CacheServer>, name: &CloneName) -> Result<(), Failure> {
    let _held_back = free(server, name).await?;
    server.cache.clones().reset(name).await.map_err(Failure::from)
}

/// Deletes a clone. Refused while it is used.
pub(in super::super) async fn remove(server: &Arc<CacheServer>, name: &CloneName) -> Result<(), Failure> {
    let _held_back = free(server, name).await?;
    server.cache.clones().remove(name).await.map_err(Failure::from)
}

/// Has nobody use it, as long as what is given back lives.
async fn free<'a>(server: &'a Arc<CacheServer>, name: &CloneName) -> Result<impl Drop + use<'a>, Failure> {
    let exports = &server.exports;
    let clone = server.cache.clones().get(name);
    let clone = clone.ok_or_else(|| Failure::from(icbd_cache::CacheError::UnknownClone(name.to_string())))?;
    exports.settle().await;
    let refused = |why: String| Failure::new(Exit::Refused, why);
    match exports.use_of(name) {
        Use::Nobody => {}
        Use::Somebody => return Err(refused(in_use(server, name))),
        // What nobody has open is nobody's, whatever has become of the server.
        Use::Unknown if !clone.is_open() => {}
        Use::Unknown => {
            let why = exports.trouble_of(name).unwrap_or_else(|| "its server has not answered for a while".to_owned());
            return Err(refused(format!("nobody knows whether {name} is in use: {why}")));
        }
    }
    let held_back = exports.hold_back(name);
    exports.settle().await;
    if exports.is_offered(name) {
        return Err(refused(in_use(server, name)));
    }
    let closed = tokio::time::timeout(CLOSED_MAX, server.cache.clones().closed(&clone)).await;
    closed.map_err(|_| refused(format!("{name} is open in some program; `lsof` says in which")))?;
    Ok(held_back)
}

fn in_use(server: &CacheServer, name: &CloneName) -> String {
    let sessions: Vec<String> = sessions_of(server, name).iter().map(SessionReport::words).collect();
    let by = if sessions.is_empty() { "somebody a moment ago".to_owned() } else { sessions.join(", ") };
    format!("{name} is in use by {by}; shut {} down first", name.client)
}

pub(super) fn sessions_of(server: &CacheServer, name: &CloneName) -> Vec<SessionReport> {
    server.exports.sessions_of(name).iter().map(SessionReport::from).collect()
}
