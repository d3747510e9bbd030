//! What is read from a repository is what was published, or an error that says which block is not.

mod common;

use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use common::{Area, image, publish};
use icbd_image::{BLOCK_BYTES, FileIndex, Hash, Head, Page, Root, Run, Trust};
use icbd_master::{FaultKind, MasterError};
use icbd_wire::{Check, Codec, FrameDecoder};

/// 140 MiB, so that there are two hash pages, with zeros in between; and a small file.
fn content() -> Vec<u8> {
    let mut content = vec![0; (140 << 20) + 12_345];
    for (at, byte) in content.iter_mut().enumerate().take(1 << 20) {
        *byte = (at / 999) as u8;
    }
    content[135 << 20..].fill(7);
    content
}

fn lab(area: &Area) -> (Root, Vec<u8>) {
    let content = content();
    let disk = std::fs::File::create(area.source().join("disk.raw")).unwrap();
    disk.write_all_at(&content, 0).unwrap();
    std::fs::create_dir(area.source().join("boot")).unwrap();
    std::fs::write(area.source().join("boot/vmlinuz-6"), b"kernel").unwrap();
    std::fs::write(area.source().join("empty"), b"").unwrap();
    symlink("/boot/../boot//vmlinuz-6", area.source().join("vmlinuz")).unwrap();
    symlink("../../../boot", area.source().join("escape")).unwrap();
    symlink("loop", area.source().join("loop")).unwrap();
    let repository = area.open();
    (publish(&repository, "lab", &area.source()).unwrap().record.root(), content)
}

fn stored_disk(area: &Area) -> PathBuf {
    area.repository().join("versions/lab/1/disk.raw")
}

fn alter(area: &Area, offset: u64) {
    let disk = std::fs::OpenOptions::new().write(true).open(stored_disk(area)).unwrap();
    disk.write_all_at(b"!", offset).unwrap();
}

#[test]
fn heads_pages_and_runs_are_what_was_published() {
    let area = Area::new();
    let (root, content) = lab(&area);
    let repository = area.open();
    let head = Head::parse_expecting(repository.head_bytes(root).unwrap(), &root).unwrap();
    let file = head.resolve(b"disk.raw").unwrap();
    let node = head.node(file).unwrap();
    assert_eq!(node.pages(), 2);
    for number in 0..2 {
        let page = Page::verify(&node, number, repository.page_bytes(root, file, number).unwrap()).unwrap();
        let block = 1000 * BLOCK_BYTES as usize + number as usize * (128 << 20);
        let block = content.get(block..block + BLOCK_BYTES as usize);
        assert!(block.is_none_or(|block| page.hash(1000) == Some(Hash::of(block))));
    }
    let last = node.blocks() - 40;
    for (first, count) in [(0, 1), (3, 16), (10, 30), (last, 40)] {
        for codec in Codec::ALL.into_iter().chain(Codec::ALL) {
            let run = Run { root, file, first, count };
            let mut decoder = FrameDecoder::new(run.first, run.count, node.size());
            let body = repository.encoded_run(run, codec, Check::Both).unwrap();
            decoder.push(body);
            let mut decoded = Vec::new();
            while let Some((_, bytes)) = decoder.next().unwrap() {
                decoded.extend_from_slice(&bytes);
            }
            decoder.finish().unwrap();
            let start = (first * BLOCK_BYTES) as usize;
            assert_eq!(decoded, content[start..start + decoded.len()]);
        }
    }
}

#[test]
fn what_is_not_there_is_absent() {
    let area = Area::new();
    let (root, _) = lab(&area);
    let repository = area.open();
    let file = repository.head(root).unwrap().resolve(b"disk.raw").unwrap();
    let absent = |error: MasterError| assert!(error.is_absent() && error.is_permanent(), "{error}");
    absent(repository.head_bytes(Root::of(b"other")).unwrap_err());
    absent(repository.page_bytes(root, file, 2).unwrap_err());
    absent(repository.page_bytes(root, FileIndex::ROOT, 0).unwrap_err());
    for (file, first, count) in [(file, 2241, 1), (file, 0, 0), (file, u64::MAX, 2), (FileIndex::ROOT, 0, 1)] {
        absent(repository.encoded_run(Run { root, file, first, count }, Codec::Lz4, Check::Both).unwrap_err());
    }
    let number = Some("1".parse().unwrap());
    for path in ["missing", "boot", "", "boot/vmlinuz-6/x", "loop", "../lab/1/disk.raw/.."] {
        absent(repository.open_file(&image("lab"), number, path.as_bytes()).err().unwrap());
    }
    absent(repository.open_file(&image("lab"), None, b"disk.raw").err().unwrap());
    absent(repository.open_file(&image("none"), None, b"disk.raw").err().unwrap());
}

