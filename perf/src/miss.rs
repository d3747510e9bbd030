//! One 4 KiB read that misses against one bare HTTP request for the block it is in.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use icbd_image::BLOCK_BYTES;

use crate::Scale;
use crate::http::Connection;
use crate::load::Numbers;
use crate::site::Site;
use crate::stats::{self, Goal, Row, Samples};

pub(crate) fn run(scale: &Scale) -> Result<String> {
    let site = Site::publish(scale.file_bytes)?;
    let cache = site.cold_cache()?;
    let root = site.root()?;
    let file = File::open(site.mounted(&cache)).context("opening the mounted file")?;
    let mut connection = Connection::open(site.master.address())?;
    let (mut mounted, mut bare) = (Samples::default(), Samples::default());
    let mut buffer = [0; 4096];
    for block in scattered(scale.file_bytes / BLOCK_BYTES, scale.misses * 2) {
        if mounted.len() <= bare.len() {
            let start = Instant::now();
            file.read_exact_at(&mut buffer, block * BLOCK_BYTES)?;
            mounted.push(start.elapsed().as_secs_f64() * 1e6);
        } else {
            // The file is the version's only one: node 1, after the root folder.
            let path = format!("/v1/versions/{root}/blocks/1/{block}-{block}.none");
            let start = Instant::now();
            let body = connection.get(&path)?;
            bare.push(start.elapsed().as_secs_f64() * 1e6);
            ensure!(body.len() as u64 > BLOCK_BYTES, "{} bytes for a block", body.len());
        }
    }
    let row = |work: &str, q| Row {
        work: work.to_owned(),
        unit: "µs",
        ours: mounted.quantile(q),
        theirs: bare.quantile(q),
        ratio: mounted.quantile(q) / bare.quantile(q),
        goal: Goal::AtMost(2.0),
    };
    let rows = [row("4 KiB of a missing block, median", 0.5), row("the same, 99th percentile", 0.99)];
    Ok(stats::table("A miss", "read through the mount", "bare HTTP get", &rows))
}

/// `count` different blocks far from each other, so that no readahead has fetched one before it is asked for.
fn scattered(blocks: u64, count: u64) -> Vec<u64> {
    let stride = (blocks / count).max(1);
    let mut chosen: Vec<u64> = (0..count.min(blocks)).map(|i| i * stride).collect();
    let mut numbers = Numbers(99);
    for i in (1..chosen.len()).rev() {
        chosen.swap(i, (numbers.next() % (i as u64 + 1)) as usize);
    }
    chosen
}
