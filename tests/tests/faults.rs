//! A master or a network that misbehaves: nobody reads a wrong byte, and what can be served is.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, Fault, Lab, MIB, Master, Proxy, fill, pattern, wait_for};

const FILE_BYTES: u64 = 16 * MIB;

/// A tree with one file of [`FILE_BYTES`] from seed 1, published as `lab@1`.
fn published(lab: &Lab) -> Result<PathBuf> {
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    fill(&tree.join("disk"), 1, FILE_BYTES)?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    Ok(repo)
}

/// Reads a piece of each MiB and compares it.
fn check_reads(cache: &CacheServer) -> Result<()> {
    let file = File::open(cache.path("lab/1/disk"))?;
    for mib in 0..FILE_BYTES / MIB {
        let mut bytes = vec![0; 90_000];
        let offset = mib * MIB + 30_000;
        file.read_exact_at(&mut bytes, offset).with_context(|| format!("reading at {offset}"))?;
        ensure!(bytes == pattern(1, offset, bytes.len()), "wrong bytes at {offset}");
    }
    Ok(())
}

/// What may be logged while a source misbehaves.
fn allow_source_trouble(cache: &CacheServer) {
    ["source", "master", "offline", "waiting", "listing"].iter().for_each(|words| cache.daemon.allow_log(words));
}

/// While `fault` lasts no read returns a wrong byte; when it ends, reads that waited return the right ones.
fn fault_is_survived(fault: Fault) -> Result<()> {
    let lab = Lab::new()?;
    let repo = published(&lab)?;
    let master = Master::start(&lab, &repo)?;
    let proxy = Proxy::start(master.address())?;
    let mut cache = CacheServer::start(&lab, &proxy.url())?;
    allow_source_trouble(&cache);
    proxy.set(fault, "/blocks/");
    std::thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| check_reads(&cache));
        if matches!(fault, Fault::Stall | Fault::StallInBody) {
            proxy.wait_stalled(1);
        } else {
            // The second shows that the first was not taken for an answer.
            let blocks = |path: &&String| path.contains("/blocks/");
            wait_for(
                "two faulty requests",
                || Ok((proxy.requests().iter().filter(blocks).count() >= 2).then_some(())),
            )?;
        }
        proxy.set(Fault::None, "");
        reader.join().expect("the reader returns its failure")
    })?;
    cache.daemon.stop()
}

#[test]
fn a_refusing_master_is_survived() -> Result<()> {
    fault_is_survived(Fault::Refuse)
}

#[test]
fn half_a_body_is_survived() -> Result<()> {
    fault_is_survived(Fault::Cut)
}

#[test]
fn a_body_that_stops_is_survived() -> Result<()> {
    fault_is_survived(Fault::StallInBody)
}

#[test]
fn a_master_that_never_answers_is_survived() -> Result<()> {
    fault_is_survived(Fault::Stall)
}

#[test]
fn wrong_bytes_are_never_read() -> Result<()> {
    fault_is_survived(Fault::Corrupt)
}

#[test]
fn a_wrong_length_is_survived() -> Result<()> {
    fault_is_survived(Fault::TooLong)
}

#[test]
fn a_web_page_is_not_taken_for_blocks() -> Result<()> {
    fault_is_survived(Fault::Html)
}

#[test]
fn an_overloaded_master_is_survived() -> Result<()> {
    fault_is_survived(Fault::Unavailable)
}

/// A manifest that arrives damaged is not used; the version works as soon as the master is right again.
#[test]
fn damaged_manifests_are_refused() -> Result<()> {
    for fault in [Fault::Corrupt, Fault::Cut, Fault::TooLong, Fault::Html] {
        let lab = Lab::new()?;
        let repo = published(&lab)?;
        let master = Master::start(&lab, &repo)?;
        let proxy = Proxy::start(master.address())?;
        let settings = CacheSettings { config: "[mount]\noffline_wait = \"1s\"\n".to_owned(), ..Default::default() };
        let mut cache = CacheServer::start_with(&lab, &[&proxy.url()], &settings)?;
        allow_source_trouble(&cache);
        cache.daemon.allow_log("manifest");
        cache.daemon.allow_log("a request failed");
        for (what, part) in [("head", "/heads/"), ("page", "/pages/")] {
            proxy.set(fault, part);
            let read = File::open(cache.path("lab/1/disk")).and_then(|file| file.read_exact_at(&mut [0; 10], 0));
            ensure!(read.is_err(), "{fault:?} of the {what} was not noticed");
            proxy.set(Fault::None, "");
            wait_for("the manifest", || Ok(fs::metadata(cache.path("lab/1/disk")).ok()))?;
        }
        check_reads(&cache).with_context(|| format!("after {fault:?}"))?;
        cache.daemon.stop()?;
    }
    Ok(())
}

