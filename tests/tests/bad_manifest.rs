//! Versions whose manifests are nothing that icbd can read, though their hashes are right: whoever published them
//! meant it so, or was another icbd.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use icbd_image::{ImageRecord, Listing, Root, Serial, SignedStatement, Statement, VersionRecord};
use icbd_tests::{CacheServer, Lab, MIB, Master, Proxy, fill, get, pattern};

const REFUSED: i32 = 4;
const VERIFICATION: i32 = 7;
const HEADER_BYTES: usize = 40;
const NODE_BYTES: usize = 64;
/// Of what claims to be terabytes nothing may be reserved before it is proved.
const MEMORY_MAX: u64 = 100 * MIB;
/// A manifest that is known to be unusable is not waited for.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A manifest, what is to be said of it, and how commands that need it end.
struct Case {
    head: Vec<u8>,
    says: &'static str,
    code: i32,
}

impl Case {
    fn damaged(says: &'static str, head: Vec<u8>) -> Case {
        Case { head, says, code: VERIFICATION }
    }
}

/// The cache names a version whose manifest it cannot read, why, and what to do; it asks for it once, serves all
/// others, and its memory does not grow by what the manifest claims.
#[test]
fn manifests_that_cannot_be_read() -> Result<()> {
    let lab = Lab::new()?;
    let tree = lab.folder("tree")?;
    fill(&tree.join("disk"), 1, 4 * MIB)?;
    std::os::unix::fs::symlink("disk", tree.join("link"))?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    let listing = icbd_wire::listing::decode(&get(master.address(), "/v1/images")?.body)?;
    let good = listing.images[0].versions[0].clone();
    let cases = cases(&get(master.address(), &format!("/v1/heads/{}", good.root()))?.body)?;
    let proxy = Proxy::start(master.address())?;
    for case in &cases {
        proxy.replace(&format!("/v1/heads/{}", Root::of(&case.head)), case.head.clone());
    }
    proxy.replace("/v1/images", icbd_wire::listing::encode(&with_bad_image(listing, &good, &cases)?));

    let mut cache = CacheServer::start(&lab, &proxy.url())?;
    cache.daemon.allow_log("cannot be used");
    let worker = cache.daemon.worker()?;
    icbd_tests::wait_for("the bad image", || Ok(fs::metadata(cache.path("bad")).ok()))?;
    for (number, case) in (1..).zip(&cases) {
        check(&cache, number, case).with_context(|| format!("bad@{number}: {}", case.says))?;
        let asked = format!("/v1/heads/{}", Root::of(&case.head));
        let asked = proxy.requests().into_iter().filter(|path| *path == asked).count();
        ensure!(asked == 1, "the manifest of bad@{number} was asked for {asked} times");
    }
    ensure!(fs::read_dir(cache.path("bad"))?.count() == cases.len(), "the image's versions are not listed");
    nix::sys::statvfs::statvfs(cache.mount()).context("sizes that add up to more than there are numbers for")?;
    ensure!(fs::read(cache.path("lab/current/disk"))? == pattern(1, 0, 4 * MIB as usize), "wrong bytes");
    let highest = cache.daemon.resident_memory()?.1;
    ensure!(highest < MEMORY_MAX, "{} MiB of memory", highest / MIB);
    ensure!(cache.daemon.worker()? == worker, "the daemon did not survive");
    cache.daemon.stop()
}

fn check(cache: &CacheServer, number: u32, case: &Case) -> Result<()> {
    let started = Instant::now();
    for _ in 0..2 {
        let error = File::open(cache.path(Path::new("bad").join(number.to_string()).join("disk")));
        let error = error.err().context("its file was opened")?;
        ensure!(error.raw_os_error() == Some(nix::libc::EIO), "{error}");
    }
    ensure!(started.elapsed() < AT_ONCE, "it took {:?}", started.elapsed());
    let (version, name) = (format!("bad@{number}"), format!("bad@{number} cannot be used"));
    let to_do = if case.code == REFUSED { "install" } else { "publish it anew" };
    let words = [name.as_str(), case.says, to_do];
    cache.command(&["image", "verify", &version])?.failed_with(case.code)?.says(&words)?;
    cache.command(&["prefetch", "add", &version, "--all", "--wait"])?.failed_with(case.code)?.says(&words)?;
    cache.command(&["status"])?.prints(&words)?;
    let log = cache.daemon.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ") && line.contains(&name)).collect();
    ensure!(said.len() == 1 && words.iter().all(|words| said[0].contains(words)), "the log is to say it once:\n{log}");
    Ok(())
}

