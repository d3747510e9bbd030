//! Example files of every format of this crate, byte for byte: a format cannot change unnoticed.
//!
//! Each test writes a value and compares it with the file in `tests/golden`, then reads that file and
//! writes it again. Where they differ, the new bytes are kept and the failure says what to do.

use std::fmt::Write;
use std::path::Path;

use icbd_image::{
    BLOCK_BYTES, FileHashes, FileIndex, Hash, Head, HeadBuilder, Kind, Metadata, Node, NodeId, Observation, Origin,
    Page, PagesBuilder, Profile, PublicKey, RepositoryId, Root, SecretKey, Serial, SignedStatement, SiteId, Statement,
    Timestamp, Touch, Trust, VersionNumber, block_count,
};

/// The bytes of golden file `name`, which must be `now`.
fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let bytes = std::fs::read(&kept).unwrap_or_default();
    if bytes != now {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&new, now).unwrap();
        panic!(
            "{name} is written otherwise than before. Old versions could no longer be read: if that is meant, give \
             the format a new number, describe it in FORMAT.md, and\n  cp {} {}",
            new.display(),
            kept.display()
        );
    }
    bytes
}

fn metadata(mode: u16, seconds: i64) -> Metadata {
    Metadata { mode, uid: 1000, gid: 100_000, mtime: Timestamp { seconds, nanoseconds: 987_654_321 } }
}

/// Hashes of a file of which every third block is zero, with its pages appended to `pages`.
fn hashes(file_bytes: u64, pages: &mut Vec<u8>) -> FileHashes {
    let mut builder = PagesBuilder::new(file_bytes).unwrap();
    for block in 0..block_count(file_bytes) {
        let hash = if block % 3 == 0 { Hash::ZERO } else { Hash::of(&block.to_le_bytes()) };
        builder.push(hash, &mut |_, bytes| pages.extend_from_slice(bytes));
    }
    builder.finish()
}

/// A tree with everything that a head can hold, and its `.pages` file.
fn tree() -> (Head, Vec<u8>) {
    let mut pages = Vec::new();
    let mut tree = HeadBuilder::new(metadata(0o755, 1_790_000_000));
    let boot = tree.directory(FileIndex::ROOT, b"boot", metadata(0o1777, -1)).unwrap();
    let kernel = tree.file(boot, b"vmlinuz", metadata(0o600, 0)).unwrap();
    tree.set_hashes(kernel, hashes(16 * BLOCK_BYTES, &mut pages));
    let disk = tree.file(FileIndex::ROOT, b"disk.raw", metadata(0o640, 1)).unwrap();
    tree.set_hashes(disk, hashes(16 * BLOCK_BYTES + 1, &mut pages));
    let second = tree.file(boot, b"second\xff.raw", metadata(0o4755, 2)).unwrap();
    tree.set_hashes(second, hashes(20 * BLOCK_BYTES, &mut pages));
    tree.file(boot, b"empty", metadata(0, 3)).unwrap();
    tree.link(boot, b"linked", disk).unwrap();
    tree.symlink(FileIndex::ROOT, b"kernel", metadata(0o777, 4), b"boot/vmlinuz").unwrap();
    tree.device(boot, b"null", Kind::CharDevice, metadata(0o666, 5), 0x103).unwrap();
    tree.device(boot, b"vda", Kind::BlockDevice, metadata(0o660, 6), 0xfe00).unwrap();
    tree.set_xattr(kernel, b"user.note", b"signed\0");
    tree.set_xattr(kernel, b"security.ima", b"\x01\x02");
    tree.set_xattr(boot, b"user.empty", b"");
    (tree.finish().unwrap(), pages)
}

/// What a head says, for people: one line a node, hash, name and attribute.
fn describe(head: &Head) -> String {
    let mut out = format!("root {}\n", head.root());
    let mut line = |text: String| writeln!(out, "{text}").unwrap();
    for node in head.nodes() {
        let Metadata { mode, uid, gid, mtime } = node.metadata();
        let kind = format!("{:?}", node.kind());
        line(format!(
            "node {} {kind} {mode:04o} {uid}:{gid} links {} size {}",
            node.index(),
            node.links(),
            node.size()
        ));
        line(format!("  mtime {}.{:09} rdev {:#x}", mtime.seconds, mtime.nanoseconds, node.rdev()));
        if let Some(target) = node.target() {
            line(format!("  target {}", target.escape_ascii()));
        }
        if let Some(parent) = node.parent() {
            line(format!("  parent {parent}"));
        }
        for xattr in node.xattrs() {
            line(format!("  xattr {}={}", xattr.name.escape_ascii(), xattr.value.escape_ascii()));
        }
        for entry in head.entries(node.index(), 0) {
            line(format!("  name {} {} -> {}", entry.position, entry.name.escape_ascii(), entry.node));
        }
        hash_lines(&node).for_each(&mut line);
    }
    out
}

fn hash_lines<'a>(node: &Node<'a>) -> impl Iterator<Item = String> + use<'a> {
    let node = *node;
    let blocks = (0..node.blocks()).filter_map(move |block| Some((block, node.inline_hash(block)?)));
    let pages = (0..node.pages()).filter_map(move |page| Some((page, node.page_offset(page)?, node.page_hash(page)?)));
    blocks
        .map(|(block, hash)| format!("  block {block} {hash}"))
        .chain(pages.map(|(page, at, hash)| format!("  page {page} at {at} {hash}")))
}

