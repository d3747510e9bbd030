//! Many images, many files, and a disk that is larger than any of ours.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use icbd_image::{Listing, Serial, SignedStatement, Statement};
use icbd_tests::{
    CacheServer, CacheSettings, FileSystem, Lab, MIB, Master, Proxy, Random, Volume, get, run_bounded, wait_for,
    write_sparse,
};

const IMAGES: u64 = 1000;
const VERSIONS: u64 = 10;
const FILES: u64 = 50_000;
const TIB: u64 = 1 << 40;

/// A mount over 1,000 images of 10 versions each is ready in under 2 s and needs under 100 MiB of memory; all names of
/// two levels can be listed.
#[test]
fn a_thousand_images_mount_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    fs::write(tree.join("file"), "the same in all versions")?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    let master = Master::start(&lab, &repo)?;
    let listing = icbd_wire::listing::decode(&get(master.address(), "/v1/images")?.body)?;
    let proxy = Proxy::start(master.address())?;
    proxy.replace("/v1/images", icbd_wire::listing::encode(&multiplied(&listing)?));

    let cache = CacheServer::start(&lab, &proxy.url())?;
    wait_for("all images", || Ok((fs::read_dir(cache.mount())?.count() as u64 == IMAGES).then_some(())))?;
    let started = Instant::now();
    let mut find = Command::new("find");
    find.arg(cache.mount()).args(["-maxdepth", "2"]);
    let listed = run_bounded(find, Duration::from_secs(60))?.ok()?;
    let took = started.elapsed();
    // The mount; each image; its versions and its link.
    assert_eq!(listed.lines().count() as u64, 1 + IMAGES * (1 + VERSIONS + 1));
    assert_eq!(fs::read(cache.path("image-0999/10/file"))?, b"the same in all versions");
    let (resident, highest) = cache.daemon.resident_memory()?;
    println!(
        "{IMAGES} images of {VERSIONS} versions: ready after {:?}, two levels listed in {took:?}, {} MiB resident, {} at most",
        cache.daemon.ready_after(),
        resident / MIB,
        highest / MIB
    );
    ensure!(cache.daemon.ready_after() < Duration::from_secs(2), "ready after {:?}", cache.daemon.ready_after());
    ensure!(highest < 100 * MIB, "{} MiB of memory", highest / MIB);
    Ok(())
}

/// The listing of a repository with one version of one image, as if it had many of the same content.
fn multiplied(listing: &Listing) -> Result<Listing> {
    let original = &listing.images[0];
    let mut serial = 1000;
    let mut next = || {
        serial += 1;
        Serial::new(serial).context("a serial")
    };
    let mut images = Vec::new();
    for index in 0..IMAGES {
        let mut image = original.clone();
        image.name = format!("image-{index:04}").parse()?;
        image.serial = next()?;
        image.versions.clear();
        for number in 1..=VERSIONS {
            let mut version = original.versions[0].clone();
            let statement = Statement {
                image: image.name.clone(),
                number: number.to_string().parse()?,
                serial: next()?,
                ..version.statement.statement().clone()
            };
            version.statement = SignedStatement::new(statement);
            image.versions.push(version);
        }
        images.push(image);
    }
    Ok(Listing { repository: listing.repository, images })
}

/// A version that is a tree of 50,000 small files publishes, mounts, lists and reads.
#[test]
fn fifty_thousand_small_files() -> Result<()> {
    let lab = Lab::new()?;
    // A file system of its own goes in one piece; 150,000 files can take minutes to delete where that discards blocks.
    let volume = Volume::new(&lab, FileSystem::Xfs, 2048 * MIB)?;
    let (tree, repo) = (volume.path().join("tree"), volume.path().join("repo"));
    for index in 0..FILES {
        let path = tree.join(name_of(index));
        if index % 100 == 0 {
            fs::create_dir_all(path.parent().context("files lie in folders")?)?;
        }
        fs::write(path, content_of(index))?;
    }
    let published = timed("publish", || Master::publish_offline(&repo, "root", &tree, &["--deploy"]))?;
    assert_eq!(published, "root@1");
    let master = Master::start(&lab, &repo)?;
    let settings = CacheSettings { store: Some(volume.path().join("store")), ..Default::default() };
    let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
    let root = cache.path("root/1");
    let listed = timed("list", || {
        let mut find = Command::new("find");
        find.arg(&root).args(["-type", "f", "-size", "-2"]);
        run_bounded(find, Duration::from_secs(120))?.ok()
    })?;
    assert_eq!(listed.lines().count() as u64, FILES);
    let mut random = Random::new(5);
    timed("read 500", || (0..500).try_for_each(|_| check_file(&root, random.below(FILES))))?;
    timed("prefetch", || cache.prefetch_all("root"))?;
    timed("read all", || (0..FILES).try_for_each(|index| check_file(&root, index)))?;
    let (resident, highest) = cache.daemon.resident_memory()?;
    println!(
        "memory {} MiB, at most {}: {} bytes a file; store {} bytes a file",
        resident / MIB,
        highest / MIB,
        highest / FILES,
        disk_use(cache.store())? / FILES
    );
    ensure!(highest < 300 * MIB, "{} MiB of memory", highest / MIB);
    Ok(())
}