/// A cache whose master is down starts, serves what it holds, says that the master is offline, and goes on when it is
/// back.
#[test]
fn a_cache_starts_without_its_master() -> Result<()> {
    let lab = Lab::new()?;
    let repo = published(&lab)?;
    let mut master = Master::start(&lab, &repo)?;
    let mut cache = CacheServer::start(&lab, &master.url())?;
    let file = cache.path("lab/1/disk");
    let mut bytes = [0; 1000];
    File::open(&file)?.read_exact_at(&mut bytes, 3 * MIB)?;
    cache.daemon.stop()?;
    let address = master.address();
    master.daemon.stop()?;

    cache.start_again(&lab)?;
    allow_source_trouble(&cache);
    File::open(&file)?.read_exact_at(&mut bytes, 3 * MIB)?;
    ensure!(bytes[..] == pattern(1, 3 * MIB, 1000), "wrong bytes");
    let text = cache.command(&["status"])?.ok()?.to_lowercase();
    ensure!(text.contains("offline"), "the status does not say it is offline:\n{text}");

    let _master = Master::start_at(&lab, &repo, address, &[])?;
    check_reads(&cache)?;
    cache.wait_status("the master online", |status| status["sources"][0]["online"] == true)?;
    Ok(())
}

/// An empty cache starts without its master, too, and shows its images when it comes.
#[test]
fn an_empty_cache_starts_without_its_master() -> Result<()> {
    let lab = Lab::new()?;
    let repo = published(&lab)?;
    let mut master = Master::start(&lab, &repo)?;
    let address = master.address();
    master.daemon.stop()?;
    let cache = CacheServer::start(&lab, &format!("http://{address}"))?;
    allow_source_trouble(&cache);
    assert_eq!(fs::read_dir(cache.mount())?.count(), 0);
    let _master = Master::start_at(&lab, &repo, address, &[])?;
    wait_for("the image", || Ok(fs::metadata(cache.path("lab/1/disk")).ok()))?;
    check_reads(&cache)
}

/// A master that answers and gives no list is no master that is well: status and check say that new versions do not
/// appear, until they do.
#[test]
fn a_master_without_a_list_is_told_of() -> Result<()> {
    let lab = Lab::new()?;
    let repo = published(&lab)?;
    let master = Master::start(&lab, &repo)?;
    let proxy = Proxy::start(master.address())?;
    let cache = CacheServer::start(&lab, &proxy.url())?;
    allow_source_trouble(&cache);
    cache.command(&["check"])?.failed_with(0)?;
    proxy.set(Fault::Broken, "/images");
    let words = ["no source has given the list of versions", "500"];
    wait_for("a status that says so", || {
        let status = cache.command(&["status"])?.ok()?;
        Ok(words.iter().all(|words| status.contains(words)).then_some(()))
    })?;
    cache.command(&["check"])?.failed_with(1)?.prints(&words)?;
    // What is asked for by name is still to be had.
    check_reads(&cache)?;
    proxy.set(Fault::None, "");
    wait_for("all is well again", || Ok((cache.command(&["check"])?.code == 0).then_some(())))
}

/// With two sources, reads go on at the second when the first fails, and return to the first.
#[test]
fn a_second_source_takes_over() -> Result<()> {
    let lab = Lab::new()?;
    let repo = published(&lab)?;
    let master = Master::start(&lab, &repo)?;
    let (first, second) = (Proxy::start(master.address())?, Proxy::start(master.address())?);
    let cache = CacheServer::start_with(&lab, &[&first.url(), &second.url()], &CacheSettings::default())?;
    allow_source_trouble(&cache);
    let blocks = |proxy: &Proxy| proxy.requests().iter().filter(|path| path.contains("/blocks/")).count();
    let file = File::open(cache.path("lab/1/disk"))?;
    let read = |mib: u64| -> Result<()> {
        let mut bytes = vec![0; 65_536];
        file.read_exact_at(&mut bytes, mib * MIB)?;
        ensure!(bytes == pattern(1, mib * MIB, bytes.len()), "wrong bytes in MiB {mib}");
        Ok(())
    };
    (0..4).try_for_each(read)?;
    ensure!(blocks(&first) > 0 && blocks(&second) == 0, "the first source is to be asked first");
    first.set(Fault::Corrupt, "/blocks/");
    (4..8).try_for_each(read)?;
    ensure!(blocks(&second) > 0, "the second source did not take over");
    first.set(Fault::Refuse, "");
    (8..12).try_for_each(read)
}

/// Another repository behind the master's address is noticed and named; nothing is deleted, what is here is served.
#[test]
fn a_foreign_master_deletes_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let repo = published(&lab)?;
    let master = Master::start(&lab, &repo)?;
    let proxy = Proxy::start(master.address())?;
    let cache = CacheServer::start(&lab, &proxy.url())?;
    cache.prefetch_all("lab@1")?;

    let other = Master::start(&lab, &lab.path("other-repo"))?;
    allow_source_trouble(&cache);
    cache.daemon.allow_log("repository");
    proxy.set_upstream(other.address());
    wait_for("the log names the foreign repository", || Ok(cache.daemon.log().contains("repository").then_some(())))?;
    check_reads(&cache)?;
    let text = cache.command(&["status"])?.ok()?;
    ensure!(text.contains("repository"), "the status does not say so:\n{text}");
    Ok(())
}
