//! A store that somebody changes by hand: what is missing is noticed, made anew and fetched again, and said once.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, Lab, MIB, Master, fill, pattern, solid, wait_for};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const FILE_BYTES: u64 = 6 * MIB;
const BLOCK: u64 = 64 << 10;
const VERIFICATION: i32 = 7;
const SAID: &str = "the store was changed by hand";

/// What somebody does to the tree of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Delete,
    Cut,
    Symlink,
    Directory,
    Pipe,
    /// Another file of the same size.
    Replace,
    DeleteFolder,
    DeleteTree,
    DeleteImage,
}

impl Deed {
    const ALL: [Deed; 9] = [
        Deed::Delete,
        Deed::Cut,
        Deed::Symlink,
        Deed::Directory,
        Deed::Pipe,
        Deed::Replace,
        Deed::DeleteFolder,
        Deed::DeleteTree,
        Deed::DeleteImage,
    ];

    fn is_done_to(self, image: &Path, lab: &Lab) -> Result<()> {
        let tree = image.join("1");
        let file = tree.join("sub/disk");
        match self {
            Deed::Delete => fs::remove_file(&file)?,
            Deed::Cut => File::options().write(true).open(&file)?.set_len(MIB)?,
            Deed::DeleteFolder => fs::remove_dir_all(tree.join("sub"))?,
            Deed::DeleteTree => fs::remove_dir_all(tree)?,
            Deed::DeleteImage => fs::remove_dir_all(image)?,
            Deed::Symlink | Deed::Directory | Deed::Pipe | Deed::Replace => {
                fs::remove_file(&file)?;
                match self {
                    Deed::Symlink => symlink(lab.path("repo"), &file)?,
                    Deed::Directory => fs::create_dir_all(file.join("something"))?,
                    Deed::Pipe => mkfifo(&file, Mode::from_bits_truncate(0o600))?,
                    _ => File::create(&file)?.set_len(FILE_BYTES)?,
                }
            }
        }
        Ok(())
    }
}

struct Site {
    lab: Lab,
    master: Master,
    cache: CacheServer,
}

impl Site {
    /// A version that is here as a whole.
    fn new() -> Result<Site> {
        let lab = Lab::new()?;
        let tree = lab.folder("tree")?;
        fs::create_dir(tree.join("sub"))?;
        fill(&tree.join("sub/disk"), 1, FILE_BYTES)?;
        fill(&tree.join("kernel"), 2, MIB)?;
        Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
        let master = Master::start(&lab, &lab.path("repo"))?;
        let cache = CacheServer::start(&lab, &master.url())?;
        cache.prefetch_all("lab@1")?;
        Ok(Site { lab, master, cache })
    }

    fn tamper(&self, deed: Deed) -> Result<()> {
        self.cache.daemon.allow_log(SAID);
        self.cache.daemon.allow_log("bitmap of the store");
        self.cache.daemon.allow_log("moved aside");
        deed.is_done_to(&self.cache.store().join("filling/lab"), &self.lab)
    }

    /// Whoever reads gets what was published; an order ends, has asked for nothing twice, and all is well after it.
    fn check(&self, sent_before: u64) -> Result<()> {
        self.cache.prefetch_all("lab@1")?;
        for (name, seed, bytes) in [("sub/disk", 1, FILE_BYTES), ("kernel", 2, MIB)] {
            let read = fs::read(self.cache.path("lab/1").join(name))?;
            ensure!(read == pattern(seed, 0, bytes as usize), "wrong bytes in {name}");
            let stored = fs::read(self.cache.store().join("filling/lab/1").join(name));
            let stored = stored.with_context(|| format!("{name} is not in the store"))?;
            ensure!(stored == pattern(seed, 0, bytes as usize), "wrong bytes of {name} in the store");
        }
        let status = self.cache.status()?;
        ensure!(status["store"]["state"] == "ok", "{status}");
        ensure!(!status["warnings"].to_string().contains(SAID), "it is mended: {status}");
        self.cache.command(&["image", "verify", "lab@1"])?.ok()?;
        let (held, sent) = (self.cache.residency("lab@1")?, self.master.blocks_sent()? - sent_before);
        ensure!(held.is_complete && sent <= held.blocks, "{sent} blocks were sent, of {}", held.blocks);
        let log = self.cache.daemon.log();
        ensure!(log.matches(SAID).count() == 1, "the log does not say it once:\n{log}");
        Ok(())
    }
}

