//! Listings written and read back, and listings that contradict themselves.

use icbd_image::{SecretKey, Statement};
use proptest::prelude::*;

use super::*;

fn repository() -> RepositoryId {
    RepositoryId::from_bytes([9; 16])
}

fn version(image: &ImageName, number: u32, serial: u64, note: &str) -> VersionRecord {
    let statement = Statement {
        repository: repository(),
        image: image.clone(),
        number: VersionNumber::new(number).unwrap(),
        serial: Serial::new(serial).unwrap(),
        root: Root::of(note.as_bytes()),
        parent: (number > 1).then(|| Root::of(b"parent")),
        time: Timestamp { seconds: 1_790_000_000, nanoseconds: 5 },
    };
    let statement = SignedStatement::new(statement).sign(&SecretKey::from_random([1; 32], ""));
    VersionRecord { state: VersionState::Ready, data_bytes: u64::MAX, note: note.to_owned(), statement }
}

fn image(name: &str, serial: u64, numbers: &[u32], note: &str) -> ImageRecord {
    let name: ImageName = name.parse().unwrap();
    let versions = numbers.iter().map(|number| version(&name, *number, serial + u64::from(*number), note));
    ImageRecord {
        serial: Serial::new(serial).unwrap(),
        changed: Timestamp { seconds: -1, nanoseconds: 999_999_999 },
        deployed: numbers.last().and_then(|number| VersionNumber::new(*number)),
        fallback: numbers.first().and_then(|number| VersionNumber::new(*number)),
        versions: versions.collect(),
        removed: Vec::new(),
        name,
    }
}

fn listing() -> Listing {
    let images = vec![image("debian", 10, &[1, 2, 7], "a \"note\"\n\u{1f600}"), image("empty", 50, &[], "")];
    Listing { repository: repository(), images }
}

#[test]
fn a_listing_that_contradicts_itself_is_refused() {
    let check = |alter: fn(&mut Listing), says: &str| {
        let mut listing = listing();
        alter(&mut listing);
        let error = decode(&encode(&listing)).unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains(says), "{error}");
    };
    check(|l| l.images.reverse(), "debian twice or not in order");
    check(|l| l.images[1].name = l.images[0].name.clone(), "debian twice");
    check(|l| l.images[0].versions.swap(0, 1), "debian@1 twice or not in order");
    check(|l| l.images[0].versions[1] = l.images[0].versions[0].clone(), "debian@1 twice");
    check(|l| l.images[1].serial = l.images[0].serial, "serial 10 of empty twice");
    check(|l| l.images[1].serial = l.images[0].versions[0].serial(), "serial 11 of empty twice");
    check(|l| l.images[0].versions[1] = image("debian", 9, &[2], "").versions.remove(0), "serial 11 of debian@2");
    check(|l| l.images[1].versions = l.images[0].versions.clone(), "shows as empty@1 the statement of debian@1");
    check(|l| l.repository = RepositoryId::from_bytes([8; 16]), "is of repository 08080808-");
    check(|l| l.images[0].deployed = VersionNumber::new(3), "debian@3 is deployed and does not have it");
    check(|l| l.images[0].changed.nanoseconds = 1_000_000_000, "debian a time that is not one");
}

#[test]
fn json_that_is_no_listing_is_refused() {
    let good = String::from_utf8(encode(&listing())).unwrap();
    let check = |json: &str, says: &str| {
        let message = decode(json.as_bytes()).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    };
    check("", "not the JSON that icbd expects");
    check("<html>", "not the JSON");
    check(&"[".repeat(100_000), "not the JSON");
    check("{\"format\":2}", "has format 2; this icbd reads format 1");
    check(&good.replace("\"number\":7", "\"number\":8"), "shows as debian@8 the statement of debian@7");
    check(&good.replace("\"number\":7", "\"number\":0"), "not the JSON");
    check(&good.replace("\"serial\":10", "\"serial\":0"), "a serial is 1 to");
    let root = format!("\"root\":\"{}\"", listing().images[0].versions[0].root());
    check(&good.replace(&root, &format!("\"root\":\"{}\"", Root::of(b""))), "its statement says");
    for len in 0..good.len() {
        assert!(decode(&good.as_bytes()[..len]).is_err(), "cut at {len}");
    }
}

#[test]
fn fields_of_newer_masters_are_ignored() {
    let json = String::from_utf8(encode(&listing())).unwrap().replace("\"state\"", "\"new\":[1],\"state\"");
    assert_eq!(decode(json.as_bytes()).unwrap(), listing());
}

#[test]
fn one_version_is_written_as_in_the_listing() {
    let all = String::from_utf8(encode(&listing())).unwrap();
    for version in &listing().images[0].versions {
        assert!(all.contains(str::from_utf8(&encode_version(version)).unwrap()));
    }
}

#[test]
fn a_large_repository_fits() {
    let numbers: Vec<u32> = (1..=10).collect();
    let images = (0..1000).map(|i| image(&format!("image-{i:04}"), 1 + i * 20, &numbers, "monthly update"));
    let bytes = encode(&Listing { repository: repository(), images: images.collect() });
    assert!(bytes.len() < LISTING_BYTES_MAX / 10, "{} bytes for 10,000 versions", bytes.len());
    assert_eq!(decode(&bytes).unwrap().images.len(), 1000);
}

proptest! {
    #[test]
    fn listings_round_trip(names in prop::collection::btree_set("[a-z0-9]{1,20}", 0..6), count in 0u32..5, note in "\\PC{0,40}") {
        let numbers: Vec<u32> = (1..=count).map(|n| n * 3).collect();
        let images = (0..).zip(&names).map(|(i, name)| image(&format!("x{name}"), 1 + i * 100, &numbers, &note));
        let listing = Listing { repository: repository(), images: images.collect() };
        prop_assert_eq!(decode(&encode(&listing)).unwrap(), listing);
    }

    #[test]
    fn no_bytes_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut json = encode(&listing());
        for (at, byte) in edits {
            let at = at.index(json.len());
            json[at] = byte;
        }
        if let Ok(listing) = decode(&json) {
            prop_assert_eq!(decode(&encode(&listing)).unwrap(), listing);
        }
    }
}