/// Manifests made from `head`, that of a tree with a file `disk` and a link.
fn cases(head: &[u8]) -> Result<Vec<Case>> {
    let with = |at: usize, bytes: &[u8]| {
        let mut head = head.to_vec();
        head[at..at + bytes.len()].copy_from_slice(bytes);
        head
    };
    let node = |kind: u8| {
        let count = u32::from_le_bytes(head[12..16].try_into()?) as usize;
        let mut starts = (0..count).map(|index| HEADER_BYTES + NODE_BYTES * index);
        starts.find(|at| head[*at] == kind).with_context(|| format!("no node of kind {kind}"))
    };
    let (file, link) = (node(1)?, node(3)?);
    Ok(vec![
        Case { head: with(8, &9u32.to_le_bytes()), says: "has format 9; this icbd reads format 1", code: REFUSED },
        Case::damaged("its size is absurd", with(file + 40, &(1u64 << 63).to_le_bytes())),
        Case::damaged("its size is absurd", with(file + 40, &u64::MAX.to_le_bytes())),
        // Allowed by itself; its hashes would be 128 MiB.
        Case::damaged("its hashes are not where they belong", with(file + 40, &(1u64 << 49).to_le_bytes())),
        Case::damaged("its hashes are missing", with_hashes(with(file + 40, &(1u64 << 49).to_le_bytes()), file)),
        Case::damaged("its target is empty or too long", with(link + 40, &(1u64 << 40).to_le_bytes())),
        Case::damaged("holds at most 16777215 files", with(12, &u32::MAX.to_le_bytes())),
        Case::damaged("its header says", with(12, &((1u32 << 24) - 1).to_le_bytes())),
        Case::damaged("its header says", with(16, &u32::MAX.to_le_bytes())),
        Case::damaged("its header says", with(24, &u32::MAX.to_le_bytes())),
        Case::damaged("its header says", with(28, &u32::MAX.to_le_bytes())),
        Case::damaged("its header says", head[..head.len() - 10].to_vec()),
        Case::damaged("not the head of a manifest", b"<html><body>Please log in</body></html>".to_vec()),
        Case::damaged("not the head of a manifest", Vec::new()),
    ])
}

/// A head whose file at `file` has 2^22 hashes, as a file of 2^49 bytes must.
fn with_hashes(mut head: Vec<u8>, file: usize) -> Vec<u8> {
    head[file + 52..file + 56].copy_from_slice(&(1u32 << 22).to_le_bytes());
    head
}

/// The listing with an image `bad`, which has a version for each case. All are as large as numbers get.
fn with_bad_image(mut listing: Listing, like: &VersionRecord, cases: &[Case]) -> Result<Listing> {
    let serial = |number: u64| Serial::new(number).context("a serial");
    let mut bad = ImageRecord {
        name: "bad".parse()?,
        serial: serial(1)?,
        changed: like.statement.statement().time,
        deployed: None,
        fallback: None,
        versions: Vec::new(),
        removed: Vec::new(),
    };
    for (number, case) in (1..).zip(cases) {
        let statement = Statement {
            image: bad.name.clone(),
            number: number.to_string().parse()?,
            serial: serial(1 + number)?,
            root: Root::of(&case.head),
            ..like.statement.statement().clone()
        };
        bad.versions.push(VersionRecord {
            state: icbd_image::VersionState::Ready,
            data_bytes: u64::MAX,
            statement: SignedStatement::new(statement),
            ..like.clone()
        });
    }
    listing.images.insert(0, bad);
    Ok(listing)
}
