//! A cold file through the mount against `curl -o` of the same file from the same master.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::Scale;
use crate::load::{self, Pattern};
use crate::site::Site;
use crate::stats::{self, Goal, Row, Samples};

pub(crate) fn run(scale: &Scale) -> Result<String> {
    let site = Site::publish(scale.file_bytes)?;
    let (mut mounted, mut curl) = (Samples::default(), Samples::default());
    for round in 0..scale.rounds as u64 {
        // What a cache has fetched it keeps: each round needs a new one.
        let mut cache = site.cold_cache()?;
        let (bytes, time) = load::read(&site.mounted(&cache), Pattern::Sequential, round)?;
        ensure!(bytes == scale.file_bytes, "{bytes} bytes read");
        mounted.push(bytes as f64 / 1e6 / time.as_secs_f64());
        cache.daemon.stop()?;
        std::fs::remove_dir_all(cache.store())?;

        let target = site.lab.path("curl.out");
        let start = Instant::now();
        let status = Command::new("curl").args(["-s", "-f", "-o"]).arg(&target).arg(site.url()).status();
        ensure!(status.context("starting curl")?.success(), "curl failed");
        curl.push(scale.file_bytes as f64 / 1e6 / start.elapsed().as_secs_f64());
        std::fs::remove_file(&target)?;
    }
    let row = Row {
        work: "sequential 1 MiB".to_owned(),
        unit: "MB/s",
        ours: mounted.median(),
        theirs: curl.median(),
        ratio: stats::ratio_of_rounds(&mounted, &curl),
        goal: Goal::AtLeast(0.8),
    };
    Ok(stats::table("A cold file", "through the mount", "curl -o", &[row]))
}
