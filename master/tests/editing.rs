//! Working copies: saved as the next version at the price of the difference, or thrown away; killed at any moment.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use common::{Area, compare_trees, image, no_progress, publish, run, stored};
use icbd_image::{Force, Refusal, Trust, VersionId};
use icbd_master::{MasterError, Published, Repository, SaveRequest, Settings, WorkingCopy};

const REPOSITORY: &str = "ICBD_TEST_EDITED";
const KILLS: u64 = 40;
const MIB: u64 = 1 << 20;

fn save(repository: &Repository, note: &str) -> Result<Published, MasterError> {
    let request = SaveRequest { image: image("lab"), note: note.to_owned(), sign: None };
    repository.save(&request, &no_progress, &AtomicBool::new(false))
}

fn edit(repository: &Repository) -> WorkingCopy {
    repository.edit(&image("lab"), "alice").unwrap()
}

fn verify(repository: &Repository, version: &VersionId) {
    let report = repository.verify(version, &Trust::default(), &|_| {}, &AtomicBool::new(false)).unwrap();
    assert!(report.is_whole(), "{version}: {:?}", report.faults);
}

fn place(area: &Area, version: &VersionId) -> PathBuf {
    area.repository().join(format!("versions/{}/{}", version.image, version.number))
}

/// Bytes that look like a disk's: each 4 KiB begins with where it is and a seed.
fn write(file: &std::fs::File, at: u64, bytes: u64, seed: u64) {
    let mut chunk = vec![0x5a_u8; MIB as usize];
    for start in (at..at + bytes).step_by(MIB as usize) {
        for page in (0..MIB).step_by(4096) {
            let stamp = (start + page).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
            chunk[page as usize..page as usize + 8].copy_from_slice(&stamp.to_le_bytes());
        }
        let len = (at + bytes - start).min(MIB) as usize;
        file.write_all_at(&chunk[..len], start).unwrap();
    }
}

fn make_source(source: &Path, disk_bytes: u64) {
    std::fs::create_dir(source.join("boot")).unwrap();
    std::fs::write(source.join("boot/vmlinuz"), vec![3; 70_000]).unwrap();
    std::os::unix::fs::symlink("boot/vmlinuz", source.join("kernel")).unwrap();
    let disk = std::fs::File::create(source.join("disk.raw")).unwrap();
    disk.set_len(disk_bytes).unwrap();
    write(&disk, 4 * MIB, disk_bytes / 2, 1);
}

/// The whole way of a working copy, on whatever file system `area` is.
fn a_working_copy_becomes_a_version(area: &Area) {
    make_source(&area.source(), 40 * MIB);
    let repository = area.open();
    let first = publish(&repository, "lab", &area.source()).unwrap();
    let copy = edit(&repository);
    compare_trees(&area.source(), &copy.path);
    match repository.edit(&image("lab"), "bob") {
        Err(MasterError::Refused(Refusal::BeingEdited { by, .. })) => assert_eq!(by, "alice"),
        other => panic!("{other:?}"),
    }
    let disk = std::fs::OpenOptions::new().write(true).open(copy.path.join("disk.raw")).unwrap();
    write(&disk, 9 * MIB, MIB, 2);
    disk.set_len(41 * MIB + 77).unwrap();
    std::fs::write(copy.path.join("boot/initrd"), vec![4; 90_000]).unwrap();
    std::fs::remove_file(copy.path.join("kernel")).unwrap();
    // Clients notice nothing.
    verify(&repository, &first.version);
    let expected = area.path("expected");
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&copy.path).arg(&expected));
    drop(repository);
    // A working copy outlives the daemon.
    let repository = area.open();
    assert_eq!(repository.working_copy(&image("lab")).unwrap(), Some(copy.clone()));
    let second = save(&repository, "March updates").unwrap();
    assert_eq!((second.version.to_string().as_str(), &*second.record.note), ("lab@2", "March updates"));
    compare_trees(&expected, &place(area, &second.version));
    verify(&repository, &second.version);
    verify(&repository, &first.version);
    assert!(!copy.path.exists() && repository.working_copy(&image("lab")).unwrap().is_none());
    assert!(matches!(save(&repository, ""), Err(MasterError::Refused(Refusal::NotBeingEdited(_)))));
    assert!(matches!(repository.discard(&image("lab")), Err(MasterError::Refused(Refusal::NotBeingEdited(_)))));
    let copy = edit(&repository);
    std::fs::write(copy.path.join("boot/vmlinuz"), b"broken").unwrap();
    repository.discard(&image("lab")).unwrap();
    assert!(!copy.path.exists());
    assert_eq!(repository.listing().image(&image("lab")).unwrap().versions.len(), 2);
    let unchanged = edit(&repository);
    drop(unchanged);
    assert_eq!(save(&repository, "").unwrap().record.root(), second.record.root());
    assert_eq!(stored(&area.repository()).0, 0, "something is left in publishing/");
}

