//! Masters that are restored, replaced or emptied: everything held stays; and stores that are not ours.

use std::path::Path;

use icbd_image::{RepositoryId, SecretKey, Trust, VersionState};

use super::rig::{Rig, content};
use crate::disk::memory::MemoryDisk;
use crate::refresh::merge;
use crate::view::View;
use crate::{CacheError, layout, store};

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_emptied_or_altered_master_takes_nothing_away() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let v1 = rig.publish(&[("a", content(&[1]))]).await;
    let v2 = rig.publish(&[("a", content(&[2]))]).await;
    let good = rig.master.current_listing();
    let shown =
        |rig: &Rig| rig.cache.view().images()[0].versions.iter().map(|version| version.root()).collect::<Vec<_>>();
    let all = [v1.root(), v2.root()];

    let mut foreign = good.clone();
    foreign.repository = RepositoryId::from_random([9; 16]);
    foreign.images.clear();
    rig.master.set_listing(foreign);
    let refresh = rig.cache.refresh().await.unwrap();
    assert!(!refresh.changed && refresh.warnings[0].contains("serves repository"), "{refresh:?}");
    assert_eq!((shown(&rig).as_slice(), rig.cache.status().warnings.len()), (all.as_slice(), 1));

    let mut emptied = good.clone();
    emptied.images.clear();
    rig.master.set_listing(emptied);
    assert!(rig.cache.refresh().await.unwrap().warnings[0].contains("is gone"));
    assert_eq!(shown(&rig), all);

    // The same number, another root: the one that was there first stays.
    let mut altered = good.clone();
    let other = rig.master.publish("lab", &[("a", content(&[3]))]);
    let mut statement = other.statement.statement().clone();
    (statement.number, statement.serial) = (v1.number(), v1.serial());
    altered.images[0].versions[0].statement = icbd_image::SignedStatement::new(statement);
    altered.images[0].versions[1].state = VersionState::Deployed;
    altered.images[0].deployed = Some(v2.number());
    rig.master.set_listing(altered);
    let refresh = rig.cache.refresh().await.unwrap();
    assert!(refresh.changed && refresh.warnings[0].contains("is another one"), "{refresh:?}");
    assert_eq!((shown(&rig).as_slice(), rig.cache.view().images()[0].deployed), (all.as_slice(), Some(v2.number())));

    rig.master.set_listing(good);
    assert!(rig.cache.refresh().await.unwrap().warnings.is_empty());
    assert!(rig.cache.status().warnings.is_empty());
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_version_is_not_taken_up_where_signatures_are_required() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    rig.publish(&[("a", content(&[1]))]).await;
    let (known, key) = (rig.cache.view(), SecretKey::from_random([1; 32], ""));
    rig.master.publish("lab", &[("a", content(&[2]))]);
    let mut listing = rig.master.current_listing();
    let trust = Trust { keys: vec![key.public()], require: true };
    let merged = merge(&known, listing.clone(), "master", &trust).unwrap();
    // One that is known stays known; whether it is shown is judged apart from listings.
    assert_eq!((merged.images[0].versions.len(), merged.refresh.warnings.len()), (1, 1));
    assert!(merged.refresh.warnings[0].contains("not signed by a trusted key"));
    let version = &mut listing.images[0].versions[1];
    version.statement = version.statement.clone().sign(&key);
    let merged = merge(&known, listing.clone(), "master", &trust).unwrap();
    assert_eq!((merged.images[0].versions.len(), merged.refresh.added.len()), (2, 1));
    let merged = merge(&View::default(), listing, "master", &trust).unwrap();
    assert_eq!(merged.images[0].versions.len(), 1);
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_has_one_owner_and_a_newer_one_is_refused() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let path = rig.settings.store.clone();
    let error = store::open(&path).unwrap_err();
    assert!(error.to_string().contains(&format!("in use by the process {}", std::process::id())), "{error}");
    rig.cache.close().await;
    drop(rig.cache);
    std::fs::write(path.join(layout::FORMAT), "icbd-store 2\n").unwrap();
    let error = store::open(&path).unwrap_err();
    assert!(matches!(error, CacheError::NewerStore { found: 2, ours: 1, .. }), "{error}");
}

/// A repository and a store both have a `catalog.db`: a cache that was started on a repository put the master's aside
/// as damaged.
#[test]
fn a_directory_of_somebody_else_is_refused_and_left_alone() {
    let names = |path: &Path| {
        let mut names: Vec<_> = path.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let check = |made: &[(&str, &str)], says: Option<&str>| {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in made {
            match text.is_empty() && !name.contains('.') && *name != layout::FORMAT && *name != layout::LOCK {
                true => std::fs::create_dir(directory.path().join(name)).unwrap(),
                false => std::fs::write(directory.path().join(name), text).unwrap(),
            }
        }
        let before = names(directory.path());
        let opened = store::open(directory.path());
        match (opened, says) {
            (Ok(_), None) => assert!(directory.path().join(layout::FORMAT).metadata().unwrap().len() > 0),
            (Err(error @ CacheError::NotAStore { .. }), Some(says)) => {
                assert!(error.to_string().contains(says) && error.to_string().contains("--store"), "{error}");
                assert_eq!(names(directory.path()), before, "{made:?} was written to");
            }
            (opened, _) => panic!("{made:?}: {opened:?}"),
        }
    };
    let repository = [("catalog.db", "x"), ("manifests", ""), ("versions", ""), ("publishing", "")];
    check(&repository, Some("a master's repository"));
    check(&[("catalog.db", "x"), ("repository.lock", "1")], Some("a master's repository"));
    // One that a cache was started on before it looked.
    check(&[("format", "icbd-store 1\n"), ("repository.lock", "1")], Some("a master's repository"));
    check(&[("catalog.db", "x")], Some("other files (`catalog.db`)"));
    check(&[("letter.txt", "x"), ("lock", "")], Some("other files (`letter.txt`)"));
    check(&[("format", "of paper\n")], Some("`format`"));
    check(&[("format", ""), ("letter.txt", "x")], Some("other files (`letter.txt`)"));
    // One that lost what says how it is to be read is not given up.
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join(layout::FILLING)).unwrap();
    ["audit.jsonl", "catalog.db"].iter().for_each(|name| std::fs::write(directory.path().join(name), "x").unwrap());
    let lost = store::open(directory.path()).unwrap_err();
    assert!(
        matches!(lost, CacheError::NoFormat { .. }) && lost.to_string().contains("echo \"icbd-store 1\" >"),
        "{lost}"
    );
    // Empty, a file system's own, what an interrupted first start leaves, and what a power cut leaves of it.
    check(&[], None);
    check(&[("lost+found", "")], None);
    check(&[("lost+found", ""), ("lock", "12\n")], None);
    check(&[("lock", "12\n"), ("format", ""), ("filling", ""), ("audit.jsonl", "x")], None);
    check(&[("format", "icbd-store 1\n"), ("README.txt", "whose this is")], None);
}
