//! What one site's boot read is known at the next site, and for the next version, before anybody boots there.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use icbd_image::{FileIndex, Observation, Origin, Profile, Root, SiteId, Touch};
use icbd_tests::{CacheServer, CacheSettings, Lab, MIB, Master, fill, get, get_with, wait_for};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::Value;

const ABSENT: i32 = 3;
const REFUSED: i32 = 4;
const VERIFICATION: i32 = 7;
const BLOCK: u64 = 64 << 10;
/// Bytes of the disk of each version.
const DISK: u64 = 48 * MIB;

/// A boot: places of the disk in the order in which they are read, in blocks.
fn trace() -> Vec<(u64, u64)> {
    let scattered = (0..60).map(|step| (step * 37 % 90 * 8, 1 + step % 3));
    [(0, 1), (16, 3)].into_iter().chain(scattered).collect()
}

/// Reads what a boot reads, and nothing that the kernel would like to add.
fn boot(disk: &Path) -> Result<()> {
    let file = File::open(disk)?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
    for (first, count) in trace() {
        file.read_exact_at(&mut vec![0; (count * BLOCK) as usize], first * BLOCK)?;
    }
    Ok(())
}

/// A site whose cache serves what it learned.
fn site(lab: &Lab, master: &Master) -> Result<CacheServer> {
    let config = "[serve]\nlisten = [\"127.0.0.1:0\"]\n".to_owned();
    CacheServer::start_with(lab, &[&master.url()], &CacheSettings { config, ..Default::default() })
}

fn shown(cache: &CacheServer, version: &str) -> Result<Value> {
    Ok(serde_json::from_str(&cache.command(&["profile", "show", version, "--json"])?.ok()?)?)
}

/// What is fetched for a boot, whoever learned it.
fn boot_set(cache: &CacheServer, version: &str) -> Result<(Value, Value)> {
    let shown = shown(cache, version)?;
    Ok((shown["runs"].clone(), shown["files"].clone()))
}

/// The first profile that lies in a folder.
fn kept(folder: &Path) -> Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder.join("profiles")) else { return Ok(None) };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().find(|path| path.extension().is_some_and(|of| of == "profile")))
}

fn root(cache: &CacheServer) -> Result<Root> {
    let image: Value = serde_json::from_str(&cache.command(&["image", "show", "lab@1", "--json"])?.ok()?)?;
    Ok(image["root"].as_str().context("no root")?.parse()?)
}

/// What so many fills told of the version's only file: `runs` says what each read, first block and count.
fn profile(root: Root, fills: u64, runs: impl Fn(u64) -> Vec<(u64, u32)>) -> Result<Profile> {
    let disk = FileIndex::new(1).context("an index")?;
    let mut profile = Profile::new(root);
    for fill in 0..fills {
        let touches =
            (0..).zip(runs(fill)).map(|(at, (first, count))| Touch { after_ms: at, file: disk, first, count });
        profile.insert(Observation::new(SiteId::from_bytes([7; 16]), 1_790_000_000 + fill, Origin::Own, touches));
    }
    Ok(profile)
}

fn publish(lab: &Lab, master: &Master, name: &str, seed: u64, more: &[&str]) -> Result<()> {
    let tree = lab.folder(name)?;
    more.iter().try_for_each(|file| fs::write(tree.join(file), file))?;
    fill(&tree.join("disk.raw"), seed, DISK)?;
    master.publish("lab", &tree, &["--deploy"]).map(drop)
}

