//! icbd itself: a master on one side, a cache server with an empty store on the other.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use icbd_tests::{CacheServer, Master};

use super::Ready;
use crate::network::{Network, Side};
use crate::storm::depot::{Depot, IMAGE, TRACE};
use crate::storm::run::{Case, storm};

/// A cache that has never heard of the image.
pub(super) fn cold(depot: &Depot<'_>, network: &Network) -> Result<Ready> {
    let (cache, master) = site(depot, network)?;
    let disk = cache.path(IMAGE).join("1").join(depot.name()?);
    Ok(Ready::new(disk.display(), (cache, master)))
}

/// A cache that has nothing of the image, and was told what a boot at another site read.
pub(super) fn profiled(depot: &Depot<'_>, network: &Network) -> Result<Ready> {
    let profile = learned(depot, network)?;
    let (cache, master) = site(depot, network)?;
    cache.command(&["profile", "import", text(&profile)?])?.ok()?;
    let disk = cache.path(IMAGE).join("1").join(depot.name()?);
    Ok(Ready::new(disk.display(), (cache, master)))
}

/// What a boot read; booted at a site of its own when first asked for.
pub(super) fn learned(depot: &Depot<'_>, network: &Network) -> Result<PathBuf> {
    let profile = depot.lab.path("boot.profile");
    if !profile.exists() {
        let (mut cache, _master) = site(depot, network)?;
        let ready = Ready::new(cache.path(IMAGE).join("1").join(depot.name()?).display(), ());
        storm(network, &ready, Case::plain(1), &depot.lab.path(TRACE), &[])?;
        // What is being recorded is kept when the daemon stops.
        cache.daemon.stop()?;
        network.inside(Side::Site, || cache.start_again(depot.lab))?;
        cache.command(&["profile", "export", &format!("{IMAGE}@1"), text(&profile)?])?.ok()?;
        cache.daemon.allow_log("");
    }
    Ok(profile)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of text")
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
