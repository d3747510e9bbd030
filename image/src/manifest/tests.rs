//! Trees written and read back, and damage that must be noticed.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::block::{BLOCK_BYTES, Hash, block_count};
use crate::{Root, Timestamp};

fn metadata(mode: u16) -> Metadata {
    Metadata { mode, uid: 1, gid: 2, mtime: Timestamp { seconds: -3, nanoseconds: 4 } }
}

/// Hashes of a file of `size` bytes whose every `nth` block is zero, and its pages.
fn hashes(size: u64, nth: u64) -> (FileHashes, BTreeMap<u64, Vec<u8>>) {
    let mut pages = BTreeMap::new();
    let mut builder = PagesBuilder::new(size).unwrap();
    for block in 0..block_count(size) {
        let hash = if block % nth == 0 { Hash::ZERO } else { Hash::of(&block.to_le_bytes()) };
        builder.push(hash, &mut |page, bytes| assert!(pages.insert(page, bytes.to_vec()).is_none()));
    }
    (builder.finish(), pages)
}

fn sample() -> (Head, BTreeMap<u64, Vec<u8>>) {
    let mut tree = HeadBuilder::new(metadata(0o755));
    let etc = tree.directory(FileIndex::ROOT, b"etc", metadata(0o4755)).unwrap();
    let small = tree.file(etc, b"passwd\xff", metadata(0o600)).unwrap();
    tree.set_hashes(small, hashes(3 * BLOCK_BYTES + 1, 2).0);
    tree.set_xattr(small, b"user.b", b"");
    tree.set_xattr(small, b"user.a", b"\0value");
    let disk = tree.file(FileIndex::ROOT, b"disk.raw", metadata(0o640)).unwrap();
    let (disk_hashes, pages) = hashes(5000 * BLOCK_BYTES - 7, 3);
    tree.set_hashes(disk, disk_hashes);
    tree.link(etc, b"again", disk).unwrap();
    tree.symlink(FileIndex::ROOT, b"link", metadata(0o777), b"etc/passwd").unwrap();
    tree.device(etc, b"null", Kind::CharDevice, metadata(0o666), 259).unwrap();
    (tree.finish().unwrap(), pages)
}

#[test]
fn a_tree_reads_back_as_it_was_written() {
    let (head, _) = sample();
    let names = |dir| head.entries(dir, 0).map(|e| String::from_utf8_lossy(e.name).into_owned()).collect::<Vec<_>>();
    assert_eq!(names(FileIndex::ROOT), ["disk.raw", "etc", "link"]);
    let etc = head.lookup(FileIndex::ROOT, b"etc").unwrap();
    assert_eq!(names(etc), ["again", "null", "passwd\u{fffd}"]);
    assert_eq!(head.lookup(etc, b"passw"), None);
    let node = |path: &[u8]| head.node(head.resolve(path).unwrap()).unwrap();
    assert_eq!(node(b"etc").metadata(), metadata(0o4755));
    assert_eq!((node(b"").links(), node(b"etc").links(), node(b"disk.raw").links()), (3, 2, 2));
    assert_eq!(node(b"/etc//again").index(), node(b"disk.raw").index());
    assert_eq!(node(b"link").target(), Some(b"etc/passwd".as_slice()));
    assert_eq!((node(b"etc/null").rdev(), node(b"etc/null").kind()), (259, Kind::CharDevice));
    assert_eq!(node(b"etc").parent(), Some(FileIndex::ROOT));
    let xattrs: Vec<_> = node(b"etc/passwd\xff").xattrs().map(|x| (x.name, x.value)).collect();
    assert_eq!(xattrs, [(b"user.a".as_slice(), b"\0value".as_slice()), (b"user.b", b"")]);
    assert_eq!(head.data_bytes(), 3 * BLOCK_BYTES + 1 + 5000 * BLOCK_BYTES - 7);
}

#[test]
fn block_hashes_are_found_in_the_head_or_in_pages() {
    let (head, pages) = sample();
    let small = head.node(head.resolve(b"etc/passwd\xff").unwrap()).unwrap();
    assert_eq!((small.is_paged(), small.pages()), (false, 0));
    assert_eq!(small.inline_hash(0), Some(Hash::ZERO));
    assert_eq!(small.inline_hash(3), Some(Hash::of(&3u64.to_le_bytes())));
    assert_eq!(small.inline_hash(4), None);
    let disk = head.node(head.resolve(b"disk.raw").unwrap()).unwrap();
    assert_eq!((disk.pages(), disk.page_blocks(2), disk.inline_hash(0)), (3, 5000 - 4096, None));
    assert_eq!((disk.page_offset(1), disk.page_offset(3)), (Some(65536), None));
    assert_eq!(head.paged_blocks(), 5000);
    let page = Page::verify(&disk, 2, Bytes::from(pages[&2].clone())).unwrap();
    assert_eq!(page.hash(1), Some(Hash::of(&4097u64.to_le_bytes())));
    assert_eq!((page.hash(4098 - 4096), page.hash(904)), (Some(Hash::ZERO), None));
    let wrong = Page::verify(&disk, 1, Bytes::from(pages[&0].clone())).unwrap_err();
    assert!(matches!(wrong, PageError::Hash { page: 1, .. }), "{wrong}");
    let short = Page::verify(&disk, 1, Bytes::from(pages[&2].clone())).unwrap_err();
    assert!(matches!(short, PageError::Length { expected: 65536, .. }), "{short}");
}

