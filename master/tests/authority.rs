//! The master's word on versions: numbers, serials, states, signatures, one publish at a time.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use common::{Area, image, no_progress, publish, request, stored};
use icbd_image::{SecretKey, Trust, VersionState};
use icbd_master::{MasterError, Phase, PublishRequest, Repository, Settings};

#[test]
fn deploying_leaves_the_version_before_as_the_fallback() {
    let area = Area::new();
    std::fs::write(area.source().join("a"), b"1").unwrap();
    let repository = area.open();
    let key = Arc::new(SecretKey::from_random([7; 32], "alice"));
    let first = PublishRequest {
        note: "the first".to_owned(),
        deploy: true,
        sign: Some(key.clone()),
        ..request("lab", &area.source())
    };
    let first = repository.publish(&first, &no_progress, &AtomicBool::new(false)).unwrap();
    assert_eq!((first.version.to_string().as_str(), first.record.state), ("lab@1", VersionState::Deployed));
    let second = publish(&repository, "lab", &area.source()).unwrap();
    assert_eq!(second.record.state, VersionState::Ready);
    assert_eq!(second.record.statement.statement().parent, Some(first.record.root()));
    repository.deploy(&second.version).unwrap();
    repository.deploy(&second.version).unwrap();
    let listing = repository.listing();
    let record = listing.image(&image("lab")).unwrap();
    let states: Vec<_> = record.versions.iter().map(|version| version.state).collect();
    assert_eq!(
        (record.deployed, states.as_slice()),
        (Some(second.version.number), [VersionState::Ready, VersionState::Deployed].as_slice())
    );
    assert_eq!((record.versions[0].note.as_str(), record.versions[0].data_bytes), ("the first", 1));
    assert_eq!(repository.revision(), 3);
    let trust = Trust { keys: vec![key.public()], require: true };
    let verify = |version| repository.verify(version, &trust, &|_| {}, &AtomicBool::new(false));
    assert_eq!(verify(&first.version).unwrap().signer, Some(key.public().id()));
    assert!(matches!(verify(&second.version), Err(MasterError::Statement(_))), "nobody signed it");
    let missing = repository.deploy(&"lab@9".parse().unwrap()).unwrap_err();
    assert!(missing.is_absent(), "{missing}");
    // Everything is as before after a restart.
    drop(repository);
    assert_eq!(*area.open().listing(), *listing);
}

#[test]
fn a_restored_catalogue_gives_no_serial_twice() {
    let area = Area::new();
    std::fs::write(area.source().join("a"), b"1").unwrap();
    let day = |days: u64| UNIX_EPOCH + Duration::from_secs(1_790_000_000 + days * 86_400);
    let open = |clock| {
        let settings = Settings { clock, ..Settings::default() };
        Repository::open_or_create(&area.repository(), settings).unwrap()
    };
    let serials = |repository: &Repository| {
        let listing = repository.listing();
        let images = listing.images.iter().flat_map(|image| {
            std::iter::once(image.serial).chain(image.versions.iter().map(|version| version.serial()))
        });
        images.collect::<BTreeSet<_>>()
    };
    assert_eq!(day(1).duration_since(day(0)).unwrap().as_secs(), 86_400);
    let monday = open(|| UNIX_EPOCH + Duration::from_secs(1_790_000_000));
    publish(&monday, "a", &area.source()).unwrap();
    drop(monday);
    let backup = std::fs::read(area.repository().join("catalog.db")).unwrap();
    let tuesday = open(|| UNIX_EPOCH + Duration::from_secs(1_790_086_400));
    let lost: Vec<_> = ["a", "b"].iter().map(|name| publish(&tuesday, name, &area.source()).unwrap()).collect();
    let given = serials(&tuesday);
    drop(tuesday);
    for rest in ["catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(area.repository().join(rest));
    }
    std::fs::write(area.repository().join("catalog.db"), backup).unwrap();
    let wednesday = open(|| UNIX_EPOCH + Duration::from_secs(1_790_172_800));
    let known = serials(&wednesday);
    let again = publish(&wednesday, "a", &area.source()).unwrap();
    assert_eq!(again.version.to_string(), "a@3", "the lost a@2 still has its tree");
    publish(&wednesday, "c", &area.source()).unwrap();
    for serial in serials(&wednesday).difference(&known) {
        assert!(!given.contains(serial), "{serial} was given twice");
    }
    assert_eq!(stored(&area.repository()).1.len(), 3 + lost.len());
}

#[test]
fn a_clock_that_stands_still_gives_rising_serials() {
    let area = Area::new();
    std::fs::write(area.source().join("a"), b"1").unwrap();
    let settings = Settings { clock: || UNIX_EPOCH, ..Settings::default() };
    let repository = Repository::open_or_create(&area.repository(), settings).unwrap();
    for name in ["a", "a", "b"] {
        publish(&repository, name, &area.source()).unwrap();
    }
    let listing = repository.listing();
    let mut numbers = Vec::new();
    for image in &listing.images {
        numbers.push(image.serial.get());
        numbers.extend(image.versions.iter().map(|version| version.serial().get()));
    }
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
}

#[test]
fn publishes_take_turns() {
    let area = Area::new();
    std::fs::write(area.source().join("a"), vec![1; 1 << 20]).unwrap();
    let repository = area.open();
    let (waited, at_work) = (AtomicU64::new(0), AtomicU64::new(0));
    let numbers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let progress = |progress: icbd_master::Progress| match progress.phase {
                    Phase::Waiting => {
                        waited.fetch_add(1, Ordering::Relaxed);
                    }
                    // Between these two only one publish may be.
                    Phase::Storing | Phase::Syncing => {
                        assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0);
                        at_work.fetch_sub(1, Ordering::SeqCst);
                    }
                };
                let request = request("turns", &area.source());
                let published = repository.publish(&request, &progress, &AtomicBool::new(false)).unwrap();
                numbers.lock().unwrap().push(published.version.number.get());
            });
        }
    });
    let mut numbers = numbers.into_inner().unwrap();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    assert!(waited.load(Ordering::Relaxed) > 0, "eight publishes at once, and none waited");
}
