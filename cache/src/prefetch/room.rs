//! Room that prefetch leaves on the disk, so that what somebody reads can still be kept.

use std::sync::Arc;

use crate::CacheError;
use crate::core::Core;
use crate::disk::Space;

/// Where nothing else was set: a twentieth of the file system, on a large one no more than this.
const RESERVE_SHARE: u64 = 20;
const RESERVE_BYTES_MAX: u64 = 20 << 30;

/// Whether there is more free space than the reserve. A disk that does not tell is tried.
pub(crate) async fn check(core: &Arc<Core>) -> Result<(), CacheError> {
    let disk = core.disk.clone();
    let Ok(Space { free_bytes, size_bytes }) = core.blocking(move || disk.space()).await? else { return Ok(()) };
    let usual = (size_bytes / RESERVE_SHARE).min(RESERVE_BYTES_MAX);
    let reserve_bytes = core.reserve_bytes.unwrap_or(usual);
    if free_bytes < reserve_bytes {
        return Err(CacheError::Reserve { free_bytes, reserve_bytes });
    }
    Ok(())
}
