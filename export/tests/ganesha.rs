//! A real NFS-Ganesha serves folders of a real mount: what is wanted of it, whatever happens to either.

use std::fs;
use std::num::NonZeroU16;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use icbd_export::{FileServer, Ganesha, ServerError, Share};
use icbd_tests::{CacheServer, FileHandle, Lab, MIB, Master, Nfs, NfsReader, fill, wait_for};

const DISK: u64 = 24 * MIB;
const PIECE: u32 = 256 << 10;
const OTHERS_ID: u16 = 60_000;
/// New versions are seen within it by whoever has just looked.
const SEEN_MAX: Duration = Duration::from_secs(8);

/// A master of `lab@1` and `other@1`.
struct Source {
    lab: Lab,
    master: Master,
}

/// A cache server of it, and a Ganesha that serves what others want of it.
struct Site {
    lab: Lab,
    server: icbd_tests::Ganesha,
    cache: CacheServer,
    ganesha: Ganesha,
}

impl Source {
    fn new() -> Result<Source> {
        let lab = Lab::new()?;
        let tree = lab.folder("tree")?;
        fill(&tree.join("disk.raw"), 1, DISK)?;
        fs::create_dir(tree.join("boot"))?;
        fs::write(tree.join("boot/vmlinuz"), b"a kernel")?;
        let repo = lab.path("repo");
        for image in ["lab", "other"] {
            Master::publish_offline(&repo, image, &tree, &["--deploy"])?;
        }
        let master = Master::start(&lab, &repo)?;
        Ok(Source { lab, master })
    }

    fn disk(&self) -> Result<Vec<u8>> {
        Ok(fs::read(self.lab.path("tree/disk.raw"))?)
    }
}

impl Site {
    fn new(source: &Source) -> Result<Site> {
        let lab = Lab::new()?;
        let theirs = lab.folder("theirs")?;
        fill(&theirs.join("file"), 9, DISK)?;
        let ganesha = ganesha(&lab);
        let server = icbd_tests::Ganesha::start(&lab, &others(&lab))?;
        let cache = CacheServer::start(&lab, &source.master.url())?;
        let site = Site { lab, server, cache, ganesha };
        // The file is there before somebody brings it in: Ganesha does not start without.
        let error = site.ganesha.serve(&[site.share("lab", 7)?]).expect_err("it is not brought in");
        let line = format!("%include \"{}\"", site.ganesha.exports.display());
        ensure!(matches!(error, ServerError::NotIncluded { .. }) && error.to_string().contains(&line), "{error}");
        site.server.set(&format!("{}\n{line}", others(&site.lab)))?;
        Ok(site)
    }

    fn share(&self, image: &str, id: u16) -> Result<Share> {
        share(&self.cache, image, id, self.server.client().to_string().as_str())
    }

    fn nfs(&self) -> Nfs {
        Nfs(self.server.address())
    }

    /// Whether anybody reads an image's folder by a version of NFS.
    fn lists(&self, path: &str, version: u8) -> Result<bool> {
        Ok(self.server.tool("nfs-ls", &[&self.server.url(path, version)])?.code == 0)
    }
}

fn share(cache: &CacheServer, image: &str, id: u16, clients: &str) -> Result<Share> {
    Ok(Share {
        image: image.parse()?,
        folder: cache.path(image),
        id: NonZeroU16::new(id).context("an id")?,
        clients: vec![format!("{clients}/32").parse()?],
    })
}

fn ganesha(lab: &Lab) -> Ganesha {
    Ganesha::new(lab.path("icbd.conf"), icbd_tests::Ganesha::pid_file(lab))
}

/// What somebody else has it serve.
fn others(lab: &Lab) -> String {
    format!(
        "EXPORT {{ Export_Id = {OTHERS_ID}; Path = {}; Pseudo = /theirs; Access_Type = RO; Squash = None; Protocols = 3, 4;\n\
         FSAL {{ Name = VFS; }} }}",
        lab.path("theirs").display()
    )
}

