//! Many versions, many files, a huge disk: what opening costs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use icbd_cache::{Cache, Settings};
use icbd_fetch::Sources;
use icbd_fetch::testing::MemorySource;
use icbd_image::{
    FileIndex, Hash, Head, HeadBuilder, ImageRecord, Metadata, PagesBuilder, Root, Serial, SignedStatement, Statement,
    Timestamp, Trust, VersionNumber, VersionRecord, VersionState,
};

async fn open(store: &std::path::Path, master: &Arc<MemorySource>) -> Arc<Cache> {
    let sources = Sources::new(vec![master.clone()], icbd_fetch::Settings::default());
    Cache::open(Settings::new(store), Arc::new(sources), Trust::default()).await.unwrap()
}

fn image(listing: &icbd_image::Listing, number: u64) -> ImageRecord {
    let name: icbd_image::ImageName = format!("image-{number:04}").parse().unwrap();
    let time = Timestamp { seconds: 1_800_000_000, nanoseconds: 0 };
    let versions = (1..=10u32).map(|version| {
        let statement = Statement {
            repository: listing.repository,
            image: name.clone(),
            number: VersionNumber::new(version).unwrap(),
            serial: Serial::new(number * 100 + u64::from(version) + 1).unwrap(),
            root: Root::of(format!("{number} {version}").as_bytes()),
            parent: None,
            time,
        };
        let statement = SignedStatement::new(statement);
        VersionRecord { state: VersionState::Ready, data_bytes: 1 << 30, note: "a note".to_owned(), statement }
    });
    let serial = Serial::new(number * 100 + 1).unwrap();
    ImageRecord {
        name: name.clone(),
        serial,
        changed: time,
        deployed: None,
        fallback: None,
        versions: versions.collect(),
        removed: Vec::new(),
    }
}

/// A cache that knows 1,000 images of 10 versions each opens in well under two seconds.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_versions_open_at_once() {
    let store = tempfile::tempdir().unwrap();
    let master = Arc::new(MemorySource::new("master"));
    let mut listing = master.current_listing();
    listing.images = (1..=1000).map(|number| image(&listing, number)).collect();
    master.set_listing(listing.clone());
    let cache = open(store.path(), &master).await;
    cache.refresh().await.unwrap();
    cache.close().await;
    drop(cache);
    let started = Instant::now();
    let cache = open(store.path(), &master).await;
    let opened = started.elapsed();
    assert_eq!(cache.view().images(), listing.images);
    assert!(!cache.refresh().await.unwrap().changed);
    println!("10,000 versions: opened in {opened:?}, refreshed after {:?}", started.elapsed());
    assert!(opened < Duration::from_secs(1), "{opened:?}");
    cache.close().await;
}

/// A tree of 50,000 files and a sparse disk of 1 TiB are there to read in seconds, and cost what FORMAT.md says.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_many_files_and_a_huge_sparse_disk_are_read_at_once() {
    const TIB: u64 = 1 << 40;
    let (mut head, contents) = many_files();
    let disk = head.file(FileIndex::ROOT, b"disk.raw", Metadata::default()).unwrap();
    let mut hashes = PagesBuilder::new(TIB).unwrap();
    hashes.push_zeros(TIB / 65536, &mut |_, _| panic!("a page of zeros is none"));
    head.set_hashes(disk, hashes.finish());
    let head: Head = head.finish().unwrap();
    let master = Arc::new(MemorySource::new("master"));
    let record = master.publish_tree("lab", head.clone(), HashMap::new(), contents);
    let store = tempfile::tempdir().unwrap();
    let cache = open(store.path(), &master).await;
    cache.refresh().await.unwrap();
    let started = Instant::now();
    let version = cache.version(record.serial()).await.unwrap();
    version.prepare().await.unwrap();
    println!("50,000 files and 1 TiB: prepared in {:?}, head of {} bytes", started.elapsed(), head.bytes().len());
    let file = version.file(head.resolve(b"d007/f0042").unwrap()).unwrap();
    assert_eq!(file.read(0, 100).await.unwrap(), Bytes::from("file 7 42"));
    let disk = version.file(disk).unwrap();
    assert_eq!(disk.read(TIB - 5, 100).await.unwrap(), Bytes::from_static(&[0; 5]));
    assert!(disk.is_complete());
    let mut out = Vec::new();
    assert_eq!(disk.read_now(TIB / 2, 1 << 20, &mut out), icbd_cache::ReadNow::Done);
    let bitmap = std::fs::metadata(store.path().join("filling/lab/1.resident")).unwrap().len();
    assert_eq!(bitmap, 4096 + 8 * 50_000 + (2 << 20));
    cache.close().await;
}

fn many_files() -> (HeadBuilder, HashMap<FileIndex, Bytes>) {
    let mut head = HeadBuilder::new(Metadata::default());
    let mut contents = HashMap::new();
    for directory in 0..100 {
        let parent =
            head.directory(FileIndex::ROOT, format!("d{directory:03}").as_bytes(), Metadata::default()).unwrap();
        for number in 0..500 {
            let bytes = Bytes::from(format!("file {directory} {number}"));
            let index = head.file(parent, format!("f{number:04}").as_bytes(), Metadata::default()).unwrap();
            let mut hashes = PagesBuilder::new(bytes.len() as u64).unwrap();
            hashes.push(Hash::of(&bytes), &mut |_, _| panic!("a small file has no pages"));
            head.set_hashes(index, hashes.finish());
            contents.insert(index, bytes);
        }
    }
    (head, contents)
}
