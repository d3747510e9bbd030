//! Bad input gets an error that names the thing, and leaves nothing behind.

mod common;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Area, Mounted, image, no_progress, publish, request, stored};
use icbd_master::{MasterError, Phase, PublishRequest, Repository, Settings};

fn check(area: &Area, repository: &Repository, path: &Path, expected: &str) {
    let error = publish(repository, "bad", path).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} should say {expected:?}");
    assert_eq!(stored(&area.repository()), (0, vec![], 0), "{expected}");
    assert!(repository.listing().images.is_empty());
}

#[test]
fn sources_that_cannot_be_published() {
    let area = Area::new();
    let repository = area.open();
    check(&area, &repository, &area.path("missing"), "there is no ");
    check(&area, &repository, &area.source(), "holds nothing that can be published");
    check(&area, &repository, &area.repository(), "lie inside each other");
    check(&area, &repository, &area.repository().join("versions"), "lie inside each other");
    check(&area, &repository, area.directory.path(), "lie inside each other");
    check(&area, &repository, Path::new("/dev/null"), "neither a directory nor a regular file");
    let mut deep = area.source();
    for _ in 0..300 {
        deep.push("d");
    }
    std::fs::create_dir_all(&deep).unwrap();
    check(&area, &repository, &area.source(), "lies too deep");
    std::fs::remove_dir_all(area.source()).unwrap();
    std::fs::create_dir(area.source()).unwrap();
    let huge = std::fs::File::create(area.source().join("huge")).unwrap();
    if huge.set_len(1 << 43).is_ok() && huge.set_len(1 << 51).is_ok() {
        check(&area, &repository, &area.source(), "larger than icbd takes");
    }
}

#[test]
fn a_file_that_changes_meanwhile_is_named() {
    let area = Area::new();
    let path = area.source().join("disk.raw");
    let disk = std::fs::File::create(&path).unwrap();
    disk.write_all_at(&vec![1; 64 << 20], 0).unwrap();
    // An old time, so that the change shows whatever the clock's granularity.
    disk.set_modified(std::time::UNIX_EPOCH).unwrap();
    let repository = area.open();
    let changed = AtomicBool::new(false);
    // The first progress of storing comes when the file's first piece is taken: it is open and looked at.
    let progress = |progress: icbd_master::Progress| {
        if progress.phase == Phase::Storing && !changed.swap(true, Ordering::Relaxed) {
            disk.write_all_at(b"changed", 63 << 20).unwrap();
        }
    };
    let error = repository.publish(&request("bad", &area.source()), &progress, &AtomicBool::new(false)).unwrap_err();
    assert!(changed.load(Ordering::Relaxed));
    assert!(matches!(&error, MasterError::Changed(named) if *named == path), "{error}");
    assert_eq!(stored(&area.repository()), (0, vec![], 0));
}

#[test]
fn a_directory_that_changes_meanwhile_is_named() {
    let area = Area::new();
    std::fs::write(area.source().join("disk.raw"), b"x").unwrap();
    std::fs::File::open(area.source()).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let repository = area.open();
    let progress = |_| std::fs::write(area.source().join("late"), b"").unwrap();
    let error = repository.publish(&request("bad", &area.source()), &progress, &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(&error, MasterError::Changed(named) if *named == area.source()), "{error}");
    assert_eq!(stored(&area.repository()), (0, vec![], 0));
}

#[test]
fn a_full_disk_is_said_and_nothing_stays() {
    let area = Area::new();
    let _mounted = Mounted::tmpfs(&area.repository(), "size=4m");
    let repository = area.open();
    std::fs::write(area.source().join("disk.raw"), vec![1; 8 << 20]).unwrap();
    check(&area, &repository, &area.source(), "is full; free some space");
    std::fs::write(area.source().join("disk.raw"), vec![1; 1 << 20]).unwrap();
    publish(&repository, "good", &area.source()).unwrap();
}

#[test]
fn a_cancelled_publish_leaves_nothing() {
    let area = Area::new();
    std::fs::write(area.source().join("disk.raw"), vec![1; 8 << 20]).unwrap();
    let repository = area.open();
    let cancelled = repository.publish(&request("bad", &area.source()), &common::no_progress, &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(MasterError::Cancelled)));
    assert_eq!(stored(&area.repository()), (0, vec![], 0));
}

#[test]
fn a_repository_has_one_owner() {
    let area = Area::new();
    let first = area.open();
    let second = Repository::open(&area.repository(), Settings::default()).unwrap_err();
    assert!(second.to_string().contains(&format!("in use by process {}", std::process::id())), "{second}");
    assert!(!second.is_permanent());
    drop(first);
    Repository::open(&area.repository(), Settings::default()).unwrap();
}