#[test]
fn a_working_copy_becomes_a_version_or_is_thrown_away() {
    a_working_copy_becomes_a_version(&Area::new());
}

#[test]
fn so_does_one_on_btrfs() {
    let area = Area::on(&["mkfs.btrfs", "-q"], 400 * MIB);
    a_working_copy_becomes_a_version(&area);
    // Saved as what it is: subvolumes, which nobody writes to by accident.
    let written = std::fs::write(area.repository().join("versions/lab/2/boot/vmlinuz"), b"x");
    assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn so_does_one_on_xfs() {
    let area = Area::on(&["mkfs.xfs", "-q", "-m", "reflink=1"], 400 * MIB);
    a_working_copy_becomes_a_version(&area);
}

/// Damage that is seen is not carried into the next version, and another version can be begun from.
#[test]
fn what_is_damaged_is_not_edited() {
    let area = Area::new();
    make_source(&area.source(), 8 * MIB);
    let repository = area.open();
    let first = publish(&repository, "lab", &area.source()).unwrap();
    std::fs::write(area.source().join("boot/initrd"), b"new").unwrap();
    let second = publish(&repository, "lab", &area.source()).unwrap();
    std::fs::remove_dir_all(place(&area, &second.version)).unwrap();
    let refused = repository.edit(&image("lab"), "alice").unwrap_err();
    assert!(matches!(&refused, MasterError::Unsound { version, .. } if *version == second.version), "{refused}");
    assert_eq!(repository.working_copy(&image("lab")).unwrap(), None);
    repository.retire(&second.version, Force::No).unwrap();
    assert_eq!(edit(&repository).editing.of, Some(first.version.number));
}

/// A working copy that somebody deleted is said to be gone, and given up by a word; what lies inside of one is not deleted with it.
#[test]
fn working_copies_that_were_meddled_with_are_given_up() {
    let area = Area::on(&["mkfs.btrfs", "-q"], 400 * MIB);
    make_source(&area.source(), 8 * MIB);
    let repository = area.open();
    publish(&repository, "lab", &area.source()).unwrap();
    let copy = edit(&repository);
    run(Command::new("btrfs").args(["-q", "subvolume", "delete"]).arg(&copy.path));
    for refused in [repository.edit(&image("lab"), "bob").unwrap_err(), save(&repository, "").unwrap_err()] {
        assert!(matches!(refused, MasterError::CopyGone { .. }), "{refused}");
    }
    repository.discard(&image("lab")).unwrap();
    let copy = edit(&repository);
    run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(copy.path.join("nested")));
    assert!(matches!(save(&repository, "").unwrap_err(), MasterError::Tree(_)));
    let refused = |says: &str| {
        let refused = repository.discard(&image("lab")).unwrap_err().to_string();
        assert!(refused.contains(says) && copy.path.exists(), "{refused}");
        assert!(repository.working_copy(&image("lab")).unwrap().is_some());
    };
    refused("nested");
    run(Command::new("btrfs").args(["-q", "subvolume", "delete"]).arg(copy.path.join("nested")));
    // As in a chroot.
    let (host, mounted) = (area.path("host"), copy.path.join("boot"));
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("precious"), b"data").unwrap();
    run(Command::new("mount").arg("--bind").args([&host, &mounted]));
    refused("something is mounted at");
    assert!(host.join("precious").exists());
    run(Command::new("umount").arg(&mounted));
    repository.discard(&image("lab")).unwrap();
    assert!(!copy.path.exists());
    edit(&repository);
}

