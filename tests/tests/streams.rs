//! Versions that go from one master to another as streams of btrfs: whole, as a difference, and never half.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use icbd_tests::{Fault, FileSystem, Lab, MIB, Master, Output, Proxy, Volume, compare_trees, icbd, sample_tree, solid};
use serde_json::Value;

const USAGE: i32 = 2;
const REFUSED: i32 = 4;
const UNREACHABLE: i32 = 6;
const VERIFICATION: i32 = 7;
const DISK: u64 = 24 * MIB;

/// A master on a file system of its own.
fn master(lab: &Lab, file_system: FileSystem) -> Result<Master> {
    Master::start(lab, &Volume::new(lab, file_system, 512 * MIB)?.path().join("repo"))
}

/// A master on btrfs with two versions of a tree with everything in it: the second was saved from a working copy, and
/// differs in 2 MiB of its disk.
fn first(lab: &Lab) -> Result<Master> {
    let tree = lab.folder("tree")?;
    sample_tree(&tree)?;
    fs::write(tree.join("disk.raw"), solid(1, DISK))?;
    let master = master(lab, FileSystem::Btrfs)?;
    master.publish("lab", &tree, &["--deploy"])?;
    save(&master, |copy| {
        fs::remove_file(copy.join("usr/share/link"))?;
        Ok(File::options().write(true).open(copy.join("disk.raw"))?.write_all_at(&solid(77, 2 * MIB), 5 * MIB)?)
    })?;
    Ok(master)
}

fn save(master: &Master, change: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let edited = icbd(["image", "edit", "lab", "--json", "--socket", master.socket()])?.ok()?;
    let edited: Value = serde_json::from_str(&edited)?;
    change(Path::new(edited["path"].as_str().context("no path")?))?;
    icbd(["image", "save", "lab", "-m", "changed", "--socket", master.socket()])?.ok().map(drop)
}

fn replicate(to: &Master, version: &str, from: &str, how: &[&str]) -> Result<Output> {
    replicate_at(to.socket(), version, from, how)
}

fn replicate_at(socket: &str, version: &str, from: &str, how: &[&str]) -> Result<Output> {
    let all = ["image", "replicate", version, "--from", from, "--stream", "btrfs", "--json", "--socket", socket];
    icbd(all.into_iter().chain(how.iter().copied()))
}

fn received(done: &str) -> Result<u64> {
    serde_json::from_str::<Value>(done)?["received_bytes"].as_u64().with_context(|| format!("nothing in {done}"))
}

fn tree(master: &Master, number: u32) -> PathBuf {
    master.repo().join(format!("versions/lab/{number}"))
}

fn verify(master: &Master, version: &str) -> Result<()> {
    icbd(["image", "verify", version, "--socket", master.socket()])?.ok().map(drop)
}

/// That nothing is there but versions: no tree that is received, made, or put together.
fn ensure_tidy(master: &Master) -> Result<()> {
    for folder in ["receiving", "publishing", "making"] {
        let path = master.repo().join(folder);
        let left = fs::read_dir(&path).map(|entries| entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>());
        // Where an image is received there may be a folder of its name.
        let left: Vec<_> = left.unwrap_or_default();
        let full = left.iter().filter(|path| fs::read_dir(path).map_or(true, |mut inside| inside.next().is_some()));
        ensure!(full.clone().next().is_none(), "left behind: {:?}", full.collect::<Vec<_>>());
    }
    Ok(())
}

/// A version comes as a stream, the next as its difference, from a replica as from the first, by every codec.
#[test]
fn versions_come_as_streams_and_as_differences() -> Result<()> {
    let lab = Lab::new()?;
    let from = first(&lab)?;
    for codec in ["none", "lz4", "zstd", "zstd6", "zlib", "snappy", "stored"] {
        let (second, third) = (master(&lab, FileSystem::Btrfs)?, master(&lab, FileSystem::Btrfs)?);
        let how = ["--compress", codec];
        for (source, to) in [(&from, &second), (&second, &third)] {
            let whole = received(&replicate(to, "lab@1", &source.url(), &how)?.ok()?)?;
            let difference = received(&replicate(to, "lab@2", &source.url(), &how)?.ok()?)?;
            ensure!(whole > 10 * MIB && difference < 3 * MIB, "{codec}: {whole} and {difference} bytes");
            for (number, version) in [(1, "lab@1"), (2, "lab@2")] {
                compare_trees(&tree(&from, number), &tree(to, number))?;
                verify(to, version)?;
            }
            ensure_tidy(to)?;
        }
    }
    Ok(())
}

