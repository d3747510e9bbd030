//! A master that is away in the middle of a prefetch order: once it is back the order is as fast as before.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, Lab, MIB, Master, solid, wait_for};
use serde_json::Value;

const FILE_BYTES: u64 = 160 * MIB;
/// So long the master is away: several tries come to nothing.
const AWAY_SECONDS: u64 = 6;
/// On a busy machine the second part of an order may be so many times slower than the first.
const SLOWER_MAX: f64 = 4.0;

fn order(cache: &CacheServer) -> Result<Value> {
    let orders: Value = serde_json::from_str(&cache.command(&["prefetch", "list", "--ended", "--json"])?.ok()?)?;
    Ok(orders[0].clone())
}

fn wait_done(cache: &CacheServer, bytes: u64) -> Result<(Instant, u64)> {
    wait_for(&format!("{} MiB of the order", bytes / MIB), || {
        let done = order(cache)?["done_bytes"].as_u64().context("an order without bytes")?;
        Ok((done >= bytes).then(|| (Instant::now(), done)))
    })
}

/// An order goes on as fast as before when its master is back, without anybody's doing.
///
/// What the order had under way failed while the master was away, one run each time it tried again; each of these
/// failures was taken for a new one afterwards, and waited for up to half a minute.
#[test]
fn an_order_is_as_fast_after_an_outage_as_before() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    std::fs::write(tree.join("disk.raw"), solid(1, FILE_BYTES))?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    let mut master = Master::start(&lab, &repo)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    ["source", "offline", "prefetch", "listing"].iter().for_each(|words| cache.daemon.allow_log(words));
    cache.command(&["prefetch", "add", "lab@1", "--all", "--limit", "64mbit"])?.ok()?;
    let (began, first) = wait_done(&cache, 8 * MIB)?;
    let (ended, second) = wait_done(&cache, 56 * MIB)?;
    let before = (second - first) as f64 / ended.duration_since(began).as_secs_f64();

    let address = master.address();
    master.daemon.kill_all()?;
    cache.wait_status("the master is away", |status| {
        let source = &status["sources"][0];
        source["online"] == false && source["since_seconds"].as_u64() >= Some(AWAY_SECONDS)
    })?;
    let _master = Master::start_at(&lab, &repo, address, &[])?;
    cache.wait_status("the master is back", |status| status["sources"][0]["online"] == true)?;
    let (back, held) = wait_done(&cache, 0)?;
    let (ended, all) = wait_done(&cache, FILE_BYTES)?;
    let after = (all - held) as f64 / ended.duration_since(back).as_secs_f64();
    ensure!(after * SLOWER_MAX >= before, "{:.1} MB/s before the outage, {:.1} after", before / 1e6, after / 1e6);
    Ok(())
}