/// What is read by NFS is what was published, by both versions, also where a version's folder is mounted by itself; nobody writes,
/// and nobody else reads.
#[test]
fn what_is_served_is_what_was_published() -> Result<()> {
    let source = Source::new()?;
    let site = Site::new(&source)?;
    let mut share = site.share("lab", 7)?;
    ensure!(site.ganesha.serve(std::slice::from_ref(&share))?, "it was told nothing");
    ensure!(!site.ganesha.serve(std::slice::from_ref(&share))?, "it was told again");
    ensure!(site.ganesha.served()? == [share.clone()], "{:?}", site.ganesha.served());
    for version in [3, 4] {
        ensure!(site.server.read("/icbd/lab/1/disk.raw", version)? == source.disk()?, "other bytes came");
        ensure!(site.server.read("/icbd/lab/1/boot/vmlinuz", version)? == b"a kernel", "other bytes came");
        let theirs = site.lab.path("theirs/file");
        let to = site.server.url("/icbd/lab/1/new", version);
        let copied = site.server.tool("nfs-cp", &[theirs.to_str().context("a path of text")?, &to])?;
        ensure!(copied.code != 0, "it was written to: {copied:?}");
    }
    let portals = site.ganesha.portals()?;
    ensure!(portals == [(site.server.address(), 2049).into()], "{portals:?}");

    let mut reader = NfsReader::start(&site.server.url("/icbd/lab/1/disk.raw", 4))?;
    reader.next(1)?;
    ensure!(site.ganesha.clients()? == [site.server.client()], "{:?}", site.ganesha.clients());
    ensure!(reader.rest()?.len() as u64 == DISK - 1, "other bytes came");
    wait_for("the client's end", || Ok(site.ganesha.clients()?.is_empty().then_some(())))?;

    share.clients = vec!["198.51.100.0/24".parse()?];
    ensure!(site.ganesha.serve(&[share])?, "it was told nothing");
    for version in [3, 4] {
        let is_shut_out = || Ok((!site.lists("/icbd/lab/1", version)?).then_some(()));
        wait_for("that nobody else reads it", is_shut_out)?;
    }
    Ok(())
}

/// What is wanted no more is served no more, what is new is, and who reads something else goes on, icbd's or not.
#[test]
fn others_go_on() -> Result<()> {
    let source = Source::new()?;
    let site = Site::new(&source)?;
    let (lab, other) = (site.share("lab", 7)?, site.share("other", 8)?);
    site.ganesha.serve(std::slice::from_ref(&lab))?;
    let mut theirs = NfsReader::start(&site.server.url("/theirs/file", 4))?;
    let mut ours = NfsReader::start(&site.server.url("/icbd/lab/1/disk.raw", 4))?;
    let starts = [theirs.next(1)?, ours.next(1)?];
    ensure!(!site.lists("/icbd/other/1", 4)?, "it is served already");
    site.ganesha.serve(&[lab.clone(), other.clone()])?;
    wait_for("the new one", || Ok((site.lists("/icbd/other/1", 3)? && site.lists("/icbd/other/1", 4)?).then_some(())))?;
    // The same export with another folder, which Ganesha does not change in place.
    let moved = Share { folder: site.cache.path("lab"), ..other };
    site.ganesha.serve(&[lab.clone(), moved.clone()])?;
    wait_for("the one that was moved", || Ok(site.lists("/icbd/other/1", 4)?.then_some(())))?;
    site.ganesha.serve(std::slice::from_ref(&moved))?;
    wait_for("that the first is gone", || Ok((!site.lists("/icbd/lab/1", 4)?).then_some(())))?;
    site.ganesha.serve(&[lab, moved])?;
    wait_for("that it is there again", || Ok(site.lists("/icbd/lab/1", 4)?.then_some(())))?;
    ensure!(theirs.rest()? == fs::read(site.lab.path("theirs/file"))?[1..], "other bytes came");
    ensure!(starts[1] == source.disk()?[..1], "other bytes came");
    ensure!(site.ganesha.serve(&[])?, "it was told nothing");
    wait_for("that nothing is left", || Ok((!site.lists("/icbd/lab/1", 4)?).then_some(())))?;
    ensure!(site.lists("/theirs", 3)? && site.lists("/theirs", 4)?, "what is others' is gone");
    // Nothing keeps the mount in use.
    ensure!(site.server.open_below(site.cache.mount())?.is_empty(), "it has something open");
    Ok(())
}

