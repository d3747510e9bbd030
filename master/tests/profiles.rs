//! What boots read, as a repository keeps it.

mod common;

use common::{Area, no_progress, publish, request};
use icbd_image::{FileIndex, Observation, Origin, Profile, Root, SiteId, Touch};
use icbd_master::{MasterError, Repository};
use std::sync::atomic::AtomicBool;

/// What a boot at `started` told, which read some blocks of a file.
fn told(root: Root, file: FileIndex, started: u64) -> Profile {
    let mut profile = Profile::new(root);
    let touch = Touch { after_ms: 0, file, first: 1, count: 2 };
    profile.insert(Observation::new(SiteId::from_bytes([3; 16]), started, Origin::Own, [touch]));
    profile
}

fn disk(repository: &Repository, root: Root) -> FileIndex {
    repository.head(root).unwrap().resolve(b"disk.raw").unwrap()
}

/// Caches hear of a version with its commit, so what they may expect of it is there before.
#[test]
fn a_version_begins_with_what_was_learned_of_the_one_before() {
    let area = Area::new();
    std::fs::write(area.source().join("disk.raw"), vec![7; 1 << 20]).unwrap();
    let repository = area.open();
    let v1 = publish(&repository, "lab", &area.source()).unwrap().record.root();
    let learned = told(v1, disk(&repository, v1), 5);
    assert!(repository.profile(v1).unwrap().is_empty());
    assert!(repository.merge_profile(&learned).unwrap());
    assert!(!repository.merge_profile(&learned).unwrap(), "it is known");

    std::fs::write(area.source().join("a-new-file"), b"x").unwrap();
    std::fs::write(area.source().join("disk.raw"), vec![8; 1 << 20]).unwrap();
    let v2 = publish(&repository, "lab", &area.source()).unwrap().record.root();
    drop(repository);
    let repository = area.open();
    assert_eq!(repository.profile(v1).unwrap(), learned);
    let carried = repository.profile(v2).unwrap();
    let (file, of) = (disk(&repository, v2), carried.observations().next().unwrap());
    assert_ne!(file, disk(&repository, v1));
    assert_eq!((of.origin(), of.touches()[0].file, of.touches()[0].first), (Origin::Carried, file, 1));

    // What a publish leaves that does not come to its end: nothing.
    let cancel = AtomicBool::new(true);
    let cancelled = repository.publish(&request("lab", &area.source()), &no_progress, &cancel);
    assert!(matches!(cancelled, Err(MasterError::Cancelled)));
    assert_eq!(std::fs::read_dir(area.repository().join("profiles")).unwrap().count(), 2);
}

#[test]
fn what_is_damaged_or_of_nothing_here_is_ignored() {
    let area = Area::new();
    std::fs::write(area.source().join("disk.raw"), vec![7; 1 << 20]).unwrap();
    let repository = area.open();
    let root = publish(&repository, "lab", &area.source()).unwrap().record.root();
    let other = Root::from_bytes([1; 32]);
    let unknown = |error: MasterError| matches!(error, MasterError::UnknownRoot(root) if root == other);
    assert!(unknown(repository.profile(other).unwrap_err()));
    assert!(unknown(repository.merge_profile(&told(other, FileIndex::ROOT, 1)).unwrap_err()));

    let path = area.repository().join(format!("profiles/{root}.profile"));
    for bytes in [b"damaged".to_vec(), vec![0; Profile::BYTES_MAX + 1], told(other, FileIndex::ROOT, 1).encode()] {
        std::fs::write(&path, bytes).unwrap();
        assert!(repository.profile(root).unwrap().is_empty());
    }
    let learned = told(root, disk(&repository, root), 2);
    assert!(repository.merge_profile(&learned).unwrap());
    assert_eq!(repository.profile(root).unwrap(), learned);
}
