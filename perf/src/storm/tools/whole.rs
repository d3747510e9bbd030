//! The whole image first, then a local disk: no client boots before the copy is done.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use super::Ready;
use crate::network::{MASTER, Network, Side};
use crate::process::run;
use crate::storm::depot::{Depot, WEB_PORT};

const RSYNC_PORT: u16 = 8873;

/// A compressed file by HTTP, unpacked as it comes.
pub(super) fn curl(depot: &Depot<'_>, network: &Network, work: &Path) -> Result<Ready> {
    depot.offer_zst()?;
    let web = depot.web(network)?;
    let copy = work.join("disk.raw");
    let mut pipe = Command::new("bash");
    pipe.args(["-c", r#"set -o pipefail; curl -sf "$1" | zstd -dqc --sparse -o "$2""#, "bash"]);
    pipe.arg(format!("http://{MASTER}:{WEB_PORT}/disk.raw.zst")).arg(&copy);
    copied(network, pipe, &copy, web)
}

/// rsync with zstd. The file is new here, so there is nothing to compare with.
pub(super) fn rsync(depot: &Depot<'_>, network: &Network, work: &Path) -> Result<Ready> {
    depot.offer_raw()?;
    let config = work.join("rsyncd.conf");
    let offered = depot.offered.display();
    let text = format!("use chroot = no\nuid = root\ngid = root\n[lab]\npath = {offered}\nread only = yes\n");
    std::fs::write(&config, text)?;
    let mut daemon = network.command(Side::Master, "rsync");
    daemon.args(["--daemon", "--no-detach", &format!("--address={MASTER}"), &format!("--port={RSYNC_PORT}")]);
    daemon.arg(format!("--config={}", config.display()));
    let daemon = depot.server(network, daemon, RSYNC_PORT)?;
    let copy = work.join("disk.raw");
    let mut rsync = Command::new("rsync");
    rsync.args(["-q", "-L", "--sparse", "--compress", "--compress-choice=zstd", "--compress-level=3", "--whole-file"]);
    rsync.arg(format!("rsync://{MASTER}:{RSYNC_PORT}/lab/disk.raw")).arg(&copy);
    copied(network, rsync, &copy, daemon)
}

/// Times `fetch`, which makes `copy`.
fn copied(network: &Network, fetch: Command, copy: &Path, server: impl std::any::Any) -> Result<Ready> {
    let started = Instant::now();
    network.inside(Side::Site, || run(fetch))?;
    let mut ready = Ready::new(copy.display(), server);
    ready.before = started.elapsed();
    Ok(ready)
}
