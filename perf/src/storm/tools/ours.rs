//! icbd itself: a master on one side, a cache server with an empty store on the other.

use anyhow::{Result, bail};
use icbd_tests::{CacheServer, Master};

use super::Ready;
use crate::storm::depot::{Depot, IMAGE};
use crate::storm::network::{Network, Side};

/// A cache that has never heard of the image.
pub(super) fn cold(depot: &Depot<'_>, network: &Network) -> Result<Ready> {
    let (cache, master) = site(depot, network)?;
    let disk = cache.path(IMAGE).join("1").join(depot.name()?);
    Ok(Ready::new(disk.display(), (cache, master)))
}

/// A cache that prefetched what boots read.
pub(super) fn profiled(depot: &Depot<'_>, network: &Network) -> Result<Ready> {
    let (cache, master) = site(depot, network)?;
    let ordered = cache.command(&["prefetch", "add", IMAGE, "--boot", "--wait"])?;
    if ordered.code != 0 {
        bail!("this icbd has no `prefetch add --boot`: {}", ordered.stderr.lines().next().unwrap_or_default());
    }
    let disk = cache.path(IMAGE).join("1").join(depot.name()?);
    Ok(Ready::new(disk.display(), (cache, master)))
}

/// A master and a new cache server. The cache is dropped first.
pub(crate) fn site(depot: &Depot<'_>, network: &Network) -> Result<(CacheServer, Master)> {
    let master = depot.master(network)?;
    let cache = network.inside(Side::Site, || {
        let cache = CacheServer::start(depot.lab, &master.url())?;
        cache.daemon.allow_log("");
        Ok(cache)
    })?;
    Ok((cache, master))
}
