//! File handles, as an NFS server keeps them for its clients.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, Handle, Lab, Master, sample_tree};

/// A file handle means the same file after the kernel has forgotten it, after the daemon was killed, and after it was
/// stopped and started again.
#[test]
fn handles_outlive_caches_and_daemons() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.path("tree"), lab.path("repo"));
    sample_tree(&tree)?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    let master = Master::start(&lab, &repo)?;
    let mut cache = CacheServer::start(&lab, &master.url())?;
    let below = ["lab/1/usr/share/medium", "lab/1/usr/small", "lab/1/usr/share/deep/er", "lab/1", "lab", "."];
    let kept: Vec<Kept> = below.iter().map(|below| Kept::of(cache.path(below))).collect::<Result<_>>()?;

    let check = |cache: &CacheServer, when: &str| {
        kept.iter().try_for_each(|kept| kept.check(cache).with_context(|| format!("{} {when}", kept.path.display())))
    };
    check(&cache, "at once")?;
    drop_caches()?;
    check(&cache, "after drop_caches")?;
    cache.kill_worker()?;
    drop_caches()?;
    check(&cache, "after a kill of the daemon")?;
    cache.daemon.stop()?;
    cache.start_again(&lab)?;
    check(&cache, "after a restart of the daemon")?;
    Ok(())
}

struct Kept {
    path: PathBuf,
    handle: Handle,
    inode: u64,
}

impl Kept {
    fn of(path: PathBuf) -> Result<Kept> {
        let handle = Handle::of(&path).with_context(|| format!("a handle of {}", path.display()))?;
        let inode = fs::symlink_metadata(&path)?.ino();
        Ok(Kept { path, handle, inode })
    }

    fn check(&self, cache: &CacheServer) -> Result<()> {
        let mut file = self.handle.open(cache.mount()).context("opening the handle")?;
        let metadata = file.metadata()?;
        ensure!(metadata.ino() == self.inode, "inode {} was {}", metadata.ino(), self.inode);
        if metadata.is_file() {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            ensure!(bytes == fs::read(&self.path)?, "other bytes");
        }
        Ok(())
    }
}

/// Makes the kernel forget names and inodes that nobody uses.
fn drop_caches() -> Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "2").context("dropping caches")
}
