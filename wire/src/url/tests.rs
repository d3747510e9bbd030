//! Every resource has one path; every path is one resource or a clear refusal.

use proptest::prelude::*;

use super::*;

const ROOT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

const OTHER: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn root() -> Root {
    ROOT.parse().unwrap()
}

#[test]
fn the_spelling_of_each_resource() {
    let check = |resource: Resource, path: &str| {
        assert_eq!(resource.to_string(), path);
        assert_eq!(Resource::parse(path).unwrap(), resource);
    };
    let image = || "win11-lab".parse::<ImageName>().unwrap();
    let file = FileIndex::new(7).unwrap();
    let path = |path: &[u8]| path.to_vec();
    check(Resource::Images, "/v1/images");
    check(Resource::Version("win11-lab@7".parse().unwrap()), "/v1/images/win11-lab/versions/7");
    check(Resource::Head(root()), &format!("/v1/heads/{ROOT}"));
    check(Resource::Profile(root()), &format!("/v1/profiles/{ROOT}"));
    check(Resource::Page { root: root(), file, page: 0 }, &format!("/v1/pages/{ROOT}/7/0"));
    let run = |first, count| Run { root: root(), file, first, count };
    let blocks = |run, codec| Resource::Blocks { run, codec };
    check(blocks(run(0, 1), Codec::None), &format!("/v1/versions/{ROOT}/blocks/7/0-0.none"));
    check(blocks(run(1024, 1024), Codec::Zstd), &format!("/v1/versions/{ROOT}/blocks/7/1024-2047.zstd"));
    let matched = Resource::Matched { run: run(3, 2), base: OTHER.parse().unwrap() };
    check(matched, &format!("/v1/versions/{ROOT}/against/{OTHER}/7/3-4"));
    let base = StreamBase { root: OTHER.parse().unwrap(), lineage: [0x0a; 16] };
    let (dotted, client) = ("debian.12".parse().unwrap(), "pc-1".parse().unwrap());
    check(Resource::Written { image: dotted, client, codec: Codec::Zstd }, "/v1/clones/debian.12/pc-1.zstd");
    check(Resource::Stream { root: root(), base: None, codec: None }, &format!("/v1/streams/{ROOT}.stored"));
    check(
        Resource::Stream { root: root(), base: Some(base), codec: Some(Codec::Zstd) },
        &format!("/v1/streams/{ROOT}/from/{OTHER}/{}.zstd", "0a".repeat(16)),
    );
    let named = Resource::File { image: image(), version: VersionNumber::new(3), path: path(b"etc/a b%\xff~.raw") };
    check(named, "/files/win11-lab/3/etc/a%20b%25%FF~.raw");
    check(Resource::File { image: image(), version: None, path: path(b"disk") }, "/files/win11-lab/current/disk");
}

