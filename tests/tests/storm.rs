//! `icbd bench storm` against real servers, and what it refuses.

use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, Lab, MIB, Master, fill, icbd, run_bounded, wait_for};
use serde_json::Value;

const DISK_BYTES: u64 = 16 * MIB;

/// A disk with known contents, and a trace of it that reads 64 pieces all over it.
fn disk_and_trace(lab: &Lab) -> Result<(String, String)> {
    let disk = lab.folder("image")?.join("disk.raw");
    fill(&disk, 3, DISK_BYTES)?;
    let reads: String =
        (0..64u64).map(|at| format!("100 {} {}\n", (at * 37 % 64) << 18, 512 + (at % 9) * 65_536 / 2)).collect();
    let trace = lab.path("boot.trace");
    std::fs::write(&trace, format!("icbd-trace 1\ndisk-bytes {DISK_BYTES}\n{reads}"))?;
    let text = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a plain path");
    Ok((text(&disk)?, text(&trace)?))
}

/// Four clients and a scan on `target`; the digest of what they read.
fn digest(trace: &str, target: &str) -> Result<String> {
    let args =
        ["bench", "storm", "--json", "--clients", "4", "--think", "--scan", "--digest", "--trace", trace, target];
    let report: Value = serde_json::from_str(&icbd(args)?.ok()?)?;
    ensure!(report["clients"] == 4 && report["reads"] == 64, "{report}");
    let times = ["first_done_s", "median_done_s", "last_done_s"].map(|name| report[name].as_f64().unwrap_or(-1.0));
    ensure!(times[0] > 0.0064 && times.is_sorted(), "the clients did not think, or are not sorted: {report}");
    Ok(report["digest"].as_str().context("no digest")?.to_owned())
}

/// A program that is killed with its owner.
struct Server(Child);

impl Server {
    fn start(mut command: Command) -> Result<Server> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Server(command.spawn().with_context(|| format!("starting {command:?}"))?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Thirty clients boot from a cold cache at once, beside a scan of the whole disk: no block crosses the line twice.
#[test]
fn thirty_clients_fetch_each_block_once() -> Result<()> {
    let lab = Lab::new()?;
    let (_, trace) = disk_and_trace(&lab)?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    master.publish("lab", &lab.path("image"), &["--deploy"])?;
    for how in [&["--scan"][..], &[]] {
        let cache = CacheServer::start(&lab, &master.url())?;
        let (disk, before) = (cache.path("lab/1/disk.raw"), master.blocks_sent()?);
        let disk = disk.to_str().context("a plain path")?;
        let args = ["bench", "storm", "--clients", "30", "--trace", &trace, disk];
        icbd(args.iter().chain(how))?.ok()?;
        let sent = master.blocks_sent()? - before;
        ensure!((64..=DISK_BYTES / 65_536).contains(&sent), "{sent} blocks were sent, {how:?}");
    }
    Ok(())
}

/// The same reads give the same bytes from the file itself, icbd's mount, an NBD server and an iSCSI target.
#[test]
fn every_kind_of_target_gives_the_same_bytes() -> Result<()> {
    let lab = Lab::new()?;
    let (disk, trace) = disk_and_trace(&lab)?;
    let right = digest(&trace, &disk)?;

    let master = Master::start(&lab, &lab.path("repo"))?;
    master.publish("lab", &lab.path("image"), &["--deploy"])?;
    let cache = CacheServer::start(&lab, &master.url())?;
    let mounted = cache.path("lab/1/disk.raw");
    ensure!(digest(&trace, mounted.to_str().context("a plain path")?)? == right, "the mount gave other bytes");

    let socket = lab.path("nbd.sock");
    let mut nbdkit = Command::new("nbdkit");
    nbdkit.args(["--foreground", "--readonly", "--unix"]).arg(&socket).args(["file", &disk]);
    let _nbdkit = Server::start(nbdkit)?;
    wait_for("nbdkit", || Ok(UnixStream::connect(&socket).ok()))?;
    let url = format!("nbd+unix:///?socket={}", socket.display());
    ensure!(digest(&trace, &url)? == right, "nbdkit gave other bytes");

    ensure!(iscsi_digest(&lab, &disk, &trace)? == right, "the iSCSI target gave other bytes");
    Ok(())
}

fn iscsi_digest(lab: &Lab, disk: &str, trace: &str) -> Result<String> {
    const NAME: &str = "iqn.2026-01.org.example:lab";
    let control = lab.path("tgtd");
    // A port that was free a moment ago; tgtd cannot choose one by itself.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let number = (port % 1000).to_string();
    let mut tgtd = Command::new("tgtd");
    tgtd.env("TGT_IPC_SOCKET", &control).args(["-f", "-C", &number, "--iscsi", &format!("portal=127.0.0.1:{port}")]);
    let _tgtd = Server::start(tgtd)?;
    let admin = |args: &str| {
        let mut tgtadm = Command::new("tgtadm");
        tgtadm.env("TGT_IPC_SOCKET", &control).args(["-C", &number, "--lld", "iscsi"]).args(args.split(' '));
        run_bounded(tgtadm, std::time::Duration::from_secs(10))
    };
    wait_for("tgtd", || Ok((admin("--op show --mode target")?.code == 0).then_some(())))?;
    admin(&format!("--op new --mode target --tid 1 --targetname {NAME}"))?.ok()?;
    admin(&format!("--op new --mode logicalunit --tid 1 --lun 1 --backing-store {disk}"))?.ok()?;
    admin("--op bind --mode target --tid 1 --initiator-address ALL")?.ok()?;
    let url = |name: &str| format!("iscsi://127.0.0.1:{port}/{name}/1");
    icbd(["bench", "storm", "--trace", trace, &url("iqn.2026-01.org.example:none")])?.failed_with(3)?;
    digest(trace, &url(NAME))
}

/// A missing, empty or foreign trace, a disk that is too small, and a target that is not there: each is named.
#[test]
fn what_cannot_be_stormed_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let (disk, trace) = disk_and_trace(&lab)?;
    let fails = |trace: &str, target: &str, code, says: &[&str]| -> Result<()> {
        let args = ["bench", "storm", "--clients", "2", "--trace", trace, target];
        icbd(args)?.failed_with(code)?.says(says).map(drop)
    };
    fails("/none.trace", &disk, 3, &["there is no trace /none.trace"])?;
    fails("/dev/null", &disk, 2, &["the trace is empty"])?;
    fails(&disk, &disk, 2, &["no text"])?;
    fails(&trace, "/none/disk.raw", 3, &["/none/disk.raw"])?;
    fails(&trace, lab.path("image").to_str().context("a plain path")?, 1, &["directory"])?;
    fails(&trace, "nfs://127.0.0.1:9/x/disk.raw?mountport=9", 6, &["nfs://127.0.0.1"])?;
    fails(&trace, "iscsi://127.0.0.1:9/iqn.2026-01.org.example:lab/1", 6, &["iscsi://127.0.0.1:9"])?;
    fails(&trace, "nbd+unix:///?socket=/none.sock", 3, &["/none.sock"])?;
    fails(&trace, "gopher://x", 2, &["nfs, iscsi"])?;
    let small = lab.path("small.raw");
    std::fs::write(&small, [0; 4096])?;
    fails(&trace, small.to_str().context("a plain path")?, 4, &["ends at 4096"])?;
    icbd(["bench", "storm", "--clients", "0", &disk])?.failed_with(2)?;
    icbd(["bench", "storm", &disk])?.failed_with(4)?.says(&["ends at"])?;
    Ok(())
}
