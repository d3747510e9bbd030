//! A cold file through the mount, and fetched ahead, against `curl -o` of the same file from the same master.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use icbd_tests::CacheServer;

use crate::Scale;
use crate::load::{self, Pattern};
use crate::site::{IMAGE, Site};
use crate::stats::{self, Goal, Row, Samples};

pub(crate) fn run(scale: &Scale) -> Result<String> {
    let site = Site::publish(scale.file_bytes)?;
    let (mut mounted, mut prefetched, mut curl) = (Samples::default(), Samples::default(), Samples::default());
    let rate = |start: Instant| scale.file_bytes as f64 / 1e6 / start.elapsed().as_secs_f64();
    for round in 0..scale.rounds as u64 {
        // What a cache has fetched it keeps: each needs a new one.
        let cache = site.cold_cache()?;
        let start = Instant::now();
        let (bytes, _) = load::read(&site.mounted(&cache), Pattern::Sequential, round)?;
        mounted.push(rate(start));
        ensure!(bytes == scale.file_bytes, "{bytes} bytes read");
        remove(cache)?;

        let cache = site.cold_cache()?;
        let start = Instant::now();
        cache.prefetch_all(&format!("{IMAGE}@1"))?;
        prefetched.push(rate(start));
        remove(cache)?;

        let target = site.lab.path("curl.out");
        let start = Instant::now();
        let status = Command::new("curl").args(["-s", "-f", "-o"]).arg(&target).arg(site.url()).status();
        ensure!(status.context("starting curl")?.success(), "curl failed");
        curl.push(rate(start));
        std::fs::remove_file(&target)?;
    }
    let row = |work: &str, ours: &Samples| Row {
        work: work.to_owned(),
        unit: "MB/s",
        ours: ours.median(),
        theirs: curl.median(),
        ratio: stats::ratio_of_rounds(ours, &curl),
        goal: Goal::AtLeast(0.8),
    };
    let rows = [row("read once, sequential 1 MiB", &mounted), row("`prefetch --all`, on loopback", &prefetched)];
    Ok(stats::table("A cold file", "icbd", "curl -o", &rows))
}

fn remove(mut cache: CacheServer) -> Result<()> {
    cache.daemon.stop()?;
    Ok(std::fs::remove_dir_all(cache.store())?)
}