/// What is left out is named as whoever edits knows it.
#[test]
fn messages_name_the_working_copy() {
    let area = Area::on(&["mkfs.btrfs", "-q"], 400 * MIB);
    make_source(&area.source(), 8 * MIB);
    let repository = area.open();
    publish(&repository, "lab", &area.source()).unwrap();
    let copy = edit(&repository);
    run(Command::new("mkfifo").arg(copy.path.join("fifo")));
    assert_eq!(save(&repository, "").unwrap().skipped[0].path, copy.path.join("fifo"));
    let copy = edit(&repository);
    for entry in std::fs::read_dir(&copy.path).unwrap() {
        run(Command::new("rm").arg("-r").arg(entry.unwrap().path()));
    }
    let empty = save(&repository, "").unwrap_err();
    assert!(matches!(&empty, MasterError::SourceEmpty(path) if *path == copy.path), "{empty}");
}

/// A repository that was made before there were trees keeps working: its versions are plain directories.
#[test]
fn a_version_from_before_there_were_trees_is_edited_too() {
    let area = Area::on(&["mkfs.btrfs", "-q"], 400 * MIB);
    make_source(&area.source(), 20 * MIB);
    let repository = area.open();
    let first = publish(&repository, "lab", &area.source()).unwrap();
    drop(repository);
    let (tree, old) = (place(&area, &first.version), area.path("old"));
    run(Command::new("cp").args(["-a", "--reflink=always"]).arg(&tree).arg(&old));
    run(Command::new("btrfs").args(["-q", "subvolume", "delete"]).arg(&tree));
    std::fs::rename(&old, &tree).unwrap();
    let repository = area.open();
    verify(&repository, &first.version);
    let copy = edit(&repository);
    compare_trees(&area.source(), &copy.path);
    let disk = std::fs::OpenOptions::new().write(true).open(copy.path.join("disk.raw")).unwrap();
    write(&disk, 6 * MIB, MIB, 9);
    drop(disk);
    let second = save(&repository, "").unwrap();
    assert!(second.hashed_bytes < 2 * MIB, "{} bytes were hashed", second.hashed_bytes);
    verify(&repository, &second.version);
}

/// Not a test of its own: what `a_kill_leaves_a_version_or_the_working_copy` runs in a process that it kills.
#[test]
fn editor() {
    let Some(repository) = std::env::var_os(REPOSITORY) else { return };
    let repository = Repository::open(Path::new(&repository), Settings::default()).unwrap();
    println!("opened");
    for round in 0_u64.. {
        if repository.working_copy(&image("lab")).unwrap().is_none() {
            let copy = edit(&repository);
            std::fs::write(copy.path.join("boot/initrd"), round.to_string()).unwrap();
            println!("edited");
        }
        match round % 4 {
            3 => repository.discard(&image("lab")).unwrap(),
            _ => println!("saved {}", save(&repository, "").unwrap().version.number),
        }
    }
}

fn killed_edits(area: &Area, kills: u64) {
    make_source(&area.source(), 8 * MIB);
    let repository = area.open();
    publish(&repository, "lab", &area.source()).unwrap();
    let started = Instant::now();
    edit(&repository);
    save(&repository, "").unwrap();
    let lap = started.elapsed();
    drop(repository);
    let (mut said, mut working_copies) = (2, 0);
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "editor", "--nocapture"]).env(REPOSITORY, area.repository());
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.ends_with("opened")), "the editor did not start");
        // The one thing that cannot be awaited: a moment in the middle of everything.
        std::thread::sleep(lap.mul_f64(3.0 * (kill as f64 * 0.618_034).fract()));
        child.kill().unwrap();
        child.wait().unwrap();
        said += lines.filter(|line| line.starts_with("saved")).count();
        let repository = area.open();
        let versions = repository.listing().image(&image("lab")).unwrap().versions.clone();
        assert!(versions.len() >= said, "kill {kill}: {} of {said} versions are there", versions.len());
        said = versions.len();
        verify(&repository, &versions[said - 1].statement.statement().version());
        let (staging, trees, _) = stored(&area.repository());
        assert_eq!((staging, trees.len()), (0, said), "kill {kill}");
        let copy = repository.working_copy(&image("lab")).unwrap();
        let there = std::fs::read_dir(area.repository().join("editing")).unwrap().count();
        assert_eq!(there, usize::from(copy.is_some()), "kill {kill}: {copy:?}");
        if let Some(copy) = copy {
            working_copies += 1;
            assert!(
                copy.path.join("disk.raw").metadata().unwrap().size() == 8 * MIB,
                "kill {kill}: half a working copy"
            );
        }
    }
    assert!(said > 2 && working_copies > 0, "{said} versions, {working_copies} working copies in {kills} runs");
}