#[test]
fn a_terabyte_of_zeros_needs_no_page() {
    let mut builder = PagesBuilder::new(1 << 40).unwrap();
    builder.push_zeros(block_count(1 << 40), &mut |page, _| panic!("page {page} of zeros"));
    let mut tree = HeadBuilder::new(metadata(0o755));
    let disk = tree.file(FileIndex::ROOT, b"disk.raw", metadata(0o644)).unwrap();
    tree.set_hashes(disk, builder.finish());
    let head = tree.finish().unwrap();
    assert!(head.bytes().len() < 260 * 1024, "{}", head.bytes().len());
    let disk = head.node(disk).unwrap();
    let page = Page::zero(&disk, 8191).unwrap();
    assert_eq!((page.blocks(), page.hash(2047)), (2048, Some(Hash::ZERO)));
}

#[test]
fn every_cut_and_every_flipped_bit_is_noticed_by_the_root() {
    let (head, _) = sample();
    let bytes = head.bytes();
    for len in 0..bytes.len() {
        assert!(Head::parse(bytes.slice(..len)).is_err(), "cut at {len}");
    }
    for at in (0..bytes.len() * 8).step_by(5) {
        let mut flipped = bytes.to_vec();
        flipped[at / 8] ^= 1 << (at % 8);
        let other = Head::parse_expecting(flipped.into(), &head.root());
        assert!(matches!(other, Err(HeadError::OtherRoot { .. })), "bit {at}");
    }
}

#[test]
fn absurd_sizes_are_refused_without_allocating() {
    let mut header = b"icbdhead\x01\0\0\0".to_vec();
    header.extend_from_slice(&[0xff; 20]);
    header.extend_from_slice(&[0; 8]);
    assert_eq!(Head::parse(header.clone().into()).unwrap_err(), HeadError::Nodes);
    header[12..16].copy_from_slice(&FileIndex::MAX.to_le_bytes());
    assert!(matches!(Head::parse(header.into()).unwrap_err(), HeadError::Length { .. }));
    assert!(matches!(PagesBuilder::new(u64::MAX).unwrap_err(), HeadError::FileSize(_)));
    let newer = Head::parse(Bytes::from_static(b"icbdhead\x02\0\0\0")).unwrap_err();
    assert!(newer.to_string().contains("format 2"), "{newer}");
    assert_eq!(Head::parse(Bytes::from_static(b"<html>no</html>")).unwrap_err(), HeadError::Magic);
}

#[test]
fn names_that_would_leave_the_tree_are_refused() {
    for name in [b"..".as_slice(), b".", b"", b"a/b", b"a\0b", &[b'x'; 256]] {
        let mut tree = HeadBuilder::new(metadata(0o755));
        tree.file(FileIndex::ROOT, name, metadata(0o644)).unwrap();
        assert!(matches!(tree.finish(), Err(HeadError::Entry { .. })), "{name:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_what_is_taken_can_be_walked(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut bytes = sample().0.bytes().to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(head) = Head::parse(bytes.into()) {
            walk(&head);
        }
    }

    #[test]
    fn pages_by_holes_and_by_blocks_are_the_same(size in 0u64..10_000 * BLOCK_BYTES, from in 0u64..10_000, len in 0u64..10_000) {
        let blocks = block_count(size);
        let hole = from.min(blocks)..(from + len).min(blocks);
        let build = |as_hole: bool| {
            let mut pages = Vec::new();
            let mut sink = |page, bytes: &[u8]| pages.push((page, Root::of(bytes)));
            let mut builder = PagesBuilder::new(size).unwrap();
            while builder.next_block() < blocks {
                if as_hole && builder.next_block() == hole.start && !hole.is_empty() {
                    builder.push_zeros(hole.end - hole.start, &mut sink);
                } else if hole.contains(&builder.next_block()) {
                    builder.push(Hash::ZERO, &mut sink);
                } else {
                    builder.push(Hash::of(&builder.next_block().to_le_bytes()), &mut sink);
                }
            }
            (builder.finish(), pages)
        };
        prop_assert_eq!(build(true), build(false));
    }
}

/// Touches everything a checked head offers: nothing of it may panic.
fn walk(head: &Head) {
    for node in head.nodes() {
        let _ = (node.metadata(), node.links(), node.rdev(), node.target(), node.parent(), node.xattrs().count());
        for block in [0, 1, node.blocks(), u64::MAX / BLOCK_BYTES] {
            let _ = node.inline_hash(block);
        }
        for page in 0..node.pages().min(4) {
            let _ = (node.page_hash(page), node.page_offset(page), node.page_blocks(page), Page::zero(&node, page));
        }
        for entry in head.entries(node.index(), 0) {
            assert_eq!(head.lookup(node.index(), entry.name), Some(entry.node));
        }
    }
    assert_eq!(Head::parse(head.bytes().clone()).map(|again| again.root()), Ok(head.root()));
}