#[test]
fn manifest() {
    let (head, pages) = tree();
    golden("tree.txt", describe(&head).as_bytes());
    let kept_pages = golden("tree.pages", &pages);
    let kept = Head::parse(golden("tree.head", head.bytes()).into()).unwrap();
    assert_eq!(describe(&kept), describe(&head));
    for file in kept.files() {
        for page in 0..file.pages() {
            let start = file.page_offset(page).unwrap() as usize;
            let bytes = kept_pages[start..start + file.page_blocks(page) as usize * Hash::BYTES].to_vec();
            Page::verify(&file, page, bytes.into()).unwrap();
        }
    }
    assert_eq!(kept.paged_blocks() * Hash::BYTES as u64, kept_pages.len() as u64);
}

#[test]
fn statements() {
    let statement = Statement {
        repository: RepositoryId::from_bytes(std::array::from_fn(|i| i as u8)),
        image: "win11-lab".parse().unwrap(),
        number: VersionNumber::new(7).unwrap(),
        serial: Serial::new(0x12_3456_789a).unwrap(),
        root: Root::of(b"head"),
        parent: Some(Root::of(b"parent")),
        time: Timestamp { seconds: 1_790_000_000, nanoseconds: 5 },
    };
    let keys = [1, 2].map(|seed| SecretKey::from_random([seed; 32], "golden"));
    let first = Statement { parent: None, number: VersionNumber::FIRST, ..statement.clone() };
    let unsigned = SignedStatement::new(first);
    let signed = keys.iter().fold(SignedStatement::new(statement), SignedStatement::sign);
    for (name, expected) in [("unsigned.statement", &unsigned), ("signed.statement", &signed)] {
        let bytes = golden(name, &expected.encode());
        let kept = SignedStatement::decode(&bytes).unwrap();
        assert_eq!((&kept, kept.encode()), (expected, bytes));
    }
    for key in &keys {
        let trust = Trust { keys: vec![key.public()], require: true };
        assert_eq!(trust.signer(&signed).unwrap(), Some(&key.public()));
    }
}

#[test]
fn keys() {
    let key = SecretKey::from_random(std::array::from_fn(|i| i as u8), "alice at img");
    let public = golden("public.key", format!("{}\n", key.public()).as_bytes());
    let public: PublicKey = String::from_utf8(public).unwrap().parse().unwrap();
    assert_eq!((public.id().to_string().as_str(), &public), ("98ba85304ac639f0", &key.public()));
    let secret = golden("secret.key", format!("{}\n", key.to_secret_text()).as_bytes());
    let secret: SecretKey = String::from_utf8(secret).unwrap().parse().unwrap();
    assert_eq!(secret.public(), public);
}

#[test]
fn node_ids() {
    let object =
        |serial, index| NodeId::Object { serial: Serial::new(serial).unwrap(), index: FileIndex::new(index).unwrap() };
    let check = |node: NodeId, id: u64| {
        assert_eq!(node.to_u64(), id);
        assert_eq!(NodeId::from_u64(id), Some(node));
    };
    check(NodeId::Mount, 1);
    check(object(1, 0), 0x0000_0000_0100_0000);
    check(object(0x12_3456_789a, 7), 0x1234_5678_9a00_0007);
    check(object(Serial::MAX, FileIndex::MAX), u64::MAX);
    let at = |seconds| Timestamp { seconds, nanoseconds: 500_000_000 };
    assert_eq!(Serial::after(None, at(1_767_225_600)).unwrap().get(), 64, "128 in a second since 2026-01-01");
}

/// Reserved bytes can only get a meaning later if nobody accepts other values in them today.
#[test]
fn every_reserved_byte_of_a_head_is_held_to_zero() {
    let (head, _) = tree();
    let nodes = (0..head.node_count() as usize).flat_map(|node| [1, 60, 61, 62, 63].map(|at| 40 + node * 64 + at));
    let first_name = 40 + head.node_count() as usize * 64;
    for at in (32..40).chain(nodes).chain(first_name + 12..first_name + 16) {
        let mut bytes = head.bytes().to_vec();
        assert_eq!(bytes[at], 0, "byte {at}");
        bytes[at] = 1;
        assert!(Head::parse(bytes.into()).is_err(), "byte {at}");
    }
}

#[test]
fn boot_profiles() {
    let root: Root = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f".parse().unwrap();
    let touch = |after_ms, file, first, count| Touch { after_ms, file: FileIndex::new(file).unwrap(), first, count };
    let touches = [
        touch(0, 7, 0, 1),
        touch(12, FileIndex::MAX, (1 << 34) - 300, 300),
        touch(70_000, 7, 1, u32::MAX),
        touch(u32::MAX, 3, 5, 2),
    ];
    let mut profile = Profile::new(root);
    let site = |number| SiteId::from_bytes([number; 16]);
    profile.insert(Observation::new(site(1), 1_790_000_000, Origin::Own, touches));
    profile.insert(Observation::new(site(2), 1_780_000_000, Origin::Carried, touches[..2].iter().copied()));
    profile.insert(Observation::new(site(3), 1_790_000_000, Origin::Own, []));
    let kept = Profile::decode(&golden("boot.profile", &profile.encode())).unwrap();
    assert_eq!((kept.encode(), kept), (profile.encode(), profile));
}
