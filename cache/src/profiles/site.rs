//! Who a store is in what it tells others: a UUID of its own, made once.

use std::fs;
use std::io;
use std::path::Path;

use icbd_image::SiteId;

use crate::{CacheError, layout};

/// Reads a store's identity, or gives it one. One that is damaged is replaced: nothing hangs on it but whether
/// two observations are of one site.
pub(super) fn open(store: &Path) -> Result<SiteId, CacheError> {
    let path = store.join(layout::SITE);
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(site) => return Ok(site),
            Err(_) => tracing::warn!(path = %path.display(), "the store's identity is damaged; it gets another one"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
        Err(error) => return Err(CacheError::disk("read", path)(error)),
    }
    let mut random = [0; 16];
    let filled = getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()));
    let site = SiteId::from_random(random);
    filled.and_then(|()| fs::write(&path, format!("{site}\n"))).map_err(CacheError::disk("write", path))?;
    Ok(site)
}