/// What boots read is learned at one site and known at all others, and of the next version, before its first boot.
#[test]
fn what_one_site_boots_the_next_site_and_the_next_version_expect() -> Result<()> {
    let lab = Lab::new()?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    publish(&lab, &master, "v1", 1, &[])?;
    let mut a = site(&lab, &master)?;
    a.command(&["profile", "show", "lab@1"])?.failed_with(ABSENT)?.says(&["nobody has booted lab@1"])?;
    boot(&a.path("lab/1/disk.raw"))?;
    // What is being recorded is kept when the daemon stops.
    a.daemon.stop()?;
    a.start_again(&lab)?;
    let learned = shown(&a, "lab@1")?;
    ensure!(learned["boots"] == 1 && learned["sites"] == 1 && learned["carried"] == 0, "{learned}");
    let read: u64 = trace()
        .iter()
        .flat_map(|(first, count)| *first..first + count)
        .collect::<std::collections::BTreeSet<_>>()
        .len() as u64;
    ensure!(learned["bytes"] == read * BLOCK, "{read} blocks were read: {learned}");

    wait_for("the master to fetch what was learned", || kept(master.repo()))?;
    let b = site(&lab, &master)?;
    ensure!(boot_set(&b, "lab@1")? == boot_set(&a, "lab@1")?, "site B expects something else");
    // Not complete, and ready for a boot.
    b.command(&["prefetch", "add", "lab@1", "--boot", "--wait"])?.ok()?;
    b.wait_status("the boot set", |status| status["versions"][0]["boot_set_since"].is_i64())?;
    b.command(&["status"])?.prints(&["boot set since 20"])?;

    // The disk has another index, and all its blocks are others.
    publish(&lab, &master, "v2", 2, &["a-new-file"])?;
    for cache in [&a, &b] {
        cache.wait_status("version 2", |status| status.to_string().contains("lab@2"))?;
        ensure!(boot_set(cache, "lab@2")? == boot_set(&a, "lab@1")?, "version 2 is expected to boot otherwise");
    }
    let carried = shown(&b, "lab@2")?;
    ensure!(carried["boots"] == 0 && carried["carried"] == 1, "{carried}");
    Ok(())
}

/// A profile that is damaged, wherever it lies, is a warning in the log and nothing else.
#[test]
fn damaged_profiles_are_ignored() -> Result<()> {
    let lab = Lab::new()?;
    let mut master = Master::start(&lab, &lab.path("repo"))?;
    publish(&lab, &master, "v1", 1, &[])?;
    let mut a = site(&lab, &master)?;
    boot(&a.path("lab/1/disk.raw"))?;
    a.daemon.stop()?;
    a.start_again(&lab)?;
    let expected = boot_set(&a, "lab@1")?;
    let at_master = wait_for("the master to fetch what was learned", || kept(master.repo()))?;
    let at_a = kept(a.store())?.context("no profile in the store")?;

    // On the master's disk: it says so, serves none, and fetches it again from who has it.
    a.daemon.stop()?;
    let whole = fs::read(&at_master)?;
    fs::write(&at_master, &whole[..whole.len() - 1])?;
    master.daemon.allow_log("a boot profile is ignored");
    let b = site(&lab, &master)?;
    b.command(&["profile", "show", "lab@1"])?.failed_with(ABSENT)?;
    ensure!(master.daemon.log().contains("a boot profile is ignored"), "{}", master.daemon.log());

    // In a store: as if there were none; what the master has by then is taken.
    fs::write(&at_a, b"damaged")?;
    fs::write(&at_master, &whole)?;
    a.start_again(&lab)?;
    a.daemon.allow_log("a boot profile cannot be read");
    ensure!(boot_set(&a, "lab@1")? == expected, "the master's profile was not taken");
    ensure!(a.daemon.log().contains("a boot profile cannot be read"), "{}", a.daemon.log());
    master.daemon.stop()
}

