//! Disks that are full, fail, or change what they were given: reads go on.

use std::io;
use std::time::Duration;

use icbd_fetch::testing::Fault;

use super::rig::{BLOCK, Rig, block_of, content};
use crate::disk::memory::MemoryDisk;
use crate::layout;
use crate::{CacheError, ReadNow, StoreState};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_nothing_but_keeping() {
    for when in ["before the tree is made", "after"] {
        let rig = Rig::new(MemoryDisk::new(1)).await;
        let bytes = content(&[1, 2, 3, 4]);
        let record = rig.publish(&[("disk.raw", bytes.clone())]).await;
        let file = rig.file(&record, "disk.raw").await;
        if when == "after" {
            file.read(0, 1).await.unwrap();
            rig.cache.flush().await;
        }
        rig.disk.set_faults(|faults| faults.writes = Some(io::ErrorKind::StorageFull));
        for _ in 0..2 {
            assert_eq!(file.read(0, usize::MAX).await.unwrap(), bytes);
        }
        rig.cache.flush().await;
        let status = rig.cache.status();
        assert!(matches!(status.store, StoreState::Full { .. }), "{when}: {:?}", status.store);
        assert_eq!(status.in_flight_bytes, 0);
        assert!(!rig.version(&record).await.is_complete());
        rig.cache.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_is_well_again_when_there_is_room() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("disk.raw", content(&[1, 2, 3, 4]))]).await;
    let file = rig.file(&record, "disk.raw").await;
    file.read(0, 1).await.unwrap();
    rig.disk.set_faults(|faults| faults.writes = Some(io::ErrorKind::StorageFull));
    file.read(0, usize::MAX).await.unwrap();
    rig.cache.flush().await;
    rig.disk.set_faults(|faults| faults.writes = None);
    let recovered = async {
        while rig.cache.status().store != StoreState::Ok {
            // A read is what tries again; the store itself says when it is due.
            file.read(2 * BLOCK as u64, usize::MAX).await.unwrap();
            rig.cache.flush().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), recovered).await.unwrap();
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_makes_its_batch_missing_again_and_the_store_suspect() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let bytes = content(&(1..=30).collect::<Vec<u64>>());
    let record = rig.publish(&[("disk.raw", bytes.clone())]).await;
    let file = rig.file(&record, "disk.raw").await;
    file.read(0, 4 * BLOCK).await.unwrap();
    rig.cache.flush().await;
    assert_eq!(file.resident_bytes(), 4 * BLOCK as u64);
    rig.disk.set_faults(|faults| faults.failing_syncs = 1);
    file.read(20 * BLOCK as u64, 4 * BLOCK).await.unwrap();
    rig.cache.flush().await;
    assert!(matches!(rig.cache.status().store, StoreState::Suspect { .. }));
    assert_eq!(file.resident_bytes(), 4 * BLOCK as u64);
    rig.asked();
    assert_eq!(file.read(20 * BLOCK as u64, BLOCK).await.unwrap(), block_of(&bytes, 20));
    assert_eq!(rig.asked(), [(20, 1)]);
    rig.cache.flush().await;
    drop(file);
    let disk = rig.disk.crash();
    rig.restart_on(disk).await;
    rig.offline();
    let file = rig.file(&record, "disk.raw").await;
    for block in [0, 1, 2, 3, 20] {
        assert_eq!(file.read(block * BLOCK as u64, BLOCK).await.unwrap(), block_of(&bytes, block));
    }
    assert!(file.read(21 * BLOCK as u64, BLOCK).await.is_err());
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_read_sends_the_reader_to_a_source() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let bytes = content(&[1, 2, 3]);
    let record = rig.publish(&[("disk.raw", bytes.clone())]).await;
    let file = rig.file(&record, "disk.raw").await;
    file.read(0, usize::MAX).await.unwrap();
    rig.cache.flush().await;
    rig.disk.set_faults(|faults| faults.reads = true);
    let mut now = Vec::new();
    assert_eq!(file.read_now(0, BLOCK, &mut now), ReadNow::Cold);
    assert_eq!(file.read(0, usize::MAX).await.unwrap(), bytes);
    assert!(matches!(rig.cache.status().store, StoreState::Suspect { .. }));
    rig.disk.set_faults(|faults| faults.reads = false);
    rig.cache.flush().await;
    assert!(file.is_complete(), "what was fetched again is kept again");
    assert!(file.passthrough().is_none());
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_changed_on_the_disk_is_found_and_fetched_again() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let bytes = content(&(0..20).collect::<Vec<u64>>());
    let record = rig.publish(&[("disk.raw", bytes.clone())]).await;
    let id = record.statement.statement().version();
    let file = rig.file(&record, "disk.raw").await;
    file.read(0, usize::MAX).await.unwrap();
    rig.cache.flush().await;
    let report = rig.cache.verify(&id, |_| {}).await.unwrap();
    assert_eq!((report.blocks_checked, report.bad.as_slice()), (20, [].as_slice()));
    // One with data, and a zero one that is a hole no more.
    let path = layout::tree(&id).join("disk.raw");
    rig.disk.corrupt(&path, 7 * BLOCK + 123);
    rig.disk.corrupt(&path, 5);
    let mut progress = Vec::new();
    let report = rig.cache.verify(&id, |at| progress.push(at)).await.unwrap();
    assert_eq!(report.bad.iter().map(|bad| bad.block).collect::<Vec<_>>(), [0, 7]);
    assert_eq!(progress.last().map(|last| last.done_bytes), Some(20 * BLOCK as u64));
    assert!(!file.is_complete());
    rig.asked();
    assert_eq!(file.read(0, usize::MAX).await.unwrap(), bytes);
    assert_eq!(rig.asked(), [(7, 1)]);
    rig.cache.flush().await;
    assert!(rig.cache.verify(&id, |_| {}).await.unwrap().bad.is_empty());
    assert!(file.is_complete());
    rig.cache.close().await;
}