#[test]
fn files_are_read_by_ranges_and_through_links() {
    let area = Area::new();
    let (root, content) = lab(&area);
    let repository = area.open();
    repository.deploy(&"lab@1".parse().unwrap()).unwrap();
    let disk = repository.open_file(&image("lab"), None, b"disk.raw").unwrap();
    assert_eq!((disk.size(), disk.version().to_string().as_str()), (content.len() as u64, "lab@1"));
    assert!(disk.etag().starts_with(&root.to_string()));
    let size = content.len() as u64;
    for (start, end) in [(0, 1), (65_530, 65_540), (5, 200_000), (size - 3, size + 9), (size, size + 1), (9, 9)] {
        let expected = &content[start as usize..(end.min(size)) as usize];
        assert_eq!(disk.read(start..end).unwrap(), expected, "{start}..{end}");
    }
    for path in ["vmlinuz", "escape/vmlinuz-6", "/boot/./vmlinuz-6", "boot/../../boot/vmlinuz-6"] {
        let kernel = repository.open_file(&image("lab"), None, path.as_bytes()).unwrap();
        assert_eq!(kernel.read(0..100).unwrap(), "kernel", "{path}");
    }
    assert!(repository.open_file(&image("lab"), None, b"empty").unwrap().read(0..9).unwrap().is_empty());
}

#[test]
fn an_altered_block_is_noticed_and_never_served() {
    let area = Area::new();
    let (root, content) = lab(&area);
    let repository = area.open();
    let file = repository.head(root).unwrap().resolve(b"disk.raw").unwrap();
    let block = |block| repository.encoded_run(Run { root, file, first: block, count: 1 }, Codec::None, Check::Both);
    block(3).unwrap();
    alter(&area, 3 * BLOCK_BYTES + 5);
    // Who has the hashes finds it out alone, and has the master look then.
    let run = Run { root, file, first: 3, count: 1 };
    let unchecked = repository.encoded_run(run, Codec::None, Check::Receiver).unwrap();
    assert_ne!(unchecked[8..], content[3 * BLOCK_BYTES as usize..4 * BLOCK_BYTES as usize]);
    assert!(repository.damages().is_empty());
    // What is packed is kept, so it is never packed unseen.
    assert!(repository.encoded_run(run, Codec::Lz4, Check::Receiver).is_err());
    let altered = block(3).unwrap_err();
    assert!(altered.to_string().contains("version altered on disk: lab@1: disk.raw, block 3"), "{altered}");
    let number = Some("1".parse().unwrap());
    let disk = repository.open_file(&image("lab"), number, b"disk.raw").unwrap();
    disk.read(4 * BLOCK_BYTES..5 * BLOCK_BYTES).unwrap();
    assert!(matches!(disk.read(0..300_000), Err(MasterError::Altered { block: 3, .. })));
    // Noted, also for the next start; the version stays in the listing.
    let version = "lab@1".parse().unwrap();
    assert_eq!(repository.damages()[&version], "disk.raw, block 3");
    drop(repository);
    let repository = area.open();
    assert_eq!(repository.damages()[&version], "disk.raw, block 3");
    assert_eq!(repository.listing().images[0].versions.len(), 1);
    assert!(repository.encoded_run(Run { root, file, first: 3, count: 1 }, Codec::None, Check::Both).is_err());
    // A good copy of the same content takes over.
    let copy = publish(&repository, "copy", &area.source()).unwrap();
    assert_eq!(copy.record.root(), root);
    let served = repository.encoded_run(Run { root, file, first: 3, count: 1 }, Codec::None, Check::Both).unwrap();
    assert_eq!(served[8..], content[3 * BLOCK_BYTES as usize..4 * BLOCK_BYTES as usize]);
    // Put back as it was, it is whole again.
    let stored = std::fs::OpenOptions::new().write(true).open(stored_disk(&area)).unwrap();
    stored.write_all_at(&content[3 * BLOCK_BYTES as usize + 5..][..1], 3 * BLOCK_BYTES + 5).unwrap();
    stored.set_modified(area.source().join("disk.raw").metadata().unwrap().modified().unwrap()).unwrap();
    let report = repository.verify(&version, &Trust::default(), &|_| {}, &AtomicBool::new(false)).unwrap();
    assert!(report.is_whole() && repository.damages().is_empty(), "{:?}", report.faults);
}

