//! The tree without a mount: names, ways up, lists that go on where they stopped.

use std::ffi::OsStr;

use icbd_image::{
    FileIndex, Hash, Head, HeadBuilder, Metadata, PagesBuilder, RepositoryId, Serial, SignedStatement, Statement,
    Timestamp, VersionNumber, VersionState, block_count,
};

use super::*;

fn number(number: u32) -> VersionNumber {
    VersionNumber::new(number).unwrap()
}

fn version(image: &str, at: u32, serial: u64) -> VersionRecord {
    let statement = Statement {
        repository: RepositoryId::from_random([1; 16]),
        image: image.parse().unwrap(),
        number: number(at),
        serial: Serial::new(serial).unwrap(),
        root: head().root(),
        parent: None,
        time: Timestamp { seconds: 5, nanoseconds: 6 },
    };
    VersionRecord {
        state: VersionState::Ready,
        data_bytes: 0,
        note: String::new(),
        statement: SignedStatement::new(statement),
    }
}

/// Images sorted by name, whose serials are in another order.
fn images() -> Vec<ImageRecord> {
    let image = |name: &str, serial, versions: &[u32]| ImageRecord {
        name: name.parse().unwrap(),
        serial: Serial::new(serial).unwrap(),
        changed: Timestamp { seconds: serial as i64, nanoseconds: 7 },
        deployed: versions.first().map(|first| number(*first)),
        versions: versions.iter().map(|at| version(name, *at, serial * 100 + u64::from(*at))).collect(),
        fallback: None,
        removed: Vec::new(),
    };
    vec![image("apple", 30, &[2, 3, 9]), image("berry", 10, &[1]), image("cherry", 20, &[])]
}

/// `a/` with `x` in it, `b` of two pages of which one is zero, `c -> b`.
fn head() -> Head {
    let metadata = Metadata { mode: 0o4751, uid: 1, gid: 2, mtime: Timestamp { seconds: -3, nanoseconds: 999 } };
    let mut builder = HeadBuilder::new(metadata);
    let a = builder.directory(FileIndex::ROOT, b"a", metadata).unwrap();
    builder.file(a, b"x", metadata).unwrap();
    let b = builder.file(FileIndex::ROOT, b"b", metadata).unwrap();
    let size = (2048 + 3) * icbd_image::BLOCK_BYTES - 100;
    let mut pages = PagesBuilder::new(size).unwrap();
    pages.push_zeros(2048, &mut |_, _| {});
    (2048..block_count(size)).for_each(|_| pages.push(Hash::of(b"x"), &mut |_, _| {}));
    builder.set_hashes(b, pages.finish());
    builder.symlink(FileIndex::ROOT, b"c", metadata, b"b").unwrap();
    builder.finish().unwrap()
}

fn inside<'a>(images: &'a [ImageRecord], head: &'a Head, index: u32) -> Place<'a> {
    Place::of_version(&images[0], &images[0].versions[0], head, FileIndex::new(index).unwrap()).unwrap()
}

fn names(place: &Place<'_>, cookie: u64, images: &[ImageRecord]) -> Vec<(String, u64)> {
    let name = |entry: &Listed<'_>| entry.name.with(|name| name.to_str().unwrap().to_owned());
    place.entries(cookie, images).unwrap().map(|entry| (name(&entry), entry.cookie)).collect()
}

fn check_list(place: &Place<'_>, images: &[ImageRecord], expected: &[&str]) {
    let all = names(place, 0, images);
    assert_eq!(all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected);
    for (at, (_, cookie)) in all.iter().enumerate() {
        assert_eq!(names(place, *cookie, images), all[at + 1..], "from cookie {cookie}");
    }
}

#[test]
fn lists_go_on_behind_any_entry() {
    let (images, head) = (images(), head());
    check_list(&Place::Mount(&images), &images, &[".", "..", "berry", "cherry", "apple"]);
    check_list(&Place::Image(&images[0]), &images, &[".", "..", "current", "2", "3", "9"]);
    check_list(&Place::Image(&images[2]), &images, &[".", ".."]);
    check_list(&inside(&images, &head, 0), &images, &[".", "..", "a", "b", "c"]);
    assert!(Place::Current(&images[0], number(2)).entries(0, &images).is_err());
}

#[test]
fn a_list_goes_on_behind_an_entry_that_is_gone() {
    let mut images = images();
    let cookie = |list: Vec<(String, u64)>, name: &str| list.iter().find(|(found, _)| found == name).unwrap().1;
    let three = cookie(names(&Place::Image(&images[0]), 0, &images), "3");
    let cherry = cookie(names(&Place::Mount(&images), 0, &images), "cherry");
    images[0].versions.remove(1);
    images.remove(2);
    assert_eq!(names(&Place::Image(&images[0]), three, &images)[0].0, "9");
    assert_eq!(names(&Place::Mount(&images), cherry, &images)[0].0, "apple");
}

