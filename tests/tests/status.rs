//! What `icbd status` of a cache server tells of each version, for people and for scripts, also after a restart.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, Lab, MIB, Master, fill, wait_for};
use serde_json::Value;

const FILE_BYTES: u64 = 24 * MIB;

/// What the status says of one version.
fn of(cache: &CacheServer, version: &str) -> Result<Value> {
    let status = cache.status()?;
    let versions = status["versions"].as_array().context("versions")?;
    versions.iter().find(|of| of["version"] == version).cloned().with_context(|| format!("no {version} in {status}"))
}

/// The line of the table about one version, its columns without the space between them.
fn row(cache: &CacheServer, version: &str) -> Result<String> {
    let table = cache.command(&["status"])?.ok()?;
    let line = table.lines().find(|line| line.starts_with(version));
    let line = line.with_context(|| format!("no line for {version} in:\n{table}"))?;
    Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn wait_open(cache: &CacheServer, count: u64) -> Result<()> {
    wait_for("the count of open files", || Ok((of(cache, "lab@1")?["open_handles"] == count).then_some(())))
}

/// State, share, since when it is complete, who has it open, and what its blocks cost today; the last survives a
/// restart, and so does the memory of what was deployed before.
#[test]
fn each_version_is_told_of() -> Result<()> {
    let lab = Lab::new()?;
    let tree = lab.folder("tree")?;
    fill(&tree.join("disk"), 1, FILE_BYTES)?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    let mut cache = CacheServer::start(&lab, &master.url())?;
    let header = cache.command(&["status"])?.ok()?;
    let columns = ["IMAGE@N", "STATE", "LOCAL", "READY", "CLIENTS", "FROM MASTER TODAY"];
    ensure!(columns.iter().all(|column| header.contains(column)), "columns are missing:\n{header}");
    ensure!(row(&cache, "lab@1")?.starts_with("lab@1 deployed 0 % no 0 0 B"), "{}", row(&cache, "lab@1")?);

    let open = File::open(cache.path("lab/1/disk"))?;
    open.read_exact_at(&mut [0; 1000], 20 * MIB)?;
    let again = File::open(cache.path("lab/current/disk"))?;
    wait_open(&cache, 2)?;
    cache.wait_idle()?;
    let line = row(&cache, "lab@1")?;
    ensure!(line.starts_with("lab@1 deployed") && line.contains("in part 2"), "{line}");
    ensure!(of(&cache, "lab@1")?["complete_since"].is_null(), "complete already");
    drop((open, again));
    wait_open(&cache, 0)?;

    cache.prefetch_all("lab@1")?;
    let full = of(&cache, "lab@1")?;
    let fetched = full["fetched_today_bytes"].as_u64().context("bytes of today")?;
    ensure!(fetched == master.blocks_sent()? * 65_536, "{fetched} bytes are not what the master sent");
    ensure!(full["complete"] == true && full["complete_since"].as_i64() > Some(1_700_000_000), "{full}");
    ensure!(row(&cache, "lab@1")?.contains("100 % complete since 20"), "{}", row(&cache, "lab@1")?);

    fill(&tree.join("disk"), 2, FILE_BYTES)?;
    master.publish("lab", &tree, &["--deploy"])?;
    wait_for("the fallback", || Ok((of(&cache, "lab@1")?["fallback"] == true).then_some(())))?;
    cache.daemon.stop()?;
    cache.start_again(&lab)?;
    let after = of(&cache, "lab@1")?;
    for key in ["fetched_today_bytes", "complete_since", "fallback"] {
        let expected = if key == "fallback" { &Value::Bool(true) } else { &full[key] };
        ensure!(after[key] == *expected, "{key} is {} after the restart, was {expected}", after[key]);
    }
    ensure!(row(&cache, "lab@1")?.starts_with("lab@1 fallback 100 %"), "{}", row(&cache, "lab@1")?);
    ensure!(row(&cache, "lab@2")?.starts_with("lab@2 deployed 0 % no 0 0 B"), "{}", row(&cache, "lab@2")?);
    cache.daemon.stop()
}