/// Linux tells of a page that it could not write once: the sync that fails may have been told of blocks
/// that belong to the next batch, whose own sync then succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_is_believed_of_what_was_written_while_it_ran() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let bytes = content(&(1..=30).collect::<Vec<u64>>());
    let record = rig.publish(&[("disk.raw", bytes.clone())]).await;
    let file = rig.file(&record, "disk.raw").await;
    file.version().prepare().await.unwrap();
    rig.disk.set_faults(|faults| faults.held_syncs = true);
    file.read(0, BLOCK).await.unwrap();
    let first = tokio::spawn({
        let cache = rig.cache.clone();
        async move { cache.flush().await }
    });
    while file.resident_bytes() < BLOCK as u64 {
        tokio::task::yield_now().await;
    }
    // The second of two flushes is behind the first batch: what comes now is in another one.
    tokio::task::yield_now().await;
    file.read(20 * BLOCK as u64, BLOCK).await.unwrap();
    while file.resident_bytes() < 2 * BLOCK as u64 {
        tokio::task::yield_now().await;
    }
    rig.disk.set_faults(|faults| (faults.failing_syncs, faults.held_syncs) = (1, false));
    first.await.unwrap();
    rig.cache.flush().await;
    assert_eq!(file.resident_bytes(), 0, "nobody knows whether block 20 is on the disk");
    assert_eq!(file.read(20 * BLOCK as u64, BLOCK).await.unwrap(), block_of(&bytes, 20));
    rig.cache.flush().await;
    assert_eq!(file.resident_bytes(), BLOCK as u64);
    rig.cache.close().await;
}

/// Without descriptors a read waits; what is here is neither forgotten nor fetched again, and the disk not blamed.
#[tokio::test(flavor = "multi_thread")]
async fn a_lack_of_descriptors_costs_time_and_nothing_else() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let bytes = content(&[1, 2, 3]);
    let record = rig.publish(&[("disk.raw", bytes.clone())]).await;
    rig.file(&record, "disk.raw").await.read(0, usize::MAX).await.unwrap();
    rig.cache.flush().await;
    let disk = rig.disk.clone();
    rig.restart_on(disk).await;
    let file = rig.file(&record, "disk.raw").await;
    file.version().prepare().await.unwrap();
    rig.asked();
    rig.disk.set_faults(|faults| faults.opens = Some(nix::libc::EMFILE));
    let reader = tokio::spawn({
        let file = file.clone();
        async move { file.read(0, usize::MAX).await }
    });
    while !rig.cache.status().waiting.iter().any(|waiting| waiting.why.as_ref().is_some_and(|why| why.contains("open")))
    {
        assert!(!reader.is_finished());
        tokio::task::yield_now().await;
    }
    rig.disk.set_faults(|faults| faults.opens = None);
    assert_eq!(reader.await.unwrap().unwrap(), bytes);
    assert_eq!((rig.asked(), rig.cache.status().store), (vec![], StoreState::Ok));
    assert!(file.is_complete());
    rig.cache.close().await;
}

/// Who reads while the cache stops is told so, whatever the read waits for.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_cache_that_has_stopped() {
    for fault in [Fault::Held, Fault::Unreachable] {
        let rig = Rig::with(MemoryDisk::new(1), |settings| settings.offline_wait = Duration::from_secs(60)).await;
        let record = rig.publish(&[("disk.raw", content(&[1; 20]))]).await;
        let file = rig.file(&record, "disk.raw").await;
        rig.line.set(Some(fault));
        let before = rig.line.requests();
        // Its hash page is what it waits for.
        let reader = tokio::spawn(async move { file.read(0, 1).await });
        while rig.line.requests() == before {
            tokio::task::yield_now().await;
        }
        rig.cache.close().await;
        let read = tokio::time::timeout(Duration::from_secs(10), reader).await.expect("it waits for ever");
        assert!(matches!(read.unwrap(), Err(CacheError::Closed)), "{fault:?}");
    }
}
