//! Room that prefetch leaves on the disk, so that what somebody reads can still be kept.

use std::sync::Arc;

use crate::core::Core;
use crate::{CacheError, Room};

/// After so much the disk's free space is looked at again.
const LOOK_BYTES: u64 = 64 << 20;
/// With less to spare than this, what was asked for is made durable before each look: until then no file system knows
/// how much it takes.
const NEAR_BYTES: u64 = 4 * LOOK_BYTES;

/// Whether there is some more free space than the reserve. A disk that does not tell is tried.
pub(crate) async fn check(core: &Arc<Core>) -> Result<(), CacheError> {
    spare(core).await.map(drop)
}

/// How many bytes may be asked for before the next look, where there is plenty of room.
pub(crate) async fn plenty(core: &Arc<Core>) -> Result<Option<u64>, CacheError> {
    Ok(spare(core).await?.is_none_or(|bytes| bytes >= NEAR_BYTES).then_some(LOOK_BYTES))
}

/// The same where there is not, for who has nothing under way. Half of what is to spare at most: others ask as well, and a
/// block takes more than its bytes.
pub(crate) async fn rest(core: &Arc<Core>) -> Result<u64, CacheError> {
    core.writeback.flush().await;
    Ok(spare(core).await?.map_or(LOOK_BYTES, |bytes| (bytes / 2).min(LOOK_BYTES)))
}

/// The bytes that are free beyond the reserve; `None` where the disk does not tell.
async fn spare(core: &Arc<Core>) -> Result<Option<u64>, CacheError> {
    match core.room().await? {
        Some(room) if room.is_short() => {
            let Room { free_bytes, reserve_bytes } = room;
            Err(CacheError::Reserve { free_bytes, reserve_bytes })
        }
        room => Ok(room.map(|room| room.free_bytes - room.reserve_bytes)),
    }
}