#[test]
fn every_node_finds_itself_and_directories_their_parent() {
    let (images, head) = (images(), head());
    let up = |place: &Place<'_>| place.lookup(OsStr::new(".."), &images).map(|parent| parent.id());
    let root = inside(&images, &head, 0);
    let a = root.lookup(OsStr::new("a"), &images).unwrap();
    let x = a.lookup(OsStr::new("x"), &images).unwrap();
    for place in [Place::Mount(&images), Place::Image(&images[1]), root, a, x, Place::Current(&images[0], number(2))] {
        assert_eq!(place.lookup(OsStr::new("."), &images).unwrap().id(), place.id());
    }
    assert_eq!(up(&a), Ok(root.id()));
    assert_eq!(up(&root), Ok(Place::Image(&images[0]).id()));
    assert_eq!(up(&Place::Image(&images[0])), Ok(NodeId::Mount));
    assert_eq!(up(&Place::Mount(&images)), Ok(NodeId::Mount));
    assert_eq!(up(&x), Err(Refusal::NotDirectory));
}

#[test]
fn names_that_are_not_there() {
    let (images, head) = (images(), head());
    let check = |place: Place<'_>, name: &str, refusal| {
        assert_eq!(place.lookup(OsStr::new(name), &images).map(|it| it.id()), Err(refusal), "{name:?}");
    };
    check(Place::Mount(&images), "nobody", Refusal::NoEntry);
    check(Place::Mount(&images), "No Image Name", Refusal::NoEntry);
    check(Place::Image(&images[0]), "02", Refusal::NoEntry);
    check(Place::Image(&images[0]), "4", Refusal::NoEntry);
    check(Place::Image(&images[2]), "current", Refusal::NoEntry);
    check(inside(&images, &head, 0), "d", Refusal::NoEntry);
    check(inside(&images, &head, 0), &"n".repeat(256), Refusal::NameTooLong);
    assert_eq!(Place::of_image(&images[0], FileIndex::new(2).unwrap()).map(|it| it.id()), Err(Refusal::Stale));
}

#[test]
fn attributes_are_the_published_ones() {
    let (images, head) = (images(), head());
    let b = inside(&images, &head, 0).lookup(OsStr::new("b"), &images).unwrap().attributes();
    assert_eq!((b.mode, b.uid, b.gid, b.links), (0o4751, 1, 2, 1));
    assert_eq!(b.mtime, Timestamp { seconds: -3, nanoseconds: 999 });
    // The zero page is no allocated space; the end of the file is rounded up to a sector.
    assert_eq!(b.sectors, 3 * 128);
    let image = Place::Image(&images[0]).attributes();
    assert_eq!((image.mtime.seconds, image.links, image.kind), (30, 5, NodeKind::Directory));
    let current = Place::Current(&images[0], number(2));
    assert_eq!((current.attributes().size, current.target().unwrap()), (1, b"2".to_vec()));
    assert_eq!(Place::Mount(&images).attributes().mode, 0o750);
}

#[test]
fn extended_attributes_tell_what_is_held() {
    let (images, head) = (images(), head());
    let root = inside(&images, &head, 0);
    let fill = || Some(Fill { resident_bytes: 3, total_bytes: 7, complete: false });
    let get =
        |place: &Place<'_>, name: &str| place.xattr(OsStr::new(name), fill).map(|v| String::from_utf8(v).unwrap());
    assert_eq!(get(&root, "user.icbd.resident"), Ok("3/7".to_owned()));
    assert_eq!(get(&root, "user.icbd.complete"), Ok("0".to_owned()));
    assert_eq!(get(&root, "user.icbd.version"), Ok("apple@2".to_owned()));
    assert_eq!(get(&root, "user.icbd.root"), Ok(head.root().to_string()));
    assert_eq!(get(&root, "user.icbd.other"), Err(Refusal::NoAttribute));
    assert_eq!(get(&Place::Image(&images[0]), "user.icbd.root"), Err(Refusal::NoAttribute));
    let listed = String::from_utf8(root.xattr_names()).unwrap();
    assert_eq!(listed, "user.icbd.resident\0user.icbd.complete\0user.icbd.root\0user.icbd.version\0");
    assert!(inside(&images, &head, 4).xattr_names().is_empty());
}
