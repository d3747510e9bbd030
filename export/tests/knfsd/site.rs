//! A master, a cache server that the kernel's NFS server serves from, and a client in a network of its own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::num::NonZeroU16;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_export::{Knfsd, Share};
use icbd_tests::{CacheServer, Lab, MIB, Master, NfsServer, fill, run_bounded, wait_for};

pub(crate) const CLIENT: &str = "198.18.0.1";
pub(crate) const SERVER: &str = "198.18.0.10";
pub(crate) const VERSIONS: [&str; 2] = ["3", "4.2"];
pub(crate) const PIECE: usize = 64 << 10;
pub(crate) const NAMES: usize = 2000;
const DISK: u64 = 8 * MIB;
const TOOL_DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Site {
    pub(crate) lab: Lab,
    pub(crate) master: Master,
    pub(crate) cache: CacheServer,
    pub(crate) server: NfsServer,
    pub(crate) knfsd: Knfsd,
}

/// Something that the client has mounted; dropping it unmounts it.
#[derive(Debug)]
pub(crate) struct Mounted {
    at: PathBuf,
    #[expect(dead_code, reason = "messages show it")]
    version: &'static str,
}

impl Site {
    /// `lab@1` and `other@1`, at a server in the machine's own namespaces, with a bridge in the client's.
    pub(crate) fn new() -> Result<Site> {
        script("modprobe -a fuse nfsd nfsv3 nfsv4 veth bridge; mount -t fusectl none /sys/fs/fuse/connections")?;
        fs::create_dir("/srv/theirs")?;
        fill(Path::new("/srv/theirs/file"), 9, MIB)?;
        let server = NfsServer::start()?;
        script("ip netns add client; ip -n client link add bridge type bridge; ip -n client link set bridge up")?;
        script(&format!("ip -n client link set lo up; ip -n client address add {CLIENT}/24 dev bridge"))?;
        connect(&server)?;
        script(&format!("ip address add {SERVER}/24 dev nfs; ip link set nfs up"))?;
        script("ip -n client address add fd00::1/64 dev bridge nodad; ip address add fd00::10/64 dev nfs nodad")?;

        let lab = Lab::new()?;
        publish(&lab)?;
        let master = Master::start(&lab, &lab.path("repo"))?;
        let cache = CacheServer::start(&lab, &master.url())?;
        Ok(Site { lab, master, cache, server, knfsd: knfsd() })
    }

    pub(crate) fn share(&self, image: &str, id: u16) -> Result<Share> {
        share(&self.cache, image, id)
    }

    pub(crate) fn shares(&self) -> Result<[Share; 2]> {
        self.shares_of(&self.cache)
    }

    pub(crate) fn shares_of(&self, cache: &CacheServer) -> Result<[Share; 2]> {
        Ok([share(cache, "lab", 7)?, share(cache, "other", 8)?])
    }

    /// A file of `lab@1`.
    pub(crate) fn published(&self, path: &str) -> Result<Vec<u8>> {
        Ok(fs::read(self.lab.path("trees/lab").join(path))?)
    }

    /// What is in the folder with many names, of `lab@1`.
    pub(crate) fn names(&self) -> Result<BTreeSet<OsString>> {
        let entries = fs::read_dir(self.lab.path("trees/lab/many"))?;
        entries.map(|entry| Ok(entry?.file_name())).collect()
    }

    /// Has the client mount an image.
    pub(crate) fn mount(&self, version: &'static str, image: &str) -> Result<Mounted> {
        self.mount_path(version, &self.cache.path(image))
    }

    pub(crate) fn mount_path(&self, version: &'static str, folder: &Path) -> Result<Mounted> {
        self.mount_from(SERVER, version, folder)
    }

    /// The same from another address of the server.
    pub(crate) fn mount_from(&self, server: &str, version: &'static str, folder: &Path) -> Result<Mounted> {
        let at = self.lab.unique("nfs");
        fs::create_dir(&at)?;
        let tcp = if server.starts_with('[') { "tcp6" } else { "tcp" };
        let options = match version {
            // Without help from an rpcbind on the way.
            "3" => format!("vers=3,nolock,proto={tcp},port=2049,mountproto={tcp},mountport=20048"),
            version => format!("vers={version},proto={tcp}"),
        };
        let mut command = Command::new("nsenter");
        command.args(["--net=/run/netns/client", "mount.nfs", &format!("{server}:{}", folder.display())]);
        command.arg(&at).args(["-o", &options]);
        run_bounded(command, TOOL_DEADLINE)?.ok().with_context(|| format!("mounting by {version}"))?;
        Ok(Mounted { at, version })
    }

