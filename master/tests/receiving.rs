//! Receiving: whoever is killed at it, at any moment, leaves no half of a version, and the next one goes on.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bytes::Bytes;
use common::{Area, compare_trees, image, no_progress, publish, run, stored};
use icbd_image::{Hash, Head, Run, Trust, VerifiedBlock, VersionId, VersionNumber};
use icbd_master::{Incoming, MasterError, Receiving, Repository, Settings};
use icbd_snapshot::Received;

const FROM: &str = "ICBD_TEST_SENDER";
const TO: &str = "ICBD_TEST_RECEIVER";
const MENDING: &str = "ICBD_TEST_MENDING";
const STREAMED: &str = "ICBD_TEST_STREAMED";
/// Of each of two kinds of tree: a hundred in all.
const KILLS: u32 = 50;
const VERSIONS: u32 = 2;
/// Blocks that are asked for at once.
const RUN_BLOCKS: u64 = 16;

fn lab(version: u32) -> VersionId {
    VersionId { image: image("lab"), number: VersionNumber::new(version).unwrap() }
}

fn open(path: &Path) -> Arc<Repository> {
    Arc::new(Repository::open_or_create(path, Settings::default()).unwrap())
}

/// Brings a version over, as `image replicate` does.
fn receive(from: &Repository, to: &Arc<Repository>, version: u32) -> Result<(), MasterError> {
    let listing = from.listing();
    let image = listing.image(&lab(version).image).unwrap();
    let record = image.version(lab(version).number).unwrap();
    let head = from.head(record.root()).unwrap();
    let receiving = to.receive(image, record, head.clone())?;
    bring(from, &receiving, &head)?;
    receiving.finish(&no_progress, &AtomicBool::new(false)).map(drop)
}

/// Puts a version together anew, as `store scrub --from` does.
fn mend(from: &Repository, to: &Arc<Repository>, version: u32) -> Result<(), MasterError> {
    let head = from.head(from.version(&lab(version))?.root())?;
    let mending = to.mend(&lab(version), head.clone())?;
    bring(from, &mending, &head)?;
    mending.replace()
}

/// Brings what is lacking.
fn bring(from: &Repository, receiving: &Receiving, head: &Head) -> Result<(), MasterError> {
    for node in head.files().filter(|node| node.size() > 0) {
        let run = Run { root: head.root(), file: node.index(), first: 0, count: node.blocks() as u32 };
        let reader = from.blocks(run).unwrap();
        for first in (0..node.blocks()).step_by(RUN_BLOCKS as usize) {
            let asked = first..node.blocks().min(first + RUN_BLOCKS);
            let bytes: Vec<Bytes> = asked.clone().map(|block| reader.read(block).unwrap()).collect();
            let hashes: Vec<Hash> = bytes.iter().map(|bytes| Hash::of(bytes)).collect();
            for run in receiving.lacking(node.index(), asked, &hashes)? {
                let came = run.map(|block| {
                    let at = (block - first) as usize;
                    VerifiedBlock::check(block, bytes[at].clone(), &hashes[at]).unwrap()
                });
                receiving.write(node.index(), &came.collect::<Vec<_>>())?;
            }
        }
    }
    Ok(())
}

/// Brings a version over, as `image replicate --stream btrfs` does.
fn receive_streamed(from: &Repository, to: &Arc<Repository>, version: u32) -> Result<(), MasterError> {
    let (incoming, received) = stream(from, to, version)?;
    incoming.finish(received, &no_progress, &AtomicBool::new(false)).map(drop)
}

/// Has all of a version come, which is none here before it is finished.
fn stream(from: &Repository, to: &Arc<Repository>, version: u32) -> Result<(Incoming, Received), MasterError> {
    let listing = from.listing();
    let image = listing.image(&lab(version).image).unwrap();
    let record = image.version(lab(version).number).unwrap();
    let incoming = to.receive_stream(image, record)?;
    assert_eq!(incoming.base().is_some(), version > 1, "the version before is no base");
    let mut outgoing = from.stream(record.root(), incoming.base(), true)?;
    let mut receiving = incoming.begin()?;
    std::io::copy(&mut outgoing, &mut receiving).unwrap();
    let received = receiving.finish()?;
    Ok((incoming, received))
}