/// Of a disk of each image, by both versions of NFS.
fn handles_of(site: &Site) -> Result<Vec<[FileHandle; 2]>> {
    let of = |image: &str| {
        let by_folder = site.nfs().handle_3(&format!("/icbd/{image}/1"), &["disk.raw"])?;
        let by_image = site.nfs().handle_3(&format!("/icbd/{image}"), &["1", "disk.raw"])?;
        ensure!(by_folder == by_image, "it depends on what was mounted: {by_folder:?}, {by_image:?}");
        Ok([by_image, site.nfs().handle_4(&["icbd", image, "1", "disk.raw"])?])
    };
    ["lab", "other"].into_iter().map(of).collect()
}

/// A client's file handle means the same file after Ganesha was restarted, after the mount was made anew, and at another cache server.
#[test]
fn handles_outlive_mounts_and_servers() -> Result<()> {
    let source = Source::new()?;
    let mut site = Site::new(&source)?;
    let shares = [site.share("lab", 7)?, site.share("other", 8)?];
    site.ganesha.serve(&shares)?;
    let (handles, disk) = (handles_of(&site)?, source.disk()?);
    let check = |site: &Site| -> Result<()> {
        for image in &handles {
            for offset in [0, DISK / 2] {
                let wanted = &disk[offset as usize..][..PIECE as usize];
                ensure!(site.nfs().read_3(&image[0], offset, PIECE)? == wanted, "other bytes came");
                ensure!(site.nfs().read_4(&image[1], offset, PIECE)? == wanted, "other bytes came");
            }
        }
        Ok(())
    };
    check(&site).context("at once")?;
    site.server.start_again()?;
    wait_for("that it reads again", || Ok(check(&site).ok()))?;

    let device = |site: &Site| fs::metadata(site.cache.mount()).map(|metadata| metadata.dev());
    let before = device(&site)?;
    // Ganesha has the old one open.
    site.cache.daemon.allow_log("the mount is in use");
    site.cache.daemon.stop()?;
    site.cache.start_again(&site.lab)?;
    ensure!(device(&site)? != before, "the mount has the same device number, so nothing is tried here");
    // What Ganesha has open it may still read, but nothing else.
    ensure!(site.nfs().handle_3("/icbd/lab/1", &["boot", "vmlinuz"]).is_err(), "it reads from a mount that is gone");
    ensure!(site.ganesha.serve(&shares)?, "it was told nothing");
    check(&site).context("after a new mount")?;
    ensure!(handles_of(&site)? == handles, "handles are others");
    ensure!(!site.ganesha.serve(&shares)?, "it was told again");

    // Whoever is started anew finds out by itself.
    site.cache.daemon.allow_log("the mount is in use");
    site.cache.daemon.stop()?;
    site.cache.start_again(&site.lab)?;
    ensure!(ganesha(&site.lab).serve(&shares)?, "it was told nothing");
    check(&site).context("after a new mount and with a new icbd")?;

    let elsewhere = Site::new(&source)?;
    elsewhere.ganesha.serve(&[elsewhere.share("other", 8)?, elsewhere.share("lab", 7)?])?;
    ensure!(handles_of(&elsewhere)? == handles, "handles are others at another cache server");
    Ok(())
}

/// Readers wait while the cache's daemon is killed, and go on when it is there again; what was not here yet is fetched then.
#[test]
fn readers_wait_for_the_cache() -> Result<()> {
    let source = Source::new()?;
    let mut site = Site::new(&source)?;
    site.ganesha.serve(&[site.share("lab", 7)?])?;
    for version in [3, 4] {
        let mut reader = NfsReader::start(&site.server.url("/icbd/lab/1/disk.raw", version))?;
        let start = reader.next(1)?;
        let reading = std::thread::spawn(move || reader.rest());
        site.cache.kill_worker()?;
        let rest = reading.join().ok().context("the reading thread")??;
        ensure!([start, rest].concat() == source.disk()?, "other bytes came by version {version}");
    }
    Ok(())
}