/// Where no tree is common the whole version comes, and is read before it is believed.
#[test]
fn without_a_common_tree_all_of_a_version_comes() -> Result<()> {
    let lab = Lab::new()?;
    let (from, to) = (first(&lab)?, master(&lab, FileSystem::Btrfs)?);
    // By blocks: another tree of the same content.
    icbd(["image", "replicate", "lab@1", "--from", &from.url(), "--socket", to.socket()])?.ok()?;
    let whole = received(&replicate(&to, "lab@2", &from.url(), &[])?.ok()?)?;
    ensure!(whole > 10 * MIB, "{whole} bytes");
    compare_trees(&tree(&from, 2), &tree(&to, 2))?;
    verify(&to, "lab@2")
}

/// A stream that breaks off, in which a bit flips, or whose receiver is killed, leaves nothing, and comes the next time.
#[test]
fn broken_streams_leave_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let (from, mut to) = (first(&lab)?, master(&lab, FileSystem::Btrfs)?);
    to.daemon.allow_log("image replicate");
    let proxy = Proxy::start(from.address())?;
    for (fault, code, says) in [
        (Fault::Cut, UNREACHABLE, "run the same command again, which begins anew"),
        (Fault::Corrupt, VERIFICATION, "a frame is not the one that was sent next"),
        (Fault::TooLong, VERIFICATION, "bytes follow its last frame"),
    ] {
        proxy.set(fault, "/streams/");
        replicate(&to, "lab@1", &proxy.url(), &["--compress", "none"])?.failed_with(code)?.says(&[says])?;
        ensure!(!tree(&to, 1).exists(), "{fault:?}");
        ensure_tidy(&to)?;
    }
    proxy.set(Fault::StallInBody, "/streams/");
    let (url, socket) = (proxy.url(), to.socket().to_owned());
    std::thread::scope(|scope| -> Result<()> {
        let running = scope.spawn(|| replicate_at(&socket, "lab@1", &url, &[]));
        proxy.wait_stalled(1);
        to.daemon.kill_all()?;
        proxy.set(Fault::None, "");
        drop(running.join().expect("no panic"));
        Ok(())
    })?;
    let to = Master::start_at(&lab, to.repo(), to.address(), &[])?;
    ensure_tidy(&to)?;
    replicate(&to, "lab@1", &proxy.url(), &[])?.ok()?;
    compare_trees(&tree(&from, 1), &tree(&to, 1))?;
    verify(&to, "lab@1")
}

/// What a stream makes is a version only if it is the one that was announced.
#[test]
fn a_stream_of_something_else_is_no_version() -> Result<()> {
    let lab = Lab::new()?;
    let (from, to) = (first(&lab)?, master(&lab, FileSystem::Btrfs)?);
    to.daemon.allow_log("image replicate");
    replicate(&to, "lab@1", &from.url(), &[])?.ok()?;
    let altered = tree(&from, 2);
    let read_only = |is: &str| -> Result<()> {
        let path = altered.to_str().context("no text")?;
        let done = std::process::Command::new("btrfs").args(["property", "set", "-f", path, "ro", is]).status()?;
        ensure!(done.success(), "btrfs property: {done}");
        Ok(())
    };
    read_only("false")?;
    let disk = File::options().write(true).open(altered.join("disk.raw"))?;
    let modified = disk.metadata()?.modified()?;
    disk.write_all_at(b"by hand", 20 * MIB)?;
    // By its time it is the file that was published.
    disk.set_modified(modified)?;
    drop(disk);
    read_only("true")?;
    let refused = replicate(&to, "lab@2", &from.url(), &[])?.failed_with(VERIFICATION)?;
    refused.says(&["what the stream made of lab@2 is not what was announced", "without --stream"])?;
    ensure!(!tree(&to, 2).exists());
    ensure_tidy(&to)
}