#[test]
fn what_is_no_repository_is_not_taken_for_one() {
    let area = Area::new();
    let open = |path: &Path| Repository::open(path, Settings::default()).unwrap_err();
    assert!(matches!(open(&area.path("missing")), MasterError::NotARepository(_)));
    assert!(matches!(open(&area.source()), MasterError::NotARepository(_)));
    std::fs::write(area.source().join("letter"), b"x").unwrap();
    let create = |path: &Path| Repository::open_or_create(path, Settings::default()).unwrap_err();
    assert!(matches!(create(&area.source()), MasterError::NotEmpty(_)));
    publish(&area.open(), "x", &area.source()).unwrap();
    let catalogue = area.repository().join("catalog.db");
    let kept = std::fs::read(&catalogue).unwrap();
    std::fs::remove_file(&catalogue).unwrap();
    assert!(matches!(create(&area.repository()), MasterError::CatalogueMissing(_)));
    std::fs::write(&catalogue, vec![b'?'; 4096]).unwrap();
    let damaged = open(&area.repository());
    assert!(damaged.to_string().contains("restore it from a backup"), "{damaged}");
    std::fs::write(&catalogue, kept).unwrap();
    let repository = Repository::open(&area.repository(), Settings::default()).unwrap();
    let undeployed = repository.resolve(&image("x"), None).unwrap_err();
    assert!(undeployed.to_string().contains("icbd image deploy x@N"), "{undeployed}");
    drop(repository);
    let newer = rusqlite::Connection::open(&catalogue).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    assert!(matches!(open(&area.repository()), MasterError::Newer { found: 99, .. }));
}

/// A store's catalogue has the name of a repository's and other tables.
#[test]
fn a_directory_of_somebody_else_is_refused_and_left_alone() {
    let area = Area::new();
    let names = |path: &Path| {
        let mut names: Vec<_> = path.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let check = |name: &str, made: &[(&str, &str)], is_expected: fn(&MasterError) -> bool, says: &str| {
        let path = area.path(name);
        std::fs::create_dir(&path).unwrap();
        made.iter().for_each(|(name, text)| std::fs::write(path.join(name), text).unwrap());
        let before = names(&path);
        for open in [Repository::open, Repository::open_or_create] {
            let error = open(&path, Settings::default()).unwrap_err();
            assert!(is_expected(&error) && error.to_string().contains(says), "{name}: {error}");
            assert_eq!(names(&path), before, "{name} was written to");
        }
    };
    let is_store: fn(&MasterError) -> bool = |error| matches!(error, MasterError::IsAStore { .. });
    let store = [("format", "icbd-store 1\n"), ("catalog.db", "x"), ("lock", "")];
    check("store", &store, is_store, "name another directory");
    let both = [("format", "icbd-store 1\n"), ("catalog.db", "x"), ("repository.lock", "")];
    check("both", &both, is_store, "put the newest `catalog.db.damaged-N` back");
    check(
        "home",
        &[("letter", "x"), ("catalog.db", "x")],
        |error| matches!(error, MasterError::NotEmpty(_)),
        "other files",
    );

    // A file system's own, and what an interrupted first start leaves.
    let first = area.path("first");
    std::fs::create_dir_all(first.join("lost+found")).unwrap();
    std::fs::write(first.join("repository.lock"), "12\n").unwrap();
    Repository::open_or_create(&first, Settings::default()).unwrap();
}

/// Where another file system is mounted than the one that holds the versions, nothing is chosen in its place.
#[test]
fn trees_that_cannot_be_opened_as_what_they_are_are_refused() {
    let area = Area::new();
    std::fs::create_dir(area.repository()).unwrap();
    let _mounted = Mounted::tmpfs(&area.repository(), "size=8m");
    drop(area.open());
    // Opened anew each time: an open repository has its catalogue to itself.
    let catalogue = || rusqlite::Connection::open(area.repository().join("catalog.db")).unwrap();
    let noted = || catalogue().query_row("SELECT trees FROM repository", [], |row| row.get::<_, String>(0)).unwrap();
    let kind = noted();
    for (name, why) in [("btrfs", "no btrfs"), ("velvet", "no such kind")] {
        catalogue().execute("UPDATE repository SET trees = ?1", [name]).unwrap();
        let error = Repository::open(&area.repository(), Settings::default()).unwrap_err();
        assert!(matches!(error, MasterError::TreesKind { .. }), "{error}");
        let says = [name, why, "right file system is mounted", "SET trees = NULL"];
        assert!(says.iter().all(|says| error.to_string().contains(says)), "{error}");
        assert_eq!(noted(), name, "it became another kind");
    }
    // As the error says.
    catalogue().execute("UPDATE repository SET trees = NULL", []).unwrap();
    drop(area.open());
    assert_eq!(noted(), kind);
}

#[test]
fn a_note_is_no_book() {
    let area = Area::new();
    std::fs::write(area.source().join("a"), b"1").unwrap();
    let repository = area.open();
    let noted = |bytes| PublishRequest { note: "x".repeat(bytes), ..request("lab", &area.source()) };
    let publish = |bytes| repository.publish(&noted(bytes), &no_progress, &AtomicBool::new(false));
    let error = publish(1001).unwrap_err();
    assert_eq!(error.to_string(), "the note has 1001 bytes; write at most 1000");
    assert_eq!(publish(1000).unwrap().record.note.len(), 1000);
}