/// A reader of version 3 waits while Ganesha is killed, and goes on when it is there again; it then serves what it served before
/// without being told. With version 4 a client has to claim its open files again, which a kernel does and libnfs does not: a file
/// that is opened then is read.
#[test]
fn readers_wait_for_ganesha() -> Result<()> {
    let source = Source::new()?;
    let mut site = Site::new(&source)?;
    let share = site.share("lab", 7)?;
    site.ganesha.serve(std::slice::from_ref(&share))?;
    let mut reader = NfsReader::start(&site.server.url("/icbd/lab/1/disk.raw", 3))?;
    let start = reader.next(1)?;
    site.server.kill()?;
    let error = site.ganesha.serve(std::slice::from_ref(&share)).expect_err("nobody is told");
    ensure!(error.to_string().contains("systemctl start nfs-ganesha"), "{error}");
    site.server.start_again()?;
    let rest = reader.rest()?;
    ensure!([start, rest].concat() == source.disk()?, "other bytes came");
    let read = wait_for("a reader of version 4", || Ok(site.server.read("/icbd/lab/1/disk.raw", 4).ok()))?;
    ensure!(read == source.disk()?, "other bytes came");
    // It may have passed over what was not mounted when it was started.
    ensure!(site.ganesha.serve(std::slice::from_ref(&share))?, "another process was told nothing");
    ensure!(!site.ganesha.serve(&[share])?, "it was told again");
    Ok(())
}

/// A new version is seen by whoever has just looked, without Ganesha being told; a file that nobody reads any more is not kept open.
#[test]
fn new_versions_are_seen_and_old_ones_let_go() -> Result<()> {
    let source = Source::new()?;
    let site = Site::new(&source)?;
    site.ganesha.serve(&[site.share("lab", 7)?])?;
    for version in [3, 4] {
        ensure!(site.lists("/icbd/lab", version)? && !site.lists("/icbd/lab/2", version)?, "it is there already");
    }
    source.master.publish("lab", &source.lab.path("tree"), &["--deploy"])?;
    wait_for("the new version at the cache", || Ok(site.cache.path("lab/2").exists().then_some(())))?;
    let since = Instant::now();
    for version in [3, 4] {
        // In the list first: whoever asks for it by its name finds it at once.
        wait_for("the new version", || {
            let listed = site.server.tool("nfs-ls", &[&site.server.url("/icbd/lab", version)])?.ok()?;
            Ok((listed.lines().filter(|line| line.starts_with('d')).count() == 2).then_some(()))
        })?;
        ensure!(site.lists("/icbd/lab/2", version)?, "it is listed and not there");
        ensure!(site.server.read("/icbd/lab/2/boot/vmlinuz", version)? == b"a kernel", "other bytes came");
    }
    ensure!(since.elapsed() < SEEN_MAX, "it took {:?}", since.elapsed());
    let is_let_go = || Ok((site.server.open_below(site.cache.mount())? == [site.cache.mount()]).then_some(()));
    wait_for("that nothing is kept open", is_let_go).map(drop)
}

/// What somebody edited is kept as it is, and Ganesha is told nothing.
#[test]
fn what_was_edited_by_hand_is_kept() -> Result<()> {
    let source = Source::new()?;
    let site = Site::new(&source)?;
    let share = site.share("lab", 7)?;
    site.ganesha.serve(std::slice::from_ref(&share))?;
    let edited = fs::read_to_string(&site.ganesha.exports)?.replace("Access_Type = RO", "Access_Type = RW");
    fs::write(&site.ganesha.exports, &edited)?;
    let log = site.server.log();
    for shares in [&[share.clone()][..], &[]] {
        let error = site.ganesha.serve(shares).expect_err("it is overwritten");
        ensure!(matches!(error, ServerError::HandEdited { .. }), "{error:?}");
        ensure!(error.to_string().contains("icbd.conf was edited by hand"), "{error}");
    }
    ensure!(site.ganesha.served().is_err(), "it is taken for icbd's own");
    ensure!(fs::read_to_string(&site.ganesha.exports)? == edited, "it was changed");
    ensure!(!site.server.log()[log.len()..].contains("SIGHUP"), "Ganesha was told: {}", site.server.log());
    // Once it is gone, all is as it should be.
    fs::remove_file(&site.ganesha.exports)?;
    ensure!(site.ganesha.serve(&[share])?, "it was told nothing");
    ensure!(site.server.read("/icbd/lab/1/boot/vmlinuz", 3)? == b"a kernel", "other bytes came");
    Ok(())
}