    /// Does something, and kills the cache's daemon once that waits for an answer of it.
    pub(crate) fn killed_meanwhile<T: Send>(&mut self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let waiting = waiting(self.cache.mount())?;
        let worker = rustix::process::Pid::from_raw(self.cache.daemon.worker()?.as_raw()).context("a process")?;
        self.cache.daemon.allow_log("the daemon ended while its mount is in use");
        drop_caches()?;
        rustix::process::kill_process(worker, rustix::process::Signal::STOP)?;
        std::thread::scope(|scope| {
            let acting = scope.spawn(act);
            let waits =
                wait_for("somebody who waits for the daemon", || Ok((fs::read(&waiting)? != b"0\n").then_some(())));
            // Also where nobody does, or that would wait for good.
            rustix::process::kill_process(worker, rustix::process::Signal::KILL)?;
            let is_early = acting.is_finished();
            self.cache.daemon.wait_ready()?;
            let done = acting.join().ok().context("the reader")?;
            waits?;
            ensure!(!is_early, "it had ended before the daemon did");
            done
        })
    }

    /// The second server takes the address, and says so on the network until the client has heard of it.
    pub(crate) fn move_address(&self, to: &NfsServer) -> Result<()> {
        connect(to)?;
        to.run("echo 1 > /proc/sys/net/ipv4/conf/nfs/arp_notify; ip link set nfs up")?;
        let port = format!("ip -n client -details link show server{}", to.pid());
        wait_for("the bridge to forward", || Ok(script(&port)?.contains("state forwarding").then_some(())))?;
        script(&format!("ip address del {SERVER}/24 dev nfs; ip link set nfs down"))?;
        to.run(&format!("ip address add {SERVER}/24 dev nfs"))?;
        let mut last = 0;
        wait_for("the client to hear of the second server", || {
            // With each new hardware address the kernel announces what addresses it has; a client that has just learned of one is deaf
            // for a second.
            last ^= 1;
            let hardware = format!("02:00:00:00:00:0{last}");
            to.run(&format!("ip link set nfs address {hardware}"))?;
            Ok(script(&format!("ip -n client neighbour show {SERVER}"))?.contains(&hardware).then_some(()))
        })
    }
}

impl Mounted {
    pub(crate) fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.at.join(below)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = script(&format!("umount '{0}' || umount -fl '{0}'", self.at.display()));
    }
}

fn share(cache: &CacheServer, image: &str, id: u16) -> Result<Share> {
    let (id, clients) = (NonZeroU16::new(id).context("an id")?, vec![format!("{CLIENT}/32").parse()?]);
    Ok(Share { image: image.parse()?, folder: cache.path(image), id, clients })
}

/// `lab@1` with a disk, one more for each version of NFS, and a list that takes many requests; and `other@1`.
fn publish(lab: &Lab) -> Result<()> {
    let tree = lab.folder("trees/lab")?;
    for (disk, seed) in ["disk.raw", "3.raw", "4.2.raw"].iter().zip(1..) {
        fill(&tree.join(disk), seed, DISK)?;
    }
    let long = "n".repeat(150);
    fs::create_dir(tree.join("many"))?;
    for number in 0..NAMES {
        fs::write(tree.join(format!("many/{long}{number}")), b"")?;
    }
    for image in ["lab", "other"] {
        let tree = lab.folder(format!("trees/{image}"))?;
        fs::create_dir(tree.join("boot"))?;
        fs::write(tree.join("boot/vmlinuz"), image)?;
        Master::publish_offline(&lab.path("repo"), image, &tree, &["--deploy"])?;
    }
    Ok(())
}

/// A cable from a server to the client's bridge; its end is called `nfs`.
fn connect(server: &NfsServer) -> Result<()> {
    let pid = server.pid();
    script(&format!(
        "ip -n client link add server{pid} type veth peer name nfs netns {pid}; \
         ip -n client link set server{pid} master bridge up"
    ))
    .map(drop)
}

/// Where the kernel says how many requests wait for the daemon of a mount.
fn waiting(mount: &Path) -> Result<PathBuf> {
    let minor = rustix::fs::minor(fs::metadata(mount)?.dev());
    Ok(format!("/sys/fs/fuse/connections/{minor}/waiting").into())
}

/// Has the kernel forget what it can, at both ends.
pub(crate) fn drop_caches() -> Result<()> {
    Ok(fs::write("/proc/sys/vm/drop_caches", "3")?)
}

fn script(script: &str) -> Result<String> {
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    run_bounded(command, TOOL_DEADLINE)?.ok()
}

/// With a file of its own, for the daemon sees to icbd's.
pub(crate) fn knfsd() -> Knfsd {
    let mut knfsd = Knfsd::default();
    knfsd.exports = "/etc/exports.d/test.exports".into();
    knfsd
}
