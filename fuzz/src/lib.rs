//! The bodies of the fuzz targets: each gives a reader any bytes and checks what it makes of them.
//!
//! They are called by `fuzz_targets/` and, with damaged golden files, by `wire/tests/damage.rs`. None
//! may panic, whatever the bytes; what a reader accepts must hold together, and be written as it was read.

use bytes::Bytes;
use icbd_image::{BLOCK_BYTES, FileIndex, Head, Page, Profile, PublicKey, Root, SecretKey, SignedStatement, block_len};
use icbd_wire::{FrameDecoder, Offer, Resource, listing as listings};

/// Any bytes as a manifest's head.
pub fn head(data: &[u8]) {
    let Ok(head) = Head::parse(Bytes::copy_from_slice(data)) else { return };
    let mut names = 0;
    for node in head.nodes() {
        let _ = (node.metadata(), node.links(), node.rdev(), node.target(), node.xattrs().count());
        for block in [0, node.blocks().saturating_sub(1), node.blocks(), u64::MAX / BLOCK_BYTES] {
            assert_eq!(node.inline_hash(block).is_some(), !node.is_paged() && block < node.blocks());
        }
        for page in [0, node.pages().saturating_sub(1), node.pages()] {
            assert_eq!(node.page_offset(page).is_some(), page < node.pages());
            assert!(Page::verify(&node, page, Bytes::new()).is_err(), "an empty page");
            let zero = Page::zero(&node, page).map(|zero| zero.blocks());
            assert!(zero.is_none_or(|blocks| blocks == node.page_blocks(page)));
        }
        for entry in head.entries(node.index(), 0) {
            assert_eq!(head.lookup(node.index(), entry.name), Some(entry.node));
            names += 1;
        }
        // A way up that does not end would be a cycle.
        let up =
            std::iter::successors(node.parent(), |up| head.node(*up)?.parent().filter(|up| *up != FileIndex::ROOT));
        assert!(up.take(data.len()).count() < data.len());
    }
    assert!(names + 1 >= head.node_count(), "a node without a name");
}

/// Any bytes as a boot profile; with a right checksum, too, which chance would not find.
pub fn profile(data: &[u8]) {
    let body = &data[..data.len().saturating_sub(32)];
    let summed = [body, Root::of(body).as_bytes()].concat();
    for bytes in [data, &summed] {
        let Ok(profile) = Profile::decode(bytes) else { continue };
        assert_eq!(profile.encode(), bytes, "a second spelling");
        let mut both = profile.clone();
        assert!(!both.merge(&profile) && both == profile);
    }
}

/// Any bytes as a signed statement.
pub fn statement(data: &[u8]) {
    let Ok(signed) = SignedStatement::decode(data) else { return };
    assert_eq!(signed.encode(), data);
    assert_eq!(signed.to_string().parse::<SignedStatement>().as_ref(), Ok(&signed));
    let trust = icbd_image::Trust { keys: vec![SecretKey::from_random([1; 32], "").public()], require: true };
    let _ = trust.signer(&signed);
}

/// Any text as a public and as a secret key.
pub fn keys(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string().parse::<PublicKey>().as_ref(), Ok(&key));
    }
    if let Ok(key) = text.parse::<SecretKey>() {
        let again = key.to_secret_text().parse::<SecretKey>().map(|again| again.public());
        assert_eq!(again, Ok(key.public()));
    }
}

/// Any bytes as the answer to a request for blocks.
///
/// The first four choose the request: number of blocks, bytes in the last one (a `u16`), and how the
/// answer is cut into pieces; the rest is the answer.
pub fn frames(data: &[u8]) {
    let Some(([count, short_low, short_high, piece], answer)) = data.split_first_chunk::<4>() else { return };
    let first = 3;
    let last_bytes = u64::from(u16::from_le_bytes([*short_low, *short_high]));
    let file_bytes = (first + u64::from(*count)) * BLOCK_BYTES + last_bytes;
    let mut decoder = FrameDecoder::new(first, u32::from(*count) + 1, file_bytes);
    let mut expected = first;
    for chunk in answer.chunks(usize::from(*piece) * 64 + 1) {
        decoder.push(Bytes::copy_from_slice(chunk));
        loop {
            match decoder.next() {
                Ok(None) => break,
                Err(error) => return assert_eq!(decoder.next(), Err(error)),
                Ok(Some((block, bytes))) => {
                    assert_eq!((block, bytes.len()), (expected, block_len(file_bytes, expected)));
                    expected += 1;
                }
            }
        }
    }
    let all = icbd_image::block_count(file_bytes) == expected;
    assert!(decoder.finish().is_err() || all);
}

/// Any text as the path of a URL, and as an offer of profiles.
pub fn url(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(offer) = text.parse::<Offer>() {
        assert_eq!(offer.to_string(), text, "a second spelling");
    }
    let Ok(resource) = Resource::parse(text) else { return };
    assert_eq!(Resource::parse(&resource.to_string()).as_ref(), Ok(&resource));
    match resource {
        Resource::File { path, .. } => {
            assert!(path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..")));
            assert!(!path.contains(&0));
        }
        other => assert_eq!(other.to_string(), text, "a second spelling"),
    }
}

/// Any bytes as a listing.
pub fn listing(data: &[u8]) {
    let Ok(listing) = listings::decode(data) else { return };
    for image in &listing.images {
        assert_eq!(listing.image(&image.name), Some(image));
        for version in &image.versions {
            assert_eq!(image.version(version.number()), Some(version));
            assert_eq!(version.statement.statement().image, image.name);
        }
    }
    assert_eq!(listings::decode(&listings::encode(&listing)).ok(), Some(listing));
}