#[test]
fn verifying_finds_every_kind_of_alteration() {
    let area = Area::new();
    let (_, content) = lab(&area);
    let stored = area.repository().join("versions/lab/1");
    let faults = || {
        let repository = area.open();
        let version = "lab@1".parse().unwrap();
        let report = repository.verify(&version, &Trust::default(), &|_| {}, &AtomicBool::new(false)).unwrap();
        assert_eq!((report.bytes, report.blocks), (content.len() as u64 + 6, 2242));
        report.faults.into_iter().map(|fault| (fault.path, fault.kind)).collect::<Vec<_>>()
    };
    assert_eq!(faults(), []);
    let time = stored.join("disk.raw").metadata().unwrap().modified().unwrap();
    // A block of data, a block that should be zeros, and the last one.
    [5 * BLOCK_BYTES, 50 << 20, content.len() as u64 - 1].into_iter().for_each(|offset| alter(&area, offset));
    let disk = std::fs::OpenOptions::new().write(true).open(stored_disk(&area)).unwrap();
    disk.set_modified(time).unwrap();
    let blocks = [5, 800, 2240].map(|block| ("disk.raw".to_owned(), FaultKind::Block(block)));
    assert_eq!(faults(), blocks);
    std::fs::write(stored.join("boot/extra"), b"").unwrap();
    std::fs::remove_file(stored.join("empty")).unwrap();
    std::os::unix::fs::chown(stored.join("boot/vmlinuz-6"), Some(5), None).unwrap();
    let found = faults();
    let is_there = |path: &str, kind: FaultKind| found.contains(&(path.to_owned(), kind));
    assert!(is_there("boot/extra", FaultKind::Extra), "{found:?}");
    assert!(is_there("empty", FaultKind::Missing), "{found:?}");
    assert!(is_there("boot/vmlinuz-6", FaultKind::Differs("owner")), "{found:?}");
    assert!(is_there("boot", FaultKind::Differs("time")), "{found:?}");
}

#[test]
fn a_file_of_another_size_is_noticed_when_the_version_is_opened() {
    let area = Area::new();
    let (root, _) = lab(&area);
    std::fs::write(area.repository().join("versions/lab/1/boot/vmlinuz-6"), b"kern").unwrap();
    let repository = area.open();
    let file = repository.head(root).unwrap().resolve(b"disk.raw").unwrap();
    repository.encoded_run(Run { root, file, first: 0, count: 1 }, Codec::None, Check::Both).unwrap();
    assert!(repository.damages()[&"lab@1".parse().unwrap()].contains("boot/vmlinuz-6"));
}

#[test]
fn a_damaged_manifest_is_noticed() {
    let area = Area::new();
    let (root, _) = lab(&area);
    let repository = area.open();
    let file = repository.head(root).unwrap().resolve(b"disk.raw").unwrap();
    let damage = |name: String| {
        let path = area.repository().join("manifests").join(name);
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"damage", 100).unwrap();
    };
    damage(format!("{root}.pages"));
    let error = repository.page_bytes(root, file, 0).unwrap_err();
    assert!(error.to_string().contains("the manifest of lab@1 is damaged"), "{error}");
    drop(repository);
    damage(format!("{root}.head"));
    let error = area.open().head_bytes(root).unwrap_err();
    assert!(error.to_string().contains(&format!("{root}.head from a backup")), "{error}");
}

/// On a full btrfs a write to a mapped file is a SIGBUS.
#[test]
fn no_file_of_the_catalogue_is_mapped() {
    let area = Area::new();
    lab(&area);
    let repository = area.open();
    assert_eq!(repository.listing().images.len(), 1);
    let mapped = std::fs::read_to_string("/proc/self/maps").unwrap();
    let catalogue = area.repository().join("catalog.db");
    let of_catalogue: Vec<&str> = mapped.lines().filter(|line| line.contains(catalogue.to_str().unwrap())).collect();
    assert!(of_catalogue.is_empty(), "{of_catalogue:#?}");
}
