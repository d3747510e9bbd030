//! One suite for everything that claims to be a source.

use std::sync::Arc;

use crate::support::{DISK_BLOCKS, Fixture, Server};
use futures_util::{StreamExt, TryStreamExt};
use icbd_fetch::testing::FaultySource;
use icbd_fetch::{BlockRequest, DirectorySource, HttpSource, ProfileAnswer, Source, SourceError, TimeOuts};
use icbd_image::{FileIndex, Hash, Head, Root};
use icbd_wire::Codec;

#[tokio::test]
async fn memory_conforms() {
    let fixture = Fixture::new();
    conforms(fixture.memory.clone(), &fixture).await;
}

#[tokio::test]
async fn faulty_without_a_fault_conforms() {
    let fixture = Fixture::new();
    conforms(Arc::new(FaultySource::new(fixture.memory.clone())), &fixture).await;
}

#[tokio::test]
async fn a_directory_conforms() {
    let fixture = Fixture::new();
    let repository = tempfile::tempdir().unwrap();
    fixture.write(repository.path()).await;
    let listing = fixture.memory.current_listing();
    conforms(Arc::new(DirectorySource::new(repository.path(), listing, TimeOuts::default())), &fixture).await;
}

#[tokio::test]
async fn http_conforms() {
    let fixture = Fixture::new();
    let server = Server::start(fixture.memory.clone()).await;
    conforms(Arc::new(HttpSource::new(&server.url, TimeOuts::default()).unwrap()), &fixture).await;
}

async fn conforms(source: Arc<dyn Source>, fixture: &Fixture) {
    assert!(!source.name().is_empty());
    lists(&*source, fixture).await;
    gives_manifests(&*source, fixture).await;
    gives_profiles(&*source, fixture).await;
    for codec in Codec::ALL {
        gives_blocks(&*source, fixture, codec).await;
    }
    says_what_is_absent(&*source, fixture).await;
    survives_dropped_streams(source, fixture).await;
}

async fn lists(source: &dyn Source, fixture: &Fixture) {
    let (listing, tag) = source.listing(None).await.unwrap().unwrap();
    assert_eq!(listing, fixture.memory.current_listing());
    assert_eq!(source.listing(Some(&tag)).await, Ok(None));
}

async fn gives_manifests(source: &dyn Source, fixture: &Fixture) {
    let before = source.received_bytes();
    let head = source.head(fixture.root()).await.unwrap();
    assert!(source.received_bytes() >= before + head.len() as u64);
    Head::parse_expecting(head, &fixture.root()).unwrap();
    for page in 0..2 {
        let bytes = source.page(fixture.root(), fixture.disk_index, page).await.unwrap();
        fixture.page(page, bytes);
    }
}

async fn gives_profiles(source: &dyn Source, fixture: &Fixture) {
    let (known, whole) = (Hash::of(&fixture.profile), ProfileAnswer::Bytes(fixture.profile.clone()));
    assert_eq!(source.profile(fixture.root(), None).await, Ok(whole.clone()));
    assert_eq!(source.profile(fixture.root(), Some(known)).await, Ok(ProfileAnswer::Unchanged));
    assert_eq!(source.profile(fixture.root(), Some(Hash::of(b"other"))).await, Ok(whole));
    assert_eq!(source.profile(Root::from_bytes([9; 32]), Some(known)).await, Ok(ProfileAnswer::Unknown));
}

async fn gives_blocks(source: &dyn Source, fixture: &Fixture, codec: Codec) {
    // One block; a frame and its first alone; into zeros; zeros only; out of them; to the short end.
    for (first, count) in [(0, 1), (3, 17), (30, 40), (100, 33), (2040, 20), (2080, 20), (DISK_BLOCKS - 1, 1)] {
        let request = fixture.request_in(first, count, codec);
        let blocks: Vec<_> = source.blocks(&request).await.unwrap().try_collect().await.unwrap();
        let numbers: Vec<u64> = blocks.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, request.run.blocks().collect::<Vec<_>>());
        for (number, bytes) in blocks {
            assert!(bytes == fixture.block(number), "block {number} differs");
        }
    }
}

async fn says_what_is_absent(source: &dyn Source, fixture: &Fixture) {
    let other = Root::from_bytes([9; 32]);
    assert_eq!(source.head(other).await, Err(SourceError::Absent));
    assert_eq!(source.page(other, fixture.disk_index, 0).await, Err(SourceError::Absent));
    assert_eq!(source.page(fixture.root(), fixture.disk_index, 2).await, Err(SourceError::Absent));
    assert_eq!(source.page(fixture.root(), FileIndex::ROOT, 0).await, Err(SourceError::Absent));
    let refuses = async |request: &BlockRequest| match source.blocks(request).await {
        Ok(blocks) => blocks.try_collect::<Vec<_>>().await.unwrap_err(),
        Err(error) => error,
    };
    let good = fixture.request(0, 1);
    let mut request = good;
    request.run.root = other;
    assert_eq!(refuses(&request).await, SourceError::Absent);
    request = good;
    request.run.file = FileIndex::ROOT;
    assert_eq!(refuses(&request).await, SourceError::Absent);
    let past_the_end = fixture.request(DISK_BLOCKS - 1, 2);
    assert_eq!(refuses(&past_the_end).await, SourceError::Absent);
}

async fn survives_dropped_streams(source: Arc<dyn Source>, fixture: &Fixture) {
    for _ in 0..20 {
        let mut blocks = source.blocks(&fixture.request(0, 40)).await.unwrap();
        assert_eq!(blocks.next().await.unwrap().unwrap().0, 0);
    }
    let request = fixture.request(0, 40);
    let tasks = (0..8).map(|_| {
        let source = source.clone();
        tokio::spawn(async move { source.blocks(&request).await.unwrap().try_collect::<Vec<_>>().await.unwrap().len() })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap(), 40);
    }
}