/// How versions are brought over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Blocks,
    Stream,
}

/// Receives what is not here yet.
fn receive_all(by: By, from: &Repository, to: &Arc<Repository>) {
    for version in 1..=VERSIONS {
        let received = match by {
            By::Blocks => receive(from, to, version),
            By::Stream => receive_streamed(from, to, version),
        };
        match received {
            Ok(()) | Err(MasterError::HereAlready(_)) => {}
            Err(error) => panic!("lab@{version}: {error}"),
        }
    }
}

/// An empty repository of which no copy came has its own identity again; one that holds a copy keeps that one's.
#[test]
fn an_identity_that_came_to_nothing_is_given_back() {
    let area = Area::new();
    let (from, to) = (open(&area.path("from")), open(&area.path("to")));
    std::fs::write(area.source().join("disk.raw"), vec![1; 300_000]).unwrap();
    publish(&from, "lab", &area.source()).unwrap();
    let own = to.id();
    let listing = from.listing();
    let image = listing.image(&lab(1).image).unwrap();
    let record = image.version(lab(1).number).unwrap();
    let receiving = to.receive(image, record, from.head(record.root()).unwrap()).unwrap();
    assert_eq!(to.id(), from.id());
    drop(receiving);
    assert_eq!(to.id(), own);
    receive(&from, &to, 1).unwrap();
    assert_eq!(to.id(), from.id());
}

/// What came by a stream is hashed as the kernel still has it, and not read from the disk once more.
#[test]
fn what_just_came_is_hashed_from_memory() {
    let area = Area::on(&["mkfs.btrfs", "-q"], 1 << 30);
    let (from, to) = (open(&area.path("from")), open(&area.path("to")));
    let disk: Vec<u8> = (0..4_u64 << 20).flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    std::fs::write(area.source().join("disk.raw"), &disk).unwrap();
    publish(&from, "lab", &area.source()).unwrap();
    let (incoming, received) = stream(&from, &to, 1).unwrap();
    let before = read_bytes();
    let published = incoming.finish(received, &no_progress, &AtomicBool::new(false)).unwrap();
    let read = read_bytes() - before;
    assert!(published.hashed_bytes >= disk.len() as u64, "{} bytes were hashed", published.hashed_bytes);
    assert!(read < disk.len() as u64 / 4, "{read} bytes were read from the disk");
    compare_trees(&area.source(), &area.path("to/versions/lab/1"));
}

/// What this process had read from disks.
fn read_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: ")).unwrap();
    line.parse().unwrap()
}

/// Not a test of its own: what the others run in a process that they kill.
#[test]
fn receiver() {
    let (Some(from), Some(to)) = (std::env::var_os(FROM), std::env::var_os(TO)) else { return };
    let (from, to) = (open(from.as_ref()), open(to.as_ref()));
    println!("opened");
    if std::env::var_os(MENDING).is_some() {
        return mend(&from, &to, 1).unwrap();
    }
    let by = if std::env::var_os(STREAMED).is_some() { By::Stream } else { By::Blocks };
    receive_all(by, &from, &to);
}

