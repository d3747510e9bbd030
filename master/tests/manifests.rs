//! Manifest files that somebody deleted or damaged behind the master's back.

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use common::{Area, publish};
use icbd_image::{Root, Run, Trust, VersionId};
use icbd_master::{FaultKind, MasterError, Repository, VerifyReport};
use icbd_wire::{Check, Codec};

const FILE_BYTES: usize = 3 << 20;

fn lab() -> VersionId {
    "lab@1".parse().unwrap()
}

/// A version whose one file has a hash page, published in a repository that is closed again.
fn area() -> (Area, Root) {
    let area = Area::new();
    std::fs::write(area.source().join("disk.raw"), vec![7; FILE_BYTES]).unwrap();
    let root = publish(&area.open(), "lab", &area.source()).unwrap().record.root();
    (area, root)
}

fn manifest(area: &Area, root: Root, what: &str) -> PathBuf {
    area.repository().join(format!("manifests/{root}.{what}"))
}

fn verify(repository: &Repository) -> Result<VerifyReport, MasterError> {
    repository.verify(&lab(), &Trust::default(), &|_| {}, &AtomicBool::new(false))
}

fn read(repository: &Repository, root: Root) -> Result<(), MasterError> {
    let file = repository.head(root)?.resolve(b"disk.raw").unwrap();
    repository.encoded_run(Run { root, file, first: 3, count: 1 }, Codec::None, Check::Both).map(drop)
}

/// It is noted, named by everybody who needs it, and not deployed.
fn check_noted(repository: &Repository, root: Root, name: &str) {
    let noted = repository.damages().get(&lab()).cloned().unwrap_or_default();
    assert!(noted.contains(name), "{name}: noted is {noted:?}");
    let unsound = repository.deploy(&lab()).unwrap_err();
    assert!(matches!(unsound, MasterError::Unsound { .. }) && unsound.to_string().contains(name), "{unsound}");
    assert!(read(repository, root).is_err(), "{name}");
    assert_eq!(repository.listing().images[0].versions.len(), 1, "{name}");
}

#[test]
fn what_is_gone_is_noticed_by_the_next_start_and_mended_by_publishing_again() {
    for what in ["head", "pages"] {
        let (area, root) = area();
        let path = manifest(&area, root, what);
        std::fs::remove_file(&path).unwrap();
        let repository = area.open();
        let name = format!("manifests/{root}.{what} is missing");
        check_noted(&repository, root, &name);
        let error = verify(&repository).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("publish the version again"), "{error}");
        drop(repository);
        // Still, at the start after.
        check_noted(&area.open(), root, &name);
        let repository = area.open();
        publish(&repository, "copy", &area.source()).unwrap();
        read(&repository, root).unwrap();
        assert!(verify(&repository).unwrap().is_whole());
        assert!(repository.damages().is_empty());
        repository.deploy(&lab()).unwrap();
    }
}

#[test]
fn an_empty_head_is_noticed_by_the_next_start() {
    let (area, root) = area();
    std::fs::write(manifest(&area, root, "head"), b"").unwrap();
    check_noted(&area.open(), root, "head is empty");
}

/// All versions that the file describes are noted.
#[test]
fn what_goes_while_the_master_runs_is_noticed_when_it_is_needed() {
    let (area, root) = area();
    publish(&area.open(), "twin", &area.source()).unwrap();
    let repository = area.open();
    std::fs::remove_file(manifest(&area, root, "head")).unwrap();
    assert!(repository.damages().is_empty());
    let error = repository.head_bytes(root).unwrap_err().to_string();
    assert!(error.contains(&format!("{root}.head is missing")), "{error}");
    check_noted(&repository, root, "head is missing");
    assert!(repository.damages().contains_key(&"twin@1".parse().unwrap()));
}

#[test]
fn a_cut_or_altered_manifest_is_noticed_when_it_is_read() {
    let (area, root) = area();
    let pages = std::fs::OpenOptions::new().write(true).open(manifest(&area, root, "pages")).unwrap();
    pages.set_len(100).unwrap();
    let repository = area.open();
    // Opening it for a deploy is enough, though no page is read for that.
    let unsound = repository.deploy(&lab()).unwrap_err().to_string();
    assert!(unsound.contains("pages is cut short"), "{unsound}");
    check_noted(&repository, root, "pages is cut short");
    let faults = verify(&repository).unwrap().faults;
    assert_eq!(faults[0].kind, FaultKind::Pages(manifest(&area, root, "pages")));
    assert!(faults[0].to_string().contains(&format!("{root}.pages")), "{}", faults[0]);
    drop(repository);

    let (area, root) = self::area();
    let head = std::fs::OpenOptions::new().write(true).open(manifest(&area, root, "head")).unwrap();
    head.write_all_at(b"damage", 50).unwrap();
    let repository = area.open();
    let error = verify(&repository).unwrap_err();
    assert!(error.to_string().contains(&format!("{root}.head")), "{error}");
    check_noted(&repository, root, "head is damaged");
}

/// A version without large files has no pages, and needs no file for them.
#[test]
fn pages_that_nobody_needs_may_be_gone() {
    let area = Area::new();
    std::fs::write(area.source().join("small"), b"x").unwrap();
    let root = publish(&area.open(), "lab", &area.source()).unwrap().record.root();
    std::fs::remove_file(manifest(&area, root, "pages")).unwrap();
    let repository = area.open();
    assert!(repository.damages().is_empty());
    repository.deploy(&lab()).unwrap();
    assert!(verify(&repository).unwrap().is_whole());
}

/// A running master finds what was done to a manifest without anybody asking for it, and that it was put back.
#[test]
fn a_look_over_all_manifests_finds_what_was_done_to_them() {
    type Harm = fn(&Path);
    let harms: [(&str, &str, Harm); 5] = [
        ("head", "is missing", |path| std::fs::remove_file(path).unwrap()),
        ("head", "is damaged", |path| std::fs::write(path, &std::fs::read(path).unwrap()[..100]).unwrap()),
        ("head", "is damaged", |path| std::fs::write(path, b"").unwrap()),
        ("pages", "is missing", |path| std::fs::remove_file(path).unwrap()),
        ("pages", "is cut short", |path| std::fs::write(path, &std::fs::read(path).unwrap()[..100]).unwrap()),
    ];
    let (area, root) = area();
    let repository = area.open();
    let other = publish(&repository, "other", &area.source()).unwrap().version;
    for (what, says, harm) in harms {
        let path = manifest(&area, root, what);
        let before = std::fs::read(&path).unwrap();
        repository.look_over_manifests(|| false).unwrap();
        assert!(repository.damages().is_empty(), "{:?}", repository.damages());
        harm(&path);
        repository.look_over_manifests(|| false).unwrap();
        let name = format!("manifests/{root}.{what} {says}");
        let damages = repository.damages();
        assert_eq!(damages.get(&lab()), Some(&name));
        assert_eq!(damages.get(&other), Some(&name), "it has the same content");
        std::fs::write(&path, before).unwrap();
        repository.look_over_manifests(|| false).unwrap();
        assert!(repository.damages().is_empty(), "it was put back");
        read(&repository, root).unwrap();
    }
}
