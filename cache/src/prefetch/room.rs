//! Room that prefetch leaves on the disk, so that what somebody reads can still be kept.

use std::sync::Arc;

use crate::core::Core;
use crate::{CacheError, Room};

/// Whether there is more free space than the reserve. A disk that does not tell is tried.
pub(crate) async fn check(core: &Arc<Core>) -> Result<(), CacheError> {
    match core.room().await? {
        Some(Room { free_bytes, reserve_bytes }) if free_bytes < reserve_bytes => {
            Err(CacheError::Reserve { free_bytes, reserve_bytes })
        }
        _ => Ok(()),
    }
}
