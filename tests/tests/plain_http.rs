//! What a master serves to those who have no icbd.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use icbd_tests::{Lab, MIB, Master, fill, get_with, pattern, run_bounded};

/// A master serves plain ranges of files to those who have no icbd, and refuses what lies outside.
#[test]
fn ranges_of_files() -> Result<()> {
    let lab = Lab::new()?;
    let tree = lab.folder("tree")?;
    fill(&tree.join("disk"), 1, 4 * MIB)?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    let get = |path: &str, range: &str| get_with(master.address(), path, &[("Range", range)]);
    let disk = "/files/lab/current/disk";
    let part = get(disk, "bytes=100000-199999")?;
    ensure!(part.status == 206 && part.body == pattern(1, 100_000, 100_000), "status {}", part.status);
    let tail = get(disk, "bytes=-10")?;
    ensure!(tail.status == 206 && tail.body == pattern(1, 4 * MIB - 10, 10), "status {}", tail.status);
    let outside = get(disk, &format!("bytes={}-", 4 * MIB))?;
    ensure!(outside.status == 416, "status {}", outside.status);
    assert_eq!(outside.header("content-range"), Some(format!("bytes */{}", 4 * MIB).as_str()));
    for path in [
        "/files/lab/7/disk",
        "/files/lab/1/nothing",
        "/files/lab/1/../../../etc/passwd",
        "/files/lab/1/%2e%2e/disk",
        "/nonsense",
    ] {
        let status = get(path, "bytes=0-1")?.status;
        ensure!((400..500).contains(&status), "{path} has status {status}");
    }
    let whole = icbd_tests::get(master.address(), disk)?;
    let tag = whole.header("etag").unwrap_or_default().to_owned();
    ensure!(whole.status == 200 && !tag.is_empty() && whole.body.len() as u64 == 4 * MIB, "status {}", whole.status);
    ensure!(get_with(master.address(), disk, &[("If-None-Match", &tag)])?.status == 304, "the tag is not recognised");

    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "--range", "5-9"]).arg(format!("{}{disk}", master.url()));
    ensure!(run_bounded(curl, Duration::from_secs(20))?.code == 0, "curl cannot read a range");
    let mut qemu = Command::new("qemu-img");
    qemu.args(["compare", "-f", "raw", "-F", "raw"]).arg(lab.path("tree/disk")).arg(format!("{}{disk}", master.url()));
    run_bounded(qemu, Duration::from_secs(60))?.ok()?;
    Ok(())
}
