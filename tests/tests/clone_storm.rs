//! Thirty workstations boot at once, each on a disk of its own, as a Debian machine did when it was recorded.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    BootTarget, CacheServer, CacheSettings, Lab, Master, Tgtd, debian_image, files_below, icbd_path, wait_for,
};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

const CLIENTS: usize = 30;
/// What thirty may read, in what one does.
const RATIO_MAX: f64 = 1.1;

/// A cache server of its own, with clones for all.
struct Site {
    cache: CacheServer,
    clones: Vec<BootTarget>,
    _tgtd: Tgtd,
    _lab: Lab,
}

impl Site {
    fn new(master: &Master) -> Result<Site> {
        let lab = Lab::new()?;
        let tgtd = Tgtd::start(&lab)?;
        let env = vec![("TGT_IPC_SOCKET", tgtd.socket().to_owned())];
        let config = "[serve]\nlisten = [\"127.0.0.1:0\"]\n".to_owned();
        let cache =
            CacheServer::start_with(&lab, &[&master.url()], &CacheSettings { env, config, ..Default::default() })?;
        cache.command(&["export", "add", "debian-lab", "--iscsi", "--clients", "127.0.0.0/8", "--clone"])?.ok()?;
        let ask = |client| BootTarget::ask(&cache, "debian-lab", &format!("pc-{client}"));
        let clones = (1..=CLIENTS).map(ask).collect::<Result<_>>()?;
        Ok(Site { cache, clones, _tgtd: tgtd, _lab: lab })
    }

    /// Has some of the workstations boot at once.
    fn boot(&self, count: usize) -> Result<()> {
        let mut running: Vec<Replay> = self.clones[..count].iter().map(Replay::start).collect::<Result<_>>()?;
        running.iter_mut().try_for_each(Replay::end)?;
        // What was fetched is on the disk before anybody looks.
        self.cache.wait_idle().map(drop)
    }

    /// What the cache server reads of its disk while some boot with nothing in memory.
    fn disk_bytes(&self, count: usize) -> Result<u64> {
        for file in files_below(self.cache.store())? {
            let file = File::open(self.cache.store().join(file))?;
            file.sync_all()?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
        let before = self.read_bytes()?;
        self.boot(count)?;
        Ok(self.read_bytes()? - before)
    }

    fn read_bytes(&self) -> Result<u64> {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.cache.daemon.worker()?))?;
        let bytes = io.lines().find_map(|line| line.strip_prefix("read_bytes: ")).context("no read_bytes")?;
        Ok(bytes.parse()?)
    }
}

/// A recorded boot that is replayed, ended with its scenario.
struct Replay(Child);

impl Replay {
    fn start(clone: &BootTarget) -> Result<Replay> {
        let mut command = Command::new(icbd_path()?);
        command.args(["bench", "storm", "-q", "--clients", "1", &clone.storm_target()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        Ok(Replay(command.spawn().context("starting a replay")?))
    }

    fn end(&mut self) -> Result<()> {
        let ended = wait_for("a workstation that boots", || Ok(self.0.try_wait()?))?;
        ensure!(ended.success(), "a workstation did not boot: {ended}");
        Ok(())
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Thirty clones that boot read no more than a tenth more than one, of the master's line from a cold cache and of the disk from
/// a warm one.
#[test]
fn thirty_clones_read_what_one_reads() -> Result<()> {
    let (lab, image) = (Lab::new()?, debian_image()?.join("v1"));
    let repo = lab.path("repo");
    Master::publish_offline(&repo, "debian-lab", &image, &["--deploy"])?;
    let master = Master::start(&lab, &repo)?;
    let sent = |site: &Site, count| -> Result<u64> {
        let before = master.blocks_sent()?;
        site.boot(count)?;
        Ok(master.blocks_sent()? - before)
    };
    let (one, thirty) = (Site::new(&master)?, Site::new(&master)?);
    let line = (sent(&one, 1)?, sent(&thirty, CLIENTS)?);
    let disk = (thirty.disk_bytes(1)?, thirty.disk_bytes(CLIENTS)?);
    println!("blocks from the master {line:?}, bytes from the disk {disk:?}, of one and of {CLIENTS}");
    for (one, thirty) in [line, disk] {
        ensure!(one > 0 && thirty as f64 <= RATIO_MAX * one as f64, "{CLIENTS} read {thirty}, one {one}");
    }
    Ok(())
}