/// Killed at any moment, a save leaves a whole version or none, and the working copy until there is one.
#[test]
fn a_kill_leaves_a_version_or_the_working_copy() {
    killed_edits(&Area::new(), KILLS);
}

/// Killed at any moment, a save leaves a whole version or none, and the working copy until there is one.
#[test]
fn so_it_does_on_btrfs() {
    let area = Area::on(&["mkfs.btrfs", "-q"], 1024 * MIB);
    killed_edits(&area, KILLS);
}

/// Bytes of the file system that are in use.
fn used(path: &Path) -> u64 {
    run(Command::new("sync").arg("-f").arg(path));
    let space = rustix::fs::statvfs(path).unwrap();
    (space.f_blocks - space.f_bfree) * space.f_frsize
}

/// A version that is saved costs what was changed, in time and on the disk.
///
/// A hundredth of an image of 20 GiB is changed. To spare the disk a tenth of it is data and the rest holes; what hashing
/// all of it would take, if all were data, is ten times what that tenth takes.
#[test]
fn a_version_costs_its_difference() {
    let area = Area::on(&["mkfs.btrfs", "-q"], 8 << 30);
    const IMAGE: u64 = 20 << 30;
    const DATA: u64 = IMAGE / 10;
    let source = std::fs::File::create(area.source().join("disk.raw")).unwrap();
    source.set_len(IMAGE).unwrap();
    for part in 0..48 {
        write(&source, part * (400 * MIB), DATA / 48, 1);
    }
    drop(source);
    let repository = area.open();
    publish(&repository, "lab", &area.source()).unwrap();
    let timed = |what: &str, made: &mut dyn FnMut()| {
        let started = Instant::now();
        made();
        let took = started.elapsed();
        println!("{what}: {took:?}");
        took
    };
    let forget = || std::fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    // What it costs to read and hash all of it, as verifying does.
    forget();
    let whole = timed("a tenth", &mut || verify(&repository, &"lab@1".parse().unwrap())) * 10;
    let mut copy = None;
    let edited = timed("edit", &mut || copy = Some(edit(&repository)));
    let disk = std::fs::OpenOptions::new().write(true).open(copy.unwrap().path.join("disk.raw")).unwrap();
    let changed = IMAGE / 100;
    for part in 0..48 {
        write(&disk, part * (400 * MIB) + 16 * MIB, changed / 48 / 4096 * 4096, 2);
    }
    disk.sync_all().unwrap();
    drop(disk);
    forget();
    let before = used(&area.repository());
    let mut saved = None;
    let took = timed("save", &mut || saved = Some(save(&repository, "").unwrap()));
    let saved = saved.unwrap();
    let grown = used(&area.repository()).saturating_sub(before);
    println!("hashed {} of {changed} changed, grown {grown}", saved.hashed_bytes);
    // The goal is a twentieth, and a fortieth was measured; on a machine that does other things as well a single time may be
    // more.
    assert!(took < whole / 10, "{took:?}, of {whole:?} for all of it");
    assert!(saved.hashed_bytes < changed * 11 / 10 + 96 * 65_536, "{} bytes were hashed", saved.hashed_bytes);
    // The changed bytes themselves were on the disk before.
    assert!(grown <= changed / 10, "{grown} bytes more, beside {changed} changed ones");
    let deployed = timed("deploy", &mut || drop(repository.deploy(&saved.version).unwrap()));
    repository.deploy(&"lab@1".parse().unwrap()).unwrap();
    let back = timed("rollback", &mut || drop(repository.roll_back(&image("lab"), None).unwrap()));
    for (what, took) in [("edit", edited), ("deploy", deployed), ("rollback", back)] {
        assert!(took < Duration::from_secs(1), "{what} took {took:?}");
    }
}