#[test]
fn paths_that_are_refused_and_why() {
    let check = |path: &str, says: &str| {
        let message = Resource::parse(path).unwrap_err().to_string();
        assert!(message.contains(says), "{path:?}: {message}");
    };
    for path in
        ["", "/", "/v1", "/v1/", "/v1/images/", "/v1/images/x", "/v2/images", "/files", "/files/x/1", "v1/images"]
    {
        check(path, "nothing at");
    }
    check("/v1/images/X/versions/1", "contains 'X'");
    check("/v1/images/x/versions/01", "\"01\" is not a version number");
    check(&format!("/v1/heads/{}", ROOT.to_uppercase()), "is not a root");
    check(&format!("/v1/heads/{ROOT}/"), "nothing at");
    check(&format!("/v1/pages/{ROOT}/16777216/0"), "\"16777216\" is not the number of a file");
    check(&format!("/v1/pages/{ROOT}/0/8388608"), "number of a page");
    for number in ["", "00", "+1", "-1", "17179869184", "99999999999999999999999"] {
        check(&format!("/v1/versions/{ROOT}/blocks/0/0-{number}.zstd"), "number of a block");
    }
    for run in ["5-4.zstd", "0-1024.zstd", "0.zstd", "0-1", ""] {
        check(&format!("/v1/versions/{ROOT}/blocks/0/{run}"), "is not a run");
    }
    check(&format!("/v1/versions/{ROOT}/against/x/0/0-0"), "\"x\" is not a root");
    check(&format!("/v1/versions/{ROOT}/against/{OTHER}/0/0-1024"), "is not a run");
    check(&format!("/v1/streams/{ROOT}"), "nothing at");
    check("/v1/clones/lab/PC-1.zstd", "no name of a workstation");
    check("/v1/clones/lab/pc-1", "nothing at");
    check(&format!("/v1/streams/{ROOT}.gzip"), "\"gzip\" is not a codec");
    for lineage in ["", "0a", &"0A".repeat(16), &format!("+{}", "0".repeat(31))] {
        check(&format!("/v1/streams/{ROOT}/from/{OTHER}/{lineage}.zstd"), "is not the lineage");
    }
    check(&format!("/v1/versions/{ROOT}/blocks/0/0-0.gzip"), "\"gzip\" is not a codec");
    for path in
        ["", "a//b", "/a", "a/", "a/.", "%2e%2E/a", "a/%2e/b", "a%2f..%2Fb", "a%00", "a%", "a%4", "a%zz", "a%+1"]
    {
        check(&format!("/files/x/1/{path}"), "the file's path");
    }
    check("/files/x/1/a?b", "write %3F");
    check(&format!("/files/x/1/{}", "a".repeat(256)), "longer than 255");
    check(&format!("/files/x/1/{}", "abc/".repeat(1024)), "longer than 4095");
    check(&format!("/files/x/1/{}", "a".repeat(1 << 20)), "more than 12413");
    assert!(Resource::parse(&format!("/files/x/1/{}", "%41".repeat(255))).is_ok());
}

#[test]
fn files_may_be_spelled_otherwise_and_are_the_same() {
    for path in ["etc/a%2db", "etc%2fa-b", "%65tc/a-b", "etc/%61-b"] {
        let resource = Resource::parse(&format!("/files/x/1/{path}")).unwrap();
        assert_eq!(resource.to_string(), "/files/x/1/etc/a-b");
    }
    let umlaut = Resource::parse("/files/x/1/\u{e4}").unwrap();
    assert_eq!(umlaut.to_string(), "/files/x/1/%C3%A4");
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'x' } else { byte });
    prop::collection::vec(byte, 1..40).prop_filter("no dots", |name| !matches!(name.as_slice(), b"." | b".."))
}

proptest! {
    #[test]
    fn runs_round_trip(file in 0..=FileIndex::MAX, first in 0..FILE_BLOCKS_MAX - 2000, count in 1..=RUN_BLOCKS_MAX) {
        let run = Run { root: root(), file: FileIndex::new(file).unwrap(), first, count };
        for codec in Codec::ALL {
            let resource = Resource::Blocks { run, codec };
            prop_assert_eq!(Resource::parse(&resource.to_string()).unwrap(), resource);
        }
    }

    #[test]
    fn files_round_trip(names in prop::collection::vec(name(), 1..8), number in 0u32..5) {
        let image = "debian".parse().unwrap();
        let resource = Resource::File { image, version: VersionNumber::new(number), path: names.join(&b'/') };
        let path = resource.to_string();
        prop_assert!(path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/%".contains(&b)), "{}", path);
        prop_assert_eq!(Resource::parse(&path).unwrap(), resource);
    }

    #[test]
    fn no_path_panics_and_what_is_taken_has_one_spelling(
        start in prop::sample::select(&["", "/v1/", "/files/x/1/", "/v1/versions/", "/v1/pages/"]),
        rest in "[a-f0-9x%./-]{0,60}|\\PC{0,40}",
    ) {
        if let Ok(resource) = Resource::parse(&format!("{start}{rest}")) {
            prop_assert_eq!(Resource::parse(&resource.to_string()).unwrap(), resource);
        }
    }
}