fn name_of(index: u64) -> String {
    format!("usr/{:02}/{:03}/file-{index}", index / 5000, index / 100)
}

fn content_of(index: u64) -> String {
    format!("content of file {index}\n").repeat(1 + (index % 17) as usize)
}

fn check_file(root: &Path, index: u64) -> Result<()> {
    let path = root.join(name_of(index));
    let found = fs::read(&path).with_context(|| path.display().to_string())?;
    ensure!(found == content_of(index).as_bytes(), "wrong bytes in {}", path.display());
    Ok(())
}

/// A version with a 1 TiB sparse disk publishes, mounts and reads; it costs little memory and store.
#[test]
fn a_sparse_disk_of_one_tebibyte() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
    let pieces: Vec<(u64, Vec<u8>)> =
        (0..64).map(|index| (index * (TIB / 64) + 77 * index, vec![index as u8 + 1; 5000])).collect();
    let slices: Vec<(u64, &[u8])> = pieces.iter().map(|(offset, bytes)| (*offset, bytes.as_slice())).collect();
    write_sparse(&tree.join("disk.raw"), TIB, &slices)?;
    timed("publish", || Master::publish_offline(&repo, "large", &tree, &["--deploy"]))?;
    let master = Master::start(&lab, &repo)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    let path = cache.path("large/1/disk.raw");
    let file = timed("open", || Ok(File::open(&path)?))?;
    assert_eq!(file.metadata()?.len(), TIB);
    timed("read", || {
        for (offset, expected) in &pieces {
            let mut bytes = vec![0; expected.len()];
            file.read_exact_at(&mut bytes, *offset)?;
            ensure!(bytes == *expected, "wrong bytes at {offset}");
            file.read_exact_at(&mut bytes, offset + TIB / 128)?;
            ensure!(bytes.iter().all(|byte| *byte == 0), "no hole after {offset}");
        }
        Ok(())
    })?;
    // The first data after the first piece is the second piece, at the granularity of blocks.
    let data = nix::unistd::lseek(&file, 1 << 20, nix::unistd::Whence::SeekData)?.cast_unsigned();
    assert_eq!(data, pieces[1].0 - pieces[1].0 % 65_536);
    timed("prefetch", || cache.prefetch_all("large"))?;
    let (resident, highest) = cache.daemon.resident_memory()?;
    println!(
        "memory {} MiB, at most {}; store {} KiB, repository {} KiB",
        resident / MIB,
        highest / MIB,
        disk_use(cache.store())? / 1024,
        disk_use(&repo)? / 1024
    );
    ensure!(highest < 200 * MIB, "{} MiB of memory", highest / MIB);
    ensure!(disk_use(cache.store())? < 128 * MIB, "{} MiB of store", disk_use(cache.store())? / MIB);
    Ok(())
}

fn timed<T>(what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let result = act().with_context(|| what.to_owned())?;
    println!("{what}: {:?}", started.elapsed());
    Ok(result)
}

/// Bytes in use below `root`, where a daemon is at work: what is gone when it is looked at uses none.
fn disk_use(root: &Path) -> Result<u64> {
    let look = || -> std::io::Result<_> {
        let metadata = fs::symlink_metadata(root)?;
        let below = if metadata.is_dir() { fs::read_dir(root)?.collect::<Result<_, _>>()? } else { Vec::new() };
        Ok((metadata.blocks() * 512, below))
    };
    let (bytes, below) = match look() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        looked => looked?,
    };
    below.into_iter().try_fold(bytes, |sum, entry| Ok(sum + disk_use(&entry.path())?))
}
