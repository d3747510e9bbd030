//! The cache daemon's resident set while a large file streams through it.

use anyhow::{Result, ensure};

use crate::Scale;
use crate::load::{self, Pattern};
use crate::site::Site;

/// The goal for the peak, in MiB.
const GOAL_MIB: f64 = 150.0;

pub(crate) fn run(scale: &Scale) -> Result<String> {
    let site = Site::publish(scale.stream_bytes)?;
    let cache = site.cold_cache()?;
    let before = cache.daemon.resident_memory()?.1;
    let (bytes, _) = load::read(&site.mounted(&cache), Pattern::Sequential, 1)?;
    ensure!(bytes == scale.stream_bytes, "{bytes} bytes read");
    let peak = cache.daemon.resident_memory()?.1;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let verdict = if mib(peak) <= GOAL_MIB { "met" } else { "**missed**" };
    Ok(format!(
        "### Memory\n\n| work | before | peak | goal | |\n| --- | ---: | ---: | ---: | --- |\n\
         | {:.0} MiB stream through a cold cache | {:.0} MiB | {:.0} MiB | ≤ {GOAL_MIB} MiB | {verdict} |\n",
        mib(bytes),
        mib(before),
        mib(peak)
    ))
}