/// Two versions, which share most of a disk.
fn make_sender(area: &Area) -> std::path::PathBuf {
    let path = area.path("sender");
    let sender = open(&path);
    std::fs::create_dir(area.source().join("boot")).unwrap();
    std::os::unix::fs::symlink("boot/initrd", area.source().join("initrd")).unwrap();
    for version in 1..=VERSIONS {
        let mut disk: Vec<u8> = (0..6 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        disk[1 << 20..2 << 20].fill(0);
        disk[3 << 20..4 << 20].iter_mut().for_each(|byte| *byte ^= version as u8);
        std::fs::write(area.source().join("disk.raw"), disk).unwrap();
        (0..40).for_each(|file| {
            std::fs::write(area.source().join(format!("boot/{file}")), vec![version as u8; file * 500]).unwrap();
        });
        std::fs::write(area.source().join("boot/initrd"), version.to_string()).unwrap();
        publish(&sender, "lab", &area.source()).unwrap();
    }
    path
}

fn killed_receivers(area: &Area, by: By) {
    let from = make_sender(area);
    let started = Instant::now();
    receive_all(by, &open(&from), &open(&area.path("whole")));
    let lap = started.elapsed();
    let (mut begun, mut whole) = (0, 0);
    let mut to = area.path("receiver.0");
    drop(open(&to));
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "receiver", "--nocapture"]).env(FROM, &from).env(TO, &to);
        if by == By::Stream {
            child.env(STREAMED, "1");
        }
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.ends_with("opened")), "the receiver did not start");
        // The one thing that cannot be awaited: a moment in the middle of everything.
        std::thread::sleep(lap.mul_f64((f64::from(kill) * 0.618_034).fract()));
        child.kill().unwrap();
        child.wait().unwrap();

        let repository = open(&to);
        let listing = repository.listing();
        let here = listing.image(&image("lab")).map_or(0, |image| image.versions.len() as u32);
        (1..=here).for_each(|version| verify(&repository, version));
        let (staging, trees, _) = stored(&to);
        assert_eq!((staging, trees.len() as u32), (0, here), "kill {kill}");
        let is_begun = (1..=VERSIONS).any(|version| to.join(format!("receiving/lab/{version}")).exists());
        match by {
            By::Blocks => begun += u32::from(is_begun),
            By::Stream => {
                begun += u32::from(here < VERSIONS);
                let making = std::fs::read_dir(to.join("making")).map_or(0, |left| left.count());
                assert!(!is_begun && making == 0, "kill {kill}: something is left, of which nothing can be used");
            }
        }
        if here == VERSIONS {
            whole += 1;
            assert!(!is_begun, "kill {kill}: something is left of what is all here");
            to = area.path(&format!("receiver.{whole}"));
            drop((repository, listing));
            drop(open(&to));
        }
    }
    assert!(begun > 5 && whole > 1, "{begun} were killed in the middle, {whole} came to their end");
    // Whatever the last kill left, the next one brings to its end.
    let (sender, receiver) = (open(&from), open(&to));
    receive_all(by, &sender, &receiver);
    for version in 1..=VERSIONS {
        verify(&receiver, version);
        compare_trees(&from.join(format!("versions/lab/{version}")), &to.join(format!("versions/lab/{version}")));
    }
}

fn verify(repository: &Repository, version: u32) {
    let report = repository.verify(&lab(version), &Trust::default(), &|_| {}, &AtomicBool::new(false)).unwrap();
    assert!(report.is_whole(), "lab@{version}: {:?}", report.faults);
}

/// A receiver that is killed at a hundred moments, on two kinds of tree, always comes to its end.
#[test]
fn a_killed_receiver_goes_on() {
    killed_receivers(&Area::new(), By::Blocks);
}

/// A receiver that is killed at a hundred moments, on two kinds of tree, always comes to its end.
#[test]
fn so_does_one_on_btrfs() {
    killed_receivers(&Area::on(&["mkfs.btrfs", "-q"], 1 << 30), By::Blocks);
}

/// Whoever is killed at receiving a stream, at fifty moments, leaves nothing of it, and the next one succeeds.
#[test]
fn a_killed_receiver_of_streams_leaves_nothing() {
    killed_receivers(&Area::on(&["mkfs.btrfs", "-q"], 1 << 30), By::Stream);
}

