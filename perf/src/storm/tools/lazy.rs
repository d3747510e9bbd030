//! Tools that fetch what is read and keep it: QEMU's storage daemon, nbdkit, rclone.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Ready, nbd_url};
use crate::network::{MASTER, Network, Side};
use crate::process::{Process, run};
use crate::storm::depot::{Depot, WEB_PORT};

/// What one HTTP request of QEMU's asks for at least. More fetches clusters that no boot reads.
const QEMU_READAHEAD_BYTES: u32 = 4 * 1024;
/// The same for clusters of 64 KiB, with which less makes QEMU 7.2 hang at times.
const QEMU_READAHEAD_SMALL_CLUSTERS_BYTES: u32 = 64 * 1024;

/// Copy-on-read into an overlay of the same cluster size, exported by NBD on a Unix socket: its FUSE export hangs over
/// HTTP at times.
pub(super) fn qemu(depot: &Depot<'_>, network: &Network, work: &Path, kib: u32) -> Result<Ready> {
    let image = depot.offer_qcow2(kib)?;
    let web = depot.web(network)?;
    let (socket, overlay) = (work.join("qemu.sock"), work.join("overlay.qcow2"));
    let size = std::fs::metadata(&depot.disk)?.len();
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-o", &format!("cluster_size={kib}k")]);
    run({
        create.arg(&overlay).arg(size.to_string());
        create
    })?;
    let mut qemu = network.command(Side::Site, "qemu-storage-daemon");
    let readahead = if kib == 64 { QEMU_READAHEAD_SMALL_CLUSTERS_BYTES } else { QEMU_READAHEAD_BYTES };
    for node in [
        format!("driver=http,node-name=web,url=http://{MASTER}:{WEB_PORT}/{image},readahead={readahead},read-only=on"),
        "driver=qcow2,node-name=base,file=web,read-only=on".to_owned(),
        format!("driver=file,node-name=local,filename={}", overlay.display()),
        "driver=qcow2,node-name=overlay,file=local,backing=base".to_owned(),
        "driver=copy-on-read,node-name=disk,file=overlay".to_owned(),
    ] {
        qemu.args(["--blockdev", &node]);
    }
    qemu.args(["--nbd-server", &format!("addr.type=unix,addr.path={},max-connections=64", socket.display())]);
    qemu.args(["--export", "type=nbd,id=e,node-name=disk,name=disk"]);
    let log = depot.lab.path("qemu.log");
    let mut process = Process::start(qemu, &log)?;
    process.wait_ready(|| greets(&socket))?;
    Ok(Ready::new(nbd_url(&socket, "disk"), (process, web)))
}

/// The readahead filter is there but idle: the curl plugin answers one request at a time, which it says in its log.
pub(super) fn nbdkit(depot: &Depot<'_>, network: &Network, work: &Path) -> Result<Ready> {
    depot.offer_raw()?;
    let web = depot.web(network)?;
    let socket = work.join("nbdkit.sock");
    let mut nbdkit = network.command(Side::Site, "nbdkit");
    nbdkit.args(["--foreground", "--readonly", "--threads", "64", "--unix"]).arg(&socket);
    nbdkit.args(["--filter=readahead", "--filter=cache", "curl"]);
    nbdkit.arg(format!("url=http://{MASTER}:{WEB_PORT}/disk.raw"));
    nbdkit.args(["cache-on-read=true", "cache-min-block-size=64K", "tcp-nodelay=true", "timeout=120"]);
    nbdkit.env("TMPDIR", work);
    let log = depot.lab.path("nbdkit.log");
    let mut process = Process::start(nbdkit, &log)?;
    process.wait_ready(|| greets(&socket))?;
    Ok(Ready::new(nbd_url(&socket, ""), (process, web)))
}

/// Small first chunks that do not grow, and no read-ahead: a boot jumps.
pub(super) fn rclone(depot: &Depot<'_>, network: &Network, work: &Path) -> Result<Ready> {
    depot.offer_raw()?;
    let web = depot.web(network)?;
    let mount = work.join("rclone");
    std::fs::create_dir(&mount)?;
    let mut rclone = network.command(Side::Site, "rclone");
    rclone.args(["mount", ":http:"]).arg(&mount).arg(format!("--http-url=http://{MASTER}:{WEB_PORT}/"));
    rclone.args([
        "--read-only",
        "--vfs-cache-mode=full",
        "--vfs-read-chunk-size=128k",
        "--vfs-read-chunk-size-limit=off",
    ]);
    rclone.args(["--buffer-size=0", "--vfs-read-ahead=0", "--dir-cache-time=1h", "--attr-timeout=1h", "--allow-other"]);
    rclone
        .args(["--no-checksum", "--no-modtime", "--config="])
        .arg(format!("--cache-dir={}", work.join("cache").display()));
    let (log, file) = (depot.lab.path("rclone.log"), mount.join("disk.raw"));
    let mut process = Process::start(rclone, &log)?;
    process.wait_ready(|| file.exists())?;
    Ok(Ready::new(file.display(), (process, web)))
}

/// Whether an NBD server answers: its greeting is 18 bytes long.
fn greets(socket: &Path) -> bool {
    UnixStream::connect(socket).and_then(|mut stream| stream.read_exact(&mut [0; 18])).is_ok()
}