/// What keeps it from being served is said, with what to do, and nobody else is signalled.
#[test]
fn what_is_amiss_is_said() -> Result<()> {
    let source = Source::new()?;
    let site = Site::new(&source)?;
    let share = site.share("lab", 7)?;
    let refused = |share: Share| site.ganesha.serve(&[share]).expect_err("it is served").to_string();
    let folder = "/icbd/\"; }".into();
    ensure!(refused(Share { folder, ..share.clone() }).contains("quotes"), "not refused");
    let folder = site.lab.path("theirs");
    ensure!(refused(Share { folder, ..share.clone() }).contains("nothing mounted"), "not refused");

    // A process that is not Ganesha has its number.
    let mut other = std::process::Command::new("sleep").arg("600").spawn()?;
    let pid_file = site.lab.path("other.pid");
    fs::write(&pid_file, other.id().to_string())?;
    let (exports, program) = (site.lab.path("other.conf"), site.lab.path("nowhere"));
    let mut elsewhere = Ganesha::new(exports.clone(), pid_file);
    let error = elsewhere.serve(std::slice::from_ref(&share)).expect_err("it is served");
    ensure!(matches!(error, ServerError::NotRunning { .. }), "{error:?}");
    ensure!(other.try_wait()?.is_none(), "somebody else was signalled");
    other.kill()?;
    other.wait()?;
    elsewhere.program = program;
    let error = elsewhere.serve(std::slice::from_ref(&share)).expect_err("it is served").to_string();
    ensure!(error.contains("install the package nfs-ganesha"), "{error}");
    // Nothing to serve is served by nobody; what was written for later is taken back.
    ensure!(exports.exists() && elsewhere.serve(&[])? && !elsewhere.serve(&[])?, "it fails without need");
    ensure!(elsewhere.served()?.is_empty(), "{:?}", elsewhere.served());
    ensure!(elsewhere.clients().is_err() && elsewhere.portals().is_err(), "nobody is asked");
    Ok(())
}

/// However many readers wait for what is not here, others read what is.
#[test]
fn who_waits_keeps_nobody_from_reading() -> Result<()> {
    const WAITING: u64 = 100;
    const PAGE: u64 = 4096;
    let source = Source::new()?;
    let site = Site::new(&source)?;
    site.ganesha.serve(&[site.share("lab", 7)?, site.share("other", 8)?])?;
    let (nfs, disk) = (site.nfs(), source.disk()?);
    let resident = nfs.handle_3("/icbd/lab/1", &["disk.raw"])?;
    let missing = nfs.handle_3("/icbd/other/1", &["disk.raw"])?;
    site.cache.prefetch_all("lab@1")?;
    let master = rustix::process::Pid::from_raw(source.master.daemon.pid().as_raw()).context("a process")?;
    rustix::process::kill_process(master, rustix::process::Signal::STOP)?;
    let offset = |index: u64| index * (DISK / WAITING / PAGE * PAGE);
    let read = move |file: &FileHandle, index| nfs.read_3(file, offset(index), PAGE as u32);
    let is_page = |index, bytes: Vec<u8>| bytes == disk[offset(index) as usize..][..PAGE as usize];
    let start = |index| {
        let missing = missing.clone();
        std::thread::spawn(move || read(&missing, index))
    };
    let readers: Vec<_> = (0..WAITING).map(start).collect();
    let some_wait = |status: &serde_json::Value| status["mount"]["waiting_requests"].as_u64() > Some(0);
    site.cache.wait_status("readers that wait", some_wait)?;
    for index in 0..WAITING {
        ensure!(is_page(index, read(&resident, index)?), "other bytes came");
    }
    // Blocks of zeros are never missing.
    let waiting = readers.iter().filter(|reader| !reader.is_finished()).count() as u64;
    ensure!(waiting > WAITING / 2, "only {waiting} wait, so nothing is tried here");
    ensure!(site.lists("/theirs", 4)?, "others wait, too");
    rustix::process::kill_process(master, rustix::process::Signal::CONT)?;
    for (index, reader) in (0..).zip(readers) {
        ensure!(is_page(index, reader.join().ok().context("a reader")??), "other bytes came");
    }
    Ok(())
}