/// Who offers and cannot be asked is said once and left alone for a while; nonsense is as no offer; others are heard.
#[test]
fn who_offers_and_cannot_be_asked_is_left_alone() -> Result<()> {
    let lab = Lab::new()?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    publish(&lab, &master, "v1", 1, &[])?;
    let cache = site(&lab, &master)?;
    let root = root(&cache)?;
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    master.daemon.allow_log("a boot profile that was offered is ignored");
    for offer in [format!("{closed} {root}"), format!("{closed} {root}"), "nonsense".to_owned(), format!("0 {root}")] {
        let answer = get_with(master.address(), "/v1/images", &[("icbd-profiles", &offer)])?;
        ensure!(answer.status == 200, "{offer:?} was answered with {}", answer.status);
    }
    let file = lab.path("one.profile");
    let profile = profile(root, 1, |_| vec![(3, 30)])?;
    fs::write(&file, profile.encode())?;
    cache.command(&["profile", "import", file.to_str().context("a path of text")?])?.ok()?;
    wait_for("the master to fetch what was imported", || kept(master.repo()))?;
    let ignored = master.daemon.log().matches("a boot profile that was offered is ignored").count();
    ensure!(ignored == 1, "said {ignored} times:\n{}", master.daemon.log());

    // Both serve it alike.
    let status = cache.status()?;
    let address = status["listen"][0].as_str().context("it listens nowhere")?.parse()?;
    let path = format!("/v1/profiles/{root}");
    for server in [master.address(), address] {
        let answer = get(server, &path)?;
        ensure!(answer.status == 200 && answer.body == profile.encode(), "{}", answer.status);
        let tag = answer.header("etag").context("no tag")?;
        ensure!(get_with(server, &path, &[("If-None-Match", tag)])?.status == 304);
        ensure!(get(server, &format!("/v1/profiles/{}", "1".repeat(64)))?.status == 404);
    }
    ensure!(get(address, "/v1/images")?.status == 200);
    Ok(())
}

/// Profiles are carried by hand where no network goes; what is wrong with one is said.
#[test]
fn profiles_are_exported_and_imported() -> Result<()> {
    let lab = Lab::new()?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    publish(&lab, &master, "v1", 1, &[])?;
    let cache = CacheServer::start(&lab, &master.url())?;
    let root = root(&cache)?;
    let file = lab.path("fifty.profile");
    let path = file.to_str().context("a path of text")?;

    // Fifty fills read the same two runs, and one of them another block.
    let odd = |fill| (fill == 30).then_some((700, 1));
    let profile = profile(root, 50, |fill| [(90, 2), (3, 30)].into_iter().chain(odd(fill)).collect())?;
    fs::write(&file, profile.encode())?;
    cache.command(&["profile", "import", path])?.ok()?;
    let shown = shown(&cache, "lab@1")?;
    ensure!(shown["boots"] == 50 && shown["runs"] == 2 && shown["bytes"] == 32 * BLOCK, "{shown}");
    cache.command(&["profile", "import", path, "lab@1"])?.failed_with(0)?.prints(&["nothing of it new"])?;
    cache.command(&["log"])?.failed_with(0)?.prints(&["profile import lab@1", "root"])?;
    cache.command(&["profile", "show", "lab"])?.failed_with(0)?.prints(&["disk.raw", "2026-09-21"])?;

    let copy = lab.path("copy.profile");
    let copy = copy.to_str().context("a path of text")?;
    cache.command(&["profile", "export", "lab@1", copy])?.ok()?;
    ensure!(fs::read(copy)? == profile.encode(), "the export is something else");
    cache.command(&["profile", "export", "lab@1", copy])?.failed_with(REFUSED)?.says(&["exists"])?;
    cache.command(&["profile", "export", "lob@1", copy])?.failed_with(ABSENT)?.says(&["did you mean \"lab\""])?;

    fs::write(&file, &profile.encode()[1..])?;
    cache.command(&["profile", "import", path])?.failed_with(VERIFICATION)?.says(&["not a boot profile"])?;
    fs::write(&file, Profile::new(Root::from_bytes([1; 32])).encode())?;
    cache.command(&["profile", "import", path])?.failed_with(REFUSED)?.says(&["does not know"])?;
    cache.command(&["profile", "import", "/nowhere"])?.failed_with(ABSENT)?.says(&["/nowhere"])?;
    Ok(())
}