/// What somebody altered in a read-only snapshot, which he had to make writable first, is not seen by who receives the next version, and found in both by verifying.
#[test]
fn what_was_altered_in_a_snapshot_is_found_by_verifying() {
    let area = Area::on(&["mkfs.btrfs", "-q"], 1 << 30);
    let (from, path) = (make_sender(&area), area.path("receiver"));
    let (sender, to) = (open(&from), open(&path));
    receive(&sender, &to, 1).unwrap();
    let tree = path.join("versions/lab/1");
    alter(&tree, true, |tree| alter_disk(tree, 5 << 20));
    receive(&sender, &to, 2).unwrap();
    for version in 1..=VERSIONS {
        let report = to.verify(&lab(version), &Trust::default(), &|_| {}, &AtomicBool::new(false)).unwrap();
        assert_eq!(report.faults.len(), 1, "lab@{version}: {:?}", report.faults);
    }
}

/// Changes a tree behind the repository's back.
fn alter(tree: &Path, is_btrfs: bool, change: impl FnOnce(&Path)) {
    let read_only = |is: &str| run(Command::new("btrfs").args(["property", "set"]).arg(tree).args(["ro", is]));
    is_btrfs.then(|| read_only("false"));
    change(tree);
    is_btrfs.then(|| read_only("true"));
}

/// A block of the disk is another, and nobody sees that from outside.
fn alter_disk(tree: &Path, at: u64) {
    let disk = std::fs::OpenOptions::new().write(true).open(tree.join("disk.raw")).unwrap();
    let modified = disk.metadata().unwrap().modified().unwrap();
    disk.write_all_at(b"by hand", at).unwrap();
    disk.set_modified(modified).unwrap();
}

fn killed_menders(area: &Area, is_btrfs: bool) {
    let (from, to) = (make_sender(area), area.path("receiver"));
    receive_all(By::Blocks, &open(&from), &open(&to));
    let tree = to.join("versions/lab/1");
    let (mut lap, mut killed) = (None::<std::time::Duration>, 0);
    for kill in 0..KILLS / 2 {
        alter(&tree, is_btrfs, |tree| {
            alter_disk(tree, u64::from(kill) * 70_000);
            std::fs::remove_file(tree.join(format!("boot/{}", kill % 20))).unwrap();
            std::fs::write(tree.join("boot/30"), "longer than it was").unwrap();
            std::fs::write(tree.join("extra"), "not published").unwrap();
        });
        std::fs::write(
            to.join("manifests").join(format!("{}.pages", open(&from).version(&lab(1)).unwrap().root())),
            "",
        )
        .unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "receiver", "--nocapture"]).env(FROM, &from).env(TO, &to).env(MENDING, "1");
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.ends_with("opened")), "the mender did not start");
        if let Some(lap) = lap {
            // The one thing that cannot be awaited: a moment in the middle of everything.
            std::thread::sleep(std::time::Duration::mul_f64(lap, (f64::from(kill) * 0.618_034).fract()));
            child.kill().unwrap();
        }
        killed += u32::from(!child.wait().unwrap().success());
        let repository = open(&to);
        assert!(tree.exists() || to.join("receiving/lab/1").exists(), "kill {kill}: nothing is left of the version");
        let started = Instant::now();
        mend(&open(&from), &repository, 1).unwrap();
        // The quickest so far: what is killed after its end tells nothing.
        lap = Some(lap.map_or(started.elapsed(), |lap| lap.min(started.elapsed())));
        verify(&repository, 1);
        verify(&repository, 2);
        compare_trees(&from.join("versions/lab/1"), &tree);
        assert!(
            !to.join("receiving/lab/1").exists() && !to.join("receiving/lab/1.root").exists(),
            "kill {kill}: remains"
        );
    }
    assert!(killed > 2, "only {killed} were killed in the middle");
}

/// Whoever is killed at mending a version, at any moment, leaves the damaged one or the mended one, and the next one mends it.
#[test]
fn a_killed_mender_loses_nothing() {
    killed_menders(&Area::new(), false);
}

/// Whoever is killed at mending a version, at any moment, leaves the damaged one or the mended one, and the next one mends it.
#[test]
fn so_does_a_mender_on_btrfs() {
    killed_menders(&Area::on(&["mkfs.btrfs", "-q"], 1 << 30), true);
}