/// What lies in a version's place, and is in no catalogue, is nobody's to remove.
#[test]
fn what_lies_in_the_place_of_a_version_stays() -> Result<()> {
    let lab = Lab::new()?;
    let (from, to) = (first(&lab)?, master(&lab, FileSystem::Btrfs)?);
    to.daemon.allow_log("image replicate");
    fs::create_dir_all(tree(&to, 1))?;
    fs::write(tree(&to, 1).join("precious"), "by hand")?;
    let failed = replicate(&to, "lab@1", &from.url(), &[])?;
    ensure!(failed.code != 0, "it took somebody's place: {}", failed.stdout);
    ensure!(fs::read(tree(&to, 1).join("precious"))? == b"by hand");
    ensure_tidy(&to)
}

/// Where there are no streams, and of what nobody knows, it is said what would do.
#[test]
fn what_cannot_be_streamed_says_why() -> Result<()> {
    let lab = Lab::new()?;
    let from = first(&lab)?;
    let (plain, to) = (master(&lab, FileSystem::Ext4)?, master(&lab, FileSystem::Btrfs)?);
    for master in [&plain, &to] {
        master.daemon.allow_log("image replicate");
    }
    replicate(&plain, "lab@1", &from.url(), &[])?.failed_with(REFUSED)?.says(&["btrfs does", "without --stream"])?;
    icbd(["image", "replicate", "lab@1", "--from", &from.url(), "--socket", plain.socket()])?.ok()?;
    let refused = replicate(&to, "lab@1", &plain.url(), &[])?.failed_with(REFUSED)?;
    refused.says(&["file system without streams; fetch them by blocks"])?;
    replicate(&to, "lab@1", &from.url(), &["--compress", "gzip"])?.failed_with(USAGE)?.says(&["gzip", "stored"])?;
    let blocks = ["--stream", "blocks", "--compress", "stored", "--socket", to.socket()];
    let command = ["image", "replicate", "lab@1", "--from", &from.url()];
    icbd(command.into_iter().chain(blocks))?.failed_with(USAGE)?.says(&["--compress stored is for --stream btrfs"])?;
    ensure_tidy(&to)
}

/// Nothing is removed while it is being sent as a stream.
#[test]
fn what_is_being_sent_is_not_pruned() -> Result<()> {
    let lab = Lab::new()?;
    let from = first(&lab)?;
    save(&from, |copy| Ok(fs::write(copy.join("news"), "3")?))?;
    icbd(["image", "deploy", "lab@3", "--socket", from.socket()])?.ok()?;
    let root = icbd(["image", "show", "lab@2", "--json", "--socket", from.socket()])?.ok()?;
    let root: Value = serde_json::from_str(&root)?;
    let path = format!("/v1/streams/{}.none", root["root"].as_str().context("no root")?);
    // Nobody reads on: the streams last as long as the test likes.
    let streams = (0..5).map(|_| {
        let (mut stream, mut status) = (TcpStream::connect(from.address())?, [0; 12]);
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
        stream.read_exact(&mut status)?;
        Ok((stream, String::from_utf8_lossy(&status).into_owned()))
    });
    let streams = streams.collect::<Result<Vec<_>>>()?;
    let served = streams.iter().filter(|(_, status)| status == "HTTP/1.1 200").count();
    ensure!(served == 4 && streams[4].1 == "HTTP/1.1 503", "not as many as may be: {streams:?}");
    for version in ["lab@1", "lab@2"] {
        icbd(["image", "retire", version, "--force", "--socket", from.socket()])?.ok()?;
    }
    let pruned = icbd(["image", "prune", "--yes", "--socket", from.socket()])?;
    ensure!(pruned.stdout.contains("somebody to whom it is being sent"), "{}", pruned.stdout);
    ensure!(tree(&from, 2).exists(), "it was removed while it was sent");
    Ok(())
}