/// What is taken out of the store while the cache runs is fetched again by the next order, which ends.
#[test]
fn a_store_that_is_changed_while_the_cache_runs() -> Result<()> {
    for deed in Deed::ALL {
        let site = Site::new()?;
        let sent = site.master.blocks_sent()?;
        site.tamper(deed)?;
        site.check(sent).with_context(|| format!("{deed:?}"))?;
    }
    Ok(())
}

/// A scrub says what was taken away, and fetches what it can at once.
#[test]
fn a_scrub_counts_what_was_taken_away() -> Result<()> {
    let mut site = Site::new()?;
    let blocks = FILE_BYTES / BLOCK;
    site.tamper(Deed::Delete)?;
    site.cache.daemon.allow_log("it is forgotten");
    let scrub = site.cache.command(&["store", "scrub"])?;
    scrub.prints(&[&format!("{blocks} bad, {blocks} mended")])?.ok()?;
    site.cache.daemon.stop()?;
    site.tamper(Deed::DeleteTree)?;
    site.cache.start_again(&site.lab)?;
    site.cache.daemon.allow_log(SAID);
    site.cache.daemon.allow_log("bitmap of the store");
    let scrub = site.cache.command(&["store", "scrub"])?.failed_with(VERIFICATION)?;
    scrub.prints(&["lab@1: ", "were here until its tree was taken away"])?;
    // It is so until it has come again.
    site.cache.command(&["store", "scrub"])?.failed_with(VERIFICATION)?.prints(&["taken away"])?;
    site.cache.prefetch_all("lab@1")?;
    site.cache.command(&["store", "scrub"])?.prints(&["0 bad"]).map(drop)
}

/// A file that is deleted under an order that fetches it is fetched anew by that order, which ends.
#[test]
fn a_file_that_is_deleted_under_an_order() -> Result<()> {
    let lab = Lab::new()?;
    let tree = lab.folder("tree")?;
    fs::write(tree.join("disk"), solid(1, FILE_BYTES))?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    let cache = CacheServer::start(&lab, &master.url())?;
    [SAID, "prefetch"].iter().for_each(|words| cache.daemon.allow_log(words));
    cache.command(&["prefetch", "add", "lab@1", "--all", "--limit", "10mbit"])?.ok()?;
    wait_for("a part is durable", || Ok((cache.residency("lab@1")?.durable_blocks >= 16).then_some(())))?;
    fs::remove_file(cache.store().join("filling/lab/1/disk"))?;
    wait_for("the order ends", || {
        let orders: serde_json::Value =
            serde_json::from_str(&cache.command(&["prefetch", "list", "--ended", "--json"])?.ok()?)?;
        Ok((orders[0]["state"] == "done").then_some(()))
    })?;
    ensure!(fs::read(cache.store().join("filling/lab/1/disk"))? == solid(1, FILE_BYTES), "wrong bytes in the store");
    let (held, sent, status) = (cache.residency("lab@1")?, master.blocks_sent()?, cache.status()?);
    ensure!(held.is_complete && sent <= 2 * held.blocks, "{sent} blocks were sent, of {}", held.blocks);
    ensure!(status["store"]["state"] == "ok" && !status["warnings"].to_string().contains(SAID), "{status}");
    ensure!(cache.daemon.log().matches(SAID).count() == 1, "the log does not say it once:\n{}", cache.daemon.log());
    Ok(())
}

/// What was taken out of the store while the cache was stopped is found by the next order, or by the next reader.
#[test]
fn a_store_that_is_changed_while_the_cache_is_stopped() -> Result<()> {
    // Nobody can tell another file of the same size from the one before without reading it: `image verify` does.
    for deed in Deed::ALL.into_iter().filter(|deed| *deed != Deed::Replace) {
        for is_read_first in [false, true] {
            let mut site = Site::new()?;
            site.cache.daemon.stop()?;
            let sent = site.master.blocks_sent()?;
            site.tamper(deed)?;
            site.cache.start_again(&site.lab)?;
            ["by hand", "bitmap of the store", "moved aside"]
                .iter()
                .for_each(|words| site.cache.daemon.allow_log(words));
            if is_read_first {
                let read = fs::read(site.cache.path("lab/1/sub/disk"))?;
                ensure!(read == pattern(1, 0, FILE_BYTES as usize), "{deed:?}: wrong bytes");
            }
            site.check(sent).with_context(|| format!("{deed:?}, read first: {is_read_first}"))?;
        }
    }
    Ok(())
}
